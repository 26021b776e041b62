"""What the rewriting passes share: replacing a node, who reads a value, and constants as per-channel vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops.base import Op


def replace(graph: Graph, node: Node, op: Op, inputs: Sequence[Value | None], origin: Iterable[str] = ()) -> Node:
    """Put a node of one output in place of ``node``, whose first output is the only one read, and return it.

    ``origin`` defaults to the old node's.
    """
    (value,) = graph.add(op, inputs, origin=tuple(origin) or node.origin, before=node)
    graph.replace_uses(node.output, value)
    graph.erase(node)
    assert value.producer is not None
    return value.producer


class Writer:
    """Writes what stands for a node, piece by piece, in front of it."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    def add(self, op: Op, *inputs: Value | None) -> Value:
        """The result of a new node of one output."""
        (value,) = self.graph.add(op, inputs, origin=self.node.origin, before=self.node)
        return value

    def finish(self, result: Value) -> None:
        """Let ``result`` take the place of the node's first output, the only one that is read, and erase the node."""
        self.graph.replace_uses(self.node.output, result)
        self.graph.erase(self.node)


def erase_unused(graph: Graph, node: Node) -> bool:
    """Erase ``node`` if nothing reads its results; whether it was erased."""
    if any(graph.is_used(value) for value in node.outputs):
        return False
    graph.erase(node)
    return True


def only_user(graph: Graph, value: Value) -> Node | None:
    """The one node that reads ``value``, perhaps through several inputs, if the value is no graph output."""
    users = set(value.users)
    return next(iter(users)) if len(users) == 1 and not graph.is_output(value) else None


def other_reader(graph: Graph, value: Value, user: Node) -> str:
    """Who else than ``user`` reads ``value``, as the end of a sentence "... is also"."""
    for other in value.users:
        if other is not user:
            return f"read by {other.op.name} {other.label}"
    return "a graph output" if graph.is_output(value) else "unused"


def symbolic(op: Op) -> bool:
    """Whether an attribute of ``op`` depends on the batch size."""
    return op.bind(1) is not op


def channel_vector(value: Value, rank: int, channels: int) -> np.ndarray | None:
    """A constant as one float64 number per channel (axis 1 of a tensor of ``rank`` axes, at least 2).

    Returns:
        Array of shape ``[channels]``, or None if the value is not constant or varies along another axis.
    """
    if value.data is None or value.type.rank > rank:
        return None
    shape = (1,) * (rank - value.type.rank) + value.data.shape
    if any(d != 1 for axis, d in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(value.data.reshape(shape[1]).astype(np.float64), (channels,))


def channel_constant(graph: Graph, vector: np.ndarray, like: Value) -> Value:
    """A constant of ``like``'s dtype that adds or multiplies ``vector`` along axis 1 of ``like``."""
    shape = (vector.size,) + (1,) * (like.type.rank - 2)
    return graph.constant(vector.astype(like.type.dtype.numpy).reshape(shape))
