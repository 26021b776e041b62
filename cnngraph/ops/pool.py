"""Max and average pooling over 1 to 3 spatial axes, with ONNX's padding, ceil-mode and index rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import require_window, result, show, taps, widened, window_extents


def _is_nan(array: np.ndarray) -> np.ndarray:
    return np.isnan(array) if DType.of(array).is_float else np.zeros(array.shape, np.bool_)


@dataclass(frozen=True)
class Pool(Op):
    """ONNX MaxPool and AveragePool: ``x[N,C,*d] -> y[N,C,*out] (, indices int64 [N,C,*out])``.

    Attributes:
        kind: "max" or "average".
        kernel, strides, dilations: one integer for each of 1 to 3 spatial axes.
        pads: all begins, then all ends. Padding is minus infinity for max and zero for average.
        ceil_mode: whether a last partial window counts, provided it starts inside the input or its left padding.
        count_include_pad: whether an average divides by padded positions too. Positions beyond the right padding,
            which ceil_mode may reach, never count.
        indices: whether max also yields the flat index, over the whole tensor, of each maximum (the first one).
        storage_order: 0 row-major; 1 column-major within the spatial axes of an index.

    A NaN in a window makes its maximum NaN. An average over a window without any element is 0.
    """

    name: ClassVar[str] = "Pool"
    kind: str
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = False
    indices: bool = False
    storage_order: int = 0

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Pool takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(self.kind in ("max", "average"), f"unknown pooling {self.kind!r}")
        require(self.kind == "max" or not self.indices, "average pooling has no indices")
        require(self.kind == "max" or x.dtype.is_float, f"average pooling computes floats, not {x.dtype.value}")
        require(x.dtype is not DType.BOOL, "max pooling does not order bool")
        require(self.storage_order in (0, 1), f"storage_order {self.storage_order} is neither 0 nor 1")
        require_window(x.rank, self.kernel, self.strides, self.pads, self.dilations)
        for i, pad in enumerate(self.pads):
            axis = i % len(self.kernel)
            require(
                pad < self.dilations[axis] * (self.kernel[axis] - 1) + 1,
                f"pads {self.pads} leave windows of kernel {show(self.kernel)} wholly outside the input {show(x.shape)}",
            )
        out = window_extents(static(x.shape[2:]), self.kernel, self.strides, self.pads, self.dilations, self.ceil_mode)
        y = result(x.dtype, (*x.shape[:2], *out))
        return (y, TensorType(DType.I64, y.shape)) if self.indices else (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        out = window_extents(x.shape[2:], self.kernel, self.strides, self.pads, self.dilations, self.ceil_mode)
        return self._max(x, out) if self.kind == "max" else (self._average(x, out),)

    def _margins(self, extents: tuple[int, ...], out: tuple[int, ...]) -> list[tuple[int, int]]:
        """Begin and end padding of the spatial axes so that every window, a partial one included, lies inside."""
        margins = []
        for i, extent in enumerate(extents):
            reach = (out[i] - 1) * self.strides[i] + self.dilations[i] * (self.kernel[i] - 1) + 1
            margins.append((self.pads[i], max(self.pads[i + len(extents)], reach - extent - self.pads[i])))
        return margins

    def _max(self, x: np.ndarray, out: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        spatial = x.shape[2:]
        margins = self._margins(spatial, out)
        low = -np.inf if DType.of(x).is_float else np.iinfo(x.dtype).min
        padded = np.pad(x, [(0, 0), (0, 0), *margins], constant_values=low)
        order: Literal["C", "F"] = "C" if self.storage_order == 0 else "F"
        flat = np.pad(np.arange(product(spatial), dtype=np.int64).reshape(spatial, order=order), margins, constant_values=-1)
        best = np.full((*x.shape[:2], *out), low, x.dtype)
        where = np.full(best.shape, -1, np.int64)
        for _, window in taps(self.kernel, self.strides, self.dilations, out):
            value, index = padded[:, :, *window], flat[window]
            better = (index >= 0) & ((where < 0) | (value > best) | (_is_nan(value) & ~_is_nan(best)))
            best = np.where(better, value, best)
            where = np.where(better, index, where)
        if not self.indices:
            return (best,)
        planes = np.arange(product(x.shape[:2]), dtype=np.int64) * product(spatial)
        return best, where + planes.reshape(*x.shape[:2], *[1] * len(spatial))

    def _average(self, x: np.ndarray, out: tuple[int, ...]) -> np.ndarray:
        spatial = x.shape[2:]
        margins = self._margins(spatial, out)
        padded = np.pad(widened(x), [(0, 0), (0, 0), *margins])
        own = list(zip(self.pads[: len(spatial)], self.pads[len(spatial) :], strict=True))
        counted = np.pad(np.ones(spatial, np.int64), own, constant_values=int(self.count_include_pad))
        counted = np.pad(counted, [(0, m - p) for (_, m), (_, p) in zip(margins, own, strict=True)])
        total = np.zeros((*x.shape[:2], *out), padded.dtype)
        count = np.zeros(out, np.int64)
        for _, window in taps(self.kernel, self.strides, self.dilations, out):
            total += padded[:, :, *window]
            count += counted[window]
        return (total / np.maximum(count, 1).astype(total.dtype)).astype(x.dtype)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)) * product(self.kernel))
