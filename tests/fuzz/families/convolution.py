"""Operators with windows: convolutions, pooling, resizing, sampling, regions."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import DType
from tests.fuzz.case import Array, Case, Draw, strategy
from tests.fuzz.families.movement import vector

Window = dict[str, object]


def extents(d: Draw, low: int = 3, high: int = 8) -> tuple[int, ...]:
    """One to three spatial extents, mostly two."""
    rank = d.pick(2, 2, 1, 3)
    return tuple(d.int(low, min(high, 5) if rank == 3 else high) for _ in range(rank))


def window(
    d: Draw, spatial: tuple[int, ...], kernel: tuple[int, ...], most_pad: int = 2, dilated: bool = True, same: bool = True
) -> Window:
    """Strides, dilations and pads or auto_pad of a kernel that fits; attributes are left out at times."""
    rank = len(spatial)
    out: Window = {}
    if d.flag():
        out["strides"] = d.ints(rank, 1, 3)
    dilations = [1] * rank
    mode = d.pick("NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER") if same else "NOTSET"
    if dilated and d.flag(0.3):
        dilations = [d.int(1, 2) for _ in kernel]
    pads = [d.int(0, most_pad) for _ in range(2 * rank)] if mode == "NOTSET" and d.flag() else [0] * (2 * rank)
    for i in range(rank):
        room = spatial[i] + pads[i] + pads[i + rank]
        if dilations[i] * (kernel[i] - 1) + 1 > room:
            dilations[i] = 1
    if any(v != 1 for v in dilations):
        out["dilations"] = dilations
    if any(pads):
        out["pads"] = pads
    if mode != "NOTSET":
        out["auto_pad"] = mode
    return out


def _kernel(d: Draw, spatial: tuple[int, ...]) -> tuple[int, ...]:
    if d.flag(0.3):
        return tuple(min(3, e) for e in spatial)
    return tuple(d.int(1, min(4, e)) for e in spatial)


@strategy("Conv")
def conv(d: Draw) -> Case:
    return convolution(d, d.dtype())


def convolution(d: Draw, dtype: DType, **attributes: object) -> Case:
    """A Conv of any number of groups."""
    spatial = extents(d, 3, 9)
    kernel, group = _kernel(d, spatial), d.pick(1, 1, 2, 3)
    channels, filters = group * d.int(1, 5), group * d.int(1, 6)
    if group > 1 and d.flag():
        channels = filters = group
    if d.compiled and d.flag(0.3):
        channels, filters, group = d.pick(8, 16, 17, 32), d.pick(8, 16, 24, 33), 1
    x = d.floats((d.int(1, 2), channels, *spatial), dtype)
    w = d.floats((filters, channels // group, *kernel), dtype)
    bias = d.floats((filters,), dtype) if d.flag() else None
    constants = (1, 2) if d.flag(0.8) else ()
    given = window(d, spatial, kernel)
    return d.case(
        [x, w, bias], constants=constants, fixed=(1, 2), scaled=True, group=group if group > 1 or d.flag() else None,
        kernel_shape=list(kernel) if d.flag() else None, **given, **attributes,
    )  # fmt: skip


@strategy("ConvTranspose")
def conv_transpose(d: Draw) -> Case:
    spatial = extents(d, 1, 5)
    rank, dtype = len(spatial), d.dtype()
    kernel, group = tuple(d.int(1, 4) for _ in spatial), d.pick(1, 1, 2)
    channels, filters = group * d.int(1, 4), d.int(1, 4)
    strides, dilations = d.ints(rank, 1, 3) if d.flag() else [1] * rank, d.ints(rank, 1, 2) if d.flag(0.3) else [1] * rank
    given: Window = {"strides": strides, "dilations": dilations}
    extra = [d.int(0, max(max(s, dl) - 1, 0)) for s, dl in zip(strides, dilations, strict=True)] if d.flag(0.3) else [0] * rank
    if any(extra):
        given["output_padding"] = extra
    natural = [s * (e - 1) + p + dl * (k - 1) + 1 for s, e, p, dl, k in zip(strides, spatial, extra, dilations, kernel, strict=True)]
    mode = d.pick("pads", "pads", "output_shape", "VALID", "SAME_UPPER", "SAME_LOWER")
    if mode == "pads":
        begins = [d.int(0, min(2, n - 1)) for n in natural]
        given["pads"] = begins + [d.int(0, min(2, n - 1 - b)) for n, b in zip(natural, begins, strict=True)]
    elif mode == "output_shape":
        given["output_shape"] = [d.int(max(1, n - 3), n) for n in natural]
        if d.flag():
            given["auto_pad"] = d.pick("SAME_UPPER", "SAME_LOWER")
    else:
        given["auto_pad"] = mode
    x = d.floats((d.int(1, 2), channels, *spatial), dtype)
    w = d.floats((channels, filters // 1, *kernel), dtype)
    bias = d.floats((filters * group,), dtype) if d.flag() else None
    return d.case([x, w, bias], constants=(1, 2) if d.flag(0.8) else (), fixed=(1, 2), scaled=True, group=group, **given)


def pool_window(d: Draw, spatial: tuple[int, ...], dilated: bool) -> tuple[Window, tuple[int, ...]]:
    """The attributes of a pool whose pads are smaller than its kernel."""
    kernel = _kernel(d, spatial)
    given = window(d, spatial, kernel, 0, dilated)
    if "auto_pad" not in given and d.flag():
        given["pads"] = [d.int(0, min(2, k - 1)) for k in kernel * 2]
    return {"kernel_shape": list(kernel), **given}, kernel


@strategy("MaxPool", "AveragePool", "LpPool")
def pool(d: Draw) -> Case:
    spatial = extents(d)
    since = {"MaxPool": 10, "AveragePool": 19, "LpPool": 18}[d.op]
    given, _ = pool_window(d, spatial, d.opset >= since)
    if d.opset >= (18 if d.op == "LpPool" else 10) and d.flag(0.3):
        given["ceil_mode"] = 1
    outputs = 1
    dtype = d.dtype()
    if d.op == "MaxPool":
        if d.flag(0.3):
            outputs = 2
            if d.flag():
                given["storage_order"] = 1
    elif d.op == "AveragePool":
        given |= d.some(count_include_pad=lambda: d.int(0, 1))
    else:
        given |= d.some(p=lambda: d.int(1, 4))
    x = d.array((d.int(1, 2), d.int(1, 4), *spatial), dtype, special=False)
    return d.case([x], outputs, scaled=d.op != "MaxPool", **given)


@strategy("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(d: Draw) -> Case:
    x = d.array((d.int(1, 2), d.int(1, 5), *extents(d, 1, 7)), d.dtype(), special=False)
    return d.case([x], scaled=True, **(d.some(p=lambda: d.int(1, 4)) if d.op == "GlobalLpPool" else {}))


@strategy("MaxUnpool")
def max_unpool(d: Draw) -> Case:
    spatial = extents(d, 1, 4)
    kernel = [d.int(1, 3) for _ in spatial]
    strides = [k if d.flag() else d.int(1, 3) for k in kernel]
    shape = (d.int(1, 2), d.int(1, 3), *spatial)
    full = [(e - 1) * s + k for e, s, k in zip(spatial, strides, kernel, strict=True)]
    total = int(np.prod(full))
    count = int(np.prod(spatial))
    rng = np.random.default_rng(d.int(0, 99))
    if count > total:
        strides, full = list(kernel), [e * k for e, k in zip(spatial, kernel, strict=True)]
        total = int(np.prod(full))
    planes = [rng.permutation(total)[:count] + total * i for i in range(shape[0] * shape[1])]
    indices = np.stack(planes).reshape(shape).astype(np.int64)
    given = vector([*shape[:2], *(e + d.int(0, 2) for e in full)]) if d.flag(0.3) else None
    if given is not None:
        indices = np.arange(indices.size).reshape(shape).astype(np.int64)
    return d.case(
        [d.array(shape, d.dtype(), special=False), indices, given], constants=(2,), fixed=(2,), kernel_shape=kernel, strides=strides
    )


@strategy("LRN")
def lrn(d: Draw) -> Case:
    x = d.floats((d.int(1, 2), d.int(1, 8), d.int(1, 4), d.int(1, 4)), d.dtype())
    return d.case(
        [x], size=2 * d.int(0, 3) + 1, tolerance=3e-5,
        **d.some(alpha=lambda: d.number(0.125, 1), beta=lambda: d.number(0.125, 1), bias=lambda: d.number(1, 2)),
    )  # fmt: skip


@strategy("DeformConv")
def deform_conv(d: Draw) -> Case:
    spatial = (d.int(3, 6), d.int(3, 6))
    kernel, group, offset_group = (d.int(1, 3), d.int(1, 3)), d.pick(1, 2), d.pick(1, 1, 2)
    given = window(d, spatial, kernel, 1, True, False)
    channels = 2 * d.int(1, 2)
    filters = group * d.int(1, 2)
    zeros = [0] * 4
    pads, strides, dilations = (list(given.get(k, v)) for k, v in (("pads", zeros), ("strides", [1, 1]), ("dilations", [1, 1])))  # type: ignore[call-overload]
    out = [(spatial[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(2)]
    dtype, batch, taps = d.dtype(), d.int(1, 2), kernel[0] * kernel[1]
    x = d.floats((batch, channels, *spatial), dtype)
    w = d.floats((filters, channels // group, *kernel), dtype)
    offset = d.floats((batch, offset_group * taps * 2, *out), dtype, -1.5, 1.5)
    bias = d.floats((filters,), dtype) if d.flag() else None
    mask = d.floats((batch, offset_group * taps, *out), dtype, 0, 1) if d.flag() else None
    return d.case([x, w, offset, bias, mask], fixed=(1, 3), scaled=True, tolerance=5e-5, group=group, offset_group=offset_group, **given)


@strategy("Col2Im")
def col2im(d: Draw) -> Case:
    image = [d.int(2, 6) for _ in range(d.pick(2, 2, 1, 3))]
    rank = len(image)
    block = [d.int(1, min(3, e)) for e in image]
    strides, dilations, pads = d.ints(rank, 1, 2), [1] * rank, [0] * (2 * rank)
    if d.flag(0.4):
        pads = d.ints(2 * rank, 0, 1)
    if d.flag(0.3):
        dilations = [d.int(1, 2) if 2 * (b - 1) + 1 <= e else 1 for b, e in zip(block, image, strict=True)]
    windows = [(image[i] + pads[i] + pads[i + rank] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1 for i in range(rank)]
    shape = (d.int(1, 2), d.int(1, 2) * int(np.prod(block)), int(np.prod(windows)))
    x = d.floats(shape, d.dtype(0, (DType.F32, DType.F64, DType.F16)))
    return d.case(
        [x, vector(image), vector(block)], constants=(1, 2), fixed=(1, 2), scaled=True,
        strides=strides if d.flag() or max(strides) > 1 else None,
        dilations=dilations if max(dilations) > 1 else None, pads=pads if any(pads) else None,
    )  # fmt: skip


@strategy("GridSample")
def grid_sample(d: Draw) -> Case:
    rank = d.pick(2, 2, 3) if d.opset >= 20 else 2
    spatial, out = d.ints(rank, 1, 5), d.ints(rank, 1, 4)
    batch = d.int(1, 2)
    x = d.floats((batch, d.int(1, 3), *spatial), d.dtype(0, (DType.F32, DType.F64, DType.F16)))
    grid = d.floats((batch, *out, rank), d.dtype(1, (DType.F32, DType.F64, DType.F16)), -1.4, 1.4)
    names = ("linear", "nearest", "cubic") if d.opset >= 20 else ("bilinear", "nearest", "bicubic")
    mode = d.pick(*names[: 2 if rank == 3 else 3])
    given = d.some(padding_mode=lambda: d.pick("zeros", "border", "reflection"), align_corners=lambda: d.int(0, 1))
    return d.case([x, grid], scaled=True, tolerance=1e-4, mode=mode if mode != names[0] or d.flag() else None, **given)


def _scales(d: Draw, shape: tuple[int, ...], grow: bool) -> list[float]:
    choices = (1.0, 2.0, 1.5, 3.0, 1.25) if grow else (1.0, 2.0, 0.5, 1.5, 0.75, 3.0, 0.6)
    return [1.0 if i < 2 and d.flag(0.9) else s if int(s * e) >= 1 else 1.0 for i, e in enumerate(shape) for s in [d.pick(*choices)]]


@strategy("Upsample")
def upsample(d: Draw) -> Case:
    shape = (d.int(1, 2), d.int(1, 2), d.int(1, 5), d.int(1, 5))
    scales = _scales(d, shape, True)
    mode = d.pick("nearest", "linear")
    if mode == "linear":
        scales[:2] = [1.0, 1.0]
    x = d.array(shape, d.dtype(), -9, 9)
    if d.opset < 9:
        return d.case([x], mode=mode, scales=scales, tolerance=1e-4, scaled=True)
    return d.case([x, np.array(scales, np.float32)], constants=(1,), fixed=(1,), mode=mode, tolerance=1e-4, scaled=True)


@strategy("Resize")
def resize(d: Draw) -> Case:
    rank = d.pick(4, 4, 3, 5)
    shape = (d.int(1, 2), d.int(1, 2), *d.ints(rank - 2, 1, 6))
    mode = d.pick("nearest", "linear", "cubic") if d.opset >= 11 else d.pick("nearest", "linear")
    if mode == "cubic" and rank != 4:
        mode = "linear"
    dtype = d.dtype()
    x = d.array(shape, dtype, -9, 9)
    scales: list[float] | None = _scales(d, shape, False)
    assert scales is not None
    if mode != "nearest":
        scales[:2] = [1.0, 1.0]
    if d.opset < 11:
        return d.case([x, np.array(scales, np.float32)], constants=(1,), fixed=(1,), mode=mode, tolerance=1e-4, scaled=True)
    transforms = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize"]
    transforms += ["half_pixel_symmetric"] if d.opset >= 19 else []
    transforms += ["tf_half_pixel_for_nn"] if d.opset < 13 and mode == "nearest" else []
    transform = transforms[d.int(0, len(transforms) - 1)]
    given: Window = {"mode": mode, "coordinate_transformation_mode": transform}
    if mode == "nearest":
        given |= d.some(nearest_mode=lambda: d.pick("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"))
    if mode == "cubic":
        given |= d.some(cubic_coeff_a=lambda: d.pick(-0.75, -0.5), exclude_outside=lambda: d.int(0, 1))
    chosen = list(range(rank))
    if d.opset >= 18 and d.flag(0.3):
        chosen = list(range(2, rank))
        given["axes"] = chosen
    if d.opset >= 18 and mode != "nearest" and d.flag(0.3) and transform != "tf_crop_and_resize":
        given["antialias"] = 1
    sizes: Array | None = None
    if d.flag(0.5):
        numbers = [shape[i] if i < 2 and mode != "nearest" else max(1, int(shape[i] * scales[i])) for i in chosen]
        sizes, scales = vector(numbers), None
        if d.opset >= 18 and "axes" in given and d.flag(0.4):
            given["keep_aspect_ratio_policy"] = d.pick("stretch", "not_larger", "not_smaller")
    roi: Array | None = None
    if transform == "tf_crop_and_resize":
        starts = [0.0 if i < 2 else d.pick(0.0, 0.25, -0.125) for i in chosen]
        ends = [1.0 if i < 2 else d.pick(1.0, 0.75, 1.125) for i in chosen]
        roi = np.array(starts + ends, np.float32)
        given |= d.some(extrapolation_value=lambda: d.number(-1, 1))
    elif d.opset < 13:
        roi = np.zeros(0, np.float32)
    factors: Array | None = np.zeros(0, np.float32) if d.opset < 13 else None
    if scales is not None:
        factors = np.array([scales[i] for i in chosen], np.float32)
    return d.case([x, roi, factors, sizes], constants=(1, 2, 3), fixed=(1, 2, 3), tolerance=1e-4, scaled=True, **given)


@strategy("RoiAlign")
def roi_align(d: Draw) -> Case:
    dtype = d.dtype(0, (DType.F32, DType.F64, DType.F16))
    batch, count = d.int(1, 2), d.int(1, 3)
    x = d.floats((batch, d.int(1, 2), d.int(2, 7), d.int(2, 7)), dtype)
    corners = d.floats((count, 2), dtype, 0, 4)
    rois = np.concatenate([corners, corners + d.floats((count, 2), dtype, 0.5, 4)], 1).astype(dtype.numpy)
    given = d.some(
        output_height=lambda: d.int(1, 3), output_width=lambda: d.int(1, 3), sampling_ratio=lambda: d.int(0, 3),
        spatial_scale=lambda: d.pick(1.0, 0.5, 0.25), mode=lambda: d.pick("avg", "max"),
    )  # fmt: skip
    if d.opset >= 16:
        given |= d.some(coordinate_transformation_mode=lambda: d.pick("half_pixel", "output_half_pixel"))
    return d.case([x, rois, d.indices((count,), batch, negative=False)], fixed=(1, 2), tolerance=1e-4, scaled=True, **given)


@strategy("MaxRoiPool")
def max_roi_pool(d: Draw) -> Case:
    dtype = d.dtype(0, (DType.F32, DType.F64, DType.F16))
    batch, count = d.int(1, 2), d.int(1, 3)
    height, width = d.int(2, 7), d.int(2, 7)
    x = d.floats((batch, d.int(1, 2), height, width), dtype)
    rows = [
        [d.int(0, batch - 1), a := d.int(0, width - 1), b := d.int(0, height - 1), d.int(a, width - 1), d.int(b, height - 1)]
        for _ in range(count)
    ]
    return d.case([x, np.array(rows, dtype.numpy)], fixed=(1,), pooled_shape=d.ints(2, 1, 3), spatial_scale=d.pick(None, 1.0, 0.5))
