"""Max and average pooling on plain tensors of few channels: the lanes of a vector are columns.

A task is an output row of a channel. The rows of its windows are combined vector by vector, then the columns; with a stride of 2 the even
and the odd columns are taken apart in registers. Rows with padding are combined into a line of scratch first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div, numel, per_image, product, round_up
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Scratch, Target
from cnngraph.ops import Pool
from cnngraph_cpu.language import (
    F32Pointer,
    add,
    div,
    even_lanes,
    load,
    load_partial,
    maximum,
    mul,
    odd_lanes,
    registers,
    splat,
    store,
    store_partial,
    to_float,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.pool import (
    EXTENT_NAMES,
    ROW_HELPERS,
    first_row,
    next_row,
    refuse_pooling,
    whole_windows,
    window_rows,
    windows_of,
)

W = AVERAGE = PADDED = SX = KX = SCALE = COUNT_PAD = ROWS = 0
_MOST_TAPS, _MOST_ROWS = 8, 4
_IN_COLUMNS = ("kernel_x", "stride_x", "DX", "limit_x")
"""Extents that constants and ``counts`` hold."""


def pad_row() -> None:
    """Combine the window's rows, with padding on both sides, into scratch."""
    for c in range(0, line_width, W):
        store(scratch, c, splat(0.0) if AVERAGE else splat(-1e400))
    for c in range(0, width, W):
        low[0] = splat(0.0) if AVERAGE else splat(-1e400)
        for kz in range(first_d, last_d):
            for ky in range(first_y, last_y):
                value = load_partial(x, source_at + (kz * DZ * height + ky * DY) * width + c, width - c)
                low[0] = add(low[0], value) if AVERAGE else maximum(low[0], value)
        if width - c >= W:
            store(scratch, pad_x + c, low[0])
        else:
            store_partial(scratch, pad_x + c, low[0], width - c)


def row_of_window(WHOLE: int, FIRST: int, place: int, p: int) -> None:
    """Add one row to what is combined of columns ``p``, and with a stride of 2 ``p + 1``; FIRST: there is nothing to add to yet."""
    if WHOLE:
        value = load(source, place)
    else:
        value = load_partial(source, place, line_width - (column + p) * SX)
    if FIRST:
        low[p] = value
    else:
        low[p] = add(low[p], value) if AVERAGE else maximum(low[p], value)
    if SX == 2:
        if WHOLE:
            value = load(source, place + W)
        else:
            value = load_partial(source, place + W, line_width - (column + p) * SX - W)
        if FIRST:
            high[p] = value
        else:
            high[p] = add(high[p], value) if AVERAGE else maximum(high[p], value)


def pool_columns(WHOLE: int, column: int) -> None:
    """W output columns from ``column`` on; not WHOLE: as many as there are, from no further than the end of the row."""
    for p in unroll(KX if SX == 1 else (KX + 1) // 2):
        if ROWS:
            for ky in unroll(ROWS):
                row_of_window(WHOLE, ky == 0, row_at + ky * DY * width + (column + p) * SX, p)
        else:
            low[p] = splat(0.0) if AVERAGE else splat(-1e400)
            high[p] = low[p]
            for kz in range(from_d, to_d):
                for ky in range(from_y, to_y):
                    row_of_window(WHOLE, 0, row_at + (kz * DZ * height + ky * DY) * width + (column + p) * SX, p)
    result = even_lanes(low[0], high[0]) if SX == 2 else low[0]
    for k in unroll(1, KX):
        if SX == 1:
            value = low[k]
        elif k % 2 == 1:
            value = odd_lanes(low[k // 2], high[k // 2])
        else:
            value = even_lanes(low[k // 2], high[k // 2])
        result = add(result, value) if AVERAGE else maximum(result, value)
    if SCALE:
        result = mul(result, splat(1.0 / SCALE))
    elif AVERAGE:
        result = div(result, mul(load(counts, column), splat(to_float(max(counted_rows, 1)))))
    to = image * y_batch + (plane * rows + row) * out_x + column
    if out_x - column >= W:
        store(y, to, result)
    else:
        store_partial(y, to, result, out_x - column)


def pool_plain(
    x: F32Pointer, y: F32Pointer, scratch: F32Pointer, counts: F32Pointer, images: int, x_batch: int, y_batch: int, planes: int,
    depth: int, height: int, width: int, out_d: int, out_y: int, out_x: int, kernel_d: int, kernel_y: int, stride_d: int, stride_y: int,
    DZ: int, DY: int, pad_d: int, pad_y: int, pad_x: int, limit_d: int, limit_y: int, line_width: int, whole: int, span: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """``limit_*`` is the padded extent: taps beyond it never count. ``counts`` are the columns that count of each window, never 0.

    Output columns before ``whole`` read no further than the line of ``line_width`` elements that the windows lie in, all of them ``span``.
    """
    low = registers(KX)
    high = registers(KX)
    first_row()
    for _ in range(first_task, tasks * (tid + 1) // threads):
        if ROWS:  # 0.42 us for LeNet-5's first pool, 0.66 with what windows on borders ask for
            row = oy
            y0 = oy * stride_y
            source_at = image * x_batch + (plane * height + y0) * width
            counted_rows = ROWS
        else:
            window_rows()
            source_at = image * x_batch + ((plane * depth + z0) * height + y0) * width
        if PADDED:
            pad_row()
            source = scratch
            row_at = 0
            from_d = 0
            to_d = 1
            from_y = 0
            to_y = 1
        else:
            source = x
            row_at = source_at
            if not ROWS:
                from_d = first_d
                to_d = last_d
                from_y = first_y
                to_y = last_y
        certain = whole
        if not PADDED:
            if ROWS:
                last_row = (plane * height + y0 + (ROWS - 1) * DY) * width
            else:
                last_row = ((plane * depth + z0 + (last_d - 1) * DZ) * height + y0 + (last_y - 1) * DY) * width
            if last_row + span <= planes * depth * height * width:  # what is read behind the row belongs to the image
                certain = out_x
        for column in range(0, certain, W):
            pool_columns(1, column)
        for column in range(certain, out_x, W):
            pool_columns(0, column)
        next_row()


class PoolPlain:
    """Pooling with columns in the lanes, for tensors that are plain and have fewer channels than a vector has lanes."""

    name = "pool_plain"
    reorders_arithmetic = False
    code = Code(
        pool_plain,
        {f.__name__: f for f in (*ROW_HELPERS, pad_row, row_of_window, pool_columns)},
        "Max or average pooling over a plain tensor.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses indices, blocked tensors, as many channels as lanes, and windows that are wide, dilated or far apart in a row."""
        refusal = refuse_pooling(node)
        if refusal:
            return refusal
        op, x = node.op, node.input(0).type
        assert isinstance(op, Pool)
        channels = x.shape[1]
        assert isinstance(channels, int)
        if channels >= target.width or not x.layout.plain:
            return f"the tensor is blocked, or its {channels} channels fill a vector"
        if op.kernel[-1] > _MOST_TAPS or op.strides[-1] > 2 or op.dilations[-1] > 1:
            return "the windows of a row are wide, dilated or far apart"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain in and out."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Vectors read; less than reordering the tensor would cost."""
        op, columns = node.op, node.output.type.shape[-1]
        assert isinstance(op, Pool)
        assert isinstance(columns, int)
        rows = per_image(numel(node.output.type.shape)) // columns
        return 0.5 * rows * ceil_div(columns, target.width) * product(op.kernel)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an output row of a channel."""
        op = node.op
        assert isinstance(op, Pool)
        x, y, lanes = node.input(0), node.output, target.width
        size, out, kernel, stride, dilation, begins, limit = extents = windows_of(node)
        reach = (out[2] - 1) * stride[2] + kernel[2]
        padded = begins[2] > 0 or reach > size[2]
        line_width = round_up(max(reach, begins[2] + size[2]) + 2 * lanes, lanes) if padded else size[2]
        furthest = (kernel[2] - 1) // stride[2] * stride[2] + stride[2] * lanes  # elements from a chunk's first on that are read
        whole = out[2] if padded else min(out[2], max(0, (line_width - furthest) // (stride[2] * lanes) + 1) * lanes)
        starts = np.arange(out[2]) * stride[2] - begins[2]
        low, high = (-begins[2], limit[2] - begins[2]) if op.count_include_pad else (0, size[2])
        counts = np.ones(round_up(out[2], lanes), np.float32)
        counts[: out[2]] = np.maximum(np.minimum(starts + kernel[2], high) - np.maximum(starts, low), 1)
        scale = product(op.kernel) if op.kind == "average" and whole_windows(op, x.type, y.type) else 0
        clipped = padded or begins[1] > 0 or (out[1] - 1) * stride[1] + (kernel[1] - 1) * dilation[1] >= size[1]
        deep = max(size[0], kernel[0], out[0]) > 1 or begins[0] > 0
        rows = 0 if clipped or deep or kernel[1] > _MOST_ROWS else kernel[1]
        channels = x.type.shape[1]
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "scratch": Scratch(line_width * 4 if padded else 4), "counts": Packed(counts),
            "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x), "y_batch": BatchStride(y), "planes": Extent(channels),
        }  # fmt: skip
        for names, values in zip(EXTENT_NAMES, extents, strict=True):
            arguments.update({name: Extent(value) for name, value in zip(names, values, strict=True) if name not in _IN_COLUMNS})
        span = (ceil_div(out[2], lanes) - 1) * lanes * stride[2] + furthest
        arguments.update({"line_width": Extent(line_width), "whole": Extent(whole), "span": Extent(span)})
        constants = (
            ("AVERAGE", int(op.kind == "average")), ("COUNT_PAD", int(op.kind == "average" and op.count_include_pad)),
            ("PADDED", int(padded)), ("ROWS", rows), ("SX", stride[2]), ("KX", kernel[2]),
            ("SCALE", scale if scale & (scale - 1) == 0 else 0),
            *((("DZ", 1), ("DY", 1)) if dilation[:2] == (1, 1) else ()),
        )  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)
