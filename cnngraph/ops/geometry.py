"""Operators that put elements or blocks back to the places an image had them: Col2Im and MaxUnpool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.ir.types import DType, TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import match_dim, result, show, taps, widened, window_extents


@dataclass(frozen=True)
class Col2Im(Op):
    """ONNX Col2Im: ``x[N, C * prod(block), L] -> y[N, C, *image]``, the L blocks added where they overlap.

    Attributes:
        image, block: extents of the image and of a block, one for each of its axes.
        strides, dilations: steps between blocks, and between elements of one block.
        pads: begins, then ends; elements of blocks in the padding are dropped.
    """

    name: ClassVar[str] = "Col2Im"
    image: tuple[int, ...]
    block: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Col2Im takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.rank == 3, f"Col2Im takes [N, C * block, L], not {show(x.shape)}")
        count = len(self.image)
        require(count >= 1, "Col2Im to an image without axes")
        for what, values, length, least in (
            ("block", self.block, count, 1), ("strides", self.strides, count, 1), ("dilations", self.dilations, count, 1),
            ("pads", self.pads, 2 * count, 0), ("image", self.image, count, 0),
        ):  # fmt: skip
            require(len(values) == length and min(values) >= least, f"{what} {values} do not suit an image of {count} axes")
        channels, length = static(x.shape[1:])
        size = product(self.block)
        require(channels % size == 0, f"{channels} rows are no multiple of a block of {show(self.block)}")
        windows = window_extents(self.image, self.block, self.strides, self.pads, self.dilations)
        require(product(windows) == length, f"{show(windows)} blocks of {show(self.block)} in {show(self.image)}, but {length} are given")
        return (result(x.dtype, (x.shape[0], channels // size, *self.image)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        count, wide = len(self.image), widened(x)
        windows = window_extents(self.image, self.block, self.strides, self.pads, self.dilations)
        columns = wide.reshape(x.shape[0], -1, *self.block, *windows)
        margins = list(zip(self.pads[:count], self.pads[count:], strict=True))
        padded = np.zeros((*columns.shape[:2], *(d + a + b for d, (a, b) in zip(self.image, margins, strict=True))), wide.dtype)
        for tap, window in taps(self.block, self.strides, self.dilations, windows):
            place: Any = (slice(None), slice(None), *tap)
            padded[:, :, *window] += columns[place]
        kept = tuple(slice(a, a + d) for d, (a, _) in zip(self.image, margins, strict=True))
        return (np.ascontiguousarray(padded[:, :, *kept]).astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(needed(inputs[0], "x").shape)))


@dataclass(frozen=True)
class MaxUnpool(Op):
    """ONNX MaxUnpool: ``x[N, C, *d], indices int64 [N, C, *d] -> y[N, C, *shape]``, zero where no index points.

    Indices are flat positions in ``[N, C, *shape]``, the tensor that MaxPool took them from. The reference implementation of
    ONNX counts them in ``[N, C, *natural]`` instead and extends or crops that tensor at the ends; this reading is taken if
    with it, and not with the other, every index lies in the window that its element stands for.

    Attributes:
        shape: spatial extents of the result.
        natural: those that follow from the window alone.
        kernel, strides, begins: extents, steps and padding before the first of the windows.
    """

    name: ClassVar[str] = "MaxUnpool"
    shape: tuple[int, ...]
    natural: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begins: tuple[int, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"MaxUnpool takes 2 inputs, got {len(inputs)}")
        x, indices = needed(inputs[0], "x"), needed(inputs[1], "indices")
        require(indices.dtype is DType.I64, f"MaxUnpool indices are {indices.dtype.value}, not int64")
        require(x.rank == indices.rank >= 3, f"indices {show(indices.shape)} do not suit {show(x.shape)}")
        for a, b in zip(x.shape, indices.shape, strict=True):
            match_dim(a, b, f"MaxUnpool indices {show(indices.shape)} for {show(x.shape)}")
        for values in (self.shape, self.natural, self.kernel, self.strides, self.begins):
            require(len(values) == x.rank - 2 and min(values) >= 0, f"unpooling of {show(x.shape)} with {values}")
        return (result(x.dtype, (*x.shape[:2], *self.shape)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, indices = inputs
        assert x is not None and indices is not None
        if self.natural != self.shape and not self._in_windows(indices, self.shape) and self._in_windows(indices, self.natural):
            common = tuple(slice(0, min(a, b)) for a, b in zip(self.natural, self.shape, strict=True))
            y = np.zeros((*x.shape[:2], *self.shape), x.dtype)
            y[:, :, *common] = self._scatter(x, indices, self.natural)[:, :, *common]
            return (y,)
        return (self._scatter(x, indices, self.shape),)

    def _scatter(self, x: np.ndarray, indices: np.ndarray, spatial: tuple[int, ...]) -> np.ndarray:
        shape = (*x.shape[:2], *spatial)
        flat = np.zeros(product(shape), x.dtype)
        bad = indices[(indices < 0) | (indices >= flat.size)]
        if bad.size:
            raise InvalidInputError(f"MaxUnpool index {int(bad.flat[0])} is outside {show(shape)}")
        flat[indices.reshape(-1)] = x.reshape(-1)
        return flat.reshape(shape)

    def _in_windows(self, indices: np.ndarray, spatial: tuple[int, ...]) -> bool:
        """Whether every index, read in ``[N, C, *spatial]``, lies in its own plane and its element's window."""
        size = product(spatial)
        planes = np.arange(product(indices.shape[:2])).reshape(*indices.shape[:2], *[1] * len(spatial))
        rest = indices - planes * size
        if not ((rest >= 0) & (rest < size)).all():
            return False
        for axis in reversed(range(len(spatial))):
            at, rest = rest % spatial[axis], rest // spatial[axis]
            spread = [1] * indices.ndim
            spread[axis + 2] = -1
            start = (np.arange(indices.shape[axis + 2]) * self.strides[axis] - self.begins[axis]).reshape(spread)
            if not ((at >= start) & (at < start + self.kernel[axis])).all():
                return False
        return True
