"""Importers of convolution, pooling, normalisation and matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import Shape, Sym, SymbolicBatchError, numel, static
from cnngraph.ops import LRN, BatchNorm, Conv, Dense, Elementwise, Expression, MatMul, Pool, Reshape, Transpose
from cnngraph.ops.common import show


def window_pads(
    ctx: NodeContext, spatial: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """Pads (begins, then ends) of a window over the axes ``spatial``, auto_pad resolved.

    SAME gives ``ceil(extent / stride)`` windows; an odd pad goes to the end (SAME_UPPER) or the beginning (SAME_LOWER).
    """
    mode = ctx.attr_str("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        ctx.invalid(f"auto_pad is '{mode[:40]}', not NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    zeros = (0,) * (2 * len(kernel))
    given = ctx.attr_ints("pads", zeros)
    if mode == "NOTSET":
        return given
    resolved = zeros if mode == "VALID" else _same_pads(static(spatial), kernel, strides, dilations, mode == "SAME_UPPER")
    if given not in (zeros, resolved):
        ctx.invalid(f"auto_pad {mode} means pads {list(resolved)}, but pads are {list(given)}")
    return resolved


def _same_pads(
    spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], upper: bool
) -> tuple[int, ...]:
    begins, ends = [], []
    for extent, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        windows = -(-extent // max(stride, 1))
        total = max((windows - 1) * stride + (k - 1) * dilation + 1 - extent, 0)
        begins.append(total // 2 if upper else total - total // 2)
        ends.append(total - begins[-1])
    return (*begins, *ends)


def _window(ctx: NodeContext, spatial: Shape, kernel: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, pads and dilations for ``kernel``, their numbers checked."""
    ones = (1,) * len(kernel)
    strides, dilations = ctx.attr_ints("strides", ones), ctx.attr_ints("dilations", ones)
    if not 1 <= len(spatial) <= 3:
        ctx.unsupported(f"{len(spatial)} spatial axes are not supported, only 1 to 3")
    for name, values in (("kernel_shape", kernel), ("strides", strides), ("dilations", dilations)):
        if len(values) != len(spatial):
            ctx.invalid(f"{name} {list(values)} does not suit {len(spatial)} spatial axes")
        if min(values) < 1:
            ctx.invalid(f"{name} {list(values)} must be at least 1")
    return strides, window_pads(ctx, spatial, kernel, strides, dilations), dilations


def _require_image(ctx: NodeContext) -> Value:
    x = ctx.value(0)
    if x.type.rank < 3:
        ctx.invalid(f"the input {x.type} has no spatial axes")
    return x


@importer("Conv")
def conv(ctx: NodeContext) -> Value:
    """1-D to 3-D convolution."""
    x, w = _require_image(ctx), ctx.value(1)
    if w.type.rank != x.type.rank:
        ctx.invalid(f"the weights {w.type} do not suit the input {x.type}")
    kernel = static(w.type.shape[2:])
    if ctx.attr_ints("kernel_shape", kernel) != kernel:
        ctx.invalid(f"kernel_shape {list(ctx.attr_ints('kernel_shape'))} contradicts the weights {w.type}")
    strides, pads, dilations = _window(ctx, x.type.shape[2:], kernel)
    return ctx.emit(Conv(kernel, strides, pads, dilations, ctx.attr_int("group", 1)), x, w, ctx.optional(2))


@importer("MaxPool")
def max_pool(ctx: NodeContext) -> tuple[Value | None, ...]:
    """With the indices of the maxima if the second output is wanted."""
    x = _require_image(ctx)
    kernel = ctx.attr_ints("kernel_shape")
    strides, pads, dilations = _window(ctx, x.type.shape[2:], kernel)
    indices = ctx.wants(1)
    op = Pool(
        "max",
        kernel,
        strides,
        pads,
        dilations,
        ceil_mode=ctx.attr_bool("ceil_mode"),
        indices=indices,
        storage_order=ctx.attr_int("storage_order", 0),
    )
    return ctx.emit_all(op, x)


@importer("AveragePool")
def average_pool(ctx: NodeContext) -> Value:
    """Average pooling; dilations since opset 19."""
    x = _require_image(ctx)
    kernel = ctx.attr_ints("kernel_shape")
    strides, pads, dilations = _window(ctx, x.type.shape[2:], kernel)
    ceil_mode, include = ctx.attr_bool("ceil_mode"), ctx.attr_bool("count_include_pad")
    return ctx.emit(Pool("average", kernel, strides, pads, dilations, ceil_mode=ceil_mode, count_include_pad=include), x)


@importer("BatchNormalization")
def batch_normalization(ctx: NodeContext) -> tuple[Value | None, ...]:
    """Inference, and training mode of opset 14 with its running statistics."""
    x = ctx.value(0)
    if ctx.opset < 9 and not ctx.attr_bool("spatial", True) and x.type.rank > 2:
        ctx.unsupported("spatial=0 (statistics for each activation) is not supported")
    training = ctx.attr_bool("training_mode")
    if ctx.opset < 14 and any(ctx.wants(i) for i in range(1, 5)):
        ctx.unsupported("training mode (more than one output) of operator sets before 14 is not supported")
    if not training and any(ctx.wants(i) for i in range(1, 3)):
        ctx.invalid("running statistics are outputs of training mode only")
    op = BatchNorm(ctx.attr_float("epsilon", 1e-5), ctx.attr_float("momentum", 0.9), training)
    return ctx.emit_all(op, x, *(ctx.value(i) for i in range(1, 5)))


@importer("LRN")
def lrn(ctx: NodeContext) -> Value:
    """Local response normalisation across channels."""
    op = LRN(ctx.attr_int("size", 0), ctx.attr_float("alpha", 1e-4), ctx.attr_float("beta", 0.75), ctx.attr_float("bias", 1.0))
    return ctx.emit(op, ctx.value(0))


def _scaled(ctx: NodeContext, value: Value, factor: float) -> Value:
    if factor == 1.0:
        return value
    if not value.type.dtype.is_float:
        ctx.unsupported(f"alpha or beta {factor} on integers is not supported")
    return ctx.emit(Elementwise(Expression.of("scale", 1, (factor,))), value)


@importer("Gemm")
def gemm(ctx: NodeContext) -> Value:
    """``alpha * A' @ B' + beta * C``; constant B makes a dense layer whose weights are stored as [K,N]."""
    a, b, c = ctx.value(0), ctx.value(1), ctx.optional(2)
    alpha, beta = ctx.attr_float("alpha", 1.0), ctx.attr_float("beta", 1.0)
    if a.type.rank != 2 or b.type.rank != 2:
        ctx.invalid(f"Gemm multiplies matrices, not {a.type} and {b.type}")
    if ctx.attr_bool("transA"):
        a = ctx.emit(Transpose((1, 0)), a)
    flip = ctx.attr_bool("transB")
    if b.data is None or not a.type.dtype.is_float:
        product = ctx.emit(MatMul(), a, ctx.emit(Transpose((1, 0)), b) if flip else b)
        return _plus(ctx, _scaled(ctx, product, alpha), c, beta)
    weights = b.data.T if flip else b.data
    if alpha != 1.0:
        weights = (weights * alpha).astype(b.data.dtype)
    columns = weights.shape[1]
    w = b if weights is b.data else ctx.constant(weights)
    if c is not None and c.data is not None and _is_row(c.data.shape, columns):
        bias = np.broadcast_to(c.data.reshape(-1), (columns,))
        if beta != 1.0:
            bias = (bias * beta).astype(c.data.dtype)
        return ctx.emit(Dense(), a, w, c if bias.shape == c.data.shape and beta == 1.0 else ctx.constant(bias.copy()))
    return _plus(ctx, ctx.emit(Dense(), a, w, None), c, beta)


def _is_row(shape: tuple[int, ...], columns: int) -> bool:
    """Whether ``shape`` broadcasts to a row of ``columns`` numbers, the same for every row of a matrix."""
    return len(shape) <= 2 and all(d == 1 for d in shape[:-1]) and (not shape or shape[-1] in (1, columns))


def _plus(ctx: NodeContext, product: Value, c: Value | None, beta: float) -> Value:
    if c is None:
        return product
    shape = product.type.shape
    result = ctx.emit(Elementwise(Expression.of("add", 2)), product, _scaled(ctx, c, beta))
    if result.type.shape != shape:
        ctx.invalid(f"C {c.type} does not broadcast to the product {show(shape)}")
    return result


@importer("MatMul")
def matmul(ctx: NodeContext) -> Value:
    """numpy.matmul; a constant matrix on the right makes a dense layer over the rows of the left operand."""
    a, b = ctx.value(0), ctx.value(1)
    if b.data is None or b.type.rank != 2 or not a.type.dtype.is_float or a.type.rank < 1 or a.data is not None:
        return ctx.emit(MatMul(), a, b)
    if a.type.rank == 2:
        return ctx.emit(Dense(), a, b, None)
    leading, depth = a.type.shape[:-1], a.type.shape[-1]
    if isinstance(depth, Sym):
        raise SymbolicBatchError("the product sums over the batch axis")
    rows = ctx.emit(Reshape((numel(leading), depth)), a)
    return ctx.emit(Reshape((*leading, b.type.shape[1])), ctx.emit(Dense(), rows, b, None))
