"""Quantisation, its inverse, and sums and products of 8-bit tensors, as the operators define them to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import Dim, DType, numel
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops.quantized import DequantizeLinear, QuantizeLinear
from cnngraph.ops.quantized_elementwise import QLinearBinary, add_parameters
from cnngraph_cuda.language import (
    add,
    as_float,
    div,
    float_of_long,
    fma,
    long_add,
    long_max,
    long_min,
    long_mul,
    long_sub,
    mul,
    round_even,
    select,
    truncate,
)
from cnngraph_cuda.templates.common import DATA_TYPES, INTEGERS
from cnngraph_cuda.templates.strided import broadcast_strides, plain_layouts, refuse_axes, refuse_shapes, strided_call, strided_code

OPERANDS = LOW = HIGH = PRODUCT = 0
_TYPES = {DType.I8, DType.U8, DType.I16, DType.U16}


def round_off(ratio: float) -> None:
    """``out`` is the nearest integer; beyond 2**20, and for NaN, one far beyond any bound."""
    whole = round_even(ratio)
    whole = select(whole > as_float(-914358272), whole, as_float(-914358272))
    whole = select(whole < as_float(1233125376), whole, as_float(1233125376))
    out = truncate(whole)


def bound() -> None:
    """``out`` between the bounds."""
    out = long_max(out, LOW)
    out = long_min(out, HIGH)


def quantize() -> None:
    """``saturate(rint(x / scale) + zero_point)``."""
    round_off(div(value[0], value[1]))
    if OPERANDS > 2:
        out = long_add(out, value[2])
    bound()


def dequantize() -> None:
    """``(x - zero_point) * scale``."""
    whole = value[0]
    if OPERANDS > 2:
        whole = long_sub(whole, value[2])
    out = mul(float_of_long(whole), value[1])


def binary() -> None:
    """``rint(fma(a, ra, fma(b, rb, fixed)))``, or ``rint(a * b * factor + zero)`` where a and b are centred; each step rounded."""
    if PRODUCT:
        left = long_sub(value[0], truncate(value[4]))
        right = long_sub(value[1], truncate(value[5]))
        ratio = fma(float_of_long(long_mul(left, right)), value[2], 0.0)
        round_off(add(ratio, value[3]))
    else:
        ratio = fma(float_of_long(value[1]), value[3], value[4])
        round_off(fma(float_of_long(value[0]), value[2], ratio))
    bound()


class _Edge:
    reorders_arithmetic = False
    any_batch_axis = True

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return plain_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0


def _refuse_parameters(node: Node, whole: DType, block: int) -> str | None:
    x, scale, zero = node.input(0).type, node.input(1).type, node.inputs[2]
    if whole not in _TYPES or scale.dtype not in DATA_TYPES or (zero is not None and zero.type.dtype not in INTEGERS):
        return f"{whole.value} with scales of {scale.dtype.value}"
    return "scales of blocks" if block or scale.rank > 1 or x.rank == 0 else refuse_shapes(node)


def _along(value: Value, rank: int, axis: int) -> list[Dim]:
    """Strides of a parameter: 0, or 1 along the axis that it has a number for each element of."""
    return [int(i == axis and numel(value.type.shape) != 1) for i in range(rank)]


class QuantizeStrided(_Edge):
    """QuantizeLinear to 8 and 16 bits, by one scale or one along an axis."""

    name = "quantize"
    code = strided_code(quantize, "Floats to integers by scale and zero point.", round_off=round_off, bound=bound)

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, scales of blocks, and quotients of fewer bits than float32."""
        op = node.op
        if not isinstance(op, QuantizeLinear):
            return "not a quantisation"
        if op.precision is not DType.F32 or node.input(0).type.dtype not in DATA_TYPES:
            return f"quotients of {op.precision.value}"
        return _refuse_parameters(node, op.to, op.block_size)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, values = node.op, [v for v in node.inputs if v is not None]
        assert isinstance(op, QuantizeLinear)
        rank = node.output.type.rank
        steps = [broadcast_strides(values[0].type.shape, rank), *(_along(v, rank, op.axis) for v in values[1:])]
        low, high = op.to.range
        return strided_call(self, target, values, node.output, (("LOW", low), ("HIGH", high)), strides=steps)


class DequantizeStrided(_Edge):
    """DequantizeLinear of 8 and 16 bits, by one scale or one along an axis."""

    name = "dequantize"
    code = strided_code(dequantize, "Integers to floats by scale and zero point.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types and scales of blocks."""
        op = node.op
        if not isinstance(op, DequantizeLinear):
            return "not a dequantisation"
        if op.to not in DATA_TYPES:
            return f"to {op.to.value}"
        return _refuse_parameters(node, node.input(0).type.dtype, op.block_size)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, values = node.op, [v for v in node.inputs if v is not None]
        assert isinstance(op, DequantizeLinear)
        rank = node.output.type.rank
        steps = [broadcast_strides(values[0].type.shape, rank), *(_along(v, rank, op.axis) for v in values[1:])]
        return strided_call(self, target, values, node.output, strides=steps)


class QBinaryStrided(_Edge):
    """QLinearAdd and QLinearMul, with any broadcast."""

    name = "qbinary"
    code = strided_code(binary, "Sum or product of 8-bit tensors, requantised.", round_off=round_off, bound=bound)

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters computed at run time."""
        if not isinstance(node.op, QLinearBinary):
            return "not an 8-bit sum or product"
        if any(node.inputs[i] is not None and node.input(i).data is None for i in (1, 2, 4, 5, 6, 7)):
            return "a scale is computed at run time"
        return refuse_axes(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, y = node.op, node.output
        assert isinstance(op, QLinearBinary)
        p = op.parameters([None if v is None else v.data for v in node.inputs])
        with np.errstate(all="ignore"):
            factor = np.float32(p["a_scale"] * p["b_scale"]) / p["y_scale"]
        numbers = add_parameters(p) if op.kind == "add" else (factor, p["y_zero"], p["a_zero"], p["b_zero"])
        low, high = op.bounds(y.type.dtype)
        constants = (("LOW", low), ("HIGH", high), ("PRODUCT", int(op.kind == "mul")))
        return strided_call(self, target, [node.input(0), node.input(3)], y, constants, numbers=[float(n) for n in numbers])
