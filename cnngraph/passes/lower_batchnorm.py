"""BatchNorm that could not fold => one affine element-wise node ``x*s + t``.

y = (x - mean) * scale / sqrt(var + eps) + bias = x*s + t with s = scale / sqrt(var + eps) and t = bias - mean*s, both computed
in float64 and rounded once. FuseElementwise then joins the activation behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node
from cnngraph.ops import BatchNorm, Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import channel_constant, replace

AFFINE = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2))))
"""x*s + t."""


def affine(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(s, t) of an inference BatchNorm with constant parameters, as float64 vectors of one number per channel."""
    if not isinstance(node.op, BatchNorm) or node.op.training:
        return None
    parameters = []
    for value in node.inputs[1:5]:
        if value is None or value.data is None:
            return None
        parameters.append(value.data.astype(np.float64).reshape(-1))
    scale, bias, mean, var = parameters
    s = scale / np.sqrt(var + node.op.epsilon)
    return s, bias - mean * s


@dataclass(frozen=True)
class LowerBatchNorm(Pass):
    """BatchNorm(x) => Elementwise(x*s + t). Refuses training mode and parameters computed at run time."""

    name: ClassVar[str] = "lower_batchnorm"

    def run(self, graph: Graph, context: PassContext) -> int:
        """See the module's description."""
        changes = 0
        for node in graph.nodes:
            if not isinstance(node.op, BatchNorm):
                continue
            folded = affine(node)
            if folded is None:
                context.reject(self.name, node, "the statistics are not constant")
                continue
            x = node.input(0)
            s, t = (channel_constant(graph, vector, x) for vector in folded)
            replace(graph, node, Elementwise(AFFINE), [x, s, t])
            changes += 1
        return changes
