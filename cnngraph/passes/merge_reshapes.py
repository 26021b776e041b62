"""Reshapes of reshapes, transposes of transposes, and chains of both become one copy.

``transpose(transpose(x, p), q)`` has axis ``i`` of the result equal to axis ``p[q[i]]`` of ``x``. A transpose that moves
only axes of extent 1 keeps the order of the elements and is a reshape. A chain of transposes and reshapes whose axes split and merge
cleanly (:mod:`cnngraph.analysis.axes`) is one transpose of a finer view, or none: windows, unfolded patches, shuffles, space to depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.analysis.axes import Axes
from cnngraph.ir.graph import Graph, Node
from cnngraph.ops.movement import Reshape, Transpose
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, replace


@dataclass(frozen=True)
class MergeReshapes(Pass):
    """``Reshape(Reshape(x))`` -> ``Reshape(x)``, chains of ``Transpose`` and ``Reshape`` -> ``Transpose``; none if nothing remains.

    An inner node that others read stays for them. Refuses chains that are copies of more than ``max_axes`` axes, or that save none.

    Attributes:
        max_axes: as many as copies by strides have loops.
    """

    name: ClassVar[str] = "merge_reshapes"
    max_axes: int = 6

    def run(self, graph: Graph, context: PassContext) -> int:
        """Merge in topological order: when a node is reached, what feeds it is already merged."""
        changes = 0
        for node in graph.nodes:
            if isinstance(node.op, (Reshape, Transpose)):
                merged = any(self._merge(graph, chain) for chain in _chains(node))
                changes += merged or (isinstance(node.op, Reshape) and _merge_reshapes(graph, node))
        return changes

    def _merge(self, graph: Graph, chain: list[Node]) -> bool:
        """Put one transpose, or none, in the place of a chain; whether that saves a copy."""
        source, node = chain[0].input(0), chain[-1]
        saved = sum(isinstance(link.op, Transpose) for link in _read_by_none_else(graph, chain))
        axes = _axes(chain) if saved else None
        if axes is None:
            return False
        extents, perm = axes.view()
        copies = perm != tuple(range(len(perm)))
        if saved <= copies or len(perm) > self.max_axes:
            return False
        origin = tuple(name for link in chain for name in link.origin)
        value, last = source, node.output.type
        if copies and (whole := axes.as_transpose(source.type.shape)) is not None:
            (value,) = graph.add(Transpose(whole), [value], origin=origin, before=node)
        elif copies:
            if extents != source.type.shape:
                (value,) = graph.add(Reshape(extents), [value], origin=origin, before=node)
            (value,) = graph.add(Transpose(perm), [value], origin=origin, before=node)
        if value.type != last:
            (value,) = graph.add(Reshape(last.shape), [value], origin=origin, before=node)
        graph.replace_uses(node.output, value)
        for link in reversed(chain):
            if not erase_unused(graph, link):
                break
        return True


def _chains(node: Node) -> Iterator[list[Node]]:
    """The chains of movements that end in ``node``, from the longest to the node alone, each in graph order."""
    chain = [node]
    while (inner := chain[0].input(0).producer) is not None and isinstance(inner.op, (Reshape, Transpose)):
        chain.insert(0, inner)
    return (chain[start:] for start in range(len(chain)))


def _read_by_none_else(graph: Graph, chain: list[Node]) -> list[Node]:
    """The last nodes of a chain, which vanish with it: those before the last of them are read by the next alone."""
    own = [chain[-1]]
    while len(own) < len(chain) and only_user(graph, (link := chain[-len(own) - 1]).output) is own[-1]:
        own.append(link)
    return own


def _axes(chain: list[Node]) -> Axes | None:
    """What a chain does with the axes of its source; None where these do not split and merge cleanly, or for empty tensors."""
    shape = chain[0].input(0).type.shape
    if 0 in shape:
        return None
    axes = Axes(shape)
    for link in chain:
        if isinstance(link.op, Reshape):
            axes.reshape(link.op.shape)
        elif not axes.transpose(perm_of(link)):
            return None
    return axes


def _merge_reshapes(graph: Graph, node: Node) -> bool:
    """Let a reshape read what the one before it does, and go if nothing remains; whether anything changed."""
    inner, changed = node.input(0).producer, False
    if inner is not None and isinstance(inner.op, Reshape):
        node = replace(graph, node, node.op, inner.inputs, inner.origin + node.origin)
        erase_unused(graph, inner)
        changed = True
    if node.output.type == node.input(0).type:
        graph.replace_uses(node.output, node.input(0))
        graph.erase(node)
        changed = True
    return changed


def perm_of(node: Node) -> tuple[int, ...]:
    """The permutation of a Transpose node."""
    assert isinstance(node.op, Transpose)
    return tuple(node.op.perm)
