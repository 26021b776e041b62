"""Pooling over regions of interest: RoiAlign and MaxRoiPool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.ir.types import DType, TensorType, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, match_shape, result, show, widened

_MOST_SAMPLES = 1 << 20
"""Samples along one axis of one region; a region that asks for more is refused."""


def _pooled(x: TensorType, rois: TensorType, columns: int, height: int, width: int, what: str) -> TensorType:
    """The result's type; checks what both operators require."""
    require(x.rank == 4, f"{what} takes [N, C, H, W], not {show(x.shape)}")
    require(x.dtype.is_float and rois.dtype is x.dtype, f"{what} of {x.dtype.value} and {rois.dtype.value}")
    forbid_batch(x.shape[0], f"{what} picks single images")
    require(rois.rank == 2 and rois.shape[1] == columns, f"{what} takes regions [R, {columns}], not {show(rois.shape)}")
    require(height >= 1 and width >= 1, f"{what} to {height}x{width}")
    (count,) = static(rois.shape[:1])
    require(count == 0 or 0 not in x.shape[2:], f"{what} over {show(x.shape)}, which has no pixels")
    return result(x.dtype, (count, x.shape[1], height, width))


def _checked(index: int, images: int, what: str) -> int:
    if not 0 <= index < images:
        raise InvalidInputError(f"{what} of image {index}, but there are {images}")
    return index


@dataclass(frozen=True)
class RoiAlign(Op):
    """ONNX RoiAlign: ``x[N,C,H,W], rois[R,4], batch_indices int64[R] -> y[R,C,height,width]``.

    Attributes:
        mode: "avg" of the bilinear samples of a bin, or "max" of their four weighted neighbours.
        height, width: bins of a region.
        sampling: samples along each axis of a bin; 0 for as many as the bin spans pixels.
        scale: from the coordinates of ``rois`` to pixels of ``x``.
        half_pixel: whether coordinates are shifted by half a pixel; otherwise a region is at least one pixel wide and high.
    """

    name: ClassVar[str] = "RoiAlign"
    mode: str
    height: int
    width: int
    sampling: int
    scale: float
    half_pixel: bool

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"RoiAlign takes 3 inputs, got {len(inputs)}")
        x, rois, images = needed(inputs[0], "x"), needed(inputs[1], "rois"), needed(inputs[2], "batch_indices")
        require(self.mode in ("avg", "max"), f"unknown mode {self.mode!r}")
        require(0 <= self.sampling <= _MOST_SAMPLES, f"{self.sampling} samples along each axis of a bin")
        require(images.dtype is DType.I64, f"image indices are {images.dtype.value}, not int64")
        match_shape(images.shape, rois.shape[:1], f"{show(images.shape)} image indices for regions {show(rois.shape)}")
        return (_pooled(x, rois, 4, self.height, self.width, "RoiAlign"),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, rois, images = inputs
        assert x is not None and rois is not None and images is not None
        wide, regions = widened(x), widened(rois)
        y = np.zeros((len(rois), x.shape[1], self.height, self.width), wide.dtype)
        for i, (region, image) in enumerate(zip(regions, images.tolist(), strict=True)):
            picture = wide[_checked(image, len(x), f"region {i}")]
            rows = self._samples(region[1], region[3], self.height, x.shape[2])
            columns = self._samples(region[0], region[2], self.width, x.shape[3])
            if rows is not None and columns is not None:
                y[i] = self._average(picture, rows, columns) if self.mode == "avg" else self._maximum(picture, rows, columns)
        return (y.astype(x.dtype),)

    def _samples(self, start: np.floating, end: np.floating, bins: int, extent: int) -> _Samples | None:
        """The sample positions along one axis; None if there are none."""
        number = start.dtype.type
        shift = number(0.5 if self.half_pixel else 0.0)
        begin, stop = start * number(self.scale) - shift, end * number(self.scale) - shift
        length = stop - begin
        if not self.half_pixel:
            length = max(length, number(1))
        if not np.isfinite(begin) or not np.isfinite(length):
            raise InvalidInputError("a region of interest is not finite")
        size = length / number(bins)
        count = self.sampling or math.ceil(size)
        if count <= 0:
            return None
        if count * bins > _MOST_SAMPLES:
            raise InvalidInputError(f"a region of interest of {float(length):g} pixels takes {count} samples in each of {bins} bins")
        inside = (np.arange(count, dtype=start.dtype) + number(0.5)) * size / number(count)
        at = (begin + np.arange(bins, dtype=start.dtype)[:, None] * size + inside).reshape(-1)
        valid = (at >= -1) & (at <= extent)
        at = np.clip(at, 0, extent - 1)
        low = at.astype(np.int64)
        part = at - low
        return _Samples(count, low, np.minimum(low + 1, extent - 1), np.where(valid, 1 - part, 0), np.where(valid, part, 0), valid)

    def _average(self, picture: np.ndarray, rows: _Samples, columns: _Samples) -> np.ndarray:
        """Rows first, then columns: the average of a bin is separable."""
        lines = rows.blend(picture, 1).reshape(len(picture), self.height, rows.count, -1).sum(axis=2)
        cells = columns.blend(lines, 2).reshape(len(picture), self.height, self.width, columns.count).sum(axis=3)
        mean: np.ndarray = cells / cells.dtype.type(rows.count * columns.count)
        return mean

    def _maximum(self, picture: np.ndarray, rows: _Samples, columns: _Samples) -> np.ndarray:
        best: np.ndarray | None = None
        valid = rows.valid[:, None] & columns.valid[None, :]
        for y, wy in ((rows.low, rows.low_weight), (rows.high, rows.high_weight)):
            for x, wx in ((columns.low, columns.low_weight), (columns.high, columns.high_weight)):
                value = np.where(valid, picture[:, y][:, :, x] * (wy[:, None] * wx[None, :]), 0)
                best = value if best is None else np.maximum(best, value)
        assert best is not None
        grid = best.reshape(len(picture), self.height, rows.count, self.width, columns.count)
        largest: np.ndarray = grid.max(axis=(2, 4))
        return largest

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        samples = max(self.sampling, 1) ** 2
        return Cost(flops=8 * samples * math.prod(static(outputs[0].shape)))


@dataclass(frozen=True, eq=False)
class _Samples:
    """Linear samples along one axis, ``count`` for each bin: two neighbours and their weights, all 0 where not ``valid``."""

    count: int
    low: np.ndarray
    high: np.ndarray
    low_weight: np.ndarray
    high_weight: np.ndarray
    valid: np.ndarray

    def blend(self, x: np.ndarray, axis: int) -> np.ndarray:
        """The samples of ``x`` along ``axis``."""
        spread = (-1,) + (1,) * (x.ndim - axis - 1)
        low = np.take(x, self.low, axis=axis) * self.low_weight.reshape(spread)
        return low + np.take(x, self.high, axis=axis) * self.high_weight.reshape(spread)


@dataclass(frozen=True)
class MaxRoiPool(Op):
    """ONNX MaxRoiPool: ``x[N,C,H,W], rois[R,5] -> y[R,C,height,width]``; a region is (image, x1, y1, x2, y2), ends included.

    Regions are rounded to whole pixels after ``scale``; bins may overlap by a pixel, and one outside the image is 0.
    """

    name: ClassVar[str] = "MaxRoiPool"
    height: int
    width: int
    scale: float

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"MaxRoiPool takes 2 inputs, got {len(inputs)}")
        return (_pooled(needed(inputs[0], "x"), needed(inputs[1], "rois"), 5, self.height, self.width, "MaxRoiPool"),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, rois = inputs
        assert x is not None and rois is not None
        y = np.zeros((len(rois), x.shape[1], self.height, self.width), x.dtype)
        for i, region in enumerate(widened(rois)):
            if not np.isfinite(region).all():
                raise InvalidInputError(f"region {i} is not finite")
            picture = x[_checked(int(region[0]), len(x), f"region {i}")]
            rows = self._bins(region[2], region[4], self.height, x.shape[2])
            columns = self._bins(region[1], region[3], self.width, x.shape[3])
            for ph, (top, bottom) in enumerate(rows):
                if top < bottom:
                    line = picture[:, top:bottom].max(axis=1)
                    for pw, (left, right) in enumerate(columns):
                        if left < right:
                            y[i, :, ph, pw] = line[:, left:right].max(axis=1)
        return (y,)

    def _bins(self, start: np.floating, end: np.floating, bins: int, extent: int) -> list[tuple[int, int]]:
        """First and last-but-one pixel of each bin, within the image."""
        number = start.dtype.type
        first, last = (math.floor(abs(v) + 0.5) * (1 if v >= 0 else -1) for v in (start * number(self.scale), end * number(self.scale)))
        size = number(max(last - first + 1, 1)) / number(bins)
        edges = [(math.floor(number(b) * size) + first, math.ceil(number(b + 1) * size) + first) for b in range(bins)]
        return [(min(max(a, 0), extent), min(max(b, 0), extent)) for a, b in edges]
