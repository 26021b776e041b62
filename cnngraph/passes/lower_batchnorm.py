"""Batch normalization with constant statistics becomes a multiplication and an addition per channel.

``y = (x - mean) / sqrt(var + epsilon) * gamma + beta = x * s + t`` with ``s = gamma / sqrt(var + epsilon)`` and
``t = beta - mean * s`` (Ioffe and Szegedy 2015, section 3.1). ``s`` and ``t`` are computed in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.norm import BatchNorm
from cnngraph.passes.affine import batchnorm_affine
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import channel_constant, replace

SCALE_SHIFT = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2))))


@dataclass(frozen=True)
class LowerBatchNorm(Pass):
    """``BatchNorm(x)`` -> ``x * s + t`` with constants ``s`` and ``t`` of shape ``[C, 1, ..]``."""

    name: ClassVar[str] = "lower_batchnorm"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Lower every inference-mode BatchNorm whose parameters are constant."""
        changes = 0
        for node in graph.nodes:
            if not isinstance(node.op, BatchNorm):
                continue
            affine = batchnorm_affine(node)
            if affine is None:
                context.reject(self.name, node, "its parameters are not all constant, or it computes batch statistics")
                continue
            s = channel_constant(graph, affine.scale, node.output)
            t = channel_constant(graph, affine.shift, node.output)
            assert s.data is not None and t.data is not None
            if not (np.isfinite(s.data).all() and np.isfinite(t.data).all()):
                context.reject(self.name, node, "its scale or shift is not finite")
                continue
            replace(graph, node, Elementwise(SCALE_SHIFT), (affine.x, s, t))
            changes += 1
        return changes
