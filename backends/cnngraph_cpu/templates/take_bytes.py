"""Pads, slices and nearest neighbours of 8-bit tensors, by the tables of places of the module ``take``."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN
from cnngraph.kernels.template import Argument, Extent, LayoutRequest, Target
from cnngraph.ops import Pad, Slice
from cnngraph.ops.resize import Resize
from cnngraph_cpu.language import (
    BytePointer,
    I64Pointer,
    get_byte,
    get_int,
    load_bytes,
    put_byte,
    splat_int,
    store_bytes,
    store_bytes_partial,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked
from cnngraph_cpu.templates.copy_bytes import only_bytes
from cnngraph_cpu.templates.take import TakeRows, can_be_blocked, is_plain_copy

W = BLOCKED = FILL = 0  # fixed by the plan


def byte_column(c: int) -> None:
    """One column by the table."""
    place = get_int(col_places, c)
    if BLOCKED:
        if FILL and place < 0:
            store_bytes(y, to + c * W, splat_int(value))
        else:
            store_bytes(y, to + c * W, load_bytes(x, at + place))
    elif FILL and place < 0:
        put_byte(y, to + c, value)
    else:
        put_byte(y, to + c, get_byte(x, at + place))


def take_bytes(
    x: BytePointer, y: BytePointer, row_places: I64Pointer, col_places: I64Pointer, value: int, images: int, x_batch: int,
    y_batch: int, planes: int, x_plane: int, rows_out: int, row_out: int, cols_out: int, lead: int, run_end: int, run_to: int,
    run_from: int, run: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """As ``take`` of the module ``take``; ``value`` is the byte of padding."""
    tasks = images * planes * rows_out
    whole = run // W * W
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (planes * rows_out)
        inner = task % (planes * rows_out)
        to = image * y_batch + inner * row_out
        row = get_int(row_places, task % rows_out)
        if FILL and row < 0:
            for i in range(0, row_out, W):
                store_bytes_partial(y, to + i, splat_int(value), min(W, row_out - i))
        else:
            at = image * x_batch + inner // rows_out * x_plane + row
            for c in range(lead):
                byte_column(c)
            for i in range(0, whole, W):
                store_bytes(y, to + run_to + i, load_bytes(x, at + run_from + i))
            if not BLOCKED:
                for i in range(whole, run):
                    put_byte(y, to + run_to + i, get_byte(x, at + run_from + i))
            for c in range(run_end, cols_out):
                byte_column(c)


class TakeBytes(TakeRows):
    """Pads of every mode, slices and nearest neighbours along spatial axes of bytes."""

    name = "take_bytes"
    code = Code(take_bytes, {"byte_column": byte_column}, "Pad, slice or nearest neighbours of bytes by tables of places.")

    def refuse_type(self, node: Node) -> str | None:
        """A refusal of other elements than bytes."""
        return only_bytes(node)

    def refuse_operator(self, node: Node) -> str | None:
        """A refusal of other operators, and of slices that plain copies do as well."""
        op = node.op
        if isinstance(op, Slice):
            return is_plain_copy(node)
        if isinstance(op, Resize) and op.mode == "nearest" and op.axes and op.transform != "tf_crop_and_resize":
            return None
        return None if isinstance(op, Pad) else "not padding, not a slice and not nearest neighbours"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked where axes 0 and 1 stay, or plain; slices blocked only."""
        plain, layout = LayoutRequest((PLAIN,), (PLAIN,)), blocked(target)
        in_blocks = LayoutRequest((layout,), (layout,))
        if not can_be_blocked(node):
            return [plain]
        return [in_blocks] if isinstance(node.op, Slice) else [in_blocks, plain]

    def padding(self, node: Node) -> Argument:
        """The byte of padding."""
        return Extent(int(node.op.value) & 255 if isinstance(node.op, Pad) and node.op.mode == "constant" else 0)
