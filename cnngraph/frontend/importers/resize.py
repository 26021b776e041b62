"""Importers of Resize and Upsample: scales, sizes and regions are resolved here to extents for each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.movement import resolved_axes_in_order
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import Dim, Sym, SymbolicBatchError
from cnngraph.ops import Identity, Resize
from cnngraph.ops.common import match_dim, show
from cnngraph.ops.resize import MODES, NEAREST_MODES, TRANSFORMS

_OLD_NAMES = {"bilinear": "linear", "trilinear": "linear"}


def _floats(ctx: NodeContext, index: int, what: str) -> tuple[float, ...]:
    """The float numbers of a one-dimensional input."""
    array = ctx.content(index, what)
    if array.ndim != 1:
        ctx.invalid(f"{what} have shape {list(array.shape)}, but must be one-dimensional")
    if array.dtype == object and any(isinstance(v, Sym) for v in array.tolist()):
        raise SymbolicBatchError(f"{what} depend on the batch size")
    return tuple(float(v) for v in array.tolist())


def _given(ctx: NodeContext, index: int) -> bool:
    """Whether an optional input is there and not empty, which means the same."""
    return ctx.present(index) and ctx.type(index).shape != (0,)


def _scaled(ctx: NodeContext, shape: Sequence[Dim], axes: Sequence[int], scales: Sequence[float]) -> dict[int, tuple[int, float]]:
    """(size, length) of each axis whose scale is not 1. The product that is rounded down is a float32 one."""
    if len(scales) != len(axes):
        ctx.invalid(f"{len(scales)} scales for {len(axes)} axes of {show(shape)}")
    out = {}
    for axis, scale in zip(axes, scales, strict=True):
        if not (math.isfinite(scale) and scale > 0):
            ctx.invalid(f"scale {scale} of axis {axis} is not a positive number")
        if scale == 1:
            continue
        extent = shape[axis]
        if isinstance(extent, Sym):
            raise SymbolicBatchError(f"scale {scale} of the batch axis of {show(shape)}")
        with np.errstate(over="ignore"):
            size = float(np.floor(np.float32(scale) * np.float32(extent)))
        if not math.isfinite(size):
            ctx.invalid(f"scale {scale} of axis {axis} of {show(shape)} is too large")
        out[axis] = (int(size), scale * extent)
    return out


def _sized(ctx: NodeContext, shape: Sequence[Dim], axes: Sequence[int], sizes: Sequence[Dim]) -> dict[int, tuple[int, float]]:
    """(size, length) of each axis whose size is not that of the input, by the policy for the aspect ratio."""
    if len(sizes) != len(axes):
        ctx.invalid(f"{len(sizes)} sizes for {len(axes)} axes of {show(shape)}")
    policy = ctx.attr_str("keep_aspect_ratio_policy", "stretch")
    if policy not in ("stretch", "not_larger", "not_smaller"):
        ctx.invalid(f"keep_aspect_ratio_policy is '{policy[:40]}', not stretch, not_larger or not_smaller")
    wanted: dict[int, tuple[int, int]] = {}
    for axis, size in zip(axes, sizes, strict=True):
        extent = shape[axis]
        if isinstance(extent, Sym) or isinstance(size, Sym):
            match_dim(extent, size, f"size of axis {axis} of {show(shape)}")
            continue
        if size < 0:
            ctx.invalid(f"size {size} of axis {axis} is negative")
        wanted[axis] = (size, extent)
    if policy == "stretch":
        return {axis: (size, float(size)) for axis, (size, extent) in wanted.items() if size != extent}
    ratios = [Fraction(size, extent) for size, extent in wanted.values() if extent]
    if len(wanted) < len(axes):
        ratios.append(Fraction(1))
    if not ratios:
        ctx.invalid(f"{show(shape)} has no aspect ratio to keep")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    if scale == 1:
        return {}
    if len(wanted) < len(axes):
        raise SymbolicBatchError(f"keep_aspect_ratio_policy {policy} scales the batch axis of {show(shape)}")
    return {axis: (math.floor(scale * extent + Fraction(1, 2)), float(scale * extent)) for axis, (_, extent) in wanted.items()}


@importer("Upsample", until=9)
def upsample(ctx: NodeContext) -> Value:
    """Scales by attribute, or by input since operator set 9."""
    scales = _floats(ctx, 1, "the scales") if ctx.opset >= 9 else ctx.attr_floats("scales")
    return _asymmetric(ctx, scales)


@importer("Resize", until=10)
def resize_by_scales(ctx: NodeContext) -> Value:
    """The first Resize: scales alone."""
    return _asymmetric(ctx, _floats(ctx, 1, "the scales"))


def _asymmetric(ctx: NodeContext, scales: Sequence[float]) -> Value:
    """Nearest or linear interpolation without an offset."""
    x = ctx.value(0)
    mode = ctx.attr_str("mode", "nearest")
    mode = _OLD_NAMES.get(mode, mode)
    if mode not in ("nearest", "linear"):
        ctx.invalid(f"mode is '{mode[:40]}', not nearest or linear")
    shape = x.type.shape
    changed = _scaled(ctx, shape, range(len(shape)), scales)
    if not changed:
        return ctx.emit(Identity(), x)
    axes = tuple(sorted(changed))
    sizes, lengths = tuple(changed[a][0] for a in axes), tuple(changed[a][1] for a in axes)
    return ctx.emit(Resize(axes, sizes, lengths, mode, "asymmetric", "simple"), x)


@importer("Resize", since=11)
def resize(ctx: NodeContext) -> Value:
    """Scales or sizes, for all axes or some."""
    x = ctx.value(0)
    shape, rank = x.type.shape, x.type.rank
    mode, transform = _one_of(ctx, "mode", "nearest", MODES), _one_of(ctx, "coordinate_transformation_mode", "half_pixel", TRANSFORMS)
    nearest = _one_of(ctx, "nearest_mode", "round_prefer_floor", NEAREST_MODES[:-1])
    if transform == "tf_half_pixel_for_nn" and ctx.opset >= 13:
        ctx.invalid("coordinate_transformation_mode 'tf_half_pixel_for_nn' does not exist since operator set 13")
    if transform == "half_pixel_symmetric" and ctx.opset < 19:
        ctx.invalid("coordinate_transformation_mode 'half_pixel_symmetric' exists since operator set 19")
    ctx.require_contents([i for i in (1, 2, 3) if i > 1 or transform == "tf_crop_and_resize"], "the new size")
    axes = resolved_axes_in_order(ctx, ctx.attr_ints("axes"), rank) if ctx.has("axes") else tuple(range(rank))
    if _given(ctx, 2) and _given(ctx, 3):
        ctx.invalid("both scales and sizes are given")
    if _given(ctx, 2):
        changed = _scaled(ctx, shape, axes, _floats(ctx, 2, "the scales"))
    elif _given(ctx, 3):
        changed = _sized(ctx, shape, axes, ctx.dims(3, "the sizes"))
    elif axes:
        ctx.invalid("neither scales nor sizes are given")
    else:
        changed = {}
    regions = _regions(ctx, shape, axes) if transform == "tf_crop_and_resize" else {}
    for axis, region in regions.items():
        if region != (0.0, 1.0) and axis not in changed:
            extent = shape[axis]
            if isinstance(extent, Sym):
                raise SymbolicBatchError(f"a region of the batch axis of {show(shape)}")
            changed[axis] = (extent, float(extent))
    if not changed:
        return ctx.emit(Identity(), x)
    kept = tuple(sorted(changed))
    extrapolation, cubic_a = ctx.attr_float("extrapolation_value", 0.0), ctx.attr_float("cubic_coeff_a", -0.75)
    if math.isnan(extrapolation) or not math.isfinite(cubic_a):
        ctx.unsupported(f"extrapolation_value {extrapolation} with cubic_coeff_a {cubic_a} is not supported")
    roi = tuple(regions[a][0] for a in kept) + tuple(regions[a][1] for a in kept) if regions else ()
    op = Resize(
        kept, tuple(changed[a][0] for a in kept), tuple(changed[a][1] for a in kept), mode, transform, nearest,
        ctx.attr_bool("antialias"), ctx.attr_bool("exclude_outside"), cubic_a, extrapolation, roi,
    )  # fmt: skip
    return ctx.emit(op, x)


def _one_of(ctx: NodeContext, name: str, default: str, allowed: Sequence[str]) -> str:
    value = ctx.attr_str(name, default)
    if value not in allowed:
        ctx.invalid(f"{name} is '{value[:40]}', not one of {', '.join(allowed)}")
    return value


def _regions(ctx: NodeContext, shape: Sequence[Dim], axes: Sequence[int]) -> dict[int, tuple[float, float]]:
    """(start, end) of each axis; those not among ``axes`` are whole."""
    if not _given(ctx, 1):
        ctx.invalid("tf_crop_and_resize needs a region of interest")
    roi = _floats(ctx, 1, "the region of interest")
    if len(roi) != 2 * len(axes):
        ctx.invalid(f"{len(roi)} numbers of a region for {len(axes)} axes of {show(shape)}")
    if not all(math.isfinite(v) for v in roi):
        ctx.invalid("a bound of the region of interest is not a finite number")
    out = dict.fromkeys(range(len(shape)), (0.0, 1.0))
    out.update({axis: (roi[i], roi[i + len(axes)]) for i, axis in enumerate(axes)})
    return out
