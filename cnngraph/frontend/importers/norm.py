"""Importers of normalisation by statistics of the input itself: instance, group, layer and root-mean-square."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.fused import check_inputs
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType, Sym, numel, product, static
from cnngraph.ops import Cast, Elementwise, Expand, Expression, Instr, Reduce, Reshape
from cnngraph.ops.base import normalize_axis
from cnngraph.ops.common import require_broadcastable_to, show
from cnngraph.ops.group_norm import GroupNorm

_MOST_AXES = 5


@importer("InstanceNormalization")
def instance_normalization(ctx: NodeContext) -> Value:
    """Every channel of every image on its own."""
    x = _image(ctx)
    channels = x.type.shape[1]
    if not isinstance(channels, int):
        ctx.unsupported("normalising channels whose number depends on the batch size")
    return _group_norm(ctx, x, channels, ctx.value(1), ctx.value(2))


@importer("GroupNormalization", since=18, until=20)
def group_normalization_by_group(ctx: NodeContext) -> Value:
    """Scale and bias hold one number for each group, which its channels repeat."""
    x = _image(ctx)
    groups = ctx.attr_int("num_groups", 0)
    channels = _grouped_channels(ctx, x, groups)
    parameters = []
    for index, what in ((1, "scale"), (2, "bias")):
        value = ctx.value(index)
        if value.type.shape != (groups,):
            ctx.invalid(f"the {what} {value.type} does not hold one number for each of {groups} groups")
        if value.data is not None:
            parameters.append(ctx.constant(np.repeat(value.data, channels // groups)))
        else:
            column = ctx.emit(Reshape((groups, 1)), value)
            parameters.append(ctx.emit(Reshape((channels,)), ctx.emit(Expand((groups, channels // groups)), column)))
    return _group_norm(ctx, x, groups, *parameters)


@importer("GroupNormalization", since=21)
def group_normalization(ctx: NodeContext) -> Value:
    """Scale and bias hold one number for each channel."""
    x = _image(ctx)
    groups = ctx.attr_int("num_groups", 0)
    _grouped_channels(ctx, x, groups)
    return _group_norm(ctx, x, groups, ctx.value(1), ctx.value(2))


def _image(ctx: NodeContext) -> Value:
    x = ctx.value(0)
    if x.type.rank < 3:
        ctx.invalid(f"the input {x.type} has no spatial axes")
    return x


def _grouped_channels(ctx: NodeContext, x: Value, groups: int) -> int:
    channels = x.type.shape[1]
    if not isinstance(channels, int):
        ctx.unsupported("normalising channels whose number depends on the batch size")
    if groups < 1 or channels % groups:
        ctx.invalid(f"num_groups {groups} does not divide the channels of {show(x.type.shape)}")
    return channels


def _group_norm(ctx: NodeContext, x: Value, groups: int, scale: Value, bias: Value) -> Value:
    """Parameters computed at run time are applied by an element-wise node behind, so that the statistics stay compiled."""
    shape = x.type.shape
    op = GroupNorm(groups, ctx.attr_float("epsilon", 1e-5))
    op.infer(x.type, scale.type, bias.type)
    folded = x if len(shape) <= _MOST_AXES else ctx.emit(Reshape((*shape[:2], numel(shape[2:]))), x)
    if scale.is_constant and bias.is_constant:
        y = ctx.emit(op, folded, scale, bias)
    else:
        column = (*scale.type.shape, *(1,) * (folded.type.rank - 2))
        operands = [ctx.emit(Reshape(column), v) for v in (scale, bias)]
        y = ctx.emit(Elementwise(_AFFINE), ctx.emit(op, folded, None, None), *operands)
    return y if y.type.shape == shape else ctx.emit(Reshape(shape), y)


_AFFINE = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2))))


def _deviation(ctx: NodeContext, x: Value, axes: Sequence[int], epsilon: float) -> Value:
    """``sqrt(mean of x*x over axes + epsilon)``, axes kept as 1."""
    count = product(static(x.type.shape[a] for a in axes))
    squares = ctx.emit(Reduce("sum_square", tuple(axes), True), x)
    instrs = (Instr("scale", (0,), (1.0 / max(count, 1),)), Instr("shift", (1,), (epsilon,)), Instr("sqrt", (2,)))
    return ctx.emit(Elementwise(Expression(1, instrs)), squares)


def _cast(ctx: NodeContext, value: Value, dtype: DType) -> Value:
    return value if value.type.dtype is dtype else ctx.emit(Cast(dtype), value)


def _statistics_dtype(ctx: NodeContext, x: Value) -> DType:
    """What to compute in: float32 for 16-bit types, else the type itself."""
    if ctx.attr_int("stash_type", 1) not in (1, 16):
        ctx.unsupported(f"stash_type {ctx.attr_int('stash_type', 1)}, which is neither float (1) nor bfloat16 (16)")
    return x.type.dtype if x.type.dtype in (DType.F32, DType.F64) else DType.F32


def layer_norm(
    ctx: NodeContext, x: Value, axes: Sequence[int], scale: Value, bias: Value | None, wanted: tuple[bool, bool]
) -> tuple[Value, Value | None, Value | None]:
    """``(x - mean) / sqrt(var + epsilon) * scale + bias`` over ``axes``, and the mean and 1/sqrt(var + epsilon) if wanted.

    Types: y has x's; the statistics are float32 or float64.
    """
    dtype = _statistics_dtype(ctx, x)
    wide = _cast(ctx, x, dtype)
    mean = ctx.emit(Reduce("mean", tuple(axes), True), wide)
    centred = ctx.emit(Elementwise(Expression.of("sub", 2)), wide, mean)
    deviation = _deviation(ctx, centred, axes, ctx.attr_float("epsilon", 1e-5))
    instrs = [Instr("div", (0, 1)), Instr("mul", (3 + (bias is not None), 2))]
    operands = [centred, deviation, _cast(ctx, scale, dtype)]
    if bias is not None:
        instrs.append(Instr("add", (5, 3)))
        operands.append(_cast(ctx, bias, dtype))
    y = _cast(ctx, ctx.emit(Elementwise(Expression(len(operands), tuple(instrs))), *operands), x.type.dtype)
    inverse = None
    if wanted[1]:
        one = ctx.constant(np.ones((), dtype.numpy))
        inverse = ctx.emit(Elementwise(Expression.of("div", 2)), one, deviation)
    return y, mean if wanted[0] else None, inverse


def _last_axes(ctx: NodeContext, x: Value) -> tuple[int, ...]:
    if x.type.rank < 1:
        ctx.invalid(f"the input {x.type} has no axes")
    return tuple(range(normalize_axis(ctx.attr_int("axis", -1), x.type.rank), x.type.rank))


@importer("LayerNormalization")
def layer_normalization(ctx: NodeContext) -> tuple[Value | None, ...]:
    """Over all axes from ``axis`` on; mean and inverse deviation have the type that stash_type names."""
    x, scale, bias = ctx.value(0), ctx.value(1), ctx.optional(2)
    axes = _last_axes(ctx, x)
    for value in (scale, bias):
        if value is not None:
            require_broadcastable_to(value.type.shape, x.type.shape, "scale or bias")
    y, *statistics = layer_norm(ctx, x, axes, scale, bias, (ctx.wants(1), ctx.wants(2)))
    stash = DType.BF16 if ctx.attr_int("stash_type", 1) == 16 else DType.F32
    return (y, *(None if v is None else _cast(ctx, v, stash) for v in statistics))


@importer("RMSNormalization")
def rms_normalization(ctx: NodeContext) -> Value:
    """``x / sqrt(mean of x*x + epsilon) * scale``; the result has the type of the scale."""
    x, scale = ctx.value(0), ctx.value(1)
    axes = _last_axes(ctx, x)
    require_broadcastable_to(scale.type.shape, x.type.shape, "scale")
    dtype, out = _statistics_dtype(ctx, x), scale.type.dtype
    wide = _cast(ctx, x, dtype)
    deviation = _deviation(ctx, wide, axes, ctx.attr_float("epsilon", 1e-5))
    if x.type.dtype is out:
        normed = Expression(3, (Instr("div", (0, 1)), Instr("mul", (3, 2))))
        return _cast(ctx, ctx.emit(Elementwise(normed), wide, deviation, _cast(ctx, scale, dtype)), out)
    rounded = _cast(ctx, ctx.emit(Elementwise(Expression.of("div", 2)), wide, deviation), x.type.dtype)
    return ctx.emit(Elementwise(Expression.of("mul", 2)), _cast(ctx, rounded, out), scale)


@importer("com.microsoft::SkipLayerNormalization")
def skip_layer_normalization(ctx: NodeContext) -> tuple[Value | None, ...]:
    """Onnxruntime's layer normalisation of ``x + skip (+ bias)`` over the last axis; the sum is its fourth output."""
    check_inputs(ctx, 3, 5)
    x, skip, scale, shift = ctx.value(0), ctx.value(1), ctx.value(2), ctx.optional(3)
    if not x.type.dtype.is_float or any(v is not None and v.type.dtype is not x.type.dtype for v in (skip, scale, shift, ctx.optional(4))):
        ctx.invalid("its inputs must be of one floating-point type")
    depth = x.type.shape[-1] if x.type.rank else 1
    if x.type.rank < 2 or isinstance(depth, Sym):
        ctx.invalid(f"the input {x.type} has no last axis to normalise")
    for value in (scale, shift, ctx.optional(4)):
        if value is not None and value.type.shape != (depth,):
            ctx.invalid(f"the parameter {value.type} does not hold one number for each of {depth} columns")
    require_broadcastable_to(skip.type.shape, x.type.shape, "skip")
    total = ctx.emit(Elementwise(Expression.of("add", 2)), x, skip)
    if ctx.present(4):
        total = ctx.emit(Elementwise(Expression.of("add", 2)), total, ctx.value(4))
    y, *statistics = layer_norm(ctx, total, (x.type.rank - 1,), scale, shift, (ctx.wants(1), ctx.wants(2)))
    return (y, *(None if v is None else _cast(ctx, v, DType.F32) for v in statistics), total if ctx.wants(3) else None)
