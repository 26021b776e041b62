"""What the templates of 8-bit operators share: a layer read off its node, refusals, and requantisation constants.

Integer results are those of the operators' references bit for bit on every instruction set: sums are exact, and requantisation
multiplies float32 by float32, rounds to even, and saturates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import DType, round_up
from cnngraph.kernels.template import Argument, Extent, Packed, Pointer
from cnngraph.ops.base import Op
from cnngraph.ops.quantized import MatMulInteger, QGemm, QLinearMatMul, bounds_of, multiplier
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv

EIGHT = (DType.I8, DType.U8)
UNUSED = Packed(np.zeros(64, np.uint8))
TO_BYTES, TO_FLOATS, TO_WORDS = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Layer:
    """An integer convolution or matrix product whose weights are known.

    Attributes:
        x: the activations.
        weights: int32, less their zero points, in the operator's own order of axes.
        x_zero: the zero point of the activations, or the value that holds it at run time.
        bias: int32 [channels], or None.
        factors: float32 [channels] of the requantisation, or None for results that are not 8 bits.
        y_zero, low, high: zero point and bounds of the result.
        output: TO_BYTES, TO_FLOATS or TO_WORDS.
        operands: of the epilogue.
    """

    x: Value
    weights: np.ndarray
    x_zero: int | Value
    bias: np.ndarray | None
    factors: np.ndarray | None
    y_zero: int
    low: int
    high: int
    output: int
    operands: tuple[Value | None, ...]

    @property
    def signed(self) -> bool:
        """Whether the activations are int8."""
        return self.x.type.dtype is DType.I8


def constants_missing(node: Node, indices: Sequence[int]) -> str | None:
    """A refusal if one of these inputs is computed at run time."""
    for index in indices:
        value = node.inputs[index]
        if value is not None and value.data is None:
            return f"input {index} is computed at run time"
    return None


def number(value: Value | None, default: int = 0) -> int:
    """A constant zero point."""
    return default if value is None or value.data is None else int(value.data.reshape(-1)[0])


def only_one(value: Value | None) -> bool:
    """Whether a parameter is absent or one number."""
    return value is None or all(d == 1 for d in value.type.shape)


def refuse_layer(node: Node, op: Op) -> str | None:
    """A refusal unless :func:`layer_of` understands the node."""
    if isinstance(op, QLinearConv):
        return constants_missing(node, range(1, 9))
    if isinstance(op, ConvInteger):
        return constants_missing(node, (1, 3))
    if isinstance(op, QLinearMatMul):
        if node.input(0).type.dtype not in EIGHT or node.input(3).type.dtype not in EIGHT or op.to not in EIGHT:
            return "not 8-bit integers"
        if not only_one(node.inputs[1]) or not only_one(node.inputs[2]):
            return "a scale or zero point for each row"
        return constants_missing(node, range(1, 8))
    if isinstance(op, QGemm):
        c = node.inputs[6]
        if c is not None and c.type.rank == 2 and c.type.shape[0] != 1:
            return "a bias that differs between rows"
        return constants_missing(node, range(1, 9))
    if isinstance(op, MatMulInteger):
        if not only_one(node.inputs[2]):
            return "a zero point for each row"
        return constants_missing(node, (1, 3))
    return "not an integer layer"


def layer_of(node: Node) -> Layer:
    """The layer of a node that :func:`refuse_layer` does not refuse."""
    op, arrays = node.op, [None if v is None else v.data for v in node.inputs]
    if isinstance(op, (ConvInteger, MatMulInteger)):
        weights, w_zero, x_zero = arrays[1], arrays[3], node.inputs[2]
        assert weights is not None
        to_float = isinstance(op, ConvInteger) and op.to is DType.F32
        zero: int | Value = number(x_zero) if x_zero is None or x_zero.data is not None else x_zero
        centred = _centred(weights, w_zero, isinstance(op, MatMulInteger))
        output = TO_FLOATS if to_float else TO_WORDS
        return Layer(node.input(0), centred, zero, None, None, 0, 0, 0, output, node.inputs[4:])
    assert isinstance(op, (QLinearConv, QLinearMatMul, QGemm))
    weights = arrays[3]
    assert weights is not None
    x_scale, w_scale, w_zero = arrays[1], arrays[4], arrays[5]
    assert x_scale is not None and w_scale is not None
    columns = not isinstance(op, QLinearConv)
    centred = _centred(weights, w_zero, columns)
    channels = weights.shape[1] if columns else weights.shape[0]
    output = TO_BYTES
    factors: Any
    low, high = (int(v) for v in bounds_of(op.to, op.low, op.high)) if op.to in EIGHT else (0, 0)
    if isinstance(op, QGemm):
        y_scale, y_zero, bias = arrays[7], node.inputs[8], arrays[6]
        factors = np.float32(op.alpha) * x_scale.reshape(()).astype(np.float32) * w_scale.reshape(-1).astype(np.float32)
        if y_scale is None:
            output = TO_FLOATS
        else:
            factors = factors / y_scale.reshape(()).astype(np.float32)
    else:
        y_scale, y_zero, bias = arrays[6], node.inputs[7], arrays[8] if isinstance(op, QLinearConv) else None
        assert y_scale is not None
        factors = multiplier(x_scale.reshape(()), w_scale.reshape(-1), y_scale.reshape(()))
    factors = np.ascontiguousarray(np.broadcast_to(factors, (channels,)).astype(np.float32))
    if bias is not None:
        bias = np.broadcast_to(bias.reshape(-1).astype(np.int32), (channels,))
    return Layer(node.input(0), centred, number(node.inputs[2]), bias, factors, number(y_zero), low, high, output, ())


def _centred(weights: np.ndarray, zero: np.ndarray | None, columns: bool) -> np.ndarray:
    wide: np.ndarray = weights.astype(np.int32)
    if zero is None:
        return wide
    shape = [1] * wide.ndim
    shape[-1 if columns else 0] = -1
    return wide - zero.reshape(-1).astype(np.int32).reshape(shape)


def finite(layer: Layer) -> str | None:
    """A refusal unless the requantisation multiplies by finite numbers."""
    return None if layer.factors is None or bool(np.isfinite(layer.factors).all()) else "a multiplier that is not finite"


def packs(layer: Layer, to: DType) -> bool:
    """Whether four vectors of results may be rounded and packed at once: uint8 results, and no product leaves int32."""
    return to is DType.U8 and layer.output == TO_BYTES and layer.factors is not None and bool((np.abs(layer.factors) < 1).all())


def padded(data: np.ndarray | None, size: int, dtype: type[np.generic]) -> Packed:
    """One number a channel, padded by zeros to whole tiles; wraps around as int32 does."""
    out = np.zeros(size, np.int64 if dtype is np.int32 else dtype)
    if data is not None:
        out[: data.size] = data.reshape(-1)
    return Packed((out & 0xFFFFFFFF).astype(np.uint32).view(np.int32) if dtype is np.int32 else out)


def channel_arguments(layer: Layer, sums: np.ndarray, deltas: np.ndarray | None, channels: int, unit: int) -> dict[str, Argument]:
    """Arguments ``b``, ``weight_sums``, ``deltas``, ``factors`` and ``zero_at``; ``sums`` are those of the weights less zero points.

    With a zero point known here, the bias holds its part already.
    """
    size = round_up(channels, unit)
    bias = np.zeros(channels, np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    given = isinstance(layer.x_zero, Value)
    if not isinstance(layer.x_zero, Value):
        bias = bias - unsigned_zero(layer) * sums
    return {
        "b": padded(bias, size, np.int32),
        "weight_sums": padded(sums, size, np.int32) if given else UNUSED,
        "deltas": UNUSED if deltas is None else padded(deltas, size, np.int32),
        "factors": UNUSED if layer.factors is None else padded(layer.factors, size, np.float32),
        "zero_at": Pointer(layer.x_zero) if isinstance(layer.x_zero, Value) else UNUSED,
    }


def unsigned_zero(layer: Layer) -> int:
    """The zero point of the activations as unsigned bytes; 0 where it is known at run time only."""
    if isinstance(layer.x_zero, Value):
        return 0
    return layer.x_zero + (128 if layer.signed else 0)


def bound_arguments(layer: Layer) -> dict[str, Argument]:
    """Arguments ``x_zero``, ``y_zero``, ``low_int`` and ``high_int``."""
    numbers = {
        "x_zero": unsigned_zero(layer), "y_zero": layer.y_zero, "low_int": layer.low - layer.y_zero,
        "high_int": layer.high - layer.y_zero,
    }  # fmt: skip
    return {name: Extent(value) for name, value in numbers.items()}


def signed_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights in a signed byte, and for each channel (axis 0) what was subtracted from them, or None if nothing was."""
    rows = weights.reshape(weights.shape[0], -1)
    least, most = rows.min(axis=1), rows.max(axis=1)
    if least.min() >= -128 and most.max() <= 127:
        return weights, None
    deltas = np.where(most > 127, most - 127, np.where(least < -128, least + 128, 0)).astype(np.int64)
    return weights - deltas.reshape([-1] + [1] * (weights.ndim - 1)).astype(np.int32), deltas
