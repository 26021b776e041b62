"""Nodes and results that nothing reads disappear."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph
from cnngraph.ops.pool import Pool
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, replace


@dataclass(frozen=True)
class RemoveDead(Pass):
    """A node none of whose results is read is erased; a max pool whose indices are not read computes none."""

    name: ClassVar[str] = "remove_dead"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit readers before what they read, so that one run removes whole dead branches."""
        changes = 0
        for node in reversed(graph.nodes):
            if erase_unused(graph, node):
                changes += 1
            elif isinstance(node.op, Pool) and node.op.indices and not graph.is_used(node.outputs[1]):
                replace(graph, node, dataclasses.replace(node.op, indices=False), node.inputs)
                changes += 1
        return changes
