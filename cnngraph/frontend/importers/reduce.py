"""Importers of reductions, softmax and global pooling."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.movement import given_axes, resolved_axes
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import numel
from cnngraph.ops import Identity, Reduce, Reshape, Softmax
from cnngraph.ops.base import normalize_axis

_KINDS = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceLogSum": "log_sum",
    "ReduceLogSumExp": "log_sum_exp",
    "ReduceSumSquare": "sum_square",
}


@importer(*_KINDS)
def reduce(ctx: NodeContext) -> Value:
    """Axes by attribute or input; none given means all, or none with noop_with_empty_axes."""
    x = ctx.value(0)
    axes = given_axes(ctx) or ()
    keepdims = ctx.attr_bool("keepdims", True)
    if not axes and not ctx.attr_bool("noop_with_empty_axes"):
        axes = tuple(range(x.type.rank))
    return ctx.emit(Reduce(_KINDS[ctx.op], resolved_axes(ctx, axes, x.type.rank), keepdims), x)


@importer("GlobalAveragePool", "GlobalMaxPool")
def global_pool(ctx: NodeContext) -> Value:
    """A reduction over all spatial axes."""
    x = ctx.value(0)
    if x.type.rank < 2:
        ctx.invalid(f"the input {x.type} has no channel axis")
    if x.type.rank == 2:
        return ctx.emit(Identity(), x)
    kind = "mean" if ctx.op == "GlobalAveragePool" else "max"
    return ctx.emit(Reduce(kind, tuple(range(2, x.type.rank)), True), x)


@importer("Softmax", "LogSoftmax", since=13)
def softmax(ctx: NodeContext) -> Value:
    """Along one axis, by default the last."""
    x = ctx.value(0)
    axis = normalize_axis(ctx.attr_int("axis", -1), x.type.rank)
    return ctx.emit(Softmax(axis, ctx.op == "LogSoftmax"), x)


@importer("Softmax", "LogSoftmax", until=12)
def softmax_flattened(ctx: NodeContext) -> Value:
    """Over all axes from ``axis`` (default 1) on, as if they were one."""
    x = ctx.value(0)
    shape, log = x.type.shape, ctx.op == "LogSoftmax"
    axis = ctx.attr_int("axis", 1)
    if axis == x.type.rank:
        flat = ctx.emit(Reshape((*shape, 1)), x)
        return ctx.emit(Reshape(shape), ctx.emit(Softmax(axis, log), flat))
    axis = normalize_axis(axis, x.type.rank)
    extended = [i for i in range(axis, len(shape)) if shape[i] != 1] or [axis]
    if len(extended) == 1:
        return ctx.emit(Softmax(extended[0], log), x)
    flat = ctx.emit(Reshape((numel(shape[:axis]), numel(shape[axis:]))), x)
    return ctx.emit(Reshape(shape), ctx.emit(Softmax(1, log), flat))
