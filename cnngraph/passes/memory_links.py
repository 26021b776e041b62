"""Values that lie inside other values: reshapes, parts of concatenations, slices of channels.

A link says that a value's elements are those of another, ``offset`` bytes on. A *strided* link changes the distance
between images, which every kernel that touches the value must then ask for (``BatchStride``). A concatenation is linked all or
not at all. Several concatenations of one value, as in a dense block that concatenates all its earlier features again
and again, are linked if a larger one holds the parts of a smaller one side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import TensorType, per_image, product
from cnngraph.kernels.template import BatchStride, KernelCall, Pointer
from cnngraph.ops import Concat, Slice
from cnngraph.passes.choose_layout import ALIASES

CHANNEL_PIECE = 16
"""Bytes of channels that a kernel on channels-last tensors reads and writes at once."""

Calls = Mapping[Node, KernelCall | None]


@dataclass(frozen=True, eq=False)
class Link:
    """A value lies in ``parent``, ``offset`` bytes (within one image, if strided) from its start."""

    parent: Value
    offset: int
    strided: bool
    by: Node


class Links:
    """Every link of a graph.

    Attributes:
        of: the link of each value that has one.
        absorbed: Concat and Slice nodes with nothing left to do.
    """

    def __init__(self, graph: Graph, calls: Calls) -> None:
        self.of: dict[Value, Link] = {}
        self.absorbed: set[Node] = set()
        self._graph = graph
        self._calls = calls
        self._outputs = {value for _, value in graph.outputs}
        forbidden: set[Node] = set()
        while True:
            self._link(forbidden)
            wrong = self._violations()
            if not wrong:
                return
            forbidden |= wrong

    def resolve(self, value: Value) -> tuple[Value, int]:
        """The value that ``value`` finally lies in (itself if it has no link), and the offset in bytes."""
        offset = 0
        while value in self.of:
            link = self.of[value]
            value, offset = link.parent, offset + link.offset
        return value, offset

    def strided(self, value: Value) -> bool:
        """Whether the images of ``value`` are further apart than their size."""
        while value in self.of:
            if self.of[value].strided:
                return True
            value = self.of[value].parent
        return False

    def batch_stride(self, value: Value) -> int:
        """Elements between one image of ``value`` and the next."""
        while value in self.of and self.of[value].strided:
            value = self.of[value].parent
        return natural_stride(value.type)

    def _link(self, forbidden: Collection[Node]) -> None:
        self.of.clear()
        self.absorbed.clear()
        for node in self._graph.nodes:
            if self._calls[node] is None and isinstance(node.op, ALIASES):
                self.of[node.output] = Link(node.input(0), 0, False, node)
        for node in reversed(self._graph.nodes):  # larger concatenations first
            if isinstance(node.op, Concat) and node not in forbidden:
                self._link_concat(node, node.op.axis)
        for node in self._graph.nodes:
            if isinstance(node.op, Slice) and node not in forbidden:
                self._link_slice(node, node.op)

    def _link_concat(self, node: Node, axis: int) -> None:
        whole = node.output.type
        offsets = _part_offsets(node, axis)
        if offsets is None:
            return
        parts = [value for value in node.inputs if value is not None]
        strided = axis == 1 and whole.shape[0] != 1 and not whole.layout.last
        places = [self.resolve(value) for value in parts]
        root, start = places[0]
        together = all(place == (root, start + at) for place, at in zip(places, offsets, strict=True))
        if together and root is not parts[0] and node.output not in self.of and node.output not in self._outputs:
            self.of[node.output] = Link(root, start, strided, node)
            self.absorbed.add(node)
            return
        if len(set(parts)) != len(parts) or not all(self._may_move(value) for value in parts):
            return
        for value, at in zip(parts, offsets, strict=True):
            self.of[value] = Link(node.output, at, strided, node)
        self.absorbed.add(node)

    def _may_move(self, value: Value) -> bool:
        return value.producer is not None and value not in self._outputs and value not in self.of

    def _link_slice(self, node: Node, op: Slice) -> None:
        x, y = node.input(0), node.output
        if y in self.of or y in self._outputs or self.resolve(x)[0].is_constant or x.type.layout != y.type.layout or x.type.rank < 2:
            return
        if any(step != 1 for step in op.steps) or any(s for i, s in enumerate(op.starts) if i != 1) or not _one_image_axis(x.type):
            return
        if any(a != b for i, (a, b) in enumerate(zip(x.type.shape, y.type.shape, strict=True)) if i != 1):
            return
        block, channels, taken = x.type.layout.block, x.type.shape[1], y.type.shape[1]
        assert isinstance(channels, int)
        assert isinstance(taken, int)
        start = op.starts[1]
        if x.type.layout.last:
            if start * x.type.dtype.itemsize % CHANNEL_PIECE == 0:
                self.of[y] = Link(x, start * x.type.dtype.itemsize, False, node)
                self.absorbed.add(node)
            return
        if start % block or (taken % block and start + taken != channels):
            return
        inner = product(d for d in x.type.physical_shape[2:] if isinstance(d, int))
        self.of[y] = Link(x, start // block * inner * x.type.dtype.itemsize, x.type.shape[0] != 1, node)
        self.absorbed.add(node)

    def _violations(self) -> set[Node]:
        """Concatenations and slices that made a value strided which something touches that cannot take that."""
        found = set()
        for value, link in self.of.items():
            if not self.strided(value):
                continue
            if isinstance(link.by.op, Concat) and not link.strided:  # along the first axis: its parts follow each other without gaps
                found.add(link.by)
                continue
            nodes = {*value.users, *([value.producer] if value.producer is not None else [])} - self.absorbed
            if value in self._outputs or not all(_asks_stride(self._calls[node], value) for node in nodes):
                found.add(self._culprit(value, link))
        return found

    def _culprit(self, value: Value, link: Link) -> Node:
        while not link.strided:
            value = link.parent
            link = self.of[value]
        return link.by


def natural_stride(type_: TensorType) -> int:
    """Elements of one image, i.e. of everything behind the first axis."""
    return per_image(type_.physical_elements) // max(per_image(type_.shape[0]), 1) if type_.rank else 1


def _one_image_axis(type_: TensorType) -> bool:
    return all(isinstance(dim, int) for dim in type_.shape[1:])


def _part_offsets(node: Node, axis: int) -> list[int] | None:
    """Byte offset of every part within one image (axis 1) or the whole (axis 0); None if a part is not one piece of memory."""
    whole = node.output.type
    if axis > 1 or not _one_image_axis(whole) or (axis == 0 and not whole.layout.plain):
        return None
    offsets, at = [], 0
    for i, value in enumerate(node.inputs):
        assert value is not None
        extent = value.type.shape[axis]
        if value.type.layout != whole.layout or not isinstance(extent, int) or not extent:
            return None
        if axis == 1 and whole.layout.last:
            if at % CHANNEL_PIECE:
                return None
            offsets.append(at)
            at += extent * value.type.dtype.itemsize
            continue
        if axis == 1 and extent % whole.layout.block and i + 1 < len(node.inputs):
            return None
        offsets.append(at)
        images = 1 if axis == 0 else max(per_image(value.type.shape[0]), 1)
        at += per_image(value.type.nbytes) // images
    return offsets


def _asks_stride(call: KernelCall | None, value: Value) -> bool:
    """Whether a call that touches ``value`` takes its batch stride."""
    if call is None:
        return False
    arguments = call.arguments.values()
    touched = any(isinstance(a, Pointer) and a.value is value for a in arguments)
    return not touched or any(isinstance(a, BatchStride) and a.value is value for a in arguments)
