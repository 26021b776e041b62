"""Comparisons of floats, what is made of their truth values, and selections by these, as element-wise functions.

A truth value is the number 1 or 0: greater(a, b) => where_less(b, a, 1, 0); and => min, or => max; where(c, x, y) =>
where_equal(c, 0, y, x); cast(c) to float32 => c. One kernel then computes such a chain, e.g. the peaks of a heat map,
x * (x == maxpool(x)), or what a constant mask lets through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType
from cnngraph.ops import Cast, Elementwise, Predicate, Where
from cnngraph.ops.base import Op
from cnngraph.ops.expression import Expression
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused

_COMPARISONS = {
    "less": ("where_less", False), "greater": ("where_less", True), "less_equal": ("where_less_equal", False),
    "greater_equal": ("where_less_equal", True), "equal": ("where_equal", False),
}  # fmt: skip
"""The selection that stands for a comparison of floats, and whether the operands change places."""
_JUNCTIONS = {"and": "min", "or": "max"}
_OF_TRUTHS = (*_JUNCTIONS, "xor", "not")


@dataclass(frozen=True)
class LowerTruth(Pass):
    """where(compare(a, b), x, y) => where_less'(...), and so for and, or, xor, not, and casts of truth values to float32.

    Refuses truth values that leave the graph or that anything else reads, and comparisons of other types than float32.
    """

    name: ClassVar[str] = "lower_truth"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Find what can be numbers alone, then rewrite it in graph order."""
        numbers = _numbers(graph)
        if not any(_selects(node, numbers) for node in graph.nodes):
            return 0
        return _Rewriter(graph, numbers).run()


def _makes_truth(node: Node) -> bool:
    op, types = node.op, {value.type.dtype for value in node.inputs if value is not None}
    if isinstance(op, Cast):  # as exporters put in front of an Or
        return op.to is DType.BOOL and types == {DType.BOOL}
    if not isinstance(op, Predicate):
        return False
    return (op.function in _COMPARISONS and types == {DType.F32}) or (op.function in _OF_TRUTHS and types == {DType.BOOL})


def _numbers(graph: Graph) -> set[Value]:
    """Computed truth values whose producer and all readers can be functions of floats."""
    found = {node.output for node in graph.nodes if _makes_truth(node) and not graph.is_output(node.output)}
    while True:
        wrong = {
            value
            for value in found
            if any(not (user.output in found or _selects(user, found)) for user in value.users)
            or (value.producer is not None and not _reads(value.producer, found))
        }
        if not wrong:
            return found
        found -= wrong


def _reads(node: Node, numbers: set[Value]) -> bool:
    """Whether all truth values that a node reads are numbers or constants."""
    return all(v is None or v.type.dtype is not DType.BOOL or v.is_constant or v in numbers for v in node.inputs)


def _selects(node: Node, numbers: set[Value]) -> bool:
    """Whether a node makes float32 of truth values that are numbers or constants."""
    if isinstance(node.op, Where):
        return node.output.type.dtype is DType.F32 and (node.input(0).is_constant or node.input(0) in numbers)
    return isinstance(node.op, Cast) and node.op.to is DType.F32 and node.input(0) in numbers


class _Rewriter:
    def __init__(self, graph: Graph, numbers: set[Value]) -> None:
        self._graph, self._numbers = graph, numbers
        self._made: dict[Value, Value] = {}
        self._zero, self._one = (graph.constant(np.array(number, np.float32)) for number in (0, 1))

    def run(self) -> int:
        """Returns how many nodes were rewritten."""
        old = [node for node in self._graph.nodes if node.output in self._numbers or _selects(node, self._numbers)]
        for node in old:
            made = self._rewrite(node)
            if node.output in self._numbers:
                self._made[node.output] = made
            else:
                self._graph.replace_uses(node.output, made)
        for node in reversed(old):
            erase_unused(self._graph, node)
        return len(old)

    def _rewrite(self, node: Node) -> Value:
        op: Op = node.op
        if isinstance(op, Cast):
            return self._number(node.input(0))
        if isinstance(op, Where):
            return self._apply(node, "where_equal", self._number(node.input(0)), self._zero, node.input(2), node.input(1))
        assert isinstance(op, Predicate)
        if op.function == "not":
            return self._apply(node, "sub", self._one, self._number(node.input(0)))
        if op.function not in _OF_TRUTHS:
            function, swapped = _COMPARISONS[op.function]
            a, b = (node.input(1), node.input(0)) if swapped else (node.input(0), node.input(1))
            return self._apply(node, function, a, b, self._one, self._zero)
        a, b = self._number(node.input(0)), self._number(node.input(1))
        if op.function == "xor":
            return self._apply(node, "where_equal", a, b, self._zero, self._one)
        return self._apply(node, _JUNCTIONS[op.function], a, b)

    def _number(self, truth: Value) -> Value:
        """The float32 that stands for a truth value."""
        if truth not in self._made:
            assert truth.data is not None
            self._made[truth] = self._graph.constant(truth.data.astype(np.float32))
        return self._made[truth]

    def _apply(self, node: Node, function: str, *operands: Value) -> Value:
        op = Elementwise(Expression.of(function, len(operands)))
        return self._graph.add(op, operands, origin=node.origin, before=node)[0]
