"""Nodes whose results have no elements: nothing is computed, but a step stands for the node."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph_cuda.language import DataPointer, load_one, store_one, thread
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch

THREADS = 0


def nothing(y: DataPointer, elements: int) -> None:
    """``elements`` is 0."""
    if thread() < elements:
        store_one(y, thread(), load_one(y, thread()))


class Nothing:
    """Any operator, for empty results."""

    name = "nothing"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(nothing, {}, "No elements.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses results with elements."""
        empty = all(0 in v.type.shape for v in node.outputs)
        return None if empty else "not an empty result"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Operands as they lie."""
        return [LayoutRequest(tuple(None for _ in node.inputs), tuple(PLAIN for _ in node.outputs))]

    def cost(self, node: Node, target: Target) -> float:
        """None."""
        return 0.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One warp that does nothing."""
        arguments: dict[str, Argument] = {**launch(1, 1, 32), "y": Pointer(node.outputs[0]), "elements": Extent(0)}
        return kernel_call(self, target, arguments, node.outputs[0], 32)
