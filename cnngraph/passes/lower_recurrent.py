"""Recurrent layers in two parts: one dense layer for the inputs of all steps, of both directions, and what goes step by step.

The dense layer multiplies [T*N, I] by [I, D*G*H] and takes up every bias that is added before an activation, joined in float64 and rounded
once. Results of the steps have the directions of a step side by side, so that the transposition that ONNX's order of axes asks for
meets its inverse, which stands behind almost every bidirectional layer.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType, numel
from cnngraph.ops import Dense, Expand, Recurrent, RecurrentSteps, Reshape, Transpose
from cnngraph.passes.base import Pass, PassContext


@dataclass(frozen=True)
class LowerRecurrent(Pass):
    """recurrent(x) => steps(dense(x)). Refuses weights computed at run time and other types than float32."""

    name: ClassVar[str] = "lower_recurrent"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit every recurrent layer."""
        changes = 0
        for node in graph.nodes:
            if not isinstance(node.op, Recurrent):
                continue
            refusal = _refusal(node)
            if refusal is not None:
                context.reject(self.name, node, refusal)
                continue
            _split(graph, node, node.op)
            changes += 1
        return changes


def _refusal(node: Node) -> str | None:
    """Why the layer stays whole, or None."""
    x, *rest = _operands(node)
    assert x is not None
    if x.type.dtype is not DType.F32:
        return f"{x.type.dtype.value} layers run by the reference; kernels are float32"
    if any(value is not None and not value.is_constant for value in (*rest[:3], rest[6])):
        return "the weights are computed at run time"
    return "an empty tensor" if any(d == 0 for value in (x, *node.outputs) for d in value.type.shape) else None


def _operands(node: Node) -> list[Value | None]:
    """x, w, r, b, lengths, h0, c0 and p."""
    return [*node.inputs, *[None] * (8 - len(node.inputs))]


def _split(graph: Graph, node: Node, op: Recurrent) -> None:
    x, w, r, b, lengths, h0, c0, p = _operands(node)
    assert x is not None and w is not None and w.data is not None
    directions = len(op.directions)
    time, batch, features = x.type.shape
    weights = graph.constant(np.ascontiguousarray(w.data.reshape(-1, w.data.shape[2]).T))
    bias = inner = None
    if b is not None:
        assert b.data is not None
        addend, inside = op.biases(b.data.astype(np.float64))
        bias = graph.constant(addend.astype(np.float32))
        inner = None if inside is None else graph.constant(inside.astype(np.float32))

    def before(computed: Dense | Reshape | Transpose, *operands: Value | None) -> Value:
        return graph.add(computed, operands, origin=node.origin, before=node)[0]

    rows = before(Reshape((numel((time, batch)), features)), x)
    gates = before(Reshape((time, batch, weights.type.shape[1])), before(Dense(), rows, weights, bias))
    op_of_steps = RecurrentSteps(*(getattr(op, field.name) for field in dataclasses.fields(op)))
    starts = [None if value is None or _is_zero(value) else value for value in (h0, c0)]
    y, *states = graph.add(op_of_steps, [gates, r, inner, lengths, *starts, p], origin=node.origin, before=node)
    if directions == 1:
        y = before(Reshape((time, 1, batch, op.hidden)), y)
    else:
        y = before(Transpose((0, 2, 1, 3)), before(Reshape((time, batch, directions, op.hidden)), y))
    for old, new in zip(node.outputs, (y, *states), strict=True):
        graph.replace_uses(old, new)
    graph.erase(node)


def _is_zero(value: Value) -> bool:
    """Whether a tensor is known to hold zeros only."""
    if value.data is not None:
        return not value.data.any()
    producer = value.producer
    return producer is not None and isinstance(producer.op, (Expand, Reshape, Transpose)) and _is_zero(producer.input(0))
