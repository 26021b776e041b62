"""Convolutions of dequantised tensors whose results stay float32.

Quantisers of PyTorch's and TensorRT's kind quantise what convolutions read, and not always what they compute: an activation or a float
residual may stand in between. conv(dequantize(x), dequantize(w), b) => conv_integer(x, w) * (scale of x * scales of w) + b, whose sums
are exact. The factors, the bias and what follows become the epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType
from cnngraph.ops import Conv, Elementwise
from cnngraph.ops.expression import Expression
from cnngraph.ops.quantized_conv import ConvInteger
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.qdq_operands import LeftFloatError, dequantized, floats_of, weights_of
from cnngraph.passes.rewrite import Writer, erase_unused


@dataclass(frozen=True)
class IntegerConvolutions(Pass):
    """See the module's description. Runs behind ``fuse_qdq``, which says why a result is not quantised."""

    name: ClassVar[str] = "integer_convolutions"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit every convolution."""
        return sum(_rewrite(graph, node, node.op) for node in graph.nodes if isinstance(node.op, Conv))


def _rewrite(graph: Graph, node: Node, op: Conv) -> bool:
    b, y = node.inputs[2], node.output.type
    bias = None if b is None else floats_of(b)
    if op.epilogue is not None or op.to is not None or (b is not None and bias is None):
        return False
    try:
        x, w = dequantized(node.input(0)), weights_of(graph, node.input(1), 0)
    except LeftFloatError:
        return False
    channels = w.value.type.shape[0]
    assert isinstance(channels, int)
    if w.overflow(x, 0, np.zeros(channels)):
        return False

    def by_channel(numbers: np.ndarray) -> Value:
        column = np.broadcast_to(numbers.astype(np.float32), (channels,)).reshape(-1, *[1] * (y.rank - 2))
        return graph.constant(np.ascontiguousarray(column))

    integer = ConvInteger(op.kernel, op.strides, op.pads, op.dilations, op.group, DType.F32)
    writer = Writer(graph, node)
    result = writer.add(integer, x.value, w.value, x.zero, w.zero)
    steps = [("mul", w.units(x))] + ([("add", bias.reshape(-1))] if bias is not None else [])
    for function, numbers in steps:
        result = writer.add(Elementwise(Expression.of(function, 2)), result, by_channel(numbers))
    producers = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    writer.finish(result)
    for producer in dict.fromkeys(producers):
        erase_unused(graph, producer)
    return True
