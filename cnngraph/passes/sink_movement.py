"""Transposes, and the reshapes behind dense layers, move behind what can as well be computed in front of them.

op(transpose(x)) => transpose(op'(x)) for element-wise operators, concatenations, reductions, quantisations and element-wise operators
on integers, padding and cuts of channels last, and cuts along the first axis: in a network that was written with channels last,
transposes meet their inverses and vanish, and activations stand next to their convolution; queries, keys and values are told apart
while the batch still is the first axis.

elementwise(reshape(dense(x))) => reshape(elementwise(dense(x))): a matrix product of a tensor with more than two axes is a dense layer of
its rows, which takes up its bias, activation and residual only where it stands in front of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Dim, numel
from cnngraph.ops import (
    Cast,
    Concat,
    Dense,
    DequantizeLinear,
    Elementwise,
    Pad,
    QLinearBinary,
    QLinearUnary,
    QTable,
    QuantizeLinear,
    Reduce,
    Reshape,
    Slice,
    Transpose,
)
from cnngraph.ops.base import Op
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, replace


@dataclass(frozen=True)
class SinkMovement(Pass):
    """op(transpose(x)) => transpose(op'(x)); elementwise(reshape(dense(x))) => reshape(elementwise(dense(x))).

    Refuses: a transpose that others read than operators that it can sink behind, and transposes; other operands that would have to be
    transposed at a cost.
    """

    name: ClassVar[str] = "sink_movement"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit readers in graph order, so that a movement sinks through a whole chain; again where transposes stood in a row."""
        changes = 0
        while moved := sum(_visit(graph, node) for node in graph.nodes):
            changes += moved
        return changes


_UNARY = (Cast, DequantizeLinear, QLinearUnary, QTable, QuantizeLinear)
"""Functions of every number of their first input, the others being parameters."""


def _visit(graph: Graph, node: Node) -> bool:
    op = node.op
    if isinstance(op, Elementwise):
        return _pointwise(graph, node, range(len(node.inputs))) or _rows(graph, node)
    if isinstance(op, QLinearBinary):
        return _pointwise(graph, node, (0, 3))
    if isinstance(op, _UNARY):
        return _unary(graph, node)
    if isinstance(op, Concat):
        return _concat(graph, node, op)
    if isinstance(op, (Pad, Slice)):
        dropped = isinstance(op, Slice) and _cuts_first(node) and _drop_ones(graph, node.input(0))
        return _cut(graph, node, op) or dropped
    return isinstance(op, Reduce) and _reduce(graph, node, op)


def _transposed(graph: Graph, value: Value | None) -> tuple[int, ...] | None:
    """The permutation by which ``value`` was made, of no constant, if all its readers may be moved in front of it too."""
    producer = value.producer if value is not None else None
    if value is None or producer is None or not isinstance(producer.op, Transpose) or graph.is_output(value):
        return None
    if producer.input(0).is_constant:
        return None
    perm = producer.op.perm
    return perm if all(_may_sink_behind(user, perm) for user in value.users) else None


def _may_sink_behind(user: Node, perm: tuple[int, ...]) -> bool:
    if isinstance(user.op, Slice) and _cuts_first(user):
        return True
    if isinstance(user.op, (Pad, Slice)):
        return len(perm) > 3 and perm == (0, *range(2, len(perm)), 1)  # else a transpose of all may be cut into views
    return isinstance(user.op, (*_UNARY, Concat, Elementwise, QLinearBinary, Reduce, Transpose))


def _cuts_first(node: Node) -> bool:
    """Whether a Slice cuts the first axis alone, as queries, keys and values are told apart: never a view."""
    return all(a == b for a, b in zip(node.input(0).type.shape[1:], node.output.type.shape[1:], strict=True))


def _drop_ones(graph: Graph, value: Value) -> bool:
    """reshape(transpose(x)) => transpose(reshape(x)) where the reshape only drops axes of one element."""
    reshape = value.producer
    transpose = reshape.input(0).producer if reshape is not None and isinstance(reshape.op, Reshape) else None
    if reshape is None or transpose is None or not isinstance(transpose.op, Transpose):
        return False
    if only_user(graph, transpose.output) is not reshape:
        return False
    left, kept = list(value.type.shape), []
    for axis, extent in zip(transpose.op.perm, transpose.output.type.shape, strict=True):
        if left and extent == left[0]:
            kept.append(axis)
            del left[0]
        elif extent != 1:
            return False
    if left:
        return False
    source, order = transpose.input(0), sorted(kept)
    (view,) = graph.add(Reshape(tuple(source.type.shape[axis] for axis in order)), [source], origin=reshape.origin, before=transpose)
    replace(graph, reshape, Transpose(tuple(order.index(axis) for axis in kept)), [view], transpose.origin)
    erase_unused(graph, transpose)
    return True


def _pointwise(graph: Graph, node: Node, data: Collection[int]) -> bool:
    """An operator of the broadcast inputs ``data``; the others are parameters."""
    shape = node.output.type.shape
    perms = [
        _transposed(graph, value) for i, value in enumerate(node.inputs) if i in data and value is not None and value.type.shape == shape
    ]
    perm = next((perm for perm in perms if perm is not None), None)
    if perm is None:
        return False
    inverse = tuple(int(axis) for axis in np.argsort(perm))
    operands: list[Value | None] = []
    moved: list[tuple[int, Value, tuple[Dim, ...]]] = []
    for i, value in enumerate(node.inputs):
        if value is not None and value.producer is not None and value.type.rank == len(shape) and _transposed(graph, value) == perm:
            operands.append(value.producer.input(0))
        elif i not in data or value is None or value.type.rank == 0:
            operands.append(value)
        elif _constant(value) is not None:
            operands.append(_transposed_constant(graph, node, value, len(shape), inverse))
        else:
            full = (*(1,) * (len(shape) - value.type.rank), *value.type.shape)
            if perm[0] != 0 or sum(extent != 1 for extent in full[1:]) > 1:  # else elements stay in order
                return False
            moved.append((len(operands), value, tuple(full[axis] for axis in inverse)))
            operands.append(None)
    for index, value, extents in moved:
        (operands[index],) = graph.add(Reshape(extents), [value], origin=node.origin, before=node)
    _behind(graph, node, node.op, operands, Transpose(perm))
    return True


def _constant(value: Value) -> np.ndarray | None:
    """The array of a constant, or the one that ``value`` is dequantised from by one scale."""
    if value.data is not None or value.producer is None or not isinstance(value.producer.op, DequantizeLinear):
        return value.data
    source, *parameters = value.producer.inputs
    single = all(v is None or (v.data is not None and v.data.size == 1) for v in parameters)
    return source.data if source is not None and single else None


def _transposed_constant(graph: Graph, node: Node, value: Value, rank: int, perm: tuple[int, ...]) -> Value:
    """A constant as an operand of ``rank`` axes, transposed."""
    data = _constant(value)
    assert data is not None
    moved = graph.constant(np.ascontiguousarray(data.reshape((1,) * (rank - data.ndim) + data.shape).transpose(perm)))
    if value.producer is None:
        return moved
    return graph.add(value.producer.op, [moved, *value.producer.inputs[1:]], origin=value.producer.origin, before=node)[0]


def _unary(graph: Graph, node: Node) -> bool:
    perm, op = _transposed(graph, node.inputs[0]), node.op
    if perm is None:
        return False
    if isinstance(op, (DequantizeLinear, QuantizeLinear)) and numel(node.input(1).type.shape) != 1:
        if op.block_size:
            return False
        op = dataclasses.replace(op, axis=perm[op.axis])
    _behind(graph, node, op, [*_sources(node)[:1], *node.inputs[1:]], Transpose(perm))
    return True


def _cut(graph: Graph, node: Node, op: Pad | Slice) -> bool:
    perm = _transposed(graph, node.input(0))
    if perm is None:
        return False
    inverse = [int(axis) for axis in np.argsort(perm)]
    if isinstance(op, Pad):
        ends = op.pads[len(perm) :]
        moved: Op = dataclasses.replace(op, pads=(*(op.pads[i] for i in inverse), *(ends[i] for i in inverse)))
    else:
        moved = Slice(*(tuple(numbers[i] for i in inverse) for numbers in (op.starts, op.steps, op.shape)))  # type: ignore[arg-type]
    _behind(graph, node, moved, _sources(node), Transpose(perm))
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
