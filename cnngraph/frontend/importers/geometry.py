"""Importers of operators that rearrange space: blocks of pixels to channels and back, crops, and norms over windows."""

from __future__ import annotations

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.movement import resolved_axes_in_order
from cnngraph.frontend.importers.nn import window_pads
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType, Sym, product, static
from cnngraph.ops import Cast, Col2Im, Elementwise, Expression, Identity, Instr, MaxUnpool, Pad, Pool, Reduce, Reshape, Transpose
from cnngraph.ops.common import match_dim, show, window_extents


def _blocks(ctx: NodeContext, x: Value) -> int:
    """The block size, which must be positive; ``x`` must have four axes."""
    if x.type.rank != 4:
        ctx.invalid(f"the input {x.type} has {x.type.rank} axes, not 4")
    size = ctx.attr_int("blocksize", 0)
    if size < 1:
        ctx.invalid(f"blocksize {size} is not positive")
    return size


def _order(ctx: NodeContext) -> str:
    mode = ctx.attr_str("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        ctx.invalid(f"mode is '{mode[:40]}', neither DCR nor CRD")
    return mode


@importer("DepthToSpace")
def depth_to_space(ctx: NodeContext) -> Value:
    """Blocks of channels become blocks of pixels: a transposition between two reshapes."""
    x = ctx.value(0)
    b = _blocks(ctx, x)
    n, (c, h, w) = x.type.shape[0], static(x.type.shape[1:])
    if c % (b * b):
        ctx.invalid(f"{c} channels are no multiple of blocks of {b}x{b}")
    if _order(ctx) == "DCR":
        split, perm = (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3)
    y = ctx.emit(Transpose(perm), ctx.emit(Reshape(split), x))
    return ctx.emit(Reshape((n, c // (b * b), h * b, w * b)), y)


@importer("SpaceToDepth")
def space_to_depth(ctx: NodeContext) -> Value:
    """Blocks of pixels become blocks of channels; the order is an attribute since operator set 28."""
    x = ctx.value(0)
    b = _blocks(ctx, x)
    n, (c, h, w) = x.type.shape[0], static(x.type.shape[1:])
    if h % b or w % b:
        ctx.invalid(f"{show(x.type.shape)} does not divide into blocks of {b}x{b}")
    perm = (0, 3, 5, 1, 2, 4) if _order(ctx) == "DCR" else (0, 1, 3, 5, 2, 4)
    y = ctx.emit(Transpose(perm), ctx.emit(Reshape((n, c, h // b, b, w // b, b)), x))
    return ctx.emit(Reshape((n, c * b * b, h // b, w // b)), y)


@importer("CenterCropPad")
def center_crop_pad(ctx: NodeContext) -> Value:
    """Crops and zero padding to a shape, both as one Pad; odd remainders go to the end."""
    x = ctx.value(0)
    shape, rank = x.type.shape, x.type.rank
    axes = resolved_axes_in_order(ctx, ctx.attr_ints("axes"), rank) if ctx.has("axes") else tuple(range(rank))
    wanted = ctx.dims(1, "the shape")
    if len(wanted) != len(axes):
        ctx.invalid(f"{len(wanted)} extents for {len(axes)} axes of {show(shape)}")
    pads = [0] * (2 * rank)
    for axis, extent in zip(axes, wanted, strict=True):
        current = shape[axis]
        if isinstance(extent, Sym) or isinstance(current, Sym):
            match_dim(current, extent, f"extent of axis {axis} of {show(shape)}")
            continue
        if extent < 0:
            ctx.invalid(f"shape {show(wanted)} has a negative extent")
        difference = abs(extent - current)
        sign = 1 if extent > current else -1
        pads[axis], pads[axis + rank] = sign * (difference // 2), sign * (difference - difference // 2)
    return ctx.emit(Pad(tuple(pads)), x) if any(pads) else ctx.emit(Identity(), x)


@importer("Col2Im")
def col2im(ctx: NodeContext) -> Value:
    """Overlapping blocks added into an image of any number of axes."""
    x = ctx.value(0)
    ctx.require_contents((1, 2), "the shape of the image")
    image, block = ctx.ints(1, "the shape of the image"), ctx.ints(2, "the shape of the block")
    ones = (1,) * len(image)
    strides, dilations = ctx.attr_ints("strides", ones), ctx.attr_ints("dilations", ones)
    return ctx.emit(Col2Im(image, block, strides, ctx.attr_ints("pads", (0,) * (2 * len(image))), dilations), x)


@importer("MaxUnpool")
def max_unpool(ctx: NodeContext) -> Value:
    """Elements go to the places that MaxPool took them from."""
    x, indices = ctx.value(0), ctx.value(1)
    if x.type.rank < 3:
        ctx.invalid(f"the input {x.type} has no spatial axes")
    kernel = ctx.attr_ints("kernel_shape")
    spatial = static(x.type.shape[2:])
    strides, pads = ctx.attr_ints("strides", (1,) * len(kernel)), ctx.attr_ints("pads", (0,) * (2 * len(kernel)))
    if not len(kernel) == len(strides) == len(spatial) == len(pads) / 2:
        ctx.invalid(f"kernel_shape {list(kernel)}, strides {list(strides)} and pads {list(pads)} do not suit {show(x.type.shape)}")
    if min((*kernel, *strides)) < 1 or min(pads) < 0:
        ctx.invalid(f"kernel_shape {list(kernel)}, strides {list(strides)} or pads {list(pads)} are too small")
    inferred = tuple((d - 1) * strides[i] - pads[i] - pads[i + len(kernel)] + kernel[i] for i, d in enumerate(spatial))
    if ctx.present(2):
        given = ctx.dims(2, "the output shape")
        if len(given) != x.type.rank:
            ctx.invalid(f"the output shape {show(given)} does not suit {show(x.type.shape)}")
        for i in (0, 1):
            match_dim(given[i], x.type.shape[i], f"output shape {show(given)} of {show(x.type.shape)}")
        return ctx.emit(MaxUnpool(static(given[2:]), inferred, kernel, strides, pads[: len(kernel)]), x, indices)
    return ctx.emit(MaxUnpool(inferred, inferred, kernel, strides, pads[: len(kernel)]), x, indices)


def _power(ctx: NodeContext, x: Value, p: int) -> Value:
    """``|x| ** p``."""
    if p == 1:
        return ctx.emit(Elementwise(Expression.of("abs")), x)
    if p <= 8:
        instrs = [Instr("abs", (0,))] if p % 2 else []
        for _ in range(p - 1):
            instrs.append(Instr("mul", (len(instrs), 0)))
        return ctx.emit(Elementwise(Expression(1, tuple(instrs))), x)
    exponent = ctx.constant(np.array(p, x.type.dtype.numpy))
    return ctx.emit(Elementwise(Expression(2, (Instr("abs", (0,)), Instr("pow", (2, 1))))), x, exponent)


def _root(ctx: NodeContext, total: Value, p: int) -> Value:
    """``total ** (1/p)``."""
    if p == 1:
        return total
    if p == 2:
        return ctx.emit(Elementwise(Expression.of("sqrt")), total)
    exponent = ctx.constant(np.array(1 / p).astype(total.type.dtype.numpy))
    return ctx.emit(Elementwise(Expression.of("pow", 2)), total, exponent)


def _norm_order(ctx: NodeContext, x: Value) -> int:
    if x.type.rank < 3:
        ctx.invalid(f"the input {x.type} has no spatial axes")
    p = ctx.attr_int("p", 2)
    if p < 1:
        ctx.invalid(f"p is {p}, but must be at least 1")
    return p


def _wide(ctx: NodeContext, x: Value) -> Value:
    """``x`` in float32 if it has 16 bits, whose powers overflow."""
    return ctx.emit(Cast(DType.F32), x) if x.type.dtype in (DType.F16, DType.BF16) else x


def _narrow(ctx: NodeContext, y: Value, dtype: DType) -> Value:
    return y if y.type.dtype is dtype else ctx.emit(Cast(dtype), y)


@importer("LpPool")
def lp_pool(ctx: NodeContext) -> Value:
    """The p-norm of each window: powers, the average over whole zero-padded windows times their size, a root."""
    x = ctx.value(0)
    p, kernel = _norm_order(ctx, x), ctx.attr_ints("kernel_shape")
    spatial, ones = static(x.type.shape[2:]), (1,) * len(kernel)
    strides, dilations = ctx.attr_ints("strides", ones), ctx.attr_ints("dilations", ones)
    if not 1 <= len(spatial) <= 3:
        ctx.unsupported(f"{len(spatial)} spatial axes are not supported, only 1 to 3")
    for name, values in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        if len(values) != len(spatial) or min(values) < 1:
            ctx.invalid(f"{name} {list(values)} does not suit {len(spatial)} spatial axes")
    pads = window_pads(ctx, spatial, kernel, strides, dilations)
    if len(pads) != 2 * len(kernel) or min(pads) < 0:
        ctx.invalid(f"pads {list(pads)} do not suit {len(spatial)} spatial axes")
    out = window_extents(spatial, kernel, strides, pads, dilations, ctx.attr_bool("ceil_mode"))
    ends = []
    for i, extent in enumerate(spatial):
        reach = (out[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1
        ends.append(max(reach - extent - pads[i], 0))
    whole = Pool("average", kernel, strides, (*pads[: len(kernel)], *ends), dilations, count_include_pad=True)
    average = ctx.emit(whole, _power(ctx, _wide(ctx, x), p))
    total = ctx.emit(Elementwise(Expression.of("scale", 1, (float(product(kernel)),))), average)
    return _narrow(ctx, _root(ctx, total, p), x.type.dtype)


@importer("GlobalLpPool")
def global_lp_pool(ctx: NodeContext) -> Value:
    """The p-norm over all spatial axes."""
    x = ctx.value(0)
    p = _norm_order(ctx, x)
    axes = tuple(range(2, x.type.rank))
    if p <= 2:
        return ctx.emit(Reduce(f"l{p}", axes, True), x)
    total = ctx.emit(Reduce("sum", axes, True), _power(ctx, _wide(ctx, x), p))
    return _narrow(ctx, _root(ctx, total, p), x.type.dtype)
