"""Importers of pooling over regions of interest."""

from __future__ import annotations

import math

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ops import MaxRoiPool, RoiAlign


def _scale(ctx: NodeContext) -> float:
    scale = ctx.attr_float("spatial_scale", 1.0)
    if not (math.isfinite(scale) and scale > 0):
        ctx.invalid(f"spatial_scale {scale} is not a positive number")
    return scale


@importer("RoiAlign")
def roi_align(ctx: NodeContext) -> Value:
    """Coordinates are not shifted before operator set 16, by default half a pixel since."""
    mode = ctx.attr_str("mode", "avg")
    transform = ctx.attr_str("coordinate_transformation_mode", "half_pixel" if ctx.opset >= 16 else "output_half_pixel")
    if mode not in ("avg", "max"):
        ctx.invalid(f"mode is '{mode[:40]}', neither avg nor max")
    if transform not in ("half_pixel", "output_half_pixel"):
        ctx.invalid(f"coordinate_transformation_mode is '{transform[:40]}', neither half_pixel nor output_half_pixel")
    if ctx.attr_int("sampling_ratio", 0) < 0:
        ctx.invalid(f"sampling_ratio {ctx.attr_int('sampling_ratio', 0)} is negative")
    op = RoiAlign(
        mode, ctx.attr_int("output_height", 1), ctx.attr_int("output_width", 1), ctx.attr_int("sampling_ratio", 0), _scale(ctx),
        transform == "half_pixel",
    )  # fmt: skip
    return ctx.emit(op, ctx.value(0), ctx.value(1), ctx.value(2))


@importer("MaxRoiPool")
def max_roi_pool(ctx: NodeContext) -> Value:
    """Regions of whole pixels."""
    shape = ctx.attr_ints("pooled_shape")
    if len(shape) != 2:
        ctx.invalid(f"pooled_shape {list(shape)} does not have 2 extents")
    return ctx.emit(MaxRoiPool(shape[0], shape[1], _scale(ctx)), ctx.value(0), ctx.value(1))
