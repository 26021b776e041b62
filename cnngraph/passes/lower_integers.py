"""Dynamic quantisation in the form that kernels take.

DynamicQuantizeLinear(x) => ranges of parts, scale and zero point from them, QuantizeLinear by these. Cast(ConvInteger(x)) =>
ConvInteger to float32, whose epilogue then takes up the multiplication by the scales, the bias and the activation.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import DType
from cnngraph.ops import Cast
from cnngraph.ops.quantized import DynamicQuantizeLinear, QuantizeLinear
from cnngraph.ops.quantized_conv import ConvInteger
from cnngraph.ops.quantized_range import RangeOfParts, RangeParameters
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, other_reader, replace


@dataclass(frozen=True)
class LowerIntegers(Pass):
    """dynamic_quantize(x) => quantize(x, *parameters(range(x))); cast(conv_integer(x)) => conv_integer'(x)."""

    name: ClassVar[str] = "lower_integers"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit both in graph order."""
        changes = 0
        for node in graph.nodes:
            if isinstance(node.op, DynamicQuantizeLinear):
                _split(graph, node)
                changes += 1
            elif isinstance(node.op, Cast) and node.op.to is DType.F32:
                changes += self._convert(graph, node, context)
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
