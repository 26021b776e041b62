"""Integer convolutions, products, maxima and interpolations that no integer kernel takes, computed in float32 with the same bits.

A convolution of one filter a channel over three spatial axes becomes

    quantize(conv(dequantize(x, 1, x_zero), w - w_zero) * multiplier, 1, y_zero)

and so do products of two computed matrices. The sums are whole numbers; where the greatest possible one is below 2**24, float32 holds each
of them exactly in any order, so the result is that of integer arithmetic. Maxima over three spatial axes are exact anyway, and so is
interpolation of bytes by weights that are multiples of a power of two (twice and four times the extents).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import EXACT_F32, DType, per_image
from cnngraph.ops import Conv, Elementwise, MatMul, Pool
from cnngraph.ops.base import Op
from cnngraph.ops.expression import Expression
from cnngraph.ops.quantized import (
    EIGHT_BITS,
    DequantizeLinear,
    QLinearMatMul,
    QuantizeLinear,
    bounds_of,
    greatest_distance,
    greatest_sum,
    multiplier,
    single,
)
from cnngraph.ops.quantized_conv import QLinearConv
from cnngraph.ops.resize import Resize
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import channel_constant


@dataclass(frozen=True)
class IntegersAsFloats(Pass):
    """qlinear_conv(x) => quantize(conv(dequantize(x))), likewise maxima and interpolation."""

    name: ClassVar[str] = "integers_as_floats"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit all in graph order."""
        changes = 0
        for node in graph.nodes:
            value: Value | str | None = None
            if isinstance(node.op, QLinearConv):
                value = _convolution(graph, node, node.op)
            elif isinstance(node.op, QLinearMatMul):
                value = _product(graph, node, node.op)
            elif isinstance(node.op, Pool) and node.op.kind == "max" and not node.op.indices and len(node.op.kernel) == 3:
                value = _through_floats(graph, node) if node.output.type.dtype in EIGHT_BITS else None
            elif isinstance(node.op, Resize) and node.op.mode != "nearest" and node.output.type.dtype in EIGHT_BITS:
                value = _interpolation(graph, node, node.op)
            if isinstance(value, str):
                context.reject(self.name, node, value)
            elif value is not None:
                graph.replace_uses(node.output, value)
                graph.erase(node)
                changes += 1
        return changes


def _convolution(graph: Graph, node: Node, op: QLinearConv) -> Value | str | None:
    """The new result, a reason against it, or None where kernels of integers take the node."""
    data = [None if value is None else value.data for value in node.inputs]
    x, w, x_zero, y_zero = node.input(0), data[3], single(data[2]), single(data[7])
    if any(value is not None and value.data is None for value in node.inputs[1:]) or w is None:
        return None
    spread = (-1,) + (1,) * (w.ndim - 1)
    weights = w.astype(np.int64) - (0 if data[5] is None else data[5].astype(np.int64).reshape(spread))
    one_filter_a_channel = op.group == x.type.shape[1] == w.shape[0]
    if len(op.kernel) != 3 or not one_filter_a_channel:
        return None
    bias = np.zeros(w.shape[0], np.int64) if data[8] is None else data[8].astype(np.int64).reshape(-1)
    if greatest_sum(weights, greatest_distance(x.type.dtype, int(x_zero)), bias) >= EXACT_F32:
        return "its sums may pass 2**24, so that float32 does not hold them exactly"
    scales = [array for array in (data[1], data[4], data[6]) if array is not None]
    factor = np.broadcast_to(multiplier(single(scales[0]), scales[1].reshape(-1), single(scales[2])), bias.shape)
    if not np.isfinite(factor).all():
        return "a multiplier is not finite"

    def emit(new: Op, *inputs: Value | None) -> Value:
        return graph.add(new, inputs, origin=node.origin, before=node)[0]

    one = graph.constant(np.ones((), np.float32))
    numbers = emit(DequantizeLinear(DType.F32), x, one, node.inputs[2])
    conv = Conv(op.kernel, op.strides, op.pads, op.dilations, op.group)
    sums = emit(conv, numbers, graph.constant(weights.astype(np.float32)), graph.constant(bias.astype(np.float32)))
    y = emit(Elementwise(Expression.of("mul", 2)), sums, channel_constant(graph, factor, sums))
    if op.bounds() != op.to.range:
        bounds = tuple(float(bound - int(y_zero)) for bound in op.bounds())
        y = emit(Elementwise(Expression.of("clip", 1, bounds)), y)
    return emit(QuantizeLinear(op.to), y, one, node.inputs[7])


def _product(graph: Graph, node: Node, op: QLinearMatMul) -> Value | str | None:
    """Of two computed tensors, as attention has; a constant matrix on the right has a kernel of its own."""
    a, b = node.input(0), node.input(3)
    parameters = [None if v is None else v.data for i, v in enumerate(node.inputs) if i not in (0, 3)]
    if b.is_constant or not all(t in EIGHT_BITS for t in (a.type.dtype, b.type.dtype, op.to)):
        return None
    if any(v is not None and (v.data is None or v.data.size != 1) for i, v in enumerate(node.inputs) if i not in (0, 3)):
        return "parameters by row or column, or computed at run time"
    zeros = [0 if parameters[i] is None else int(single(parameters[i])) for i in (1, 3)]
    distances = [greatest_distance(v.type.dtype, zero) for v, zero in zip((a, b), zeros, strict=True)]
    depth = a.type.shape[-1]
    if not isinstance(depth, int) or depth * distances[0] * distances[1] >= EXACT_F32:
        return "its sums may pass 2**24, so that float32 does not hold them exactly"
    assert parameters[0] is not None and parameters[2] is not None and parameters[4] is not None
    factor = multiplier(single(parameters[0]), single(parameters[2]), single(parameters[4]))
    if not np.isfinite(factor).all():
        return "a multiplier is not finite"
    one = graph.constant(np.ones((), np.float32))

    def emit(new: Op, *inputs: Value | None) -> Value:
        return graph.add(new, inputs, origin=node.origin, before=node)[0]

    floats = [emit(DequantizeLinear(DType.F32), node.input(i), one, node.inputs[i + 2]) for i in (0, 3)]
    y = emit(Elementwise(Expression.of("mul", 2)), emit(MatMul(), *floats), graph.constant(np.asarray(factor, np.float32).reshape(())))
    low, high = (int(bound) for bound in bounds_of(op.to, op.low, op.high))
    if (low, high) != op.to.range:
        zero = 0 if parameters[5] is None else int(single(parameters[5]))
        y = emit(Elementwise(Expression.of("clip", 1, (float(low - zero), float(high - zero)))), y)
    return emit(QuantizeLinear(op.to), y, one, node.inputs[7])


def _interpolation(graph: Graph, node: Node, op: Resize) -> Value | str:
    bits = 8
    for table in op.samples([per_image(node.input(0).type.shape[axis]) for axis in op.axes]):
        needed = next((k for k in range(9) if not (table.weights * 2**k % 1).any()), None)
        if needed is None or table.outside is not None:
            return "weights that are no multiples of a power of two, or positions outside the input"
        bits += needed + int(np.abs(table.weights).sum(axis=1).max() > 1)
    return _through_floats(graph, node) if 2**bits <= EXACT_F32 else "its sums may pass 2**24, so that float32 does not hold them exactly"


def _through_floats(graph: Graph, node: Node) -> Value:
    one, dtype = graph.constant(np.ones((), np.float32)), node.output.type.dtype
    zero = graph.constant(np.zeros((), dtype.numpy))
    (x,) = graph.add(DequantizeLinear(DType.F32), [node.input(0), one, zero], origin=node.origin, before=node)
    (y,) = graph.add(node.op, [x], origin=node.origin, before=node)
    return graph.add(QuantizeLinear(dtype), [y, one, zero], origin=node.origin, before=node)[0]


__all__ = ["IntegersAsFloats"]
