"""Assignments to a part of a tensor, as exporters write ``x[..., 2:4] = y``: a ScatterND whose known indices are a box.

scatter_nd(x, box, y) => concat(x before the box, y, x behind it), which is copied by rows or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Concat, ScatterND, Slice
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import replace


@dataclass(frozen=True)
class WriteParts(Pass):
    """scatter_nd(x, indices of a box, y) => concat(slice(x), y, slice(x)).

    Refuses boxes that take part of more than one axis, and reductions.
    """

    name: ClassVar[str] = "write_parts"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit scatters in graph order."""
        return sum(_write(graph, node) for node in graph.nodes if isinstance(node.op, ScatterND) and node.op.reduction == "none")


def _write(graph: Graph, node: Node) -> bool:
    x, indices, updates = (node.input(i) for i in range(3))
    starts = None if indices.data is None else _box(indices.data, x.type.shape)
    if starts is None:
        return False
    partial = [axis for axis in range(len(starts)) if updates.type.shape[axis] != x.type.shape[axis]]
    if len(partial) > 1:
        return False
    axis = partial[0] if partial else 0
    start, count, extent = starts[axis], indices.type.shape[axis], x.type.shape[axis]
    assert isinstance(count, int)
    assert isinstance(extent, int)
    before, behind = _part(graph, node, axis, 0, start), _part(graph, node, axis, start + count, extent)
    replace(graph, node, Concat(axis), [v for v in (before, updates, behind) if v is not None])
    return True


def _box(indices: np.ndarray, shape: tuple[object, ...]) -> tuple[int, ...] | None:
    """The first element of the box that the indices are, in row-major order; None if they are none."""
    depth = indices.shape[-1]
    extents = [extent for extent in shape[:depth] if isinstance(extent, int)]
    if indices.ndim - 1 != depth or len(extents) != depth or not indices.size:
        return None
    first = indices[(0,) * depth]
    starts = [int(at) + (extent if at < 0 else 0) for at, extent in zip(first, extents, strict=True)]
    for axis, (start, extent, count) in enumerate(zip(starts, extents, indices.shape, strict=False)):
        along = indices[..., axis]
        places = (start + np.arange(count)).reshape((-1,) + (1,) * (depth - 1 - axis))
        if start + count > extent or not (
            np.array_equal(along % extent, np.broadcast_to(places, along.shape)) and np.all(along >= -extent)
        ):
            return None
    return tuple(starts)


def _part(graph: Graph, node: Node, axis: int, start: int, end: int) -> Value | None:
    x = node.input(0)
    if start == end:
        return None
    starts, shape = [0] * x.type.rank, list(x.type.shape)
    starts[axis], shape[axis] = start, end - start
    return graph.add(Slice(tuple(starts), (1,) * x.type.rank, tuple(shape)), [x], origin=node.origin, before=node)[0]
