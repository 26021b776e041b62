"""Importers of operators that sample at computed positions."""

from __future__ import annotations

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import static
from cnngraph.ops import DeformConv, GridSample, MatMul, Reshape, Transpose
from cnngraph.ops.common import match_dim, show

_MODES = {"bilinear": "linear", "bicubic": "cubic"}


@importer("GridSample")
def grid_sample(ctx: NodeContext) -> Value:
    """The modes were called bilinear and bicubic before operator set 20."""
    mode, padding = ctx.attr_str("mode", "linear"), ctx.attr_str("padding_mode", "zeros")
    mode = _MODES.get(mode, mode)
    if mode not in ("nearest", "linear", "cubic"):
        ctx.invalid(f"mode is '{mode[:40]}', not nearest, linear or cubic")
    if padding not in ("zeros", "border", "reflection"):
        ctx.invalid(f"padding_mode is '{padding[:40]}', not zeros, border or reflection")
    return ctx.emit(GridSample(mode, padding, ctx.attr_bool("align_corners")), ctx.value(0), ctx.value(1))


@importer("AffineGrid")
def affine_grid(ctx: NodeContext) -> Value:
    """The positions of the output times each image's matrix: one product with a constant.

    ONNX's own body of the operator drops the batch axis where it is 1.
    """
    theta, size, rank = ctx.value(0), ctx.dims(1, "the size"), ctx.type(0).rank
    spatial = size[2:]
    if rank != 3 or len(spatial) not in (2, 3) or theta.type.shape[1:] != (len(spatial), len(spatial) + 1):
        ctx.invalid(f"the matrices {theta.type} do not suit the size {show(size)}")
    if not all(isinstance(d, int) and d > 0 for d in spatial):
        ctx.unsupported(f"the size {show(size)} is not positive or depends on the batch size")
    places = [_positions(d, ctx.attr_bool("align_corners")) for d in spatial if isinstance(d, int)]
    axes = [axis.reshape(-1) for axis in reversed(np.meshgrid(*places, indexing="ij"))]  # x, y(, z)
    points = np.stack([*axes, np.ones_like(axes[0])]).astype(theta.type.dtype.numpy)
    moved = ctx.emit(MatMul(), theta, ctx.constant(points))
    images = match_dim(size[0], theta.type.shape[0], "batch size")
    return ctx.emit(Reshape((images, *spatial, len(spatial))), ctx.emit(Transpose((0, 2, 1)), moved))


def _positions(extent: int, align_corners: bool) -> np.ndarray:
    """Centres of the pixels of an axis from -1 to 1; with ``align_corners`` those at its ends are -1 and 1, and one alone is -1."""
    if align_corners:
        return np.linspace(-1.0, 1.0, extent)
    return (2.0 * np.arange(extent) + 1.0) / extent - 1.0


@importer("DeformConv")
def deform_conv(ctx: NodeContext) -> Value:
    """Deformable convolution with optional bias and mask."""
    x, w = ctx.value(0), ctx.value(1)
    if x.type.rank < 3 or w.type.rank != x.type.rank:
        ctx.invalid(f"the weights {w.type} do not suit the input {x.type}")
    kernel = static(w.type.shape[2:])
    if ctx.attr_ints("kernel_shape", kernel) != kernel:
        ctx.invalid(f"kernel_shape {list(ctx.attr_ints('kernel_shape'))} contradicts the weights {w.type}")
    ones = (1,) * len(kernel)
    op = DeformConv(
        kernel, ctx.attr_ints("strides", ones), ctx.attr_ints("pads", (0,) * (2 * len(kernel))), ctx.attr_ints("dilations", ones),
        ctx.attr_int("group", 1), ctx.attr_int("offset_group", 1),
    )  # fmt: skip
    return ctx.emit(op, x, w, ctx.value(2), ctx.optional(3), ctx.optional(4))
