"""Networks of 8-bit integers as networks of floats that hold integers: exact, and on the kernels of floats.

A tensor of 8 bits becomes a float32 tensor of the same numbers. A product of two such numbers is exact in float32 and, as both have at
most 9 bits, on tensor cores in tf32 too. A layer is rewritten only if no sum of it, whatever the input, exceeds the 24 bits of
float32's mantissa, so that its sums are the integers'. Requantisation, ``clip(rint(sum * factor) + zero_point)``, is the layer's
epilogue, in the operators' own order of operations. Quantised NaN has no defined number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import EXACT_F32, DType, numel
from cnngraph.ops import Cast, Concat, Conv, Elementwise, Expand, Gather, MatMul, Pad, Pool, Reduce, Reshape, Resize, Slice, Transpose
from cnngraph.ops.base import Op
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.quantized import (
    EIGHT_BITS,
    DequantizeLinear,
    MatMulInteger,
    QGemm,
    QLinearMatMul,
    QuantizeLinear,
    bounds_of,
    greatest_distance,
    greatest_sum,
    multiplier,
)
from cnngraph.ops.quantized_conv import ConvInteger, QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool
from cnngraph.ops.quantized_elementwise import QLinearUnary, QTable

_MOVES = (Transpose, Reshape, Concat, Slice, Pad, Expand, TakeChannels, Gather, Resize)


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.floats: dict[Value, Value] = {}
        self.node: Node | None = None

    def add(self, op: Op, *inputs: Value | None) -> Value:
        """A node before the one being rewritten, of the same origin."""
        assert self.node is not None
        return self.graph.add(op, inputs, origin=self.node.origin, before=self.node)[0]

    def float_of(self, value: Value) -> Value:
        """The numbers of an integer tensor as float32."""
        if value not in self.floats:
            if value.data is not None:
                self.floats[value] = self.graph.constant(value.data.astype(np.float32))
            else:
                self.floats[value] = self.add(Cast(DType.F32), value)
        return self.floats[value]

    def number(self, data: np.ndarray) -> Value:
        """A float32 constant."""
        return self.graph.constant(np.asarray(data, np.float32))

    def centred(self, value: Value, zero: Value | None) -> Value:
        """``value - zero`` as float32; the zero point is one number."""
        x = self.float_of(value)
        if zero is None or (zero.data is not None and not zero.data.any()):
            return x
        if zero.data is not None:
            return self.apply([Instr("shift", (0,), (-float(zero.data.reshape(-1)[0]),))], x)
        whole = self.add(Reshape(()), self.float_of(zero)) if zero.type.rank else self.float_of(zero)
        return self.apply([Instr("sub", (0, 1))], x, whole)

    def apply(self, instrs: Sequence[Instr], *operands: Value) -> Value:
        """An element-wise node."""
        return self.add(Elementwise(Expression(len(operands), tuple(instrs))), *operands)


def _data(value: Value | None) -> np.ndarray | None:
    return None if value is None else value.data


def _known(values: Sequence[Value | None]) -> bool:
    """Whether all that are there are constants."""
    return all(v is None or v.data is not None for v in values)


def _single(value: Value | None) -> bool:
    return value is None or numel(value.type.shape) == 1


def _zero(value: Value | None) -> float:
    data = _data(value)
    return 0.0 if data is None else float(data.reshape(-1)[0])


def _distance(x: Value, zero: Value | None) -> int:
    """The greatest magnitude of a number of ``x`` minus its zero point."""
    return greatest_distance(x.type.dtype, None if zero is not None and zero.data is None else int(_zero(zero)))


def _finish(factor: np.ndarray, zero: float, low: float, high: float, shape: Sequence[int]) -> tuple[list[Instr], list[np.ndarray]]:
    """``clip(rint(x * factor) + zero)`` of input 0, and its operand if the factor is not one number."""
    factor = np.asarray(factor, np.float32)
    if factor.size == 1:
        first, operands, at = Instr("scale", (0,), (float(factor.reshape(-1)[0]),)), [], 1
    else:
        first, operands, at = Instr("mul", (0, 1)), [factor.reshape(shape)], 2
    return [first, Instr("round", (at,)), Instr("shift", (at + 1,), (zero,)), Instr("clip", (at + 2,), (float(low), float(high)))], operands


def _column(op: Conv | QLinearConv | ConvInteger) -> tuple[int, ...]:
    return (1, -1, *[1] * len(op.kernel))


def _weights(weights: Value, zero: Value | None) -> np.ndarray:
    """Weights of a convolution minus their zero point."""
    assert weights.data is not None
    wide = weights.data.astype(np.float64)
    data = _data(zero)
    return wide if data is None else wide - data.astype(np.float64).reshape([-1] + [1] * (wide.ndim - 1))


def _conv(work: _Lowering, node: Node) -> Value | None:
    op = node.op
    assert isinstance(op, QLinearConv)
    x, x_zero, w, w_zero, y_zero, bias = (node.inputs[i] for i in (0, 2, 3, 5, 7, 8))
    assert x is not None and w is not None
    if not _known(node.inputs[1:]):
        return None
    weights = _weights(w, w_zero)
    offset = _data(bias)
    if greatest_sum(weights, _distance(x, x_zero), offset) >= EXACT_F32:
        return None
    factor = multiplier(*(node.input(i).data.reshape(s) for i, s in ((1, ()), (4, -1), (6, ()))))  # type: ignore[union-attr]
    instrs, operands = _finish(factor, _zero(y_zero), *op.bounds(), _column(op))
    epilogue = Expression(1 + len(operands), tuple(instrs))
    layer = Conv(op.kernel, op.strides, op.pads, op.dilations, op.group, epilogue)
    inputs = work.centred(x, x_zero), work.number(weights), None if offset is None else work.number(offset)
    return work.add(layer, *inputs, *map(work.number, operands))


def _conv_integer(work: _Lowering, node: Node) -> Value | None:
    op = node.op
    assert isinstance(op, ConvInteger)
    x, w, x_zero, w_zero = node.inputs[:4]
    assert x is not None and w is not None
    if not _known((w, w_zero)) or not _single(x_zero):
        return None
    weights = _weights(w, w_zero)
    if greatest_sum(weights, _distance(x, x_zero)) >= EXACT_F32:
        return None
    layer = Conv(op.kernel, op.strides, op.pads, op.dilations, op.group, op.epilogue)
    y = work.add(layer, work.centred(x, x_zero), work.number(weights), None, *node.inputs[4:])
    return y if op.to is DType.F32 else work.add(Cast(DType.I32), y)


def _product(work: _Lowering, a: Value, a_zero: Value | None, b: Value, b_zero: Value | None, extra: float = 0.0) -> Value | None:
    """The sums of a matrix product with a constant second operand, if they are exact."""
    if b.data is None or not _known((b_zero,)) or not _single(a_zero) or a.type.rank < 2 or b.type.rank < 2:
        return None
    zeros = _data(b_zero)
    weights = b.data.astype(np.float64) - (0 if zeros is None else zeros.astype(np.float64))
    if np.abs(weights).sum(-2).max(initial=0) * _distance(a, a_zero) + extra >= EXACT_F32:
        return None
    return work.add(MatMul(), work.centred(a, a_zero), work.number(weights))


def _matmul_integer(work: _Lowering, node: Node) -> Value | None:
    y = _product(work, node.input(0), node.inputs[2], node.input(1), node.inputs[3])
    return None if y is None else work.add(Cast(DType.I32), y)


def _matmul(work: _Lowering, node: Node) -> Value | None:
    op = node.op
    assert isinstance(op, QLinearMatMul)
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.inputs
    if op.to not in EIGHT_BITS or a is None or b is None or a.type.dtype not in EIGHT_BITS:
        return None
    if not _known(node.inputs[1:]) or not _single(a_scale) or y_scale is None or (b_scale is not None and b_scale.type.rank > 1):
        return None
    y = _product(work, a, a_zero, b, b_zero)
    if y is None:
        return None
    factor = multiplier(*(s.data.reshape(-1) for s in (a_scale, b_scale, y_scale)))  # type: ignore[union-attr]
    low, high = bounds_of(op.to, op.low, op.high)
    instrs, operands = _finish(factor, _zero(y_zero), float(low), float(high), (-1,))
    return work.apply(instrs, y, *map(work.number, operands))


def _gemm(work: _Lowering, node: Node) -> Value | None:
    op = node.op
    assert isinstance(op, QGemm)
    a, a_scale, a_zero, b, b_scale, b_zero, c, y_scale, y_zero = node.inputs
    if not _known(node.inputs[1:]) or a is None or b is None or a_scale is None or b_scale is None or op.to not in (*EIGHT_BITS, DType.F32):
        return None
    offset = _data(c)
    y = _product(work, a, a_zero, b, b_zero, 0.0 if offset is None else float(np.abs(offset.astype(np.float64)).max(initial=0)))
    if y is None:
        return None
    assert a_scale.data is not None and b_scale.data is not None
    if offset is not None:
        y = work.apply([Instr("add", (0, 1))], y, work.number(offset))
    factor = np.float32(op.alpha) * a_scale.data.reshape(()).astype(np.float32) * b_scale.data.reshape(-1).astype(np.float32)
    if op.to is DType.F32:
        return work.apply([Instr("mul", (0, 1))], y, work.number(factor))
    assert y_scale is not None and y_scale.data is not None
    low, high = bounds_of(op.to, op.low, op.high)
    instrs, operands = _finish(factor / y_scale.data.reshape(()).astype(np.float32), _zero(y_zero), float(low), float(high), (-1,))
    return work.apply(instrs, y, *map(work.number, operands))


def _parameter(work: _Lowering, value: Value, rank: int, axis: int) -> Value:
    """A scale or zero point, as float32, in the shape that broadcasts along ``axis``."""
    known = value if value.type.dtype is DType.F32 else work.float_of(value)
    shape = () if numel(value.type.shape) == 1 else tuple(-1 if i == axis else 1 for i in range(rank))
    if known.data is not None:
        return work.number(known.data.reshape(shape))
    return known if known.type.shape == () else work.add(Reshape(tuple(value.type.shape[0] if d == -1 else d for d in shape)), known)


def _quantize(work: _Lowering, node: Node) -> Value | None:
    op, x, scale, zero = node.op, node.input(0), node.input(1), node.inputs[2]
    assert isinstance(op, QuantizeLinear)
    plain = op.precision is DType.F32 and not op.block_size and scale.type.dtype is x.type.dtype is DType.F32
    if op.to not in EIGHT_BITS or not plain or scale.type.rank > 1:
        return None
    operands = [x, _parameter(work, scale, x.type.rank, op.axis)]
    if zero is not None:
        operands.append(_parameter(work, zero, x.type.rank, op.axis))
    first = len(operands)
    instrs = [Instr("div", (0, 1)), Instr("round", (first,))]
    if zero is not None:
        instrs.append(Instr("add", (first + 1, 2)))
    low, high = op.to.range
    instrs.append(Instr("clip", (first + len(instrs) - 1,), (float(low), float(high))))
    return work.apply(instrs, *operands)


def _dequantize(work: _Lowering, node: Node) -> Value | None:
    op, x, scale, zero = node.op, node.input(0), node.input(1), node.inputs[2]
    assert isinstance(op, DequantizeLinear)
    if op.to is not DType.F32 or x.type.dtype not in EIGHT_BITS or op.block_size or scale.type.dtype is not DType.F32:
        return None
    operands = [work.float_of(x), _parameter(work, scale, x.type.rank, op.axis)]
    if zero is None:
        return work.apply([Instr("mul", (0, 1))], *operands)
    operands.append(_parameter(work, zero, x.type.rank, op.axis))
    return work.apply([Instr("sub", (0, 2)), Instr("mul", (3, 1))], *operands)


def _average(work: _Lowering, node: Node) -> Value | None:
    op, x = node.op, node.input(0)
    if not _known(node.inputs[1:]):
        return None
    x_scale, x_zero, y_scale, y_zero = node.inputs[1:5]
    low, high = map(float, x.type.dtype.range)
    assert x_scale is not None and y_scale is not None
    inner, outer = (np.float32(_zero(s)) for s in (x_scale, y_scale))
    if isinstance(op, QLinearGlobalAveragePool):
        count = int(np.prod([d for d in x.type.shape[2:] if isinstance(d, int)]))
        if count * _distance(x, x_zero) >= EXACT_F32:
            return None
        total = work.add(Reduce("sum", tuple(range(2, x.type.rank))), work.centred(x, x_zero))
        instrs, _ = _finish(np.asarray(inner / (outer * np.float32(count))), _zero(y_zero), low, high, ())
        return work.apply(instrs, total)
    assert isinstance(op, QLinearAveragePool)
    wide = work.apply([Instr("scale", (0,), (float(inner),))], work.centred(x, x_zero))
    ones = (1,) * len(op.kernel)
    mean = work.add(Pool("average", op.kernel, op.strides, op.pads, ones, op.ceil_mode, op.count_include_pad), wide)
    divide = [Instr("div", (0, 1)), Instr("shift", (2,), (_zero(y_zero),)), Instr("round", (3,)), Instr("clip", (4,), (low, high))]
    return work.apply(divide, mean, work.number(np.asarray(outer)))


def _lookup(work: _Lowering, node: Node) -> Value | None:
    """A table read by signed numbers counts from its end, as their bits do."""
    op, x = node.op, node.input(0)
    if not _known(node.inputs[1:]):
        return None
    if isinstance(op, QLinearUnary):
        with np.errstate(all="ignore"):
            table = op.table(x.type.dtype, tuple(_data(v) for v in node.inputs[1:]))
    else:
        table = np.asarray(node.input(1).data)
    return work.add(Gather(0), work.number(table), work.add(Cast(DType.I64), work.float_of(x)))


def _move(work: _Lowering, node: Node) -> Value | None:
    """Moves and maxima of 8-bit tensors that exist as floats; neighbours of all, for which bytes have no kernel."""
    op, count = node.op, 1 if isinstance(node.op, Gather) else len(node.inputs)
    data = [v for v in node.inputs[:count] if v is not None]
    if node.output.type.dtype not in EIGHT_BITS or not (isinstance(op, Resize) or any(v in work.floats for v in data)):
        return None
    if (isinstance(op, Pool) and (op.kind != "max" or op.indices)) or (isinstance(op, Resize) and op.mode != "nearest"):
        return None
    return work.add(op, *map(work.float_of, data), *node.inputs[count:])


def _cast(work: _Lowering, node: Node) -> Value | None:
    op = node.op
    assert isinstance(op, Cast)
    return work.floats.get(node.input(0)) if op.to is DType.F32 and node.input(0).type.dtype in EIGHT_BITS else None


_HANDLERS: dict[type[Op], Callable[[_Lowering, Node], Value | None]] = {
    QLinearConv: _conv, ConvInteger: _conv_integer, MatMulInteger: _matmul_integer, QLinearMatMul: _matmul, QGemm: _gemm,
    QuantizeLinear: _quantize, DequantizeLinear: _dequantize, QLinearAveragePool: _average, QLinearGlobalAveragePool: _average,
    QLinearUnary: _lookup, QTable: _lookup, Pool: _move, Cast: _cast, **dict.fromkeys(_MOVES, _move),
}  # fmt: skip


def lower_quantised(graph: Graph) -> int:
    """Rewrite the 8-bit operators that can be; returns how many were."""
    work = _Lowering(graph)
    done: list[Node] = []
    for node in graph.nodes:
        work.node = node
        handler = _HANDLERS.get(type(node.op))
        made = None if handler is None else handler(work, node)
        if made is not None:
            done.append(node)
            if node.output.type.dtype is made.type.dtype:
                graph.replace_uses(node.output, made)
            else:
                work.floats[node.output] = made
            continue
        wanted = [work.floats.get(v) if v is not None and v.producer in done else None for v in node.inputs]
        if any(w is not None for w in wanted):
            inputs = [v if v is None or w is None else work.add(Cast(v.type.dtype), w) for v, w in zip(node.inputs, wanted, strict=True)]
            graph.rewire(node, inputs)
    for index, (name, value) in enumerate(graph.outputs):
        if value in work.floats and value.producer in done:
            assert value.producer is not None
            (back,) = graph.add(Cast(value.type.dtype), [work.floats[value]], origin=value.producer.origin)
            back.names = value.names
            graph.outputs[index] = (name, back)
    for node in reversed(done):
        graph.erase(node)
    for node in reversed(graph.nodes):  # casts and centred tensors that nothing reads after all
        if not any(graph.is_used(v) for v in node.outputs):
            graph.erase(node)
    return len(done)
