"""Quantisation: float to small integers and back, and integer matrix products.

A quantised tensor stands for ``scale * (q - zero_point)``. Scales and zero points are inputs, most often constants. Requantisation
is ``saturate(rint(float32(acc) * multiplier) + zero_point)``, ties to even, as ONNX and onnxruntime define it. Integer products
are computed by floating-point matrix products whose sums are exact (:func:`exact_product`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import EXACT_F32, DType, Shape, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, match_shape, require_broadcastable_to, result, show

EIGHT_BITS = (DType.I8, DType.U8)
_EXACT_F64 = 1 << 53


def bounds_of(dtype: DType, low: int, high: int) -> tuple[Any, Any]:
    """``low`` and ``high`` within the type's range, as numbers of the type."""
    least, most = dtype.range
    return dtype.numpy.type(max(least, low)), dtype.numpy.type(min(most, high))


def is_integer(dtype: DType) -> bool:
    """Whether the type is an integer one of any width."""
    return dtype.value.startswith(("int", "uint"))


def exact_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``numpy.matmul`` of integer arrays with every sum exact, as int32 (which wraps like the hardware's).

    The product is computed in the type that :func:`exact_sums` says.
    """
    dtype = exact_sums(a.shape[-1] * _magnitude(a) * _magnitude(b))
    return np.matmul(a.astype(dtype), b.astype(dtype)).astype(np.int64).astype(np.int32)


def exact_sums(bound: int) -> Any:
    """float32, float64 or int64: the first whose mantissa holds every whole number of magnitude ``bound``."""
    return np.float32 if bound < EXACT_F32 else np.float64 if bound < _EXACT_F64 else np.int64


def greatest_distance(dtype: DType, zero: int | None) -> int:
    """Greatest magnitude of ``q - zero`` for numbers q of an integer type; None: of any zero point of the type."""
    low, high = dtype.range
    return high - low if zero is None else max(abs(low - zero), abs(high - zero))


def greatest_sum(weights: np.ndarray, distance: int, bias: np.ndarray | None = None) -> int:
    """Greatest magnitude of a sum that an integer convolution can meet, and of all its parts.

    ``weights`` [M, ...] are whole numbers without their zero point, ``distance`` is the greatest magnitude of an input, ``bias`` [M].
    """
    sums = np.abs(weights.astype(np.float64)).reshape(len(weights), -1).sum(axis=1) * distance
    return int((sums if bias is None else sums + np.abs(bias.astype(np.float64)).reshape(-1)).max(initial=0))


def _magnitude(a: np.ndarray) -> int:
    return max(abs(int(a.min())), abs(int(a.max())), 1) if a.size else 1


def requantize(acc: np.ndarray, multiplier: np.ndarray, zero_point: np.ndarray | None, dtype: DType) -> np.ndarray:
    """``saturate(rint(float32(acc) * multiplier) + zero_point)``."""
    low, high = dtype.range
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = np.rint(acc.astype(np.float32) * multiplier.astype(np.float32))
    zero = 0 if zero_point is None else zero_point.astype(np.float64)
    return np.clip(np.nan_to_num(scaled.astype(np.float64)) + zero, low, high).astype(np.int64).astype(dtype.numpy)


def multiplier(x_scale: np.ndarray, w_scale: np.ndarray, y_scale: np.ndarray) -> np.ndarray:
    """``x_scale * w_scale / y_scale`` in float32, in that order."""
    return (x_scale.astype(np.float32) * w_scale.astype(np.float32)) / y_scale.astype(np.float32)


def single(array: np.ndarray | None, default: int = 0) -> np.ndarray:
    """The only number of a per-tensor parameter, 0-D; ``default`` (int32) where it is absent."""
    return np.array(default, np.int32) if array is None else array.reshape(())


def present(arrays: tuple[np.ndarray | None, ...], index: int) -> np.ndarray:
    """Input ``index``, which inference has made sure of."""
    array = arrays[index]
    assert array is not None
    return array


def require_single(type_: TensorType | None, what: str) -> None:
    """Raise InvalidModelError unless the parameter is absent or one number."""
    require(type_ is None or (type_.rank <= 1 and all(d == 1 for d in type_.shape)), f"{what} is not a single number")


def require_eight_bits(type_: TensorType, what: str) -> None:
    """Raise InvalidModelError unless the tensor is int8 or uint8."""
    require(type_.dtype in EIGHT_BITS, f"{what} is {type_.dtype.value}, not int8 or uint8")


def require_zero_point(type_: TensorType | None, like: DType, what: str) -> None:
    """Raise InvalidModelError unless the zero point is absent or of the type it belongs to."""
    require(type_ is None or type_.dtype is like, f"the zero point of {what} is not {like.value} as {what}")


def require_per_channel(type_: TensorType | None, channels: int, what: str) -> None:
    """Raise InvalidModelError unless the parameter is absent, one number, or one a channel."""
    fits = type_ is None or (type_.rank <= 1 and type_.shape in ((), (1,), (channels,)))
    require(fits, f"{what} is neither one number nor {channels}")


def _require_granularity(x: Shape, scale: Shape, axis: int, block: int) -> None:
    if numel(scale) == 1 and len(scale) <= 1 and not block:
        return
    require(0 <= axis < len(x), f"axis {axis} is outside {show(x)}")
    if not block:
        match_shape(scale, x[axis : axis + 1], f"the scale {show(scale)} suits neither the tensor {show(x)} nor its axis {axis}")
        return
    extent = forbid_batch(x[axis], "blocks along the batch axis")
    wanted = (*x[:axis], -(-extent // block), *x[axis + 1 :])
    match_shape(scale, wanted, f"the scale {show(scale)} is not {show(wanted)}, one number for each {block} along axis {axis}")


def spread(parameter: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """A scale or zero point so that it broadcasts against ``shape``: per tensor, per axis, or per block along it."""
    if block:
        return np.repeat(parameter, block, axis=axis)[tuple(slice(0, d) for d in shape)]
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def quantize(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None, to: DType, saturate: bool = True) -> np.ndarray:
    """``saturate(rint(x / scale) + zero_point)`` in the precision of the operands, which are floats and broadcast."""
    with np.errstate(all="ignore"):
        ratio = x / scale
    if not is_integer(to):
        shifted = ratio.astype(np.float32) if zero_point is None else ratio.astype(np.float32) + zero_point.astype(np.float32)
        return _to_small_float(shifted, to, saturate)
    low, high = to.range
    zero = 0 if zero_point is None else zero_point.astype(np.int64)
    whole = np.rint(ratio.astype(np.float64))
    whole = np.nan_to_num(whole, nan=-(2.0**40), posinf=2.0**40, neginf=-(2.0**40))
    return np.clip(np.clip(whole, -(2.0**40), 2.0**40).astype(np.int64) + zero, low, high).astype(to.numpy)


def _to_small_float(x: np.ndarray, to: DType, saturate: bool) -> np.ndarray:
    import ml_dtypes

    if saturate:
        limit = float(ml_dtypes.finfo(to.numpy).max)  # type: ignore[no-untyped-call]
        x = np.where(np.isnan(x), x, np.clip(x, -limit, limit))
    return x.astype(to.numpy)


@dataclass(frozen=True)
class QuantizeLinear(Op):
    """ONNX QuantizeLinear: ``x, scale, zero_point|None -> y``.

    Attributes:
        to: type of the result: an integer of 2 to 16 bits, or a small float.
        axis: axis of per-axis and per-block scales, non-negative.
        block_size: elements along ``axis`` that share a scale; 0 means per tensor or per axis.
        saturate: whether small floats clamp what is out of range; integers always do.
        precision: type in which ``x / scale`` is computed.
    """

    name: ClassVar[str] = "QuantizeLinear"
    to: DType
    axis: int = 1
    block_size: int = 0
    saturate: bool = True
    precision: DType = DType.F32

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"QuantizeLinear takes x, scale and zero point (or None), got {len(inputs)} inputs")
        x, scale, zero = needed(inputs[0], "x"), needed(inputs[1], "scale"), inputs[2]
        _require_granularity(x.shape, scale.shape, self.axis, self.block_size)
        require(zero is None or numel(zero.shape) == numel(scale.shape), "scale and zero point differ in shape")
        require_zero_point(zero, self.to, "y")
        return (result(self.to, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, scale, zero = present(inputs, 0), present(inputs, 1), inputs[2]
        x, scale = x.astype(self.precision.numpy), scale.astype(self.precision.numpy)
        scale = spread(scale, x.shape, self.axis, self.block_size)
        zero = None if zero is None else spread(zero, x.shape, self.axis, self.block_size)
        return (quantize(x, scale, zero, self.to, self.saturate),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=2 * per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class DequantizeLinear(Op):
    """ONNX DequantizeLinear: ``x, scale, zero_point|None -> (x - zero_point) * scale`` as ``to``; see :class:`QuantizeLinear`.

    Computed in float32 and rounded once to ``to``.
    """

    name: ClassVar[str] = "DequantizeLinear"
    to: DType
    axis: int = 1
    block_size: int = 0

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"DequantizeLinear takes x, scale and zero point (or None), got {len(inputs)} inputs")
        x, scale, zero = needed(inputs[0], "x"), needed(inputs[1], "scale"), inputs[2]
        _require_granularity(x.shape, scale.shape, self.axis, self.block_size)
        require(zero is None or numel(zero.shape) == numel(scale.shape), "scale and zero point differ in shape")
        require_zero_point(zero, x.dtype, "x")
        return (result(self.to, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, scale, zero = present(inputs, 0), present(inputs, 1), inputs[2]
        wide = DType.of(x).value.startswith(("float", "bfloat"))
        work: Any = np.float32 if wide else np.int64
        shifted = x.astype(work)
        if zero is not None:
            shifted = shifted - spread(zero, x.shape, self.axis, self.block_size).astype(work)
        factor = spread(scale, x.shape, self.axis, self.block_size).astype(np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            return ((shifted.astype(np.float32) * factor).astype(self.to.numpy),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=2 * per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class DynamicQuantizeLinear(Op):
    """ONNX DynamicQuantizeLinear: ``x float32 -> y uint8, scale float32 [], zero_point uint8 []``, the range always with 0 in it.

    The range is that of the whole tensor, every image of the batch included. A tensor of zeros gets scale 1.
    """

    name: ClassVar[str] = "DynamicQuantizeLinear"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"DynamicQuantizeLinear takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.dtype is DType.F32, f"DynamicQuantizeLinear takes float32, not {x.dtype.value}")
        return result(DType.U8, x.shape), TensorType(DType.F32, ()), TensorType(DType.U8, ())

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = present(inputs, 0).astype(np.float32)
        low = np.float32(min(0.0, float(x.min()))) if x.size else np.float32(0)
        high = np.float32(max(0.0, float(x.max()))) if x.size else np.float32(0)
        scale = np.float32(1) if high == low else (high - low) / np.float32(255)
        with np.errstate(all="ignore"):
            zero = np.rint(np.clip(np.nan_to_num(np.float32(0) - low / scale), 0, 255)).astype(np.uint8)
        return quantize(x, np.asarray(scale, np.float32), np.asarray(zero), DType.U8), np.array(scale, np.float32), np.array(zero, np.uint8)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=4 * per_image(numel(outputs[0].shape)))


def _rows(parameter: np.ndarray | None, rank: int) -> np.ndarray | int:
    """A parameter of the left operand: one number, one a row, or broadcast as given."""
    if parameter is None:
        return 0
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    return parameter.reshape(-1, 1) if parameter.ndim == 1 and rank > 1 else parameter


def _columns(parameter: np.ndarray | None) -> np.ndarray | int:
    """A parameter of the right operand: one number, one a column, or broadcast as given."""
    if parameter is None:
        return 0
    return parameter.reshape(()) if parameter.size == 1 and parameter.ndim <= 1 else parameter


def _wide(parameter: np.ndarray | int) -> np.ndarray:
    return np.asarray(parameter).astype(np.int32)


def _product_type(a: TensorType, b: TensorType, dtype: DType) -> TensorType:
    from cnngraph.ops.dense import MatMul

    (y,) = MatMul().infer(TensorType(dtype, a.shape), TensorType(dtype, b.shape))
    return y


def _require_parameter(type_: TensorType | None, operand: TensorType, axis: int, what: str) -> None:
    if type_ is None or (type_.rank <= 1 and numel(type_.shape) == 1):
        return
    extent = operand.shape[axis] if operand.rank >= -axis else 1
    if type_.rank == 1:
        require(type_.shape == (extent,), f"{what} {show(type_.shape)} is neither one number nor {extent}")
        return
    require_broadcastable_to(type_.shape, operand.shape, what)


@dataclass(frozen=True)
class MatMulInteger(Op):
    """ONNX MatMulInteger: ``a, b, a_zero_point|None, b_zero_point|None -> int32 (a - a_zero) @ (b - b_zero)``."""

    name: ClassVar[str] = "MatMulInteger"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 4, f"MatMulInteger takes a, b and two zero points (or None), got {len(inputs)} inputs")
        a, b = needed(inputs[0], "a"), needed(inputs[1], "b")
        require_eight_bits(a, "a")
        require_eight_bits(b, "b")
        for zero, operand, axis, what in ((inputs[2], a, -2, "a"), (inputs[3], b, -1, "b")):
            require_zero_point(zero, operand.dtype, what)
            _require_parameter(zero, operand, axis, f"the zero point of {what}")
        return (_product_type(a, b, DType.I32),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        a, b = present(inputs, 0), present(inputs, 1)
        left = a.astype(np.int32) - _wide(_rows(inputs[2], a.ndim))
        right = b.astype(np.int32) - _wide(_columns(inputs[3]))
        return (np.asarray(exact_product(left, right)),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(macs=per_image(numel(outputs[0].shape)) * per_image(needed(inputs[0], "a").shape[-1]))


@dataclass(frozen=True)
class QLinearMatMul(Op):
    """ONNX QLinearMatMul: ``a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero -> y`` of the type ``to``.

    Parameters of a are one number or one a row, those of b one number or one a column. Eight-bit integers multiply as integers;
    small floats as float32. ``low`` and ``high`` bound an integer result; the type's own bounds by default.
    """

    name: ClassVar[str] = "QLinearMatMul"
    to: DType
    low: int = -128
    high: int = 255

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 8, f"QLinearMatMul takes 8 inputs, got {len(inputs)}")
        a, b = needed(inputs[0], "a"), needed(inputs[3], "b")
        for type_, operand, axis, what in ((inputs[1], a, -2, "a"), (inputs[4], b, -1, "b")):
            _require_parameter(needed(type_, f"the scale of {what}"), operand, axis, f"the scale of {what}")
        for zero, operand, axis, what in ((inputs[2], a, -2, "a"), (inputs[5], b, -1, "b")):
            require_zero_point(zero, operand.dtype, what)
            _require_parameter(zero, operand, axis, f"the zero point of {what}")
        require_zero_point(inputs[7], self.to, "y")
        require_single(needed(inputs[6], "the scale of y"), "the scale of y")
        require_single(inputs[7], "the zero point of y")
        return (_product_type(a, b, self.to),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        a, b = present(inputs, 0), present(inputs, 3)
        a_scale, b_scale = np.asarray(_rows(inputs[1], a.ndim)), np.asarray(_columns(inputs[4]))
        factor = multiplier(a_scale, b_scale, present(inputs, 6).reshape(()))
        if not (is_integer(DType.of(a)) and is_integer(self.to)):
            product = np.matmul(a.astype(np.float32), b.astype(np.float32))
            return (_to_small_float((product * factor).astype(np.float32), self.to, True),)
        left = a.astype(np.int32) - _wide(_rows(inputs[2], a.ndim))
        right = b.astype(np.int32) - _wide(_columns(inputs[5]))
        y = np.asarray(requantize(np.asarray(exact_product(left, right)), factor, single(inputs[7]), self.to))
        return (np.asarray(np.clip(y, *bounds_of(self.to, self.low, self.high))),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        elements = per_image(numel(outputs[0].shape))
        return Cost(macs=elements * per_image(needed(inputs[0], "a").shape[-1]), flops=2 * elements)


@dataclass(frozen=True)
class QGemm(Op):
    """``a[M,K], a_scale, a_zero, b[K,N], b_scale, b_zero, c|None, y_scale|None, y_zero|None -> y`` (com.microsoft).

    The int32 sum ``(a - a_zero) @ (b - b_zero) + c`` is requantised by ``alpha * a_scale * b_scale / y_scale``, or, where ``to`` is
    float32, multiplied by ``alpha * a_scale * b_scale``. ``low`` and ``high`` bound an integer result, as in :class:`QLinearMatMul`.
    """

    name: ClassVar[str] = "QGemm"
    to: DType
    alpha: float = 1.0
    low: int = -128
    high: int = 255

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 9, f"QGemm takes 9 inputs, got {len(inputs)}")
        a, b, c = needed(inputs[0], "a"), needed(inputs[3], "b"), inputs[6]
        require_eight_bits(a, "a")
        require_eight_bits(b, "b")
        require(a.rank == 2 and b.rank == 2, f"QGemm multiplies matrices, not {show(a.shape)} and {show(b.shape)}")
        y = _product_type(a, b, self.to)
        columns = forbid_batch(y.shape[1], "the columns of a matrix of weights")
        for zero, operand, what in ((inputs[2], a, "a"), (inputs[5], b, "b")):
            require_zero_point(zero, operand.dtype, what)
        for parameter, what in ((inputs[1], "scale of a"), (inputs[2], "zero point of a"), (inputs[7], "scale of y")):
            require_single(parameter, f"the {what}")
        for parameter, what in ((inputs[4], "scale of b"), (inputs[5], "zero point of b")):
            require_per_channel(parameter, columns, f"the {what}")
        if c is not None:
            require(c.dtype is DType.I32, f"c is {c.dtype.value}, not int32")
            require_broadcastable_to(c.shape, y.shape, "c")
        require((self.to is DType.F32) == (inputs[7] is None), "the scale of y belongs to a quantised result")
        if inputs[8] is not None:
            require_zero_point(inputs[8], self.to, "y")
        return (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        a, b, c = present(inputs, 0), present(inputs, 3), inputs[6]
        left = a.astype(np.int32) - _wide(single(inputs[2]))
        right = b.astype(np.int32) - _wide(_columns(inputs[5]))
        acc = exact_product(left, right)
        if c is not None:
            acc = acc + c
        factor: Any = np.float32(self.alpha) * single(inputs[1]).astype(np.float32) * np.asarray(_columns(inputs[4])).astype(np.float32)
        if self.to is DType.F32:
            return ((acc.astype(np.float32) * factor).astype(np.float32),)
        factor = factor / single(inputs[7]).astype(np.float32)
        y = np.asarray(requantize(acc, np.asarray(factor), single(inputs[8]), self.to))
        return (np.asarray(np.clip(y, *bounds_of(self.to, self.low, self.high))),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        elements = per_image(numel(outputs[0].shape))
        return Cost(macs=elements * per_image(needed(inputs[0], "a").shape[-1]), flops=3 * elements)
