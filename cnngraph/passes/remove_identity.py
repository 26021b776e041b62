"""Nodes that change nothing disappear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node
from cnngraph.ops.base import Op
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.movement import Cast, Concat, Expand, Identity, Pad, Reshape, Slice, Transpose
from cnngraph.ops.pool import Pool
from cnngraph.ops.reduce import Reduce
from cnngraph.passes.base import Pass, PassContext


@dataclass(frozen=True)
class RemoveIdentity(Pass):
    """A node whose result is its input, bit for bit, is replaced by that input.

    A graph output may become a graph input or a constant this way.
    """

    name: ClassVar[str] = "remove_identity"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Remove every identity."""
        changes = 0
        for node in graph.nodes:
            rule = _RULES.get(type(node.op))
            if rule is None or not rule(node) or any(graph.is_used(value) for value in node.outputs[1:]):
                continue
            if node.output.type == node.input(0).type:
                graph.replace_uses(node.output, node.input(0))
                graph.erase(node)
                changes += 1
        return changes


def _always(node: Node) -> bool:
    """The type alone decides: same dtype and same shape means same contents."""
    return True


def _transpose(node: Node) -> bool:
    assert isinstance(node.op, Transpose)
    moved = [axis for axis in node.op.perm if node.input(0).type.shape[axis] != 1]
    return moved == sorted(moved)


def _concat(node: Node) -> bool:
    return len(node.inputs) == 1


def _slice(node: Node) -> bool:
    assert isinstance(node.op, Slice)
    return all(step == 1 for step in node.op.steps)


def _pad(node: Node) -> bool:
    assert isinstance(node.op, Pad)
    return not any(node.op.pads)


def _elementwise(node: Node) -> bool:
    assert isinstance(node.op, Elementwise)
    return not node.op.expression.instrs


def _pool(node: Node) -> bool:
    assert isinstance(node.op, Pool)
    return all(k == 1 for k in node.op.kernel) and all(s == 1 for s in node.op.strides) and not any(node.op.pads)


def _reduce(node: Node) -> bool:
    assert isinstance(node.op, Reduce)
    shape = node.input(0).type.shape
    return node.op.kind in ("mean", "sum", "max", "min", "prod") and all(shape[axis] == 1 for axis in node.op.axes)


_RULES: dict[type[Op], Callable[[Node], bool]] = {
    Identity: _always,
    Reshape: _always,
    Cast: _always,
    Expand: _always,
    Transpose: _transpose,
    Concat: _concat,
    Slice: _slice,
    Pad: _pad,
    Elementwise: _elementwise,
    Pool: _pool,
    Reduce: _reduce,
}
