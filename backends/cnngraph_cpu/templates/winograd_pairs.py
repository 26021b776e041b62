"""Winograd convolution F(2x2, 3x3) with dot products of pairs of bfloat16: :mod:`cnngraph_cpu.templates.winograd` with STEP = 2."""

from __future__ import annotations

from cnngraph.ir.graph import Node
from cnngraph.kernels.template import Target
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.conv_pairs import ConvPairs
from cnngraph_cpu.templates.winograd_plan import Winograd


class WinogradPairs(Winograd):
    """3x3 convolutions of stride 1 whose weights are bfloat16.

    Transformed weights and tiles are rounded to bfloat16 again, which adds about 0.3 percent of its standard deviation to a layer's result;
    rounding that result alone costs 0.1 percent.
    """

    name = "winograd_pairs"
    step = 2
    _pairs = ConvPairs()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution of pairs or Winograd in float32 refuses, and an odd number of channels."""
        refusal = self._pairs.accepts(node, target) or super().accepts(node, target)
        if refusal is None and geometry(node).channels % 2:
            return "an odd number of channels"
        return refusal
