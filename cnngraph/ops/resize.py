"""Resize: nearest, linear and cubic interpolation along any axes, with every coordinate convention of ONNX.

Interpolation is separable. :func:`axis_samples` turns the attributes of one axis into a table: for each output position the
input positions it reads and their weights. The reference and the compiled kernels both work from these tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import Dim, DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, require_axis, result, show, widened

MODES = ("nearest", "linear", "cubic")
TRANSFORMS = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize",
)  # fmt: skip
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")


@dataclass(frozen=True, eq=False)
class AxisSamples:
    """What one axis of a resize reads.

    Attributes:
        indices: int64 ``[out, taps]``, input positions within the axis.
        weights: float64 ``[out, taps]``; a nearest neighbour is one tap of weight 1.
        outside: bool ``[out]``, positions that take the extrapolation value; None if there are none.
    """

    indices: np.ndarray
    weights: np.ndarray
    outside: np.ndarray | None


@dataclass(frozen=True)
class Resize(Op):
    """ONNX Resize and Upsample along ``axes``; the other axes stay as they are.

    Attributes:
        axes: the axes that are resampled, ascending.
        sizes: their output extents.
        lengths: their output extents before rounding, ``scale * input extent``; the scale is length / input extent.
        mode: "nearest", "linear" or "cubic".
        transform: ONNX's ``coordinate_transformation_mode`` ("tf_half_pixel_for_nn" of operator set 11 included).
        nearest: ONNX's ``nearest_mode``; "simple" is that of Upsample and Resize-10: down, or up where the axis shrinks.
        antialias: whether linear and cubic filters widen where an axis shrinks.
        exclude_outside: whether cubic taps outside the input are left out, the others' weights scaled to a sum of 1.
        cubic_a: coefficient of the cubic filter.
        extrapolation: result outside the input for "tf_crop_and_resize".
        roi: for "tf_crop_and_resize" the normalised starts of ``axes``, then their ends; else empty.

    Coordinates of nearest neighbours are computed in float32, which decides ties as other runtimes do; all others in float64.
    Integers are rounded to nearest even and saturated.
    """

    name: ClassVar[str] = "Resize"
    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    lengths: tuple[float, ...]
    mode: str = "nearest"
    transform: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    antialias: bool = False
    exclude_outside: bool = False
    cubic_a: float = -0.75
    extrapolation: float = 0.0
    roi: tuple[float, ...] = ()

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Resize takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(self.mode in MODES, f"unknown interpolation {self.mode!r}")
        require(self.transform in TRANSFORMS, f"unknown coordinate transformation {self.transform!r}")
        require(self.nearest in NEAREST_MODES, f"unknown nearest mode {self.nearest!r}")
        require(self.mode == "nearest" or x.dtype is not DType.BOOL, "interpolation of bool is not defined")
        require(not self.antialias or self.mode != "nearest", "nearest neighbours have no antialiasing")
        require(len(self.sizes) == len(self.lengths) == len(self.axes), f"{len(self.sizes)} sizes for {len(self.axes)} axes")
        crops = self.transform == "tf_crop_and_resize"
        require(len(self.roi) == (2 * len(self.axes) if crops else 0), f"{len(self.roi)} numbers of a region for {len(self.axes)} axes")
        require(list(self.axes) == sorted(set(self.axes)), f"axes {self.axes} are not ascending")
        shape: list[Dim] = list(x.shape)
        for axis, size, length in zip(self.axes, self.sizes, self.lengths, strict=True):
            require_axis(axis, x.rank, "Resize")
            extent = forbid_batch(x.shape[axis], "resizing the batch axis would mix images")
            require(size >= 0, f"resize to an extent of {size}")
            require(size == 0 or extent > 0, f"axis {axis} of {show(x.shape)} is empty and cannot become {size}")
            require(size == 0 or (math.isfinite(length) and length > 0), f"axis {axis} is resized to a length of {length}")
            shape[axis] = size
        return (result(x.dtype, shape),)

    def samples(self, extents: Sequence[int]) -> tuple[AxisSamples, ...]:
        """The table of each of :attr:`axes`, whose input extents are given; no output extent may be 0."""
        count = len(self.axes)
        regions = [(self.roi[i], self.roi[i + count]) for i in range(count)] if self.roi else [(0.0, 1.0)] * count
        return tuple(
            axis_samples(self, extent, size, length, region)
            for extent, size, length, region in zip(extents, self.sizes, self.lengths, regions, strict=True)
        )

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        if 0 in self.sizes or x.size == 0:
            shape = list(x.shape)
            for axis, size in zip(self.axes, self.sizes, strict=True):
                shape[axis] = size
            return (np.zeros(shape, x.dtype),)
        tables = self.samples([x.shape[axis] for axis in self.axes])
        y = x if self.mode == "nearest" else (widened(x) if DType.of(x).is_float else x.astype(np.float64))
        for axis, table in zip(self.axes, tables, strict=True):
            y = _resample(y, axis, table, exact=self.mode == "nearest")
        if self.mode != "nearest" and not DType.of(x).is_float:
            y = _saturated(y, x.dtype)
        y = y.astype(x.dtype)
        for axis, table in zip(self.axes, tables, strict=True):
            if table.outside is not None:
                index = (slice(None),) * axis + (table.outside,)
                y[index] = np.array(self.extrapolation).astype(x.dtype)
        return (y,)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        if self.mode == "nearest":
            return Cost()
        taps = (2 if self.mode == "linear" else 4) ** len(self.axes)
        return Cost(flops=2 * per_image(numel(outputs[0].shape)) * taps)


def _resample(x: np.ndarray, axis: int, table: AxisSamples, exact: bool) -> np.ndarray:
    """``x`` resampled along one axis, tap by tap."""
    if exact:
        return np.take(x, table.indices[:, 0], axis=axis)
    spread = (-1,) + (1,) * (x.ndim - axis - 1)
    weights = table.weights.astype(x.dtype)
    y = np.take(x, table.indices[:, 0], axis=axis) * weights[:, 0].reshape(spread)
    for tap in range(1, weights.shape[1]):
        y += np.take(x, table.indices[:, tap], axis=axis) * weights[:, tap].reshape(spread)
    return y


def _saturated(y: np.ndarray, dtype: np.dtype[np.integer]) -> np.ndarray:
    """Rounded to nearest even, within the range of an integer ``dtype``; float64 bounds of 64-bit types stay inside it."""
    info = np.iinfo(dtype)
    high = float(info.max)
    if int(high) > info.max:
        high = float(np.nextafter(high, 0.0))
    bounded: np.ndarray = np.clip(np.rint(y), float(info.min), high)
    return bounded


def axis_samples(op: Resize, extent: int, size: int, length: float, region: tuple[float, float]) -> AxisSamples:
    """The table of one axis: ``extent`` inputs, ``size`` > 0 outputs, ``length`` the size before rounding."""
    at = _coordinates(op.transform, extent, size, length, region, np.float32 if op.mode == "nearest" else np.float64)
    outside = None
    if op.transform == "tf_crop_and_resize":
        outside = (at < 0) | (at > extent - 1)
        at = np.where(outside, 0, at)
        outside = outside if outside.any() else None
    if op.mode == "nearest":
        nearest = _nearest(at, op.nearest, shrinks=length < extent)
        indices = np.clip(nearest, 0, extent - 1).astype(np.int64)[:, None]
        return AxisSamples(indices, np.ones(indices.shape), outside)
    at = np.clip(at, -2.0 * extent - 8, 3.0 * extent + 8)
    first = np.ceil(at).astype(np.int64) - 1
    ratio = at - first
    stretch = min(length / extent, 1.0) if op.antialias else 1.0
    reach = 1 if op.mode == "linear" else 2
    begin = math.floor(-reach / stretch) + 1
    offsets = np.arange(begin, 2 - begin)
    distance = np.abs(offsets[None, :] - ratio[:, None]) * stretch
    weights = np.maximum(1 - distance, 0) if op.mode == "linear" else _cubic(distance, op.cubic_a)
    if op.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    taps = first[:, None] + offsets[None, :]
    if op.exclude_outside and (op.mode == "cubic" or op.antialias):
        inside = (taps >= 0) & (taps < extent)
        kept = np.where(inside, weights, 0.0)
        total = kept.sum(axis=1, keepdims=True)
        weights = np.where(total != 0, kept / np.where(total != 0, total, 1.0), weights)
    return AxisSamples(np.clip(taps, 0, extent - 1), weights, outside)


def _coordinates(
    transform: str, extent: int, size: int, length: float, region: tuple[float, float], number: type[np.floating]
) -> np.ndarray:
    """The input coordinate of each output position."""
    y = np.arange(size).astype(number)
    half, scale = number(0.5), number(length / extent)
    if transform == "asymmetric":
        return y / scale
    if transform == "tf_half_pixel_for_nn":
        return (y + half) / scale
    if transform == "align_corners":
        return np.zeros_like(y) if length == 1 or size == 1 else y * number(extent - 1) / number(length - 1)
    if transform == "tf_crop_and_resize":
        start, end, last = number(region[0]), number(region[1]), number(extent - 1)
        if size == 1:
            return np.full_like(y, half * (start + end) * last)
        return start * last + y * (end - start) * last / number(length - 1)
    if transform == "pytorch_half_pixel" and size == 1:
        return np.zeros_like(y)
    at = (y + half) / scale - half
    if transform == "half_pixel_symmetric":
        at = at + number(extent / 2) * (1 - number(size) / number(length))
    return at


def _nearest(at: np.ndarray, mode: str, shrinks: bool) -> np.ndarray:
    """The chosen neighbour of each coordinate, as floats."""
    if mode == "simple":
        mode = "ceil" if shrinks else "floor"
    if mode == "floor":
        return np.floor(at)
    if mode == "ceil":
        return np.ceil(at)
    below = np.floor(at)
    part = at - below
    up = part > 0.5 if mode == "round_prefer_floor" else part >= 0.5
    return below + up


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution filter (Keys)."""
    d, d2, d3 = distance, distance**2, distance**3
    near = (a + 2) * d3 - (a + 3) * d2 + 1
    far = a * d3 - 5 * a * d2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
