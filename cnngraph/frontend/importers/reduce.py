"""Importers of reductions, of the normalisations made of them, of softmax and global pooling."""

from __future__ import annotations

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.movement import given_axes, resolved_axes
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType, numel, static
from cnngraph.ops import ArgReduce, Cast, Elementwise, Expression, Identity, Instr, OneHot, Reduce, Reshape, Softmax
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


def widened(ctx: NodeContext, x: Value) -> Value:
    """``x`` as float32 if it is a 16-bit float, so that a chain of nodes rounds once at its end."""
    return ctx.emit(Cast(DType.F32), x) if x.type.dtype in (DType.F16, DType.BF16) else x


def narrowed(ctx: NodeContext, x: Value, dtype: DType) -> Value:
    """``x`` as ``dtype``."""
    return x if x.type.dtype is dtype else ctx.emit(Cast(dtype), x)


@importer("MeanVarianceNormalization")
def mean_variance_normalization(ctx: NodeContext) -> Value:
    """``(x - mean) / (sqrt(mean((x - mean)^2)) + 1e-9)`` over the axes, by default all but the channels."""
    x = widened(ctx, ctx.value(0))
    axes = resolved_axes(ctx, ctx.attr_ints("axes", (0, 2, 3)), x.type.rank)
    deviation = ctx.emit(Elementwise(Expression.of("sub", 2)), x, ctx.emit(Reduce("mean", axes), x))
    squares = ctx.emit(Elementwise(Expression(1, (Instr("mul", (0, 0)),))), deviation)
    variance = ctx.emit(Reduce("mean", axes), squares)
    ratio = Expression(2, (Instr("sqrt", (1,)), Instr("shift", (2,), (1e-9,)), Instr("div", (0, 3))))
    return narrowed(ctx, ctx.emit(Elementwise(ratio), deviation, variance), ctx.type(0).dtype)


# What replaces a norm of 0, so that 0 / norm is 0: the least number that a norm other than 0 may be. A sum of squares is 0 or
# at least the least subnormal, whose root bounds a 2-norm.
_LEAST_NORM = {
    (DType.F32, 1): 2.0**-149,
    (DType.F32, 2): 2.0**-75,
    (DType.F64, 1): 2.0**-1074,
    (DType.F64, 2): 2.0**-537,
}


@importer("LpNormalization")
def lp_normalization(ctx: NodeContext) -> Value:
    """``x / norm`` along one axis, 0 where the norm is 0."""
    x = widened(ctx, ctx.value(0))
    p = ctx.attr_int("p", 2)
    if p not in (1, 2):
        ctx.invalid(f"p is {p}, not 1 or 2")
    axis = normalize_axis(ctx.attr_int("axis", -1), x.type.rank)
    norm = ctx.emit(Reduce(f"l{p}", (axis,)), x)
    least = _LEAST_NORM[x.type.dtype, p]
    ratio = Expression(2, (Instr("clip", (1,), (least, float("inf"))), Instr("div", (0, 2))))
    return narrowed(ctx, ctx.emit(Elementwise(ratio), x, norm), ctx.type(0).dtype)


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


def _along(ctx: NodeContext, x: Value, axis: int) -> Value:
    """Softmax, its logarithm, or 1 at the first largest element and 0 elsewhere."""
    if ctx.op != "Hardmax":
        return ctx.emit(Softmax(axis, ctx.op == "LogSoftmax"), x)
    extent = static((x.type.shape[axis],))[0]
    largest = ctx.emit(ArgReduce("max", axis, keepdims=False), x)
    return ctx.emit(OneHot(extent, axis), largest, ctx.constant(np.array([0, 1], x.type.dtype.numpy)))


@importer("Softmax", "LogSoftmax", "Hardmax", since=13)
def softmax(ctx: NodeContext) -> Value:
    """Along one axis, by default the last."""
    x = ctx.value(0)
    return _along(ctx, x, normalize_axis(ctx.attr_int("axis", -1), x.type.rank))


@importer("Softmax", "LogSoftmax", "Hardmax", until=12)
def softmax_flattened(ctx: NodeContext) -> Value:
    """Over all axes from ``axis`` (default 1) on, as if they were one."""
    x = ctx.value(0)
    shape, axis = x.type.shape, ctx.attr_int("axis", 1)
    if axis == x.type.rank:
        flat = ctx.emit(Reshape((*shape, 1)), x)
        return ctx.emit(Reshape(shape), _along(ctx, flat, axis))
    axis = normalize_axis(axis, x.type.rank)
    extended = [i for i in range(axis, len(shape)) if shape[i] != 1] or [axis]
    if len(extended) == 1:
        return _along(ctx, x, extended[0])
    flat = ctx.emit(Reshape((numel(shape[:axis]), numel(shape[axis:]))), x)
    return ctx.emit(Reshape(shape), _along(ctx, flat, 1))
