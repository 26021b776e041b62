"""Group normalisation as exporters write it for older operator sets: instance normalisation of the groups as channels.

reshape(instance_norm(reshape(x, [N, G, ...]), s, b), shape of x) => group_norm(x, G, s repeated, b repeated), so that x keeps its channels
and its layout. Factors and terms by channel, which follow, join its epilogue later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Reshape
from cnngraph.ops.group_norm import GroupNorm
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import only_user, replace

_RANKS = range(3, 6)


@dataclass(frozen=True)
class MatchGroupNorm(Pass):
    """See the module's description. Leaves alone what is reshaped to something else, and computed parameters."""

    name: ClassVar[str] = "match_group_norm"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit every normalisation."""
        return sum(_match(graph, node, node.op) for node in graph.nodes if isinstance(node.op, GroupNorm))


def _match(graph: Graph, node: Node, op: GroupNorm) -> bool:
    folded = node.input(0)
    before, behind = folded.producer, only_user(graph, node.output)
    if before is None or behind is None or not isinstance(before.op, Reshape) or not isinstance(behind.op, Reshape):
        return False
    x = before.input(0)
    if op.epilogue is not None or x.type.shape != behind.output.type.shape or x.type.rank not in _RANKS:
        return False
    (images, channels), (rows, groups) = x.type.shape[:2], folded.type.shape[:2]
    if images != rows or not isinstance(channels, int) or groups != op.groups or channels % op.groups:
        return False
    parameters: list[Value | None] = []
    for value in node.inputs[1:]:
        if value is not None and value.data is None:
            return False
        repeated = None if value is None or value.data is None else np.repeat(value.data, channels // op.groups)
        parameters.append(None if repeated is None else graph.constant(repeated))
    replace(graph, behind, op, [x, *parameters], origin=(*before.origin, *node.origin, *behind.origin))
    return True
