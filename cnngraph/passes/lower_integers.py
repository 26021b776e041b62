"""Dynamic quantisation, and operands by channel, in the form that kernels take.

DynamicQuantizeLinear(x) => ranges of parts, scale and zero point from them, QuantizeLinear by these. Cast(ConvInteger(x)) =>
ConvInteger to float32, whose epilogue then takes up the multiplication by the scales, the bias and the activation. A sum or product of
integers with one number a channel => with one number for each channel of each image, as gates have. dequantize(quantize(x)) by 16 bits
=> the same numbers in float32, as no kernel computes with such integers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import DType, Shape, Sym
from cnngraph.ops import Cast, Elementwise, Expand
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.quantized import DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear
from cnngraph.ops.quantized_conv import ConvInteger
from cnngraph.ops.quantized_elementwise import QLinearBinary
from cnngraph.ops.quantized_range import RangeOfParts, RangeParameters
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, other_reader, replace


@dataclass(frozen=True)
class LowerIntegers(Pass):
    """dynamic_quantize(x) => quantize(x, *parameters(range(x))); cast(conv_integer(x)) => conv_integer'(x)."""

    name: ClassVar[str] = "lower_integers"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit all in graph order."""
        changes = 0
        for node in graph.nodes:
            if isinstance(node.op, DynamicQuantizeLinear):
                _split(graph, node)
                changes += 1
            elif isinstance(node.op, Cast) and node.op.to is DType.F32:
                changes += self._convert(graph, node, context)
            elif isinstance(node.op, QLinearBinary):
                changes += _repeat(graph, node)
            elif isinstance(node.op, DequantizeLinear):
                changes += _in_steps(graph, node)
        return changes

    def _convert(self, graph: Graph, node: Node, context: PassContext) -> int:
        conv = node.input(0).producer
        if conv is None or not isinstance(conv.op, ConvInteger) or conv.op.to is not DType.I32:
            return 0
        if only_user(graph, node.input(0)) is not node:
            context.reject(self.name, node, f"the integers are also {other_reader(graph, node.input(0), node)}")
            return 0
        op = dataclasses.replace(conv.op, to=DType.F32)
        replace(graph, node, op, conv.inputs, (*conv.origin, *node.origin))
        erase_unused(graph, conv)
        return 1


def _split(graph: Graph, node: Node) -> None:
    x = node.input(0)
    (parts,) = graph.add(RangeOfParts(), [x], origin=node.origin, before=node)
    scale, zero = graph.add(RangeParameters(), [parts], origin=node.origin, before=node)
    (y,) = graph.add(QuantizeLinear(DType.U8), [x, scale, zero], origin=node.origin, before=node)
    for old, new in zip(node.outputs, (y, scale, zero), strict=True):
        graph.replace_uses(old, new)
    graph.erase(node)


def _in_steps(graph: Graph, node: Node) -> bool:
    """dequantize(quantize(x)) => (clip(round(x / scale) + zero, low, high) - zero) * scale, every step exact or as they round."""
    first, op = node.input(0).producer, node.op
    assert isinstance(op, DequantizeLinear)
    if first is None or not isinstance(first.op, QuantizeLinear) or first.op.to not in (DType.I16, DType.U16):
        return False
    given = (*first.inputs[1:], *node.inputs[1:])
    parameters = [None if v is None else v.data for v in given]
    single = all(v is None or (v.data is not None and v.data.size == 1) for v in given)
    if not single or first.input(0).type.dtype is not DType.F32 or op.to is not DType.F32 or first.op.precision is not DType.F32:
        return False
    numbers = [np.zeros((), np.float32) if array is None else array.reshape(()).astype(np.float32) for array in parameters]
    low, high = first.op.to.range
    # of operands, so that equal kernels compute it everywhere
    steps = [("div", (0, 1)), ("round", (5,)), ("add", (6, 2)), ("clip", (7,)), ("sub", (8, 4)), ("mul", (9, 3))]
    instrs = tuple(Instr(fn, args, (float(low), float(high)) if fn == "clip" else ()) for fn, args in steps)
    operands = [first.input(0), *(graph.constant(number) for number in numbers)]
    replace(graph, node, Elementwise(Expression(5, instrs)), operands, (*first.origin, *node.origin))
    erase_unused(graph, first)
    return True


def channels_of_images(narrow: Shape, wide: Shape, constant: bool = False) -> Shape | None:
    """``[N, C, 1, ...]``, if ``narrow`` has one number for each channel of ``wide``, of each image or of all.

    Computed numbers for all of a known number of images, which would have to be repeated by a kernel of its own, are no such shape.
    """
    full = (*(1,) * (len(wide) - len(narrow)), *narrow)
    if not 3 <= len(full) == len(wide) or full[1] != wide[1] or any(d != 1 for d in full[2:]):
        return None
    known = full[0] == wide[0] and full == narrow
    return (wide[0], *full[1:]) if known or (full[0] == 1 and (constant or isinstance(wide[0], Sym))) else None


def _repeat(graph: Graph, node: Node) -> bool:
    """Repeat a computed operand by channel for each image."""
    inputs, shape = list(node.inputs), node.output.type.shape
    for i in (0, 3):
        value = node.input(i)
        repeated = None if value.is_constant else channels_of_images(value.type.shape, shape)
        if value.type.shape != shape and repeated is not None and value.type.shape != repeated:
            (inputs[i],) = graph.add(Expand(repeated), [value], origin=node.origin, before=node)
    if tuple(inputs) == node.inputs:
        return False
    graph.rewire(node, inputs)
    return True
