"""Transposes, and the reshapes behind dense layers, move behind what can as well be computed in front of them.

op(transpose(x)) => transpose(op'(x)) for element-wise operators, concatenations and reductions: in a network that was written with
channels last, transposes meet their inverses and vanish, and activations stand next to their convolution.

elementwise(reshape(dense(x))) => reshape(elementwise(dense(x))): a matrix product of a tensor with more than two axes is a dense layer of
its rows, which takes up its bias, activation and residual only where it stands in front of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Dim
from cnngraph.ops import Concat, Dense, Elementwise, Reduce, Reshape, Transpose
from cnngraph.ops.base import Op
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, replace


@dataclass(frozen=True)
class SinkMovement(Pass):
    """op(transpose(x)) => transpose(op'(x)); elementwise(reshape(dense(x))) => reshape(elementwise(dense(x))).

    Refuses: a transpose that others read than element-wise operators, concatenations, reductions and transposes; other operands that
    would have to be transposed at a cost.
    """

    name: ClassVar[str] = "sink_movement"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit readers in graph order, so that a movement sinks through a whole chain."""
        return sum(_visit(graph, node) for node in graph.nodes)


def _visit(graph: Graph, node: Node) -> bool:
    if isinstance(node.op, Elementwise):
        return _elementwise(graph, node) or _rows(graph, node)
    if isinstance(node.op, Concat):
        return _concat(graph, node, node.op)
    return isinstance(node.op, Reduce) and _reduce(graph, node, node.op)


def _transposed(graph: Graph, value: Value | None) -> tuple[int, ...] | None:
    """The permutation by which ``value`` was made, if all its readers may be moved in front of it too."""
    producer = value.producer if value is not None else None
    if value is None or producer is None or not isinstance(producer.op, Transpose) or graph.is_output(value):
        return None
    return producer.op.perm if all(isinstance(user.op, (Concat, Elementwise, Reduce, Transpose)) for user in value.users) else None


def _elementwise(graph: Graph, node: Node) -> bool:
    shape = node.output.type.shape
    perms = [_transposed(graph, value) for value in node.inputs if value is not None and value.type.shape == shape]
    perm = next((perm for perm in perms if perm is not None), None)
    if perm is None:
        return False
    inverse = tuple(int(axis) for axis in np.argsort(perm))
    operands: list[Value | None] = []
    moved: list[tuple[int, Value, tuple[Dim, ...]]] = []
    for value in node.inputs:
        if value is not None and value.producer is not None and value.type.shape == shape and _transposed(graph, value) == perm:
            operands.append(value.producer.input(0))
        elif value is None or value.type.rank == 0:
            operands.append(value)
        else:
            ones = (1,) * (len(shape) - value.type.rank)
            full = (*ones, *value.type.shape)
            if value.data is not None:
                operands.append(graph.constant(np.ascontiguousarray(value.data.reshape(ones + value.data.shape).transpose(inverse))))
            elif perm[0] == 0 and sum(extent != 1 for extent in full[1:]) <= 1:  # elements stay in order
                moved.append((len(operands), value, tuple(full[axis] for axis in inverse)))
                operands.append(None)
            else:
                return False
    for index, value, extents in moved:
        (operands[index],) = graph.add(Reshape(extents), [value], origin=node.origin, before=node)
    _behind(graph, node, node.op, operands, Transpose(perm))
    return True


def _concat(graph: Graph, node: Node, op: Concat) -> bool:
    perms = {_transposed(graph, value) for value in node.inputs}
    perm = next(iter(perms))
    if len(perms) > 1 or perm is None:
        return False
    _behind(graph, node, Concat(perm[op.axis]), _sources(node), Transpose(perm))
    return True


def _reduce(graph: Graph, node: Node, op: Reduce) -> bool:
    perm = _transposed(graph, node.input(0))
    if perm is None:
        return False
    reduced = Reduce(op.kind, tuple(sorted(perm[axis] for axis in op.axes)), op.keepdims)
    if op.keepdims:
        _behind(graph, node, reduced, _sources(node), Transpose(perm))
        return True
    left = [perm[axis] for axis in range(len(perm)) if axis not in op.axes]
    if left != sorted(left):
        return False
    sources = [value.producer for value in node.inputs if value is not None]
    replace(graph, node, reduced, _sources(node))
    _erase(graph, sources)
    return True


def _rows(graph: Graph, node: Node) -> bool:
    """Bias, activation and residual of the rows of a tensor ``[..., channels]``, which a dense layer has computed."""
    shape = node.output.type.shape
    for value in node.inputs:
        reshape = value.producer if value is not None else None
        if value is None or reshape is None or not isinstance(reshape.op, Reshape) or value.type.shape != shape or len(shape) < 3:
            continue
        rows = reshape.input(0)
        made = rows.producer
        while made is not None and isinstance(made.op, Elementwise):
            made = next((v.producer for v in made.inputs if v is not None and v.type.shape == rows.type.shape and v.producer), None)
        if made is None or not isinstance(made.op, Dense) or rows.type.rank != 2 or rows.type.shape[1] != shape[-1]:
            continue
        if any(not isinstance(user.op, Elementwise) for user in value.users) or graph.is_output(value):
            continue
        others = [v for v in node.inputs if v is not None and v is not value]
        if all(_by_channel(v) or v.type.shape == shape for v in others):
            operands = [_as_rows(graph, node, v, value, rows) for v in node.inputs]
            _behind(graph, node, node.op, operands, Reshape(shape))
            return True
    return False


def _by_channel(value: Value) -> bool:
    return value.data is not None and all(extent == 1 for extent in value.type.shape[:-1])


def _as_rows(graph: Graph, node: Node, value: Value | None, reshaped: Value, rows: Value) -> Value | None:
    if value is None or value.type.rank == 0:
        return value
    if value is reshaped:
        return rows
    if _by_channel(value):
        assert value.data is not None
        return graph.constant(value.data.reshape(-1))
    (taken,) = graph.add(Reshape(rows.type.shape), [value], origin=node.origin, before=node)
    return taken


def _behind(graph: Graph, node: Node, op: Op, operands: Sequence[Value | None], movement: Transpose | Reshape) -> None:
    """Put ``movement(op(operands))`` in the place of ``node``; movements that nobody reads any more go."""
    sources = [value.producer for value in node.inputs if value is not None]
    (computed,) = graph.add(op, operands, origin=node.origin, before=node)
    replace(graph, node, movement, [computed])
    _erase(graph, sources)


def _sources(node: Node) -> list[Value | None]:
    """What the transposes in front of ``node`` read."""
    return [value.producer.input(0) for value in node.inputs if value is not None and value.producer is not None]


def _erase(graph: Graph, producers: Sequence[Node | None]) -> None:
    for producer in dict.fromkeys(producers):
        if producer is not None and isinstance(producer.op, (Reshape, Transpose)):
            erase_unused(graph, producer)
