"""Convolution, pooling and softmax of 8-bit tensors, computed in integers as ONNX and onnxruntime define them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import require_axis, require_window, result, taps, window_extents
from cnngraph.ops.conv import Conv, apply_epilogue, require_epilogue
from cnngraph.ops.expression import Expression
from cnngraph.ops.quantized import (
    exact_sums,
    multiplier,
    present,
    requantize,
    require_eight_bits,
    require_per_channel,
    require_single,
    require_zero_point,
    single,
)


@dataclass(frozen=True)
class _Window(Op):
    """Attributes of a sliding window, as in :class:`~cnngraph.ops.conv.Conv`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1

    def _infer_conv(self, x: TensorType, w: TensorType, b: TensorType | None, to: DType) -> TensorType:
        require_eight_bits(x, "x")
        require_eight_bits(w, "the weights")
        floats = [None if t is None else TensorType(DType.F32, t.shape) for t in (x, w, b)]
        (y,) = Conv(self.kernel, self.strides, self.pads, self.dilations, self.group).infer(*floats)
        return TensorType(to, y.shape)

    def _accumulate(self, x: np.ndarray, x_zero: np.ndarray, w: np.ndarray, w_zero: np.ndarray) -> np.ndarray:
        """The int32 sums of ``(x - x_zero) * (w - w_zero)``; padding is x_zero."""
        wide, weights = x.astype(np.int32) - x_zero.astype(np.int32), w.astype(np.int32)
        weights = weights - w_zero.astype(np.int32).reshape([-1] + [1] * (w.ndim - 1))
        n, c = wide.shape[:2]
        m, g, spatial = weights.shape[0], self.group, len(self.kernel)
        out = window_extents(wide.shape[2:], self.kernel, self.strides, self.pads, self.dilations)
        bound = weights[0].size * int(np.abs(wide).max(initial=1)) * int(np.abs(weights).max(initial=1))
        dtype = exact_sums(bound)
        margins = [(0, 0), (0, 0), *zip(self.pads[:spatial], self.pads[spatial:], strict=True)]
        padded = np.pad(wide.astype(dtype), margins)
        grouped = weights.astype(dtype).reshape(g, m // g, c // g, product(self.kernel))
        y = np.zeros((n, g, m // g, product(out)), dtype)
        for tap, (_, window) in enumerate(taps(self.kernel, self.strides, self.dilations, out)):
            part = padded[:, :, *window].reshape(n, g, c // g, product(out))
            if c == g:  # a matrix product over one channel is an outer product
                y += grouped[:, :, :, tap] * part
            else:
                y += grouped[:, :, :, tap] @ part
        return y.reshape(n, m, *out).astype(np.int64).astype(np.int32)

    def _conv_cost(self, x: TensorType, output: TensorType, extra: int) -> Cost:
        elements = per_image(numel(output.shape))
        return Cost(macs=elements * (per_image(x.shape[1]) // self.group) * product(self.kernel), flops=extra * elements)


@dataclass(frozen=True)
class ConvInteger(_Window):
    """ONNX ConvInteger: ``x, w, x_zero|None, w_zero|None, *operands -> int32``, or float32 with an epilogue.

    Attributes:
        to: int32; or float32: the sums are converted and the epilogue is applied, its operands being float32.
        epilogue: as in :class:`~cnngraph.ops.conv.Conv`; only for float32.

    ``w_zero`` is one number or one an output channel. Padding counts as ``x_zero``.
    """

    name: ClassVar[str] = "ConvInteger"
    to: DType = DType.I32
    epilogue: Expression | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) >= 4, f"ConvInteger takes x, w, two zero points (or None) and operands, got {len(inputs)} inputs")
        require(self.to in (DType.I32, DType.F32), f"ConvInteger yields int32 or float32, not {self.to.value}")
        require(self.epilogue is None or self.to is DType.F32, "an epilogue computes floats")
        x, w = needed(inputs[0], "x"), needed(inputs[1], "weights")
        y = self._infer_conv(x, w, None, self.to)
        require_single(inputs[2], "the zero point of x")
        require_zero_point(inputs[2], x.dtype, "x")
        require_per_channel(inputs[3], static(w.shape)[0], "the zero point of the weights")
        require_zero_point(inputs[3], w.dtype, "w")
        require_epilogue(self.epilogue, [needed(t, f"operand {i}") for i, t in enumerate(inputs[4:])], y)
        return (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w = present(inputs, 0), present(inputs, 1)
        acc = self._accumulate(x, single(inputs[2]), w, np.zeros(1, np.int32) if inputs[3] is None else inputs[3].reshape(-1))
        if self.to is DType.I32:
            return (acc,)
        return (apply_epilogue(self.epilogue, acc.astype(np.float32), inputs[4:]).astype(np.float32),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return self._conv_cost(needed(inputs[0], "x"), outputs[0], len(self.epilogue.instrs) if self.epilogue else 0)


@dataclass(frozen=True)
class QLinearConv(_Window):
    """ONNX QLinearConv: ``x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b|None -> y``.

    Attributes:
        to: int8 or uint8.
        low, high: bounds of the result, for an activation between the convolution and the quantisation; the type's own
            by default.

    Scale and zero point of the weights are one number or one an output channel; ``b`` is int32 in units of
    ``x_scale * w_scale``. Padding counts as ``x_zero``.
    """

    name: ClassVar[str] = "QLinearConv"
    to: DType = DType.U8
    low: int = -128
    high: int = 255

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 9, f"QLinearConv takes 9 inputs, got {len(inputs)}")
        require(self.to in (DType.I8, DType.U8), f"QLinearConv yields 8-bit integers, not {self.to.value}")
        x, w, b = needed(inputs[0], "x"), needed(inputs[3], "weights"), inputs[8]
        y = self._infer_conv(x, w, b, self.to)
        channels = static(w.shape)[0]
        require(b is None or b.dtype is DType.I32, "the bias is not int32")
        for index, what in ((1, "scale of x"), (6, "scale of y")):
            require_single(needed(inputs[index], f"the {what}"), f"the {what}")
        for index, what in ((2, "zero point of x"), (7, "zero point of y")):
            require_single(inputs[index], f"the {what}")
        require_per_channel(needed(inputs[4], "the scale of the weights"), channels, "the scale of the weights")
        require_per_channel(inputs[5], channels, "the zero point of the weights")
        for index, dtype, what in ((2, x.dtype, "x"), (5, w.dtype, "w"), (7, self.to, "y")):
            require_zero_point(inputs[index], dtype, what)
        return (y,)

    def bounds(self) -> tuple[int, int]:
        """Least and greatest result."""
        low, high = self.to.range
        return max(low, self.low), min(high, self.high)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w, b = present(inputs, 0), present(inputs, 3), inputs[8]
        w_zero = np.zeros(1, np.int32) if inputs[5] is None else inputs[5].reshape(-1)
        acc = self._accumulate(x, single(inputs[2]), w, w_zero)
        column = [-1] + [1] * (x.ndim - 2)
        if b is not None:
            acc = acc + b.reshape(column)
        factor = multiplier(single(inputs[1]), present(inputs, 4).reshape(column), single(inputs[6]))
        y = requantize(acc, factor, single(inputs[7]), self.to)
        low, high = self.bounds()
        return (np.clip(y, y.dtype.type(low), y.dtype.type(high)),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return self._conv_cost(needed(inputs[0], "x"), outputs[0], 3)


@dataclass(frozen=True)
class QLinearAveragePool(Op):
    """com.microsoft QLinearAveragePool: ``x, x_scale, x_zero, y_scale, y_zero -> y``; channels on axis 1.

    Attributes:
        kernel, strides, pads: as in :class:`~cnngraph.ops.pool.Pool`; ``ceil_mode`` and ``count_include_pad`` too.

    The sum of ``x_scale * (x - x_zero)`` over the window, row by row, and the quotients are float32.
    """

    name: ClassVar[str] = "QLinearAveragePool"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _pool_input(inputs, self.name)
        ones = (1,) * len(self.kernel)
        require_window(x.rank, self.kernel, self.strides, self.pads, ones)
        require(all(p < self.kernel[i % len(self.kernel)] for i, p in enumerate(self.pads)), f"pads {self.pads} exceed the kernel")
        out = window_extents(static(x.shape[2:]), self.kernel, self.strides, self.pads, ones, self.ceil_mode)
        return (result(x.dtype, (*x.shape[:2], *out)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = present(inputs, 0)
        dtype = DType.of(x)
        x_scale, x_zero, y_scale, y_zero = (single(p) for p in inputs[1:])
        wide = np.float32(x_scale) * (x.astype(np.int32) - x_zero.astype(np.int32)).astype(np.float32)
        spatial, axes, ones = x.shape[2:], len(self.kernel), (1,) * len(self.kernel)
        out = window_extents(spatial, self.kernel, self.strides, self.pads, ones, self.ceil_mode)
        margins = []
        for i, extent in enumerate(spatial):
            reach = (out[i] - 1) * self.strides[i] + self.kernel[i]
            margins.append((self.pads[i], max(self.pads[i + axes], reach - extent - self.pads[i])))
        padded = np.pad(wide, [(0, 0), (0, 0), *margins])
        inside = np.pad(np.ones(spatial, np.int32), margins)
        total, count = np.zeros((*x.shape[:2], *out), np.float32), np.zeros(out, np.int32)
        for _, window in taps(self.kernel, self.strides, ones, out):
            total += padded[:, :, *window]
            count += inside[window]
        divisor: Any = np.float32(product(self.kernel)) if self.count_include_pad else np.maximum(count, 1).astype(np.float32)
        scaled = (total / divisor) / np.float32(y_scale) + np.float32(y_zero)
        low, high = dtype.range
        return (np.clip(np.nan_to_num(np.rint(scaled.astype(np.float64))), low, high).astype(np.int64).astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)) * product(self.kernel))


def _pool_input(inputs: tuple[TensorType | None, ...], name: str) -> TensorType:
    require(len(inputs) == 5, f"{name} takes x and its and y's scale and zero point, got {len(inputs)} inputs")
    x = needed(inputs[0], "x")
    require_eight_bits(x, "x")
    for index in (1, 3):
        require_single(needed(inputs[index], "a scale"), "a scale")
    for index in (2, 4):
        require_single(inputs[index], "a zero point")
        require_zero_point(inputs[index], x.dtype, "x")
    return x


@dataclass(frozen=True)
class QLinearGlobalAveragePool(Op):
    """com.microsoft QLinearGlobalAveragePool: ``x[N,C,*d], x_scale, x_zero, y_scale, y_zero -> y[N,C,1..]``.

    The exact int32 sum of ``x - x_zero`` is requantised by ``x_scale / (y_scale * count)``.
    """

    name: ClassVar[str] = "QLinearGlobalAveragePool"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _pool_input(inputs, self.name)
        require(x.rank >= 3 and all(d > 0 for d in static(x.shape[2:])), "a global average needs spatial axes")
        return (result(x.dtype, (*x.shape[:2], *[1] * (x.rank - 2))),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = present(inputs, 0)
        x_scale, x_zero, y_scale, y_zero = (single(p) for p in inputs[1:])
        count = product(x.shape[2:])
        acc = x.astype(np.int64).sum(axis=tuple(range(2, x.ndim)), keepdims=True) - int(x_zero) * count
        factor = np.float32(x_scale) / (np.float32(y_scale) * np.float32(count))
        return (requantize(acc.astype(np.int32), np.asarray(factor), y_zero, DType.of(x)),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(needed(inputs[0], "x").shape)))


@dataclass(frozen=True)
class QLinearSoftmax(Op):
    """com.microsoft QLinearSoftmax along one axis: ``x, x_scale, x_zero, y_scale, y_zero -> y``.

    Exponentials come from a table of 256 float32 numbers that puts the greatest element of a row at a fixed large one; sums are
    float32 in the order of the row; the result is ``rint(e * floor(1 / y_scale) / sum) + y_zero``, saturated.
    """

    name: ClassVar[str] = "QLinearSoftmax"
    axis: int = -1

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _pool_input(inputs, self.name)
        require_axis(self.axis, x.rank, "QLinearSoftmax")
        static(x.shape[self.axis : self.axis + 1])
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = np.moveaxis(present(inputs, 0), self.axis, -1)
        if not x.size:
            return (present(inputs, 0).copy(),)
        dtype = DType.of(x)
        x_scale, y_scale, y_zero = np.float32(single(inputs[1])), np.float32(single(inputs[3])), int(single(inputs[4]))
        wide = x.astype(np.int32)
        e = self.exponentials(x.shape[-1], x_scale)[wide - wide.max(axis=-1, keepdims=True) + 255]
        total = np.add.accumulate(e, axis=-1)[..., -1:]
        low, high = dtype.range
        y = np.clip(np.rint((e * self.steps(y_scale)) / total).astype(np.int64) + y_zero, low, high).astype(x.dtype)
        return (np.ascontiguousarray(np.moveaxis(y, -1, self.axis)),)

    @staticmethod
    def exponentials(length: int, x_scale: np.float32) -> np.ndarray:
        """The 256 float32 numbers for rows of ``length``; the last is for the greatest element of a row."""
        shift = max(0.0, np.log(float(np.float32(np.finfo(np.float32).max) / np.float32(length))) - 5) / float(x_scale)
        table: np.ndarray = np.exp((np.arange(256) - 255 + shift) * float(x_scale)).astype(np.float32)
        return table

    @staticmethod
    def steps(y_scale: np.float32) -> np.float32:
        """Steps of the result from 0 to 1, a whole number."""
        return np.float32(np.floor(np.float32(1) / y_scale))

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=5 * per_image(numel(outputs[0].shape)))
