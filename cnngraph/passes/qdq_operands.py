"""What the passes on networks in the QDQ form read: operands that are dequantised, constant weights and biases as integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType
from cnngraph.ops import Transpose
from cnngraph.ops.quantized import EIGHT_BITS, DequantizeLinear, QuantizeLinear, greatest_distance, greatest_sum, quantize

_BIAS_TOLERANCE = 1e-5
_BIAS_ROUNDING = 0.02
"""Which part of the result's step a bias may be in units of, that is no integer in these."""
_GREATEST_INT32 = 2**31 - 1


class LeftFloatError(Exception):
    """Why a part of a network stays in float32."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """Integers, and the parameters (constants) that give them their meaning."""

    value: Value
    scale: Value
    zero: Value | None

    @property
    def dtype(self) -> DType:
        """The integers' type."""
        return self.value.type.dtype

    @property
    def step(self) -> np.ndarray:
        """The scale as an array."""
        assert self.scale.data is not None
        return self.scale.data.reshape(())

    def integer(self, number: float) -> int:
        """What ``number`` is quantised to."""
        return int(quantize(np.array(number, np.float32), self.step, np.array(zero_of(self.zero)), self.dtype))

    def means(self, other: Quantized) -> bool:
        """Whether equal numbers mean the same as in ``other``."""
        return self.dtype is other.dtype and number_of(self.scale) == number_of(other.scale) and zero_of(self.zero) == zero_of(other.zero)


@dataclass(frozen=True, eq=False)
class Weights:
    """Constant integers, and the parameters of each output channel, or of all."""

    value: Value
    scale: Value
    zero: Value | None

    def units(self, x: Quantized) -> np.ndarray:
        """What the sums of products with ``x`` are in multiples of, float64 [channels] or [1]."""
        assert self.scale.data is not None
        return np.float64(number_of(x.scale)) * self.scale.data.reshape(-1).astype(np.float64)

    def overflow(self, x: Quantized, axis: int, bias: np.ndarray) -> bool:
        """Whether a sum of products with ``x``, and the ``bias`` int32 [channels], may leave int32; ``axis`` is that of the channels."""
        assert self.value.data is not None
        rows = np.moveaxis(self.value.data, axis, 0)
        zeros = np.zeros(1) if self.zero is None or self.zero.data is None else self.zero.data.reshape(-1)
        weights = rows.reshape(rows.shape[0], -1).astype(np.float64) - zeros.astype(np.float64)[:, None]
        return greatest_sum(weights, greatest_distance(x.dtype, zero_of(x.zero)), bias) > _GREATEST_INT32


def number_of(value: Value) -> float:
    """The only element of a constant, or the first."""
    assert value.data is not None
    return float(value.data.reshape(-1)[0])


def zero_of(value: Value | None) -> int:
    """A constant zero point; 0 if there is none."""
    return 0 if value is None else int(number_of(value))


def array_of(value: Value | None) -> np.ndarray | None:
    """The elements of a constant."""
    return None if value is None else value.data


def _is_single_constant(value: Value | None) -> bool:
    return value is None or (value.data is not None and value.data.size == 1)


def parameters_of(node: Node, integers: Value) -> Quantized | None:
    """``integers`` with the parameters of a QuantizeLinear or DequantizeLinear node, if those are single constants for 8 bits."""
    scale, zero = node.input(1), node.inputs[2]
    if integers.type.dtype not in EIGHT_BITS or scale.type.dtype is not DType.F32:
        return None
    if not _is_single_constant(scale) or not _is_single_constant(zero) or not np.isfinite(number_of(scale)) or number_of(scale) <= 0:
        return None
    return Quantized(integers, scale, zero)


def dequantized(value: Value) -> Quantized:
    """What ``value`` is dequantised from; LeftFloatError if it is not, or by more than one constant scale."""
    node = value.producer
    if node is None or not isinstance(node.op, DequantizeLinear) or node.op.to is not DType.F32:
        what = node.op.name if node else "a constant" if value.data is not None else "an input of the network"
        raise LeftFloatError(f"an operand is {what}, not dequantised")
    found = parameters_of(node, node.input(0))
    if found is None:
        raise LeftFloatError("an operand is not dequantised from 8 bits by one constant scale")
    return found


def integers_of(value: Value) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Constant integers, given or quantised from a constant, perhaps transposed since, and the ONNX nodes they come from."""
    if value.data is not None:
        return value.data, ()
    node = value.producer
    if node is not None and isinstance(node.op, Transpose):
        found = integers_of(node.input(0))
        return None if found is None else (np.ascontiguousarray(found[0].transpose(node.op.perm)), (*found[1], *node.origin))
    if node is None or not isinstance(node.op, QuantizeLinear) or any(v is not None and v.data is None for v in node.inputs):
        return None
    return node.op.reference(*(array_of(v) for v in node.inputs))[0], node.origin


def floats_of(value: Value) -> np.ndarray | None:
    """A float constant, given or dequantised from constants."""
    node = value.producer
    if value.data is not None or node is None or not isinstance(node.op, DequantizeLinear):
        return value.data
    found, parameters = integers_of(node.input(0)), node.inputs[1:]
    if found is None or any(v is not None and v.data is None for v in parameters):
        return None
    return node.op.reference(found[0], *(array_of(v) for v in parameters))[0]


def weights_of(graph: Graph, value: Value, axis: int) -> Weights:
    """Constant 8-bit weights, per tensor or along ``axis``, perhaps transposed after their dequantisation; LeftFloatError if not."""
    producer, perm = value.producer, tuple(range(value.type.rank))
    if producer is not None and isinstance(producer.op, Transpose):
        value, perm = producer.input(0), producer.op.perm
    node = value.producer
    if node is None or not isinstance(node.op, DequantizeLinear) or node.op.to is not DType.F32:
        raise LeftFloatError("the weights are not dequantised")
    found = integers_of(node.input(0))
    scale, zero = node.input(1), node.inputs[2]
    if found is None or node.input(0).type.dtype not in EIGHT_BITS or scale.data is None or (zero is not None and zero.data is None):
        raise LeftFloatError("the weights are not constant 8-bit integers")
    if node.op.block_size or scale.type.dtype is not DType.F32:
        raise LeftFloatError("the scales of the weights are by block, or not float32")
    if scale.data.size != 1 and node.op.axis != perm[axis]:
        raise LeftFloatError("the scales of the weights are not along their output channels")
    data = found[0].transpose(perm)
    whole = producer is node and found[0] is node.input(0).data
    constant = node.input(0) if whole else graph.constant(np.ascontiguousarray(data))
    return Weights(constant, scale, zero)


def bias_of(value: Value | None, x: Quantized, w: Weights, y: Quantized, axis: int) -> np.ndarray | None:
    """A constant bias as int32 [channels] in units of x's scale times the weights', along whose ``axis`` the channels are.

    Quantisers give such integers, or float32 numbers, which are rounded to them where the unit is a small part of the result's step (as
    onnxruntime does wherever it is).

    Returns:
        None if there is no bias, or only zeros.

    Raises:
        LeftFloatError: it is computed, would be rounded too much, or a sum may leave int32.
    """
    if value is None or (value.data is not None and not value.data.any()):
        return None
    channels = w.value.type.shape[axis]
    assert isinstance(channels, int)
    whole = _whole_bias(value, w.units(x), y)
    if whole.size not in (1, channels):
        raise LeftFloatError("the bias is not one number a channel")
    bias = np.ascontiguousarray(np.broadcast_to(whole, (channels,)))
    if w.overflow(x, axis, bias):
        raise LeftFloatError("sums with the bias may leave int32")
    return bias


def _whole_bias(value: Value, units: np.ndarray, y: Quantized) -> np.ndarray:
    node = value.producer
    if node is not None and isinstance(node.op, DequantizeLinear) and node.input(0).type.dtype is DType.I32:
        found, scale, zero = integers_of(node.input(0)), node.input(1).data, node.inputs[2]
        centred = zero is None or (zero.data is not None and not zero.data.any())
        if found is not None and scale is not None and centred and np.allclose(scale.reshape(-1), units, rtol=_BIAS_TOLERANCE, atol=0.0):
            return found[0].reshape(-1)
    floats = floats_of(value)
    if floats is None:
        raise LeftFloatError("the bias is computed")
    if units.max() > _BIAS_ROUNDING * float(y.step):
        raise LeftFloatError("the bias would be rounded by more than a small part of the result's step")
    whole = np.rint(floats.reshape(-1).astype(np.float64) / units)
    if not np.isfinite(whole).all() or np.abs(whole).max(initial=0) > _GREATEST_INT32:
        raise LeftFloatError("the bias may leave int32 in units of the scales' product")
    return whole.astype(np.int32)
