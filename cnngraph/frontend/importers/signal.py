"""Importers of Fourier transforms and of the matrix that maps their bins to the mel scale."""

from __future__ import annotations

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.frontend.tensors import element_type
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType, SymbolicBatchError, TensorType
from cnngraph.ops import DFT, STFT
from cnngraph.ops.base import normalize_axis


def _count(ctx: NodeContext, index: int, what: str) -> int:
    return int(ctx.scalar(index, what))


@importer("DFT")
def dft(ctx: NodeContext) -> Value:
    """The axis is an attribute before operator set 20, counted without the last axis if negative never."""
    x = ctx.value(0)
    inverse, onesided = ctx.attr_bool("inverse"), ctx.attr_bool("onesided")
    axis = ctx.attr_int("axis", 1) if ctx.opset < 20 else _count(ctx, 2, "the axis") if ctx.present(2) else -2
    axis = normalize_axis(axis, x.type.rank)
    if axis == x.type.rank - 1:
        ctx.invalid("the axis must not be the last, which holds real and imaginary parts")
    extent = x.type.shape[axis]
    if not isinstance(extent, int):
        raise SymbolicBatchError("the transform runs over the batch axis")
    default = 2 * (extent - 1) if inverse and onesided else extent
    length = _count(ctx, 1, "dft_length") if ctx.present(1) else default
    return ctx.emit(DFT(axis, length, inverse, onesided), x)


@importer("STFT")
def stft(ctx: NodeContext) -> Value:
    """The frame's length is given, or the window's."""
    if not ctx.present(2) and not ctx.present(3):
        ctx.invalid("neither window nor frame_length is given")
    if ctx.present(3):
        frame = _count(ctx, 3, "frame_length")
    else:
        shape = ctx.type(2).shape
        if len(shape) != 1 or not isinstance(shape[0], int):
            ctx.invalid(f"the window {ctx.type(2)} is not one-dimensional")
        frame = shape[0]
    onesided = ctx.attr_bool("onesided", True)
    x = ctx.value(0)
    if x.type.rank == 3 and x.type.shape[2] == 2 and not ctx.has("onesided"):
        onesided = False
    return ctx.emit(STFT(frame, _count(ctx, 1, "frame_step"), onesided), x, ctx.optional(2))


@importer("MelWeightMatrix")
def mel_weight_matrix(ctx: NodeContext) -> Value:
    """``[dft_length // 2 + 1, num_mel_bins]``: triangles, equally spaced on the mel scale ``2595 log10(1 + f / 700)``.

    The step is that of ONNX's definition, which divides the range by num_mel_bins + 2.
    """
    bins, length, rate = (_count(ctx, i, what) for i, what in enumerate(("num_mel_bins", "dft_length", "sample_rate")))
    low, high = (float(ctx.scalar(i, what)) for i, what in ((3, "lower_edge_hertz"), (4, "upper_edge_hertz")))
    if bins < 1 or length < 1 or rate < 1 or not 0 <= low < high:
        ctx.invalid("the numbers of bins and samples must be positive, and the edges ascending")
    dtype = element_type(ctx.attr_int("output_datatype", 1))
    rows = length // 2 + 1
    ctx.check_size(TensorType(DType.F64, (rows, bins)))
    first, last = 2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700)
    mels = first + np.arange(bins + 2) * (last - first) / (bins + 2)
    edges = ((700 * (10 ** (mels / 2595) - 1)) * (length + 1) // rate).astype(np.int64)
    y = np.zeros((rows, bins))
    for i in range(bins):
        left, center, right = (int(e) for e in edges[i : i + 3])
        if center == left:
            if 0 <= center < rows:
                y[center, i] = 1
        else:
            up = np.arange(max(left, 0), min(center + 1, rows))
            y[up, i] = (up - left) / (center - left)
        if right > center:
            down = np.arange(max(center, 0), min(right, rows))
            y[down, i] = (right - down) / (right - center)
    return ctx.constant(y.astype(dtype.numpy))
