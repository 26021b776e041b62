"""DequantizeLinear, an operator, QuantizeLinear => the operator on integers.

A model in the QDQ form says: dequantise, compute in float32, quantise. The integer operator that stands for it (QLinearConv and so
on) computes exact sums of integers and multiplies them by one factor, which is what quantised models mean and what onnxruntime
runs; the result may differ from the float evaluation by one quantisation step where the exact value lies half-way between two.
A rewrite is made only where that is the only difference:

* weights are constants of 8 bits, per tensor or per output channel; a bias is int32 in units of the input's scale times the weights';
* a Relu or Clip before the quantisation becomes bounds of the integer result, which commute with rounding and saturation;
* functions of one tensor become tables of the float results, maxima and movement act on the integers: both are exact.

What is left in float32 is reported with the reason (:attr:`cnngraph.passes.base.PassContext.rejections`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType
from cnngraph.ops import Concat, Conv, Elementwise, Identity, MatMul, Pad, Pool, Reduce, Reshape, Resize, Slice, Transpose
from cnngraph.ops.base import Op
from cnngraph.ops.expression import Expression
from cnngraph.ops.quantized import (
    EIGHT_BITS,
    DequantizeLinear,
    QGemm,
    QLinearMatMul,
    QuantizeLinear,
    greatest_distance,
    greatest_sum,
    quantize,
)
from cnngraph.ops.quantized_conv import QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.fold_pad import pads_space
from cnngraph.passes.fuse_elementwise import with_constant
from cnngraph.passes.lower_integers import channels_of_images
from cnngraph.passes.rewrite import only_user, other_reader

_BIAS_TOLERANCE = 1e-5
_GREATEST_INT32 = 2**31 - 1


class _LeftFloatError(Exception):
    """Why a group stays in float32."""


@dataclass(frozen=True, eq=False)
class _Quantized:
    """Integers, and the parameters (constants) that give them their meaning."""

    value: Value
    scale: Value
    zero: Value | None

    @property
    def dtype(self) -> DType:
        return self.value.type.dtype

    @property
    def step(self) -> np.ndarray:
        """The scale as an array."""
        assert self.scale.data is not None
        return self.scale.data.reshape(())

    def means(self, other: _Quantized) -> bool:
        """Whether equal numbers mean the same as in ``other``."""
        return self.dtype is other.dtype and _number(self.scale) == _number(other.scale) and _zero(self.zero) == _zero(other.zero)


@dataclass(frozen=True, eq=False)
class _Group:
    """A quantisation and what it asks of the operator before it: parameters, bounds, and the nodes that vanish with it."""

    graph: Graph
    quantize: Node
    y: _Quantized
    root: Node
    low: int
    high: int
    origin: tuple[str, ...]

    @property
    def bounded(self) -> bool:
        """Whether an activation bounds the result beyond its type's range."""
        return (self.low, self.high) != self.y.dtype.range

    def emit(self, op: Op, *inputs: Value | None) -> Value:
        """A new node before the quantisation."""
        return self.graph.add(op, inputs, origin=self.origin, before=self.quantize)[0]

    def converted(self, x: _Quantized) -> Value:
        """``x`` in the parameters of the result."""
        if x.means(self.y):
            return x.value
        op = QLinearUnary("identity", to=self.y.dtype)
        return self.emit(op, x.value, x.scale, x.zero, self.y.scale, self.y.zero)


@dataclass(frozen=True)
class FuseQDQ(Pass):
    """quantize(op(dequantize(x)...)) => op on integers."""

    name: ClassVar[str] = "fuse_qdq"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit quantisations in graph order."""
        changes = 0
        for node in graph.nodes:
            if node not in graph or not isinstance(node.op, QuantizeLinear):
                continue
            try:
                result = self._fuse(graph, node)
            except _LeftFloatError as error:
                context.reject(self.name, node, str(error))
                continue
            if result is not None:
                graph.replace_uses(node.output, result)
                _erase_dead(graph, node)
                changes += 1
        return changes

    def _fuse(self, graph: Graph, node: Node) -> Value | None:
        op, value = node.op, node.input(0)
        assert isinstance(op, QuantizeLinear)
        if value.producer is None:
            return None  # a graph input, or weights that constant folding will quantise
        y = _parameters(node, node.output)
        if y is None or op.precision is not DType.F32:
            raise _LeftFloatError("the quantisation is not to 8 bits by one constant scale")
        table = _function_of_one(graph, node)
        if table is not None:
            expression, x, origin = table
            group = _Group(graph, node, y, node, 0, 0, origin)
            if not expression.instrs:
                return group.converted(x)
            return group.emit(QLinearUnary("expression", 0.0, expression, y.dtype), x.value, x.scale, x.zero, y.scale, y.zero)
        group = _peel(graph, node, y)
        rewrite = _REWRITES.get(type(group.root.op))
        if rewrite is None:
            raise _LeftFloatError(f"{group.root.op.name} has no form on integers")
        return rewrite(group)


def _number(value: Value) -> float:
    assert value.data is not None
    return float(value.data.reshape(-1)[0])


def _zero(value: Value | None) -> int:
    return 0 if value is None else int(_number(value))


def _is_single_constant(value: Value | None) -> bool:
    return value is None or (value.data is not None and value.data.size == 1)


def _parameters(node: Node, integers: Value) -> _Quantized | None:
    """``integers`` with the parameters of a QuantizeLinear or DequantizeLinear node, if those are single constants for 8 bits."""
    scale, zero = node.input(1), node.inputs[2]
    if integers.type.dtype not in EIGHT_BITS or scale.type.dtype is not DType.F32:
        return None
    if not _is_single_constant(scale) or not _is_single_constant(zero) or not np.isfinite(_number(scale)) or _number(scale) <= 0:
        return None
    return _Quantized(integers, scale, zero)


def _dequantized(value: Value) -> _Quantized:
    """What ``value`` is dequantised from."""
    node = value.producer
    if node is None or not isinstance(node.op, DequantizeLinear) or node.op.to is not DType.F32:
        what = node.op.name if node else "a constant" if value.data is not None else "an input of the network"
        raise _LeftFloatError(f"an operand is {what}, not dequantised")
    found = _parameters(node, node.input(0))
    if found is None:
        raise _LeftFloatError("an operand is not dequantised from 8 bits by one constant scale")
    return found


def _function_of_one(graph: Graph, node: Node) -> tuple[Expression, _Quantized, tuple[str, ...]] | None:
    """The element-wise function of one dequantised tensor that ``node`` quantises, if that is all there is."""
    expression, value, origin = Expression(1), node.input(0), node.origin
    while value.producer is not None and (unary := _unary(value.producer)) is not None:
        if only_user(graph, value) is None:
            return None
        inner, operand = unary
        expression = expression.substitute(0, inner) if expression.instrs else inner
        origin = (*value.producer.origin, *origin)
        value = operand
    if value.producer is None or not isinstance(value.producer.op, DequantizeLinear):
        return None
    return expression, _dequantized(value), (*value.producer.origin, *origin)


def _unary(node: Node) -> tuple[Expression, Value] | None:
    """An element-wise node as a function of one tensor, a constant number taken as a parameter."""
    if not isinstance(node.op, Elementwise):
        return None
    expression = node.op.expression
    if len(node.inputs) == 1:
        return expression, node.input(0)
    if len(node.inputs) != 2 or len(expression.instrs) != 1:
        return None
    for at in (1, 0):
        number, other = _constant_number(node.input(at)), node.input(1 - at)
        if number is None or other.type.shape != node.output.type.shape:
            continue
        instr = with_constant(expression.instrs[0], at, number)
        if instr is not None:
            return Expression(1, (instr,)), other
    return None


def _constant_number(value: Value) -> float | None:
    """A float constant of one element, perhaps dequantised."""
    node = value.producer
    if value.type.dtype is not DType.F32 or any(d != 1 for d in value.type.shape):
        return None
    if value.data is not None:
        return _number(value)
    if node is None or not isinstance(node.op, DequantizeLinear) or any(v is not None and v.data is None for v in node.inputs):
        return None
    return float(node.op.reference(*(_array(v) for v in node.inputs))[0].reshape(()))


def _peel(graph: Graph, node: Node, y: _Quantized) -> _Group:
    """The operator before the quantisation, activations before it turned into bounds of the result."""
    low, high = y.dtype.range
    value, origin, reader = node.input(0), node.origin, node
    while True:
        producer = value.producer
        assert producer is not None
        if only_user(graph, value) is not reader:
            raise _LeftFloatError(f"the result of {producer.label} is also {other_reader(graph, value, reader)}")
        origin = (*producer.origin, *origin)
        interval = _interval(producer)
        if interval is None:
            return _Group(graph, node, y, producer, low, high, origin)
        least, most = (int(v) for v in quantize(np.array(interval, np.float32), y.step, _array(y.zero), y.dtype))
        low, high = min(max(least, low), high), max(min(most, high), low)
        value, reader = producer.input(0), producer
        if value.producer is None:
            raise _LeftFloatError("nothing but an activation is quantised")


def _array(value: Value | None) -> np.ndarray | None:
    return None if value is None else value.data


def _interval(node: Node) -> tuple[float, float] | None:
    """The interval to which a Relu or Clip limits its input."""
    if not isinstance(node.op, Elementwise) or len(node.inputs) != 1 or len(node.op.expression.instrs) != 1:
        return None
    (instr,) = node.op.expression.instrs
    if instr.fn == "relu":
        return 0.0, float("inf")
    if instr.fn == "clip" and instr.params[0] <= instr.params[1]:
        return instr.params[0], instr.params[1]
    return None


def _integers(value: Value) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Constant integers: given, or quantised from a constant."""
    if value.data is not None:
        return value.data, ()
    node = value.producer
    if node is None or not isinstance(node.op, QuantizeLinear) or any(v is not None and v.data is None for v in node.inputs):
        return None
    return node.op.reference(*(_array(v) for v in node.inputs))[0], node.origin


@dataclass(frozen=True, eq=False)
class _Weights:
    value: Value
    scale: Value
    zero: Value | None


def _weights(group: _Group, value: Value, axis: int) -> _Weights:
    """Constant 8-bit weights, per tensor or along ``axis``; they may be transposed after their dequantisation."""
    producer, perm = value.producer, tuple(range(value.type.rank))
    if producer is not None and isinstance(producer.op, Transpose):
        value, perm = producer.input(0), producer.op.perm
    node = value.producer
    if node is None or not isinstance(node.op, DequantizeLinear) or node.op.to is not DType.F32:
        raise _LeftFloatError("the weights are not dequantised")
    found = _integers(node.input(0))
    scale, zero = node.input(1), node.inputs[2]
    if found is None or node.input(0).type.dtype not in EIGHT_BITS or scale.data is None or (zero is not None and zero.data is None):
        raise _LeftFloatError("the weights are not constant 8-bit integers")
    if node.op.block_size or scale.type.dtype is not DType.F32:
        raise _LeftFloatError("the scales of the weights are by block, or not float32")
    if scale.data.size != 1 and node.op.axis != perm[axis]:
        raise _LeftFloatError("the scales of the weights are not along their output channels")
    data = found[0].transpose(perm)
    whole = producer is node and found[0] is node.input(0).data
    constant = node.input(0) if whole else group.graph.constant(np.ascontiguousarray(data))
    return _Weights(constant, scale, zero)


def _bias(group: _Group, value: Value | None, x: _Quantized, w: _Weights, channels: int) -> Value | None:
    """A bias as int32 in units of x's scale times the weights'."""
    if value is None:
        return None
    assert w.scale.data is not None
    unit = np.float64(_number(x.scale)) * w.scale.data.reshape(-1).astype(np.float64)
    node = value.producer
    if node is None and value.data is not None and not value.data.any():
        return None
    if node is None or not isinstance(node.op, DequantizeLinear):
        raise _LeftFloatError("the bias is float32, not int32 in units of the scales' product")
    found, scale = _integers(node.input(0)), node.input(1).data
    if found is None or node.input(0).type.dtype is not DType.I32 or scale is None or (node.inputs[2] is not None and _any(node.inputs[2])):
        raise _LeftFloatError("the bias is not constant int32 without a zero point")
    if not np.allclose(scale.reshape(-1).astype(np.float64), unit, rtol=_BIAS_TOLERANCE, atol=0.0):
        raise _LeftFloatError("the scale of the bias is not the product of the input's and the weights'")
    data = found[0].reshape(-1)
    if data.size not in (1, channels):
        raise _LeftFloatError("the bias is not one number a channel")
    assert w.value.data is not None
    rows = np.moveaxis(w.value.data, -1 if isinstance(group.root.op, MatMul) else 0, 0)
    zeros = np.zeros(1) if w.zero is None or w.zero.data is None else w.zero.data.reshape(-1)
    weights = rows.reshape(channels, -1).astype(np.float64) - zeros.astype(np.float64)[:, None]
    if greatest_sum(weights, greatest_distance(x.dtype, _zero(x.zero)), np.broadcast_to(data, (channels,))) > _GREATEST_INT32:
        raise _LeftFloatError("sums with the bias may leave int32")
    return group.graph.constant(np.ascontiguousarray(np.broadcast_to(data, (channels,))))


def _any(value: Value | None) -> bool:
    return value is not None and (value.data is None or bool(value.data.any()))


def _conv(group: _Group) -> Value:
    node, y = group.root, group.y
    op = node.op
    assert isinstance(op, Conv)
    if op.epilogue is not None:
        raise _LeftFloatError("the convolution has an epilogue")
    x, w = _dequantized(node.input(0)), _weights(group, node.input(1), 0)
    channels = w.value.type.shape[0]
    assert isinstance(channels, int)
    b = _bias(group, node.inputs[2], x, w, channels)
    x, pads = _without_pad(group, x, op.pads)
    new = QLinearConv(op.kernel, op.strides, pads, op.dilations, op.group, y.dtype, group.low, group.high)
    return group.emit(new, x.value, x.scale, x.zero, w.value, w.scale, w.zero, y.scale, y.zero, b)


def _without_pad(group: _Group, x: _Quantized, pads: tuple[int, ...]) -> tuple[_Quantized, tuple[int, ...]]:
    """``x`` before a Pad with what means zero, and the pads of a convolution that does the same."""
    pad = _zero_pad(x.value.producer)
    if pad is None:
        return x, pads
    assert isinstance(pad.op, Pad)
    rank = pad.output.type.rank
    inner = _dequantized(pad.input(0))
    value = dataclasses.replace(group, y=x).converted(inner)
    more = pad.op.pads[2:rank] + pad.op.pads[rank + 2 :]
    return _Quantized(value, x.scale, x.zero), tuple(a + b for a, b in zip(pads, more, strict=True))


def _zero_pad(node: Node | None) -> Node | None:
    """The Pad that ``node`` quantises, if it adds dequantised integers' zero point along spatial axes."""
    pad = node.input(0).producer if node is not None and isinstance(node.op, QuantizeLinear) else None
    if node is None or pad is None or not isinstance(pad.op, Pad) or pad.op.mode != "constant" or np.isnan(pad.op.value):
        return None
    rank, y, source = pad.output.type.rank, _parameters(node, node.output), pad.input(0).producer
    if y is None or source is None or not isinstance(source.op, DequantizeLinear) or _parameters(source, source.input(0)) is None:
        return None
    if not pads_space(pad.op, rank):
        return None
    number = quantize(np.array(pad.op.value, np.float32), y.step, _array(y.zero), y.dtype)
    return pad if int(number) == _zero(y.zero) else None


def _pad(group: _Group) -> Value | None:
    """Left to the convolutions that read it if it pads by zero and no others do; else a Pad of the integers."""
    node, y = group.root, group.y
    readers = {reader for user in group.quantize.output.users for reader in user.output.users}
    joins = _zero_pad(group.quantize) and readers and all(isinstance(reader.op, Conv) for reader in readers)
    if joins and not group.graph.is_output(group.quantize.output):
        return None
    op = node.op
    assert isinstance(op, Pad)
    if op.mode == "constant":
        if np.isnan(op.value):
            raise _LeftFloatError("padding that is not a number")
        op = dataclasses.replace(op, value=float(quantize(np.array(op.value, np.float32), y.step, _array(y.zero), y.dtype)))
    return _moved(group, op)


def _matmul(group: _Group, bias: Value | None = None) -> Value:
    node, y = group.root, group.y
    x, w = _dequantized(node.input(0)), _weights(group, node.input(1), 1)
    if w.value.type.rank != 2:
        raise _LeftFloatError("the weights are not a matrix")
    columns = w.value.type.shape[1]
    assert isinstance(columns, int)
    if bias is None:
        op = QLinearMatMul(y.dtype, group.low, group.high)
        return group.emit(op, x.value, x.scale, _typed_zero(group, x), w.value, w.scale, _typed(group, w), y.scale, _typed_zero(group, y))
    if x.value.type.rank != 2:
        raise _LeftFloatError("a bias after a product of more than two axes")
    c = _bias(group, bias, x, w, columns)
    gemm = QGemm(y.dtype, 1.0, group.low, group.high)
    return group.emit(gemm, x.value, x.scale, x.zero, w.value, w.scale, w.zero, c, y.scale, y.zero)


def _typed_zero(group: _Group, q: _Quantized) -> Value:
    return q.zero if q.zero is not None else group.graph.constant(np.zeros((), q.dtype.numpy))


def _typed(group: _Group, w: _Weights) -> Value:
    return w.zero if w.zero is not None else group.graph.constant(np.zeros((), w.value.type.dtype.numpy))


def _elementwise(group: _Group) -> Value:
    node, y = group.root, group.y
    op = node.op
    assert isinstance(op, Elementwise)
    if len(op.expression.instrs) != 1 or op.expression.instrs[0].fn not in ("add", "mul") or len(node.inputs) != 2:
        raise _LeftFloatError(f"{op.expression} has no form on integers")
    kind = op.expression.instrs[0].fn
    for i in (0, 1):
        producer = node.input(i).producer
        if kind == "add" and producer is not None and isinstance(producer.op, MatMul):
            if only_user(group.graph, node.input(i)) is not node:
                raise _LeftFloatError(f"the product is also {other_reader(group.graph, node.input(i), node)}")
            inner = dataclasses.replace(group, root=producer, origin=(*producer.origin, *group.origin))
            return _matmul(inner, node.input(1 - i))
    a, b = _dequantized(node.input(0)), _dequantized(node.input(1))
    if a.dtype is not b.dtype or a.dtype is not y.dtype:
        raise _LeftFloatError("operands and result are not of one type")
    if not _side_by_side(a.value, b.value):
        raise _LeftFloatError(f"operands {a.value.type} and {b.value.type} differ in shape in a way that no kernel of integers loads")
    new = QLinearBinary(kind, group.low, group.high)
    return group.emit(new, a.value, a.scale, a.zero, b.value, b.scale, b.zero, y.scale, y.zero)


def _side_by_side(first: Value, second: Value) -> bool:
    """Whether the shapes are equal, one lacks leading axes only, or one has a number for each channel, of each image or of all."""
    a, b = first.type.shape, second.type.shape
    swapped = not (len(a) > len(b) or (len(a) == len(b) and a.count(1) <= b.count(1)))
    wide, narrow = (b, a) if swapped else (a, b)
    constant = _integers(first if swapped else second) is not None
    tail = narrow[next((i for i, d in enumerate(narrow) if d != 1), len(narrow)) :]
    return wide == narrow or wide[len(wide) - len(tail) :] == tail or channels_of_images(narrow, wide, constant) is not None


def _pool(group: _Group) -> Value:
    node, y = group.root, group.y
    op = node.op
    assert isinstance(op, Pool)
    x = _dequantized(node.input(0))
    if group.bounded or op.indices:
        raise _LeftFloatError("pooling with an activation, or with indices")
    if op.kind == "max":
        pooled = group.emit(op, x.value)
        return group.converted(_Quantized(pooled, x.scale, x.zero))
    if any(d != 1 for d in op.dilations) or op.ceil_mode or x.dtype is not y.dtype:
        raise _LeftFloatError("an average with dilations or ceil_mode, or of another type than its result")
    new = QLinearAveragePool(op.kernel, op.strides, op.pads, False, op.count_include_pad)
    return group.emit(new, x.value, x.scale, x.zero, y.scale, y.zero)


def _mean(group: _Group) -> Value:
    node, y = group.root, group.y
    op, rank = node.op, node.input(0).type.rank
    assert isinstance(op, Reduce)
    x = _dequantized(node.input(0))
    if op.kind != "mean" or rank < 3 or op.axes != tuple(range(2, rank)) or group.bounded or x.dtype is not y.dtype:
        raise _LeftFloatError(f"the reduction {op.kind} over axes {op.axes} has no form on integers")
    pooled = group.emit(QLinearGlobalAveragePool(), x.value, x.scale, x.zero, y.scale, y.zero)
    return pooled if op.keepdims else group.emit(Reshape(x.value.type.shape[:2]), pooled)


def _movement(group: _Group) -> Value:
    return _moved(group, group.root.op)


def _moved(group: _Group, op: Op) -> Value:
    """``op``, which only moves data, of the integers in the parameters of the result."""
    if group.bounded:
        raise _LeftFloatError("an activation follows movement of data")
    return group.emit(op, *(group.converted(_dequantized(v)) for v in group.root.inputs if v is not None))


def _resize(group: _Group) -> Value:
    op = group.root.op
    assert isinstance(op, Resize)
    if op.mode != "nearest" or op.transform == "tf_crop_and_resize":
        raise _LeftFloatError("interpolation has no form on integers")
    return _moved(group, op)


_REWRITES: dict[type[Op], Callable[[_Group], Value | None]] = {
    Conv: _conv, MatMul: _matmul, Elementwise: _elementwise, Pool: _pool, Reduce: _mean, Reshape: _movement, Transpose: _movement,
    Slice: _movement, Concat: _movement, Identity: _movement, Pad: _pad, Resize: _resize,
}  # fmt: skip


def _erase_dead(graph: Graph, node: Node) -> None:
    """Erase ``node`` and what was computed for it alone."""
    if any(graph.is_used(value) for value in node.outputs):
        return
    producers = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    graph.erase(node)
    for producer in dict.fromkeys(producers):
        if producer in graph:
            _erase_dead(graph, producer)
