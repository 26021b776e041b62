"""Gather by constant indices from a row-major tensor of any type: one thread has one element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Gather
from cnngraph_cuda.language import DataPointer, I32Pointer, block_x, load_int, load_one, store_one, thread
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, refuse_empty

THREADS = 0


def gather(x: DataPointer, y: DataPointer, table: I32Pointer, elements: int, count: int, inner: int, extent: int) -> None:
    """``y[outer, j, inner] = x[outer, table[j], inner]``."""
    at = block_x() * THREADS + thread()
    if at < elements:
        line = at // inner
        outer = line // count
        place = load_int(table, line - outer * count)
        store_one(y, at, load_one(x, (outer * extent + place) * inner + at - line * inner))


class GatherPlain:
    """Gather along any axis of a row-major tensor by indices known at compile time."""

    name = "gather"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(gather, {}, "Elements picked along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses indices computed at run time, and indices outside the axis."""
        op = node.op
        if not isinstance(op, Gather):
            return "not a gather"
        x, indices = node.input(0).type, node.input(1)
        if not indices.is_constant or indices.data is None:
            return "indices computed at run time"
        extent = x.shape[op.axis]
        assert isinstance(extent, int)
        if ((indices.data < -extent) | (indices.data >= extent)).any():
            return "an index outside the axis"
        return refuse_empty(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN, None), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, y, data = node.op, node.input(0), node.output, node.input(1).data
        assert isinstance(op, Gather) and data is not None
        extent = x.type.shape[op.axis]
        assert isinstance(extent, int)
        table = np.where(data < 0, data + extent, data).reshape(-1).astype(np.int32)
        units, threads = numel(y.type.shape), 256
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "table": Packed(table),
            "elements": Extent(units), "count": Extent(table.size), "inner": Extent(numel(x.type.shape[op.axis + 1 :])),
            "extent": Extent(extent),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads)
