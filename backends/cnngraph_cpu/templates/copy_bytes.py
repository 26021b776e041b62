"""Movement of 8-bit tensors: between plain and blocked layouts, concatenation, and copies through strides (Transpose, Slice, Expand)."""

from __future__ import annotations

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType
from cnngraph.kernels.template import Target
from cnngraph.ops import Expand, Slice, Transpose
from cnngraph_cpu.language import (
    BytePointer,
    byte_pointer_argument,
    get_byte,
    int_argument,
    load_bytes,
    put_byte,
    store_bytes,
    transpose_bytes,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.copy import ConcatCopy, ReorderKernel, place_of_pixels, slice_of_part
from cnngraph_cpu.templates.copy_nest import CONTIGUOUS, TRANSPOSED
from cnngraph_cpu.templates.copy_strided import CopyStrided, place_of_rows
from cnngraph_cpu.templates.quantized import EIGHT

W = TO_BLOCKED = MODE = RUN = 0
TILE = 16
"""Rows and columns of ``transpose_bytes``."""
BYTES = (*EIGHT, DType.BOOL)
"""Types whose elements are a byte."""


def only_bytes(node: Node) -> str | None:
    """A refusal of other elements than bytes."""
    return None if node.output.type.dtype in BYTES else "not an 8-bit tensor"


def reorder_bytes(
    x: BytePointer, y: BytePointer, images: int, x_batch: int, y_batch: int, blocks: int, channels: int, pixels: int, chunk: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """[N, C, pixels] to or from [N, C/W, pixels, W]; padding lanes are left as they are."""
    chunks = (pixels + chunk - 1) // chunk
    tasks = images * blocks * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        place_of_pixels()
        if W == TILE and count == W and stop - first >= TILE:
            for q in range(first, stop, TILE):
                p = min(q, stop - TILE)
                if TO_BLOCKED:
                    transpose_bytes(x, source + p, pixels, y, to + p * W, W)
                else:
                    transpose_bytes(x, source + p * W, W, y, to + p, pixels)
        else:
            for p in range(first, stop):
                for c in range(count):
                    if TO_BLOCKED:
                        put_byte(y, to + p * W + c, get_byte(x, source + c * pixels + p))
                    else:
                        put_byte(y, to + c * pixels + p, get_byte(x, source + p * W + c))


class ReorderBytes(ReorderKernel):
    """Between plain and blocked."""

    name = "reorder_bytes"
    code = Code(reorder_bytes, {"place_of_pixels": place_of_pixels}, "Reorder of bytes between the plain and the blocked layout.")

    def refuse_type(self, dtype: DType) -> str | None:
        """A refusal of other elements than bytes."""
        return None if dtype in BYTES else "not an 8-bit tensor"


def concat_bytes(y: BytePointer, images: int, y_batch: int, parts: int, slices: int, args: BytePointer, tid: int, threads: int) -> None:
    """As ``concat`` of the module ``copy``: part p stands at arguments 5+4p."""
    tasks = (images + RUN - 1) // RUN * parts * slices
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (parts * slices)
        p = task // slices % parts
        x = byte_pointer_argument(args, 5 + 4 * p)
        x_batch = int_argument(args, 6 + 4 * p)
        count = int_argument(args, 7 + 4 * p)
        at = int_argument(args, 8 + 4 * p)
        if RUN > 1:
            for i in range(image * RUN, min(image * RUN + RUN, images)):
                for j in range(count):
                    put_byte(y, i * y_batch + at + j, get_byte(x, i * x_batch + j))
        else:
            slice_of_part()
            for i in range(first, whole, W):
                store_bytes(y, to + i, load_bytes(x, source + i))
            for i in range(whole, stop):
                put_byte(y, to + i, get_byte(x, source + i))


class ConcatBytes(ConcatCopy):
    """Concatenation along any axis; along axis 1 it is left out where the parts can be written in place."""

    name = "concat_bytes"
    code = Code(concat_bytes, {"slice_of_part": slice_of_part}, "Concatenation of bytes by copying.")

    def refuse_types(self, node: Node) -> str | None:
        """A refusal of other elements than bytes."""
        return only_bytes(node)


def transposed_bytes() -> None:
    """As ``copy_transposed`` of the module ``copy_strided``; the last tiles overlap those before them."""
    if across >= TILE and stop - first >= TILE:
        for v in range(0, across, TILE):
            k = min(v, across - TILE)
            for u in range(first, stop, TILE):
                j = min(u, stop - TILE)
                transpose_bytes(x, at + k + j * x_inner, x_inner, y, to + k * y_across + j, y_across)
    else:
        for k in range(across):
            for j in range(first, stop):
                put_byte(y, to + k * y_across + j, get_byte(x, at + k + j * x_inner))


def strided_bytes(
    x: BytePointer, y: BytePointer, d0: int, d1: int, d2: int, d3: int, d4: int, mid: int, across: int, inner: int, rows: int, chunk: int,
    x0: int, x1: int, x2: int, x3: int, x4: int, x_mid: int, x_inner: int, y0: int, y1: int, y2: int, y3: int, y4: int, y_mid: int,
    y_across: int, y_inner: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """As ``copy_strided`` of the module ``copy_strided``."""
    chunks = (inner + chunk - 1) // chunk
    slabs = (mid + rows - 1) // rows
    tasks = d0 * d1 * d2 * d3 * d4 * slabs * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        place_of_rows()
        for i in range(begin, end):
            at = x_task + i * x_mid
            to = y_task + i * y_mid
            if MODE == TRANSPOSED:
                transposed_bytes()
            elif MODE == CONTIGUOUS:
                whole = first + (stop - first) // W * W
                for j in range(first, whole, W):
                    store_bytes(y, to + j, load_bytes(x, at + j))
                for j in range(whole, stop):
                    put_byte(y, to + j, get_byte(x, at + j))
            else:
                for j in range(first, stop):
                    put_byte(y, to + j * y_inner, get_byte(x, at + j * x_inner))


class StridedBytes(CopyStrided):
    """Transpose, Slice and Expand."""

    name = "strided_bytes"
    code = Code(
        strided_bytes, {f.__name__: f for f in (place_of_rows, transposed_bytes)}, "Copy of bytes between tensors with different strides."
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, and more than five loops after merging."""
        if not isinstance(node.op, (Transpose, Slice, Expand)):
            return "not a transposition, slice or expansion"
        return only_bytes(node) or self.refuse_shape(node)
