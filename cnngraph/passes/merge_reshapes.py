"""Reshapes of reshapes and transposes of transposes become one.

``transpose(transpose(x, p), q)`` has axis ``i`` of the result equal to axis ``p[q[i]]`` of ``x``. A transpose that moves
only axes of extent 1 keeps the order of the elements and is a reshape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node
from cnngraph.ops.movement import Reshape, Transpose
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, replace


@dataclass(frozen=True)
class MergeReshapes(Pass):
    """``Reshape(Reshape(x))`` -> ``Reshape(x)``, ``Transpose(Transpose(x))`` -> ``Transpose(x)``; none if nothing remains.

    An inner node that others read stays for them.
    """

    name: ClassVar[str] = "merge_reshapes"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Merge in topological order: when a node is reached, what feeds it is already merged."""
        changes = 0
        for node in graph.nodes:
            changes += _visit(graph, node)
        return changes


def _visit(graph: Graph, node: Node) -> int:
    changes = 0
    if isinstance(node.op, Transpose):
        source = node.input(0)
        inner = source.producer
        if inner is not None and isinstance(inner.op, Transpose):
            perm = tuple(inner.op.perm[axis] for axis in node.op.perm)
            node = replace(graph, node, Transpose(perm), (inner.input(0),), inner.origin + node.origin)
            erase_unused(graph, inner)
            changes += 1
        moved = [axis for axis in perm_of(node) if node.input(0).type.shape[axis] != 1]
        if moved == sorted(moved):
            node = replace(graph, node, Reshape(node.output.type.shape), node.inputs)
            changes += 1
    if isinstance(node.op, Reshape):
        inner = node.input(0).producer
        if inner is not None and isinstance(inner.op, Reshape):
            node = replace(graph, node, node.op, inner.inputs, inner.origin + node.origin)
            erase_unused(graph, inner)
            changes += 1
        if node.output.type == node.input(0).type:
            graph.replace_uses(node.output, node.input(0))
            graph.erase(node)
            changes += 1
    return changes


def perm_of(node: Node) -> tuple[int, ...]:
    """The permutation of a Transpose node."""
    assert isinstance(node.op, Transpose)
    return tuple(node.op.perm)
