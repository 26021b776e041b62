"""A convolution, dense layer or normalisation followed by an element-wise chain => one node with an epilogue, computed in registers.

elementwise(conv(x), r...) => conv'(x, r...): bias, activation and residual addition cost no pass over memory. The fused node takes
the place of the element-wise one, where all operands exist. Of two convolutions that meet in an addition, the later one takes it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.kernels.operands import operand_kind
from cnngraph.ops import Conv, ConvTranspose, Dense, Elementwise
from cnngraph.ops.expression import Expression
from cnngraph.ops.group_norm import GroupNorm
from cnngraph.ops.quantized_conv import ConvInteger
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, other_reader, replace

LAYERS = (Conv, ConvInteger, ConvTranspose, Dense, GroupNorm)
"""Operators with an epilogue: inputs x, weights (or a scale), bias or None (an integer convolution: two zero points), then its operands."""


@dataclass(frozen=True)
class FuseEpilogue(Pass):
    """elementwise(conv(x), ...) => conv with epilogue.

    Refuses: a result with another reader, a changed shape or dtype, operands that kernels cannot load by element, channel or
    scalar, more than ``max_operands`` of them.
    """

    name: ClassVar[str] = "fuse_epilogue"
    max_operands: int = 4

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit element-wise nodes in graph order."""
        changes = 0
        position = {node: i for i, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            if not isinstance(node.op, Elementwise):
                continue
            layers = [i for i, v in enumerate(node.inputs) if v is not None and v.producer and isinstance(v.producer.op, LAYERS)]
            layers.sort(key=lambda i: -position[node.inputs[i].producer])  # type: ignore[union-attr, index]
            for index in layers:
                fused, reason = self._fuse(graph, node, index)
                if fused is not None:
                    position[fused] = position[node]
                    changes += 1
                    break
                context.reject(self.name, node, reason)
        return changes

    def _fuse(self, graph: Graph, node: Node, index: int) -> tuple[Node | None, str]:
        value = node.input(index)
        layer = value.producer
        assert layer is not None and isinstance(layer.op, LAYERS) and isinstance(node.op, Elementwise)
        if only_user(graph, value) is not node:
            return None, f"the result of {layer.label} is also {other_reader(graph, value, node)}"
        if isinstance(layer.op, ConvInteger) and not value.type.dtype.is_float:
            return None, "an epilogue computes floats, and the result is integers"
        if value.type != node.output.type:
            return None, f"it turns {value.type} into {node.output.type}"
        others = [v for i, v in enumerate(node.inputs) if i != index]
        for other in others:
            if other is not None and operand_kind(other.type, value.type, constant=other.is_constant) is None:
                return None, f"operand {other.type} varies in a way that no kernel loads in its epilogue"
        inner = layer.op.epilogue or Expression(1)
        head = 4 if isinstance(layer.op, ConvInteger) else 3
        extra: list[Value | None] = [*layer.inputs[head:], *others]
        if len(extra) > self.max_operands:
            return None, f"{len(extra)} operands; an epilogue takes at most {self.max_operands}"
        # substitute() numbers the outer operands first; put the convolution's result first, then its old operands
        joined = node.op.expression.substitute(index, inner)
        outer = len(others)
        order = [inner.inputs + i for i in range(outer)] + list(range(inner.inputs))
        expression = joined.select(order, joined.inputs).ordered()
        op = dataclasses.replace(layer.op, epilogue=expression)
        fused = replace(graph, node, op, [*layer.inputs[:head], *extra], (*layer.origin, *node.origin))
        erase_unused(graph, layer)
        return fused, ""
