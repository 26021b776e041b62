"""Padding by repeated, reflected or wrapped pixels, and pads and slices of blocked tensors: rows and columns by tables.

The plan takes the tables from the operator's reference on the positions of an axis. -1 stands for the padding value. Most
columns continue the one before, as in the source, and are copied as one run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, numel, per_image, product, round_up
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Pad, Slice
from cnngraph.ops.base import Op
from cnngraph.ops.resize import Resize
from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    broadcast,
    get,
    get_int,
    load,
    load_partial,
    put,
    store,
    store_partial,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats
from cnngraph_cpu.templates.resize import along_axis

W = BLOCKED = FILL = 0  # fixed by the plan
_MOST_ENTRIES = 1 << 22


def column(c: int) -> None:
    """One column by the table."""
    place = get_int(col_places, c)
    if BLOCKED:
        if FILL and place < 0:
            store(y, to + c * W, fill)
        else:
            store(y, to + c * W, load(x, at + place))
    elif FILL and place < 0:
        put(y, to + c, get(value, 0))
    else:
        put(y, to + c, get(x, at + place))


def take(
    x: F32Pointer, y: F32Pointer, row_places: I64Pointer, col_places: I64Pointer, value: F32Pointer, images: int, x_batch: int,
    y_batch: int, planes: int, x_plane: int, rows_out: int, row_out: int, cols_out: int, lead: int, run_end: int, run_to: int,
    run_from: int, run: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """[images, planes, rows, columns(, W)].

    Columns ``lead .. run_end - 1`` are the ``run`` elements from ``run_from`` of a source row; they stand from ``run_to`` on.
    """
    fill = broadcast(value, 0)
    tasks = images * planes * rows_out
    whole = run // W * W
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (planes * rows_out)
        inner = task % (planes * rows_out)
        to = image * y_batch + inner * row_out
        row = get_int(row_places, task % rows_out)
        if FILL and row < 0:
            for i in range(0, row_out, W):
                store_partial(y, to + i, fill, min(W, row_out - i))
        else:
            at = image * x_batch + inner // rows_out * x_plane + row
            for c in range(lead):
                column(c)
            for i in range(0, whole, W):
                store(y, to + run_to + i, load(x, at + run_from + i))
            if not BLOCKED and whole < run:
                store_partial(y, to + run_to + whole, load_partial(x, at + run_from + whole, run - whole), run - whole)
            for c in range(run_end, cols_out):
                column(c)


def _positions(op: Op, axis: int, extent: int, rank: int) -> np.ndarray:
    """The source position of every position of the result along one axis, -1 for the padding value."""
    if isinstance(op, Resize):
        return along_axis(op, axis, extent).indices[:, 0]
    along = np.arange(extent, dtype=np.int64)
    if isinstance(op, Slice):
        count = op.shape[axis]
        assert isinstance(count, int)
        return Slice((op.starts[axis],), (op.steps[axis],), (count,)).reference(along)[0]
    assert isinstance(op, Pad)
    return Pad((op.pads[axis], op.pads[axis + rank]), op.mode, -1.0).reference(along)[0]


def _first(node: Node) -> int:
    """The first axis that changes, or the rank."""
    op, rank = node.op, node.input(0).type.rank
    if isinstance(op, Resize):
        return op.axes[0]
    if isinstance(op, Pad):
        return min((i % rank for i, p in enumerate(op.pads) if p), default=rank)
    assert isinstance(op, Slice)
    changed = [i for i, d in enumerate(node.input(0).type.shape) if (op.starts[i], op.steps[i], op.shape[i]) != (0, 1, d)]
    return changed[0] if changed else rank


def _longest_run(places: np.ndarray) -> tuple[int, int]:
    """First and end of the longest stretch of positions that each follow the one before."""
    breaks = np.flatnonzero((np.diff(places) != 1) | (places[:-1] < 0)) + 1
    starts, stops = np.append(0, breaks), np.append(breaks, places.size)
    longest = int(np.argmax(np.where(places[starts] < 0, 0, stops - starts)))
    return (0, 0) if places[starts[longest]] < 0 else (int(starts[longest]), int(stops[longest]))


class TakeRows:
    """Pads of every mode and slices along spatial axes."""

    name = "take"
    reorders_arithmetic = False
    code = Code(take, {"column": column}, "Pad or slice along the last axes by tables of places.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what changes the batch, and what plain copies do as well."""
        refusal = self.refuse_operator(node) or self.refuse_type(node)
        if refusal:
            return refusal
        shape, out, first = node.input(0).type.shape, node.output.type.shape, _first(node)
        if any(d == 0 for d in (*shape, *out)):
            return "an empty tensor"
        if not 0 < first < len(shape):
            return "the first axis or no axis changes"
        if not all(isinstance(d, int) for d in (*shape[1:], *out[1:])):
            return "an extent depends on the batch"
        if product(per_image(d) for d in out[first:-1]) > _MOST_ENTRIES:
            return "the table of rows would be too large"
        return None

    def refuse_type(self, node: Node) -> str | None:
        """A refusal of elements that the kernel does not move."""
        return only_floats(node)

    def refuse_operator(self, node: Node) -> str | None:
        """A refusal of other operators, and of what plain copies do as well."""
        if not isinstance(node.op, (Pad, Slice)):
            return "not padding and not a slice"
        return None if isinstance(node.op, Pad) and node.op.mode != "constant" else is_plain_copy(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked where axes 0 and 1 stay; padding by pixels is offered plain too, first where half of the lanes would be padding."""
        plain, layout = LayoutRequest((PLAIN,), (PLAIN,)), blocked(target)
        in_blocks = LayoutRequest((layout,), (layout,))
        if not can_be_blocked(node):
            return [plain]
        if isinstance(node.op, Slice) or (isinstance(node.op, Pad) and node.op.mode == "constant"):
            return [in_blocks]
        channels = per_image(node.input(0).type.shape[1])
        return [plain, in_blocks] if round_up(channels, target.width) >= 2 * channels else [in_blocks, plain]

    def cost(self, node: Node, target: Target) -> float:
        """Less than the plain copies if the input is blocked, more if it is not."""
        return per_image(node.output.type.physical_elements) * (8.0 if node.input(0).type.layout.plain else 0.5)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row of the result."""
        op, x, y = node.op, node.input(0), node.output
        in_blocks, shape, out = not y.type.layout.plain, x.type.shape, y.type.shape
        first, rank, lanes = 2 if in_blocks else _first(node), len(shape), target.width if in_blocks else 1
        rows = np.zeros(1, np.int64)
        for axis in range(first, rank - 1):
            extent = per_image(shape[axis])
            along = _positions(op, axis, extent, rank)
            rows = np.where((rows[:, None] < 0) | (along < 0), -1, rows[:, None] * extent + along).reshape(-1)
        columns = _positions(op, rank - 1, per_image(shape[-1]), rank)
        lead, run_end = _longest_run(columns)
        length, row_out = per_image(shape[-1]) * lanes, per_image(out[-1]) * lanes
        planes: Dim = -(-per_image(shape[1]) // target.width) if in_blocks else numel(shape[1:first])
        numbers: dict[str, Dim] = {
            "planes": planes, "x_plane": per_image(numel(shape[first:-1])) * length, "rows_out": rows.size, "row_out": row_out,
            "cols_out": per_image(out[-1]), "lead": lead, "run_end": run_end, "run_to": lead * lanes,
            "run_from": int(columns[lead]) * lanes if run_end else 0, "run": (run_end - lead) * lanes,
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "row_places": Packed(np.where(rows < 0, -1, rows * length)),
            "col_places": Packed(np.where(columns < 0, -1, columns * lanes)), "value": self.padding(node), "images": Extent(shape[0]),
            "x_batch": BatchStride(x), "y_batch": BatchStride(y),
        }  # fmt: skip
        arguments |= {name: Extent(number) for name, number in numbers.items()}
        fill = bool((rows < 0).any() or (columns < 0).any())
        return KernelCall(KernelSpec(self.name, target.isa, (("BLOCKED", int(in_blocks)), ("FILL", int(fill)))), arguments)

    def padding(self, node: Node) -> Argument:
        """The number that pads."""
        with np.errstate(over="ignore"):
            return Packed(np.array([node.op.value if isinstance(node.op, Pad) else 0.0], np.float64).astype(np.float32))


def is_plain_copy(node: Node) -> str | None:
    """A refusal of what can not be blocked."""
    return None if can_be_blocked(node) else "a plain copy does the same"


def can_be_blocked(node: Node) -> bool:
    """Whether axes 0 and 1 stay as they are."""
    return 3 <= node.input(0).type.rank <= 5 and _first(node) >= 2
