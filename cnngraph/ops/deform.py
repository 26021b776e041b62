"""Sampling at computed positions: GridSample and DeformConv."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product as combinations
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import match_dim, result, show, widened, window_extents

_FAR = float(1 << 30)
_CUBIC_A = -0.75

Locate = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray | None]]
"""From integral positions (floats) and an extent to indices within it and a mask of those that count, None for all."""


def _drop_outside(at: np.ndarray, extent: int) -> tuple[np.ndarray, np.ndarray | None]:
    return np.clip(at, 0, extent - 1).astype(np.int64), (at >= 0) & (at < extent)


def _reflect(at: np.ndarray, low: float, high: float) -> np.ndarray:
    """``at`` mirrored at both borders until it lies between them."""
    span = high - low
    if span <= 0:
        return np.zeros_like(at)
    dtype = at.dtype.type
    distance = np.where(at < low, low - at, at - high).astype(at.dtype)
    turns = np.floor(distance / dtype(span))
    rest = distance - turns * dtype(span)
    even = turns % 2 == 0
    from_low = np.where(at < low, even, ~even)
    mirrored = np.where(from_low, dtype(low) + rest, dtype(high) - rest)
    return np.where((at < low) | (at > high), mirrored, at)


def _interpolate(picture: np.ndarray, at: list[np.ndarray], taps: int, locate: Locate) -> np.ndarray:
    """``picture[C, *d]`` at the points whose coordinates along each axis are ``at``: ``[C, points]``.

    ``taps`` is 1 (nearest of integral coordinates), 2 (linear) or 4 (cubic) along every axis.
    """
    extents = picture.shape[1:]
    flat = picture.reshape(len(picture), -1)
    axes: list[list[tuple[np.ndarray, np.ndarray | None, np.ndarray | None]]] = []
    for coordinate, extent in zip(at, extents, strict=True):
        below = np.floor(coordinate)
        part = coordinate - below
        below = np.clip(np.where(np.isnan(below), -_FAR, below), -_FAR, _FAR)
        rows = []
        for offset in {1: (0,), 2: (0, 1), 4: (-1, 0, 1, 2)}[taps]:
            index, counts = locate(below + below.dtype.type(offset), extent)
            rows.append((index, counts, None if taps == 1 else _weight(part, offset, taps)))
        axes.append(rows)
    total: np.ndarray | None = None
    for chosen in combinations(*axes):
        place = np.zeros(at[0].shape, np.int64)
        weight: np.ndarray | None = None
        counted: np.ndarray | None = None
        for (index, counts, factor), extent in zip(chosen, extents, strict=True):
            place = place * extent + index
            if factor is not None:
                weight = factor if weight is None else weight * factor
            if counts is not None:
                counted = counts if counted is None else counted & counts
        value = flat[:, place]
        if counted is not None:
            value = np.where(counted, value, value.dtype.type(0))
        if weight is not None:
            value = value * weight.astype(value.dtype)
        total = value if total is None else total + value
    assert total is not None
    return total


def _weight(part: np.ndarray, offset: int, taps: int) -> np.ndarray:
    """Weight of the tap at ``offset`` from the pixel below a coordinate ``part`` above it."""
    if taps == 2:
        return part if offset else 1 - part
    d = np.abs(part - offset)
    a = _CUBIC_A
    if offset in (0, 1):
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


@dataclass(frozen=True)
class GridSample(Op):
    """ONNX GridSample: ``x[N, C, *d], grid[N, *o, r] -> y[N, C, *o]`` for any number r of spatial axes.

    A grid point's r coordinates, innermost axis first, run from -1 to 1 over the image.

    Attributes:
        mode: "nearest" (halves to even), "linear" or "cubic".
        padding: "zeros", "border" or "reflection" for points outside.
        align_corners: whether -1 and 1 are the centres of the outer pixels instead of their outer edges.
    """

    name: ClassVar[str] = "GridSample"
    mode: str
    padding: str
    align_corners: bool

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"GridSample takes 2 inputs, got {len(inputs)}")
        x, grid = needed(inputs[0], "x"), needed(inputs[1], "grid")
        require(self.mode in ("nearest", "linear", "cubic"), f"unknown interpolation {self.mode!r}")
        require(self.padding in ("zeros", "border", "reflection"), f"unknown padding {self.padding!r}")
        require(self.mode == "nearest" or x.dtype is not DType.BOOL, "interpolation of bool is not defined")
        require(grid.dtype.is_float, f"grid coordinates are {grid.dtype.value}")
        spatial = x.rank - 2
        require(
            spatial >= 1 and grid.rank == x.rank and grid.shape[-1] == spatial,
            f"a grid {show(grid.shape)} does not suit {show(x.shape)}",
        )
        match_dim(x.shape[0], grid.shape[0], f"grid {show(grid.shape)} for {show(x.shape)}")
        out = static(grid.shape[1:-1])
        require(0 in out or 0 not in static(x.shape[2:]), f"sampling of {show(x.shape)}, which has no pixels")
        return (result(x.dtype, (*x.shape[:2], *out)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, grid = inputs
        assert x is not None and grid is not None
        is_float = DType.of(x).is_float
        wide = widened(x) if is_float or self.mode == "nearest" else x.astype(np.float64)
        points = widened(grid)
        extents, out = x.shape[2:], grid.shape[1:-1]
        y = np.zeros((*x.shape[:2], *out), wide.dtype)
        if y.size:
            taps = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode]
            for image, picture in enumerate(wide):
                coordinates = points[image].reshape(-1, len(extents))
                at = [self._position(coordinates[:, len(extents) - 1 - i], extent) for i, extent in enumerate(extents)]
                y[image] = _interpolate(picture, at, taps, self._locate).reshape(-1, *out)
        if not is_float and self.mode != "nearest":
            info = np.iinfo(x.dtype)
            y = np.clip(np.trunc(y), info.min, np.nextafter(float(info.max), 0) if info.bits == 64 else info.max)
        return (y.astype(x.dtype),)

    def _borders(self, extent: int) -> tuple[float, float]:
        return (0.0, extent - 1.0) if self.align_corners else (-0.5, extent - 0.5)

    def _position(self, coordinate: np.ndarray, extent: int) -> np.ndarray:
        """Normalised coordinates as pixel coordinates, brought inside by the padding mode."""
        number = coordinate.dtype.type
        with np.errstate(invalid="ignore", over="ignore"):
            if self.align_corners:
                at = (coordinate + 1) / number(2) * number(extent - 1)
            else:
                at = ((coordinate + 1) * number(extent) - 1) / number(2)
            if self.mode == "nearest":
                at = np.rint(at)
            low, high = self._borders(extent)
            if self.padding == "border":
                return np.where((at < low) | (at > high), np.clip(at, 0, extent - 1), at)
            return _reflect(at, low, high) if self.padding == "reflection" else at

    def _locate(self, at: np.ndarray, extent: int) -> tuple[np.ndarray, np.ndarray | None]:
        if self.padding == "zeros":
            return _drop_outside(at, extent)
        if self.padding == "reflection":
            at = np.trunc(_reflect(at, *self._borders(extent)))
        return np.clip(at, 0, extent - 1).astype(np.int64), None

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        taps = {"nearest": 0, "linear": 2, "cubic": 4}[self.mode] ** (outputs[0].rank - 2)
        return Cost(flops=2 * taps * per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class DeformConv(Op):
    """ONNX DeformConv: a convolution whose taps are moved by ``offset`` and weighted by ``mask``, for any number r of axes.

    ``x[N,C,*d], w[M,C/group,*k], offset[N,G*prod(k)*r,*o], b[M] | None, mask[N,G*prod(k),*o] | None -> y[N,M,*o]``.
    Taps between pixels are interpolated linearly; pixels outside the image are 0.

    Attributes:
        kernel, strides, pads, dilations: as those of a convolution.
        group: groups of channels of the convolution.
        offset_group: G, groups of input channels that share their offsets and masks.
    """

    name: ClassVar[str] = "DeformConv"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int
    offset_group: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 5, f"DeformConv takes 5 inputs, got {len(inputs)}")
        x, w, offset = needed(inputs[0], "x"), needed(inputs[1], "w"), needed(inputs[2], "offset")
        bias, mask = inputs[3], inputs[4]
        require(x.dtype.is_float and all(t is None or t.dtype is x.dtype for t in inputs), "DeformConv mixes element types")
        axes = len(self.kernel)
        require(axes >= 1 and x.rank == w.rank == offset.rank == axes + 2, f"weights {show(w.shape)} do not suit {show(x.shape)}")
        for what, values, count, least in (
            ("kernel", self.kernel, axes, 1), ("strides", self.strides, axes, 1), ("dilations", self.dilations, axes, 1),
            ("pads", self.pads, 2 * axes, 0),
        ):  # fmt: skip
            require(len(values) == count and min(values) >= least, f"{what} {values} do not suit {axes} spatial axes")
        channels, *spatial = static(x.shape[1:])
        maps, depth, *kernel = static(w.shape)
        require(tuple(kernel) == self.kernel, f"kernel {show(self.kernel)} contradicts the weights {show(w.shape)}")
        require(self.group >= 1 and self.offset_group >= 1, f"{self.group} groups and {self.offset_group} groups of offsets")
        require(
            depth * self.group == channels and maps % self.group == 0 and channels % self.offset_group == 0,
            f"weights {show(w.shape)} in {self.group} groups, with {self.offset_group} of offsets, do not suit {show(x.shape)}",
        )
        out = window_extents(spatial, self.kernel, self.strides, self.pads, self.dilations)
        places = self.offset_group * product(self.kernel)
        for what, type_, rows in (("offset", offset, places * axes), ("mask", mask, places)):
            if type_ is not None:
                wanted = (x.shape[0], rows, *out)
                require(type_.rank == len(wanted), f"{what} {show(type_.shape)} is not {show(wanted)}")
                for a, b in zip(type_.shape, wanted, strict=True):
                    match_dim(a, b, f"{what} {show(type_.shape)} is not {show(wanted)}")
        require(bias is None or bias.shape == (maps,), f"the bias does not have {maps} numbers")
        return (result(x.dtype, (x.shape[0], maps, *out)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w, offset, bias, mask = inputs
        assert x is not None and w is not None and offset is not None
        axes, taps, groups = len(self.kernel), product(self.kernel), self.offset_group
        out = offset.shape[2:]
        picture, weights = widened(x), widened(w)
        moves = widened(offset).reshape(len(x), groups, taps, axes, *out)
        masks = None if mask is None else widened(mask).reshape(len(x), groups, taps, -1)
        y = np.zeros((len(x), len(w), product(out)), picture.dtype)
        matrix = weights.reshape(self.group, len(w) // self.group, -1)
        share = x.shape[1] // groups
        if 0 in x.shape or not y.size:
            groups = 0
        base = self._grid(out, picture.dtype)
        for image in range(len(x) if groups else 0):
            columns = np.empty((x.shape[1], taps, product(out)), picture.dtype)
            for g in range(groups):
                at = [(base[i] + moves[image, g, :, i]).reshape(-1) for i in range(axes)]
                sampled = _interpolate(picture[image, g * share : (g + 1) * share], at, 2, _drop_outside).reshape(share, taps, -1)
                columns[g * share : (g + 1) * share] = sampled if masks is None else sampled * masks[image, g]
            y[image] = (matrix @ columns.reshape(self.group, -1, columns.shape[-1])).reshape(len(w), -1)
        if bias is not None:
            y += widened(bias)[:, None]
        return (y.reshape(len(x), len(w), *out).astype(x.dtype),)

    def _grid(self, out: tuple[int, ...], dtype: np.dtype[np.generic]) -> list[np.ndarray]:
        """Along each axis, the unmoved coordinate of every tap ``[taps, *out]`` (broadcastable)."""
        grid = []
        places = np.indices(self.kernel).reshape(len(self.kernel), -1)
        for i, extent in enumerate(out):
            starts = np.arange(extent) * self.strides[i] - self.pads[i]
            shape = [1] * len(out)
            shape[i] = extent
            taps = (places[i] * self.dilations[i]).reshape(-1, *[1] * len(out))
            grid.append((taps + starts.reshape(shape)).astype(dtype))
        return grid

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        depth = product(static(needed(inputs[1], "w").shape[1:]))
        return Cost(macs=per_image(numel(outputs[0].shape)) * depth)
