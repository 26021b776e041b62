"""Transposes and reshapes stand before dequantisations: bytes are moved instead of floats, and operators read what is dequantised."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import numel
from cnngraph.ops import DequantizeLinear, Reshape, Transpose
from cnngraph.ops.quantized import EIGHT_BITS
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, replace


@dataclass(frozen=True)
class MoveBytes(Pass):
    """transpose(dequantize(x)) => dequantize(transpose(x)), and so for reshapes of what none else reads.

    Refuses scales by block, reshapes of scales by axis, and integers of other types, which kernels do not move.
    """

    name: ClassVar[str] = "move_bytes"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit movements in graph order."""
        return sum(_move(graph, node, node.op) for node in graph.nodes if isinstance(node.op, (Reshape, Transpose)))


def _move(graph: Graph, node: Node, movement: Reshape | Transpose) -> bool:
    inner = node.input(0).producer
    if inner is None or not isinstance(inner.op, DequantizeLinear) or inner.op.block_size:
        return False
    op, integers = inner.op, inner.input(0)
    if integers.type.dtype not in EIGHT_BITS:
        return False
    single = numel(inner.input(1).type.shape) == 1
    if isinstance(movement, Reshape):
        if not single or only_user(graph, inner.output) is not node:
            return False
    elif not single:
        op = dataclasses.replace(op, axis=movement.perm.index(op.axis))
    if integers.data is not None:
        moved = graph.constant(movement.reference(integers.data)[0])
    else:
        (moved,) = graph.add(movement, [integers], origin=node.origin, before=node)
    replace(graph, node, op, [moved, *inner.inputs[1:]], inner.origin)
    erase_unused(graph, inner)
    return True
