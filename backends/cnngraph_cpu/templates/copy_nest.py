"""Transpose, Slice and Expand as loops over strided memory, blocked layouts included, and the order of these loops.

A blocked tensor of whole blocks is a plain one with its channels split in two axes, the inner one last in memory, so that a transpose from
or to it is an ordinary copy by strides, most often of whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnngraph.ir.graph import Value
from cnngraph.ir.types import Dim, SymbolicBatchError, TensorType, keeps_blocks, per_image, strides_of
from cnngraph.ops import Conv, ConvInteger, ConvTranspose, Expand, Pool, QLinearConv, Reshape, Resize, Slice, Transpose
from cnngraph.ops.base import Op
from cnngraph_cpu.templates.strides import broadcast_strides, merge_axes

LOOPS = 7
"""Loops of a copy: five that a task finds its place by, rows, and elements of a row."""
CONTIGUOUS, REPEATED, STRIDED, TRANSPOSED = range(4)
_SHORT = 4
"""Rows below this many elements are not worth a loop of their own."""
_PIECE = 64
"""Elements that are worth finding their place for."""
_READ_BLOCKED = (Conv, ConvInteger, ConvTranspose, Pool, QLinearConv, Resize)


@dataclass(frozen=True)
class Axis:
    """A loop: its extent, and the distance of neighbours in x and in y, in elements."""

    extent: Dim
    x: Dim
    y: Dim

    @property
    def length(self) -> int:
        """The extent, of one image."""
        return per_image(self.extent)


ONCE = Axis(1, 0, 0)


@dataclass(frozen=True)
class StridedCopy:
    """Loops in the order of the result's memory, neighbours merged, and the offset of the first element in x."""

    axes: tuple[Axis, ...]
    offset: int


@dataclass(frozen=True)
class Nest:
    """Loops in the order in which a kernel runs them; ``across`` is the second axis of transposed tiles, contiguous in x."""

    mode: int
    outer: tuple[Axis, ...]
    mid: Axis
    inner: Axis
    across: Axis = ONCE


def strided_copy(op: Op, x: TensorType, y: TensorType) -> StridedCopy:
    """The loops of a Transpose between any layouts of whole blocks, or of a Slice or an Expand of plain tensors.

    Raises:
        SymbolicBatchError: a slice begins inside the batch axis.
    """
    offset = 0
    if isinstance(op, Transpose):
        pairs = [_pair(a, b) for a, b in zip((_parts(x)[p] for p in op.perm), _parts(y), strict=True)]
        order = [axis for pair in pairs for axis in pair]
        if not y.layout.plain:
            order = [*pairs[0], pairs[1][0], *(axis for pair in pairs[2:] for axis in pair), pairs[1][1]]
    else:
        natural = strides_of(x.shape)
        source: list[Dim] = []
        if isinstance(op, Expand):
            source = broadcast_strides(x.shape, y.shape)
        else:
            assert isinstance(op, Slice)
            for start, step, stride in zip(op.starts, op.steps, natural, strict=True):
                if (start or step != 1) and not isinstance(stride, int):
                    raise SymbolicBatchError("a slice inside the batch axis")
                offset += start * per_image(stride) if start else 0
                source.append(stride * step)
        order = [Axis(d, a, b) for d, a, b in zip(y.shape, source, strides_of(y.shape), strict=True)]
    extents, (xs, ys) = merge_axes([a.extent for a in order], [[a.x for a in order], [a.y for a in order]])
    return StridedCopy(tuple(Axis(*numbers) for numbers in zip(extents, xs, ys, strict=True)), offset)


def _parts(type_: TensorType) -> list[list[tuple[Dim, Dim]]]:
    """Extents and strides of every logical axis; the channels of a blocked tensor are blocks, and lanes."""
    if type_.layout.plain:
        return [[pair] for pair in zip(type_.shape, strides_of(type_.shape), strict=True)]
    memory = type_.physical_shape
    pairs = [[pair] for pair in zip(memory, strides_of(memory), strict=True)]
    return [pairs[0], pairs[1] + pairs[-1], *pairs[2:-1]]


def _pair(x: list[tuple[Dim, Dim]], y: list[tuple[Dim, Dim]]) -> list[Axis]:
    """One axis of both tensors, split where either of them is."""
    lanes = next((parts[1][0] for parts in (x, y) if len(parts) == 2), None)
    if lanes is not None:
        x, y = (parts if len(parts) == 2 else _split(*parts[0], lanes) for parts in (x, y))
    return [Axis(extent, a, b) for (extent, a), (_, b) in zip(x, y, strict=True)]


def _split(extent: Dim, stride: Dim, lanes: Dim) -> list[tuple[Dim, Dim]]:
    return [(extent // lanes, stride * lanes), (lanes, stride)]


def nest_of(axes: Sequence[Axis], width: int) -> Nest:
    """Contiguous rows where there are some, tiles where both tensors have long axes, else the longest axis inside."""
    last = axes[-1]
    unit = next((axis for axis in axes if axis.x == 1), last)
    longest = max(axes, key=lambda axis: axis.length)
    across = ONCE
    if unit is not last and min(unit.length, last.length) >= width:
        mode, inner, across = TRANSPOSED, last, unit
    else:
        mode = CONTIGUOUS if last.x == 1 or last.extent == 1 else REPEATED if last.x == 0 else STRIDED
        inner = unit if mode == STRIDED and unit.length > last.length else last
        if inner.length < _SHORT < longest.length:
            mode, inner = STRIDED, longest
        elif inner is not last:
            mode = STRIDED
    outer = [axis for axis in axes if axis is not inner and axis is not across]
    mid = ONCE
    if outer:
        mid = outer[-1] if outer[-1].length * inner.length >= _PIECE else max(outer, key=lambda axis: axis.length)
        outer = [axis for axis in outer if axis is not mid]
    return Nest(mode, tuple(outer), mid, inner, across)


def has_whole_blocks(type_: TensorType, width: int) -> bool:
    """Whether the tensor can lie in blocks without padding lanes."""
    channels, others = type_.shape[1] if type_.rank > 2 else 0, type_.shape[2:]
    return isinstance(channels, int) and channels > 0 and channels % width == 0 and all(isinstance(d, int) for d in others)


def is_read_blocked(value: Value, width: int) -> bool:
    """Whether only operators that prefer blocks read the tensor, perhaps under another shape of its pixels."""
    if not value.users or not has_whole_blocks(value.type, width):
        return False
    for user in value.users:
        if isinstance(user.op, Reshape) and keeps_blocks(value.type, user.output.type):
            if not is_read_blocked(user.output, width):
                return False
        elif not isinstance(user.op, _READ_BLOCKED) or user.input(0) is not value:
            return False
    return True
