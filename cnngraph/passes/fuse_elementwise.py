"""Chains and small DAGs of Elementwise nodes => one Elementwise node, computed in one loop.

f(g(a), b) => (f . g)(a, b) when g's only reader is f and g's result has f's shape, so that nothing is computed twice. Operands are
deduplicated: x*sigmoid(x) reads x once. Scalar constants become parameters: x + c => shift(x), x * c => scale(x),
min/max with a constant => clip; x**2 => x * x, x**-1 => reciprocal(x).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, replace


@dataclass(frozen=True)
class FuseElementwise(Pass):
    """elementwise(elementwise(x)) => elementwise'(x).

    Attributes:
        max_inputs, max_instrs: bounds of one fused expression.
    """

    name: ClassVar[str] = "fuse_elementwise"
    max_inputs: int = 6
    max_instrs: int = 24

    def run(self, graph: Graph, context: PassContext) -> int:
        """Join producers into their reader, in graph order."""
        changes = 0
        for node in graph.nodes:
            if not isinstance(node.op, Elementwise):
                continue
            node, simplified = _simplify(graph, node)
            changes += simplified
            while True:
                joined = self._join(graph, node)
                if joined is None:
                    break
                node = joined
                changes += 1
        return changes

    def _join(self, graph: Graph, node: Node) -> Node | None:
        assert isinstance(node.op, Elementwise)
        for index, value in enumerate(node.inputs):
            producer = value.producer if value is not None else None
            if value is None or producer is None or not isinstance(producer.op, Elementwise):
                continue
            if only_user(graph, value) is not node or value.type.shape != node.output.type.shape:
                continue
            expression = node.op.expression.substitute(index, producer.op.expression)
            operands = [*node.inputs[:index], *node.inputs[index + 1 :], *producer.inputs]
            expression, distinct = _deduplicate(expression, operands)
            if len(distinct) > self.max_inputs or len(expression.instrs) > self.max_instrs:
                continue
            joined = replace(graph, node, Elementwise(expression), distinct, (*producer.origin, *node.origin))
            erase_unused(graph, producer)
            return joined
        return None


def _deduplicate(expression: Expression, operands: list[Value | None]) -> tuple[Expression, list[Value | None]]:
    """The same expression with each distinct value as one input."""
    distinct = list(dict.fromkeys(operands))
    if len(distinct) == len(operands):
        return expression, operands
    return expression.select([distinct.index(v) for v in operands], len(distinct)), distinct


def _simplify(graph: Graph, node: Node) -> tuple[Node, int]:
    """Deduplicate operands and turn scalar float constants into parameters."""
    assert isinstance(node.op, Elementwise)
    expression, operands = _deduplicate(node.op.expression, list(node.inputs))
    if len(expression.instrs) == 1 and len(operands) == 2 and node.output.type.dtype.is_float:
        (instr,) = expression.instrs
        for constant_at in (1, 0):
            constant, other = operands[constant_at], operands[1 - constant_at]
            if constant is None or constant.data is None or constant.data.size != 1 or other is None:
                continue
            if other.type.shape != node.output.type.shape:
                continue
            number = float(constant.data.reshape(()))
            unary = with_constant(instr, constant_at, number)
            if unary is not None:
                expression, operands = Expression(1, (unary,)), [other]
                break
    if expression is node.op.expression:
        return node, 0
    return replace(graph, node, Elementwise(expression), operands), 1


def with_constant(instr: Instr, constant_at: int, number: float) -> Instr | None:
    """The one-operand form of ``instr`` when operand value ``constant_at`` is ``number``; None if there is none."""
    if set(instr.args) != {0, 1} or not np.isfinite(number):
        return None
    constant_is_right = instr.args[1] == constant_at
    if instr.fn == "add":
        return Instr("shift", (0,), (number,))
    if instr.fn == "sub" and constant_is_right:
        return Instr("shift", (0,), (-number,))
    if instr.fn == "mul":
        return Instr("scale", (0,), (number,))
    if instr.fn == "min":
        return Instr("clip", (0,), (-np.inf, number))
    if instr.fn == "max":
        return Instr("clip", (0,), (number, np.inf))
    if instr.fn == "pow" and constant_is_right and number in (2, -1):
        return Instr("mul", (0, 0)) if number == 2 else Instr("reciprocal", (0,))
    return None
