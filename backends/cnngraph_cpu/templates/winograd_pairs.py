"""Winograd convolution F(2x2, 3x3) with dot products of pairs of bfloat16: :mod:`cnngraph_cpu.templates.winograd` with STEP = 2."""

from __future__ import annotations

from cnngraph.ir.graph import Node
from cnngraph.kernels.template import Target
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.conv_pairs import ConvPairs
from cnngraph_cpu.templates.winograd_blocking import PAIRS
from cnngraph_cpu.templates.winograd_plan import Winograd


class WinogradPairs(Winograd):
    """3x3 convolutions of stride 1 whose weights are bfloat16.

    Transformed weights and tiles are rounded to bfloat16 again: half a percent of the standard deviation of a layer's result, where
    rounding its weights and the result costs half of that. U-Net's probabilities, all of whose layers are 3x3, were off by 2.3 percent
    with it and by 1.7 percent without, so it is for results whose pixels are summed before they reach an output.
    """

    name = "winograd_pairs"
    arithmetic = PAIRS
    rounds_tiles = True
    _pairs = ConvPairs()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution of pairs or Winograd in float32 refuses, and an odd number of channels."""
        refusal = self._pairs.accepts(node, target) or super().accepts(node, target)
        if refusal is None and geometry(node).channels % 2:
            return "an odd number of channels"
        return refusal
