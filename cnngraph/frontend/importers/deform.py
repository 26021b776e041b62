"""Importers of operators that sample at computed positions."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import static
from cnngraph.ops import DeformConv, GridSample

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
