"""Concatenation, slices and permutations of channels, channels last: each output vector or element names its part and channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, static
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Concat, Slice
from cnngraph.ops.channels import TakeChannels
from cnngraph_cuda.language import DataPointer, I32Pointer, block_x, load_int, load_vector, registers, store_vector, thread, unroll
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import (
    channels_last,
    cuda,
    joins_in_place,
    kernel_call,
    launch,
    pitch,
    reading,
    refuse_types,
    writing,
)
from cnngraph_cuda.templates.relayout import split

VL = PARTS = THREADS = 0
MOST_PARTS = 8
_SHIFT = 24


def fetch(NUMBER: int, part_x: int, part_batch: int, part_pixel: int) -> None:
    """Load from one part if the vector comes from it."""
    if NUMBER < PARTS:
        if part == NUMBER:
            (*v,) = load_vector(part_x, image * part_batch + pixel * part_pixel + source)


def channels(
    x0: DataPointer, x1: DataPointer, x2: DataPointer, x3: DataPointer, x4: DataPointer, x5: DataPointer, x6: DataPointer, x7: DataPointer,
    y: DataPointer, table: I32Pointer, vectors: int, groups: int, plane: int, b0: int, b1: int, b2: int, b3: int, b4: int, b5: int,
    b6: int, b7: int, p0: int, p1: int, p2: int, p3: int, p4: int, p5: int, p6: int, p7: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """A table entry is ``part << 24 | channel``; parts beyond the last are not read."""
    v = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // groups
        group = at - rest * groups
        image = rest // plane
        pixel = rest - image * plane
        entry = load_int(table, group)
        part = entry >> 24
        source = entry & 16777215
        for e in unroll(VL):
            v[e] = 0.0
        fetch(0, x0, b0, p0)
        fetch(1, x1, b1, p1)
        fetch(2, x2, b2, p2)
        fetch(3, x3, b3, p3)
        fetch(4, x4, b4, p4)
        fetch(5, x5, b5, p5)
        fetch(6, x6, b6, p6)
        fetch(7, x7, b7, p7)
        store_vector(y, image * y_batch + pixel * y_pixel + group * VL, *v)


def sources(node: Node) -> list[tuple[int, int]] | None:
    """(part, channel) of every channel of the result, or None if the node does something else."""
    op, parts = node.op, [v for v in node.inputs if v is not None]
    if not parts or any(v.type.rank < 2 or not isinstance(v.type.shape[1], int) for v in parts):
        return None
    counts = static(v.type.shape[1] for v in parts)
    joined = [(i, c) for i, count in enumerate(counts) for c in range(count)]
    if isinstance(op, Concat):
        return joined if op.axis == 1 else None
    if isinstance(op, TakeChannels):
        return [joined[c] for c in op.channels]
    if isinstance(op, Slice):
        x, y = parts[0].type, node.output.type
        if any(a != b for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if i != 1):
            return None
        if any((start, step) != (0, 1) for i, (start, step) in enumerate(zip(op.starts, op.steps, strict=True)) if i != 1):
            return None
        count = y.shape[1]
        assert isinstance(count, int)
        return [(0, op.starts[1] + op.steps[1] * i) for i in range(count)]
    return None


def vectors_of(chosen: Sequence[tuple[int, int]], lanes: int) -> list[tuple[int, int]] | None:
    """The first source of each whole vector, or None if some vector is not one aligned piece of a part."""
    out = []
    for first in range(0, len(chosen), lanes):
        piece = chosen[first : first + lanes]
        part, channel = piece[0]
        if channel % lanes or any(p != part or c != channel + i for i, (p, c) in enumerate(piece)):
            return None
        out.append((part, channel))
    return out


class Channels:
    """Concat along the channels, TakeChannels, and Slice of channels."""

    name = "channels"
    reorders_arithmetic = False
    code = Code(channels, {"fetch": fetch}, "Channels of up to eight tensors, chosen by a table.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other axes and more than eight parts."""
        if not isinstance(node.op, (Concat, Slice, TakeChannels)):
            return "not a choice of channels"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if len(node.inputs) > MOST_PARTS:
            return f"{len(node.inputs)} parts; a kernel joins {MOST_PARTS}"
        if node.output.type.rank < 2 or sources(node) is None:
            return "another axis than the channels"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last; a view of its input or of the concatenation that its parts lie in where that is possible."""
        parts = [v for v in node.inputs if v is not None]
        inputs = tuple(reading(v) for v in parts)
        x, y, lanes = parts[0].type, node.output.type, cuda(target).lanes
        if isinstance(node.op, Concat) and joins_in_place(node) and len(set(inputs)) == 1 and inputs[0] == x.layout:
            return [LayoutRequest(inputs, (x.layout if x.layout.block >= channels_last(y).block else writing(node.output),))]
        if isinstance(node.op, Concat) and joins_in_place(node):
            wide = writing(node.output)
            return [LayoutRequest(tuple(wide for _ in parts), (wide,))]
        if isinstance(node.op, Slice) and x.layout.last and node.op.starts[1] % lanes == 0 and node.op.steps[1] == 1:
            return [LayoutRequest(inputs, (x.layout,))]
        return [LayoutRequest(inputs, (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Below that of the copy by strides."""
        return 0.5

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Vectors where all pieces are aligned, else single elements."""
        y, parts = node.output, [v for v in node.inputs if v is not None]
        chosen = sources(node)
        assert chosen is not None
        lanes = cuda(target).lanes
        aligned = vectors_of(chosen, lanes)
        if aligned is not None and ceil_div(len(chosen), lanes) * lanes > pitch(y.type):
            aligned = None  # a matrix without room for the last vector
        width = 1 if aligned is None else lanes
        entries = chosen if aligned is None else aligned
        table = np.array([(part << _SHIFT) | channel for part, channel in entries], np.int32)
        images, _, plane = split(y.type)
        units, threads = numel((images, plane, len(entries))), 256
        filled = [parts[min(i, len(parts) - 1)] for i in range(MOST_PARTS)]
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(y, *parts)), **{f"x{i}": Pointer(v) for i, v in enumerate(filled)},
            "y": Pointer(y), "table": Packed(table), "vectors": Extent(units), "groups": Extent(len(entries)), "plane": Extent(plane),
            **{f"b{i}": BatchStride(v) for i, v in enumerate(filled)}, **{f"p{i}": Extent(pitch(v.type)) for i, v in enumerate(filled)},
            "y_batch": BatchStride(y), "y_pixel": Extent(pitch(y.type)),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("PARTS", len(parts)), ("VL", width)))
