"""Direct convolution with dot products of pairs of bfloat16: the code of :mod:`cnngraph_cpu.templates.conv_direct` with P = 2."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType
from cnngraph.kernels.template import LayoutRequest, Target
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_geometry import geometry

RATE = 1.4
"""Estimated against measured cycles, next to Winograd: 64 to 512 channels on maps of 56 to 7 pixels, Zen 4 (1.21, 1.31, 1.54, 1.46)."""


class ConvPairs(ConvDirect):
    """Convolutions whose weights are bfloat16; an input of float32 is rounded while it is copied."""

    name = "conv_pairs"
    reorders_arithmetic = True
    step = 2

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses targets without such dot products, other weights, and pairs with a padding lane, which may hold NaN."""
        refusal = super().accepts(node, target)
        if refusal:
            return refusal
        if not target.dot2:
            return "the instruction set has no dot products of bfloat16"
        if node.input(1).type.dtype is not DType.BF16:
            return "not a convolution in bfloat16"
        g = geometry(node)
        if g.channels % 2 and not (g.channels < target.width and g.group == 1):
            return "an odd number of channels, of which one would make a pair with a padding lane"
        return None

    def cost(self, node: Node, target: Target) -> float:
        """Half of the direct convolution's, at the measured rate; of groups, whole blocks of channels are read."""
        g = geometry(node)
        per_group = g.channels // g.group
        read = per_group if g.group == 1 else min(g.channels, max(per_group, target.width))
        return super().cost(node, target) * RATE * read / per_group

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Those of the direct convolution; an odd number of channels plain only, from where the last pair is completed with a zero."""
        offers = super().layouts(node, target)
        return offers if geometry(node).channels % 2 == 0 else [offer for offer in offers if offer.inputs[0] == PLAIN]
