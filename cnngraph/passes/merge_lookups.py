"""Functions of functions of one 8-bit tensor, and sums and products of such or with one number => one table of 256 results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary, QTable
from cnngraph.passes.base import Pass, PassContext

_FUNCTIONS = (QLinearUnary, QTable)


@dataclass(frozen=True)
class MergeLookups(Pass):
    """f(g(x)), g(x) * x, x * c => table[x], exactly: every step is evaluated on all 256 numbers that x can be."""

    name: ClassVar[str] = "merge_lookups"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit functions, sums and products in graph order."""
        changes = 0
        for node in graph.nodes:
            if node not in graph or not isinstance(node.op, (*_FUNCTIONS, QLinearBinary)):
                continue
            found = _as_table(node)
            if found is None:
                continue
            x, table, origin = found
            merged = graph.add(QTable(), (x, graph.constant(table)), origin=origin, before=node)[0]
            inputs = [value for value in node.inputs if value is not None]
            graph.replace_uses(node.output, merged)
            graph.erase(node)
            for value in dict.fromkeys(inputs):
                if value.producer is not None and not graph.is_used(value):
                    graph.erase(value.producer)
            changes += 1
        return changes


def _as_table(node: Node) -> tuple[Value, np.ndarray, tuple[str, ...]] | None:
    """The tensor, the 256 results and the provenance, if ``node`` is a function of one tensor that is no table of its own yet."""
    both = (0, 3) if isinstance(node.op, QLinearBinary) else (0,)
    operands = [i for i in both if not _is_number(node.input(i))]
    if not operands or any(node.input(i).type.shape != node.output.type.shape for i in operands):
        return None
    sources = []
    for index, value in enumerate(node.inputs):
        if index in operands:
            sources.append(_source(node.input(index)))
        elif value is not None and value.data is None:
            return None
    x, origin, arrays = sources[0], node.origin, []
    if any(source is not x for source in sources) or (len(operands) == len(both) and all(node.input(i) is x for i in operands)):
        return None
    numbers = np.arange(256, dtype=np.uint8).view(x.type.dtype.numpy)
    for index, value in enumerate(node.inputs):
        if index not in operands or value is x:
            arrays.append(numbers if value is x else None if value is None or value.data is None else _flat(value.data))
            continue
        producer = node.input(index).producer
        assert producer is not None
        origin = (*producer.origin, *origin)
        arrays.append(producer.op.reference(numbers, *(None if v is None else v.data for v in producer.inputs[1:]))[0])
    return x, node.op.reference(*arrays)[0], origin


def _is_number(value: Value) -> bool:
    return value.data is not None and value.data.size == 1


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(()) if array.size == 1 else array


def _source(value: Value) -> Value:
    """What ``value`` is a function of, number by number: itself, or the operand of the function that makes it."""
    node = value.producer
    if node is None or not isinstance(node.op, _FUNCTIONS) or any(v is not None and v.data is None for v in node.inputs[1:]):
        return value
    return node.input(0)
