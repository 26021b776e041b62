"""Concat along any axis of row-major tensors of any type: one thread has one element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, numel, static
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Concat
from cnngraph_cuda.language import DataPointer, I32Pointer, block_x, load_int, load_one, store_one, thread
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.channels import MOST_PARTS
from cnngraph_cuda.templates.common import kernel_call, launch

PARTS = THREADS = 0
_SHIFT = 24


def take(NUMBER: int, part_x: int, length: int) -> None:
    """Copy from one part if the element comes from it."""
    if NUMBER < PARTS:
        if part == NUMBER:
            store_one(y, at, load_one(part_x, (outer * length + source) * inner + place))


def join(
    x0: DataPointer, x1: DataPointer, x2: DataPointer, x3: DataPointer, x4: DataPointer, x5: DataPointer, x6: DataPointer, x7: DataPointer,
    y: DataPointer, table: I32Pointer, elements: int, extent: int, inner: int, l0: int, l1: int, l2: int, l3: int, l4: int, l5: int,
    l6: int, l7: int,
) -> None:  # fmt: skip
    """A table entry is ``part << 24 | position`` for each position of the result; a part has ``l`` positions of ``inner`` elements."""
    at = block_x() * THREADS + thread()
    if at < elements:
        line = at // inner
        place = at - line * inner
        outer = line // extent
        entry = load_int(table, line - outer * extent)
        part = entry >> 24
        source = entry & 16777215
        take(0, x0, l0)
        take(1, x1, l1)
        take(2, x2, l2)
        take(3, x3, l3)
        take(4, x4, l4)
        take(5, x5, l5)
        take(6, x6, l6)
        take(7, x7, l7)


def _parts(node: Node) -> list[Value]:
    """The operands that have elements."""
    return [v for v in node.inputs if v is not None and 0 not in v.type.shape]


class Join:
    """Concat of up to eight parts."""

    name = "join"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(join, {"take": take}, "Up to eight tensors one behind the other along an axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more parts, empty results, and axes too long for the table."""
        op = node.op
        if not isinstance(op, Concat):
            return "not a concatenation"
        if 0 in node.output.type.shape:
            return "an empty tensor"
        if len(_parts(node)) > MOST_PARTS:
            return f"{len(node.inputs)} parts; a kernel joins {MOST_PARTS}"
        extent = node.output.type.shape[op.axis]
        assert isinstance(extent, int)
        return "an axis of more than 2**24 elements" if extent > 1 << _SHIFT else None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Above that of the join of channels."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, y, parts = node.op, node.output, _parts(node)
        assert isinstance(op, Concat)
        lengths = static(v.type.shape[op.axis] for v in parts)
        table = np.array([(part << _SHIFT) | i for part, length in enumerate(lengths) for i in range(length)], np.int32)
        filled = [min(i, len(parts) - 1) for i in range(MOST_PARTS)]
        units, threads = numel(y.type.shape), 256
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(y, *parts)), **{f"x{i}": Pointer(parts[k]) for i, k in enumerate(filled)},
            "y": Pointer(y), "table": Packed(table), "elements": Extent(units), "extent": Extent(table.size),
            "inner": Extent(numel(y.type.shape[op.axis + 1 :])), **{f"l{i}": Extent(lengths[k]) for i, k in enumerate(filled)},
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("PARTS", len(parts)),))
