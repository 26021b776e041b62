"""DequantizeLinear, an operator, QuantizeLinear => the operator on integers.

A model in the QDQ form says: dequantise, compute in float32, quantise. The integer operator that stands for it (QLinearConv and so
on) computes exact sums of integers and multiplies them by one factor, which is what quantised models mean and what onnxruntime
runs; the result may differ from the float evaluation by one quantisation step where the exact value lies half-way between two.
A rewrite is made only where that is the only difference:

* weights are constants of 8 bits, per tensor or per output channel; a bias is int32 in units of the input's scale times the weights',
  or rounded to such where the unit is at most a fiftieth of the result's step;
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
    DequantizeLinear,
    QGemm,
    QLinearMatMul,
    QuantizeLinear,
    quantize,
)
from cnngraph.ops.quantized_conv import QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.fold_pad import pads_space
from cnngraph.passes.fuse_elementwise import with_constant
from cnngraph.passes.lower_integers import channels_of_images
from cnngraph.passes.qdq_operands import (
    LeftFloatError,
    Quantized,
    Weights,
    array_of,
    bias_of,
    dequantized,
    integers_of,
    number_of,
    parameters_of,
    weights_of,
    zero_of,
)
from cnngraph.passes.rewrite import only_user, other_reader


@dataclass(frozen=True, eq=False)
class _Group:
    """A quantisation and what it asks of the operator before it: parameters, bounds, and the nodes that vanish with it."""

    graph: Graph
    quantize: Node
    y: Quantized
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

    def converted(self, x: Quantized) -> Value:
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
            except LeftFloatError as error:
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
        y = parameters_of(node, node.output)
        if y is None or op.precision is not DType.F32:
            raise LeftFloatError("the quantisation is not to 8 bits by one constant scale")
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
            raise LeftFloatError(f"{group.root.op.name} has no form on integers")
        return rewrite(group)


def _function_of_one(graph: Graph, node: Node) -> tuple[Expression, Quantized, tuple[str, ...]] | None:
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
    return expression, dequantized(value), (*value.producer.origin, *origin)


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
        return number_of(value)
    if node is None or not isinstance(node.op, DequantizeLinear) or any(v is not None and v.data is None for v in node.inputs):
        return None
    return float(node.op.reference(*(array_of(v) for v in node.inputs))[0].reshape(()))


def _peel(graph: Graph, node: Node, y: Quantized) -> _Group:
    """The operator before the quantisation, activations before it turned into bounds of the result."""
    low, high = y.dtype.range
    value, origin, reader = node.input(0), node.origin, node
    while True:
        producer = value.producer
        assert producer is not None
        if only_user(graph, value) is not reader:
            raise LeftFloatError(f"the result of {producer.label} is also {other_reader(graph, value, reader)}")
        origin = (*producer.origin, *origin)
        interval = _interval(producer)
        if interval is None:
            return _Group(graph, node, y, producer, low, high, origin)
        least, most = (int(v) for v in quantize(np.array(interval, np.float32), y.step, array_of(y.zero), y.dtype))
        low, high = min(max(least, low), high), max(min(most, high), low)
        value, reader = producer.input(0), producer
        if value.producer is None:
            raise LeftFloatError("nothing but an activation is quantised")


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


def _bias(group: _Group, value: Value | None, x: Quantized, w: Weights, axis: int) -> Value | None:
    bias = bias_of(value, x, w, group.y, axis)
    return None if bias is None else group.graph.constant(bias)


def _conv(group: _Group) -> Value:
    node, y = group.root, group.y
    op = node.op
    assert isinstance(op, Conv)
    if op.epilogue is not None:
        raise LeftFloatError("the convolution has an epilogue")
    x, w = dequantized(node.input(0)), weights_of(group.graph, node.input(1), 0)
    b = _bias(group, node.inputs[2], x, w, 0)
    x, pads = _without_pad(group, x, op.pads)
    new = QLinearConv(op.kernel, op.strides, pads, op.dilations, op.group, y.dtype, group.low, group.high)
    return group.emit(new, x.value, x.scale, x.zero, w.value, w.scale, w.zero, y.scale, y.zero, b)


def _without_pad(group: _Group, x: Quantized, pads: tuple[int, ...]) -> tuple[Quantized, tuple[int, ...]]:
    """``x`` before a Pad with what means zero, and the pads of a convolution that does the same."""
    pad = _zero_pad(x.value.producer)
    if pad is None:
        return x, pads
    assert isinstance(pad.op, Pad)
    rank = pad.output.type.rank
    inner = dequantized(pad.input(0))
    value = dataclasses.replace(group, y=x).converted(inner)
    more = pad.op.pads[2:rank] + pad.op.pads[rank + 2 :]
    return Quantized(value, x.scale, x.zero), tuple(a + b for a, b in zip(pads, more, strict=True))


def _zero_pad(node: Node | None) -> Node | None:
    """The Pad that ``node`` quantises, if it adds dequantised integers' zero point along spatial axes."""
    pad = node.input(0).producer if node is not None and isinstance(node.op, QuantizeLinear) else None
    if node is None or pad is None or not isinstance(pad.op, Pad) or pad.op.mode != "constant" or np.isnan(pad.op.value):
        return None
    rank, y, source = pad.output.type.rank, parameters_of(node, node.output), pad.input(0).producer
    if y is None or source is None or not isinstance(source.op, DequantizeLinear) or parameters_of(source, source.input(0)) is None:
        return None
    if not pads_space(pad.op, rank):
        return None
    return pad if y.integer(pad.op.value) == zero_of(y.zero) else None


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
            raise LeftFloatError("padding that is not a number")
        op = dataclasses.replace(op, value=float(y.integer(op.value)))
    return _moved(group, op)


def _matmul(group: _Group, bias: Value | None = None) -> Value:
    node, y = group.root, group.y
    x, w = dequantized(node.input(0)), weights_of(group.graph, node.input(1), 1)
    if w.value.type.rank != 2:
        raise LeftFloatError("the weights are not a matrix")
    if bias is None:
        op = QLinearMatMul(y.dtype, group.low, group.high)
        return group.emit(op, x.value, x.scale, _typed_zero(group, x), w.value, w.scale, _typed(group, w), y.scale, _typed_zero(group, y))
    if x.value.type.rank != 2:
        raise LeftFloatError("a bias after a product of more than two axes")
    if bias.type.rank > 2 or any(d != 1 for d in bias.type.shape[:-1]):
        raise LeftFloatError("the bias is not one number a column")
    c = _bias(group, bias, x, w, 1)
    gemm = QGemm(y.dtype, 1.0, group.low, group.high)
    return group.emit(gemm, x.value, x.scale, x.zero, w.value, w.scale, w.zero, c, y.scale, y.zero)


def _typed_zero(group: _Group, q: Quantized) -> Value:
    return q.zero if q.zero is not None else group.graph.constant(np.zeros((), q.dtype.numpy))


def _typed(group: _Group, w: Weights) -> Value:
    return w.zero if w.zero is not None else group.graph.constant(np.zeros((), w.value.type.dtype.numpy))


def _elementwise(group: _Group) -> Value:
    node, y = group.root, group.y
    op = node.op
    assert isinstance(op, Elementwise)
    if len(op.expression.instrs) != 1 or op.expression.instrs[0].fn not in ("add", "mul") or len(node.inputs) != 2:
        raise LeftFloatError(f"{op.expression} has no form on integers")
    kind = op.expression.instrs[0].fn
    for i in (0, 1):
        producer = node.input(i).producer
        if kind == "add" and producer is not None and isinstance(producer.op, MatMul):
            if only_user(group.graph, node.input(i)) is not node:
                raise LeftFloatError(f"the product is also {other_reader(group.graph, node.input(i), node)}")
            inner = dataclasses.replace(group, root=producer, origin=(*producer.origin, *group.origin))
            return _matmul(inner, node.input(1 - i))
    a, b = dequantized(node.input(0)), dequantized(node.input(1))
    if a.dtype is not b.dtype or a.dtype is not y.dtype:
        raise LeftFloatError("operands and result are not of one type")
    if not _side_by_side(a.value, b.value):
        raise LeftFloatError(f"operands {a.value.type} and {b.value.type} differ in shape in a way that no kernel of integers loads")
    new = QLinearBinary(kind, group.low, group.high)
    return group.emit(new, a.value, a.scale, a.zero, b.value, b.scale, b.zero, y.scale, y.zero)


def _side_by_side(first: Value, second: Value) -> bool:
    """Whether the shapes are equal, one lacks leading axes only, or one has a number for each channel, of each image or of all."""
    a, b = first.type.shape, second.type.shape
    swapped = not (len(a) > len(b) or (len(a) == len(b) and a.count(1) <= b.count(1)))
    wide, narrow = (b, a) if swapped else (a, b)
    constant = integers_of(first if swapped else second) is not None
    tail = narrow[next((i for i, d in enumerate(narrow) if d != 1), len(narrow)) :]
    return wide == narrow or wide[len(wide) - len(tail) :] == tail or channels_of_images(narrow, wide, constant) is not None


def _pool(group: _Group) -> Value:
    node, y = group.root, group.y
    op = node.op
    assert isinstance(op, Pool)
    x = dequantized(node.input(0))
    if group.bounded or op.indices:
        raise LeftFloatError("pooling with an activation, or with indices")
    if op.kind == "max":
        pooled = group.emit(op, x.value)
        return group.converted(Quantized(pooled, x.scale, x.zero))
    if any(d != 1 for d in op.dilations) or op.ceil_mode or x.dtype is not y.dtype:
        raise LeftFloatError("an average with dilations or ceil_mode, or of another type than its result")
    new = QLinearAveragePool(op.kernel, op.strides, op.pads, False, op.count_include_pad)
    return group.emit(new, x.value, x.scale, x.zero, y.scale, y.zero)


def _mean(group: _Group) -> Value:
    node, y = group.root, group.y
    op, rank = node.op, node.input(0).type.rank
    assert isinstance(op, Reduce)
    x = dequantized(node.input(0))
    if op.kind != "mean" or rank < 3 or op.axes != tuple(range(2, rank)) or group.bounded or x.dtype is not y.dtype:
        raise LeftFloatError(f"the reduction {op.kind} over axes {op.axes} has no form on integers")
    pooled = group.emit(QLinearGlobalAveragePool(), x.value, x.scale, x.zero, y.scale, y.zero)
    return pooled if op.keepdims else group.emit(Reshape(x.value.type.shape[:2]), pooled)


def _movement(group: _Group) -> Value:
    return _moved(group, group.root.op)


def _moved(group: _Group, op: Op) -> Value:
    """``op``, which only moves data, of the integers in the parameters of the result."""
    if group.bounded:
        raise LeftFloatError("an activation follows movement of data")
    return group.emit(op, *(group.converted(dequantized(v)) for v in group.root.inputs if v is not None))


def _resize(group: _Group) -> Value:
    op = group.root.op
    assert isinstance(op, Resize)
    if op.mode != "nearest" or op.transform == "tf_crop_and_resize":
        raise LeftFloatError("interpolation has no form on integers")
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
