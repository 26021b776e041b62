"""Convolution for few output channels, output plain: the lanes of a vector are the columns of a row.

A register tile is ROWS output rows by W columns by OT output channels. Every vector of an input row is loaded once for all the
output rows and channels that read it; weights ``[group][plane][row tap / KY][column tap][KY][OT]`` are broadcast. A plane is one input
channel at one tap of the depth.

Unless the input can be read in place, a task first copies the rows it needs into scratch ``[plane][row][remainder][place]``, zero
padding included: padded column c lies at remainder c % SX, place c // SX, so that vectors are contiguous whatever the stride.
The last vector of a row is one of whole W columns too, some of which are computed twice (OVERLAP). Rows of fewer columns, and those
whose epilogue reads what lies where the result goes, end in a vector some lanes of which are not stored (PARTIAL).
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    F32Pointer,
    broadcast,
    epilogue,
    fma,
    get,
    load,
    load_partial,
    put,
    registers,
    splat,
    store,
    store_partial,
    transpose_tile,
    unroll,
)

IN_PLACE, PACK_BLOCKED, PACK_PLAIN = 0, 1, 2
"""SOURCE: where the input is read; copied into scratch from a blocked or a plain tensor."""

W = TR = TAIL_ROWS = OT = KY = SX = SY = DX = DY = SOURCE = GUARD = PARTIAL = OVERLAP = 0  # fixed by the plan


def zero_line(to: int) -> None:
    """A row of zeros in scratch."""
    for c in range(0, SX * remainder_step, W):
        store(packed, to + c, splat(0.0))


def copy_line(at: int, to: int) -> None:
    """The ``copied`` columns of a plain row into scratch, with zeros on both sides."""
    if SX == 1:
        for c in range(0, pad_x, W):
            store(packed, to + c, splat(0.0))
        whole = copied // W * W
        for c in range(0, whole, W):
            store(packed, to + pad_x + c, load(x, at + c))
        if whole < copied:
            store(packed, to + pad_x + whole, load_partial(x, at + whole, copied - whole))
        for c in range(pad_x + (copied + W - 1) // W * W, scratch_width, W):
            store(packed, to + c, splat(0.0))
    else:
        for c in range(pad_x):
            put(packed, to + c % SX * remainder_step + c // SX, 0.0)
        for c in range(pad_x, pad_x + copied):
            put(packed, to + c % SX * remainder_step + c // SX, get(x, at + c - pad_x))
        for c in range(pad_x + copied, scratch_width):
            put(packed, to + c % SX * remainder_step + c // SX, 0.0)


def spread_line(at: int, to: int) -> None:
    """The ``copied`` columns of a blocked row, as a row of each of its W channels, ``channel_step`` apart, with zeros on both sides."""
    for i in range(W):
        for c in range(0, pad_x, W):
            store(packed, to + i * channel_step + c, splat(0.0))
    whole = copied // W * W
    for c in range(0, whole, W):
        transpose_tile(x, at + c * W, W, packed, to + pad_x + c, channel_step)
    if whole < copied:
        if copied > W:
            transpose_tile(x, at + (copied - W) * W, W, packed, to + pad_x + copied - W, channel_step)
        else:
            for i in range(W):
                for c in range(whole, copied):
                    put(packed, to + i * channel_step + pad_x + c, get(x, at + c * W + i))
    for i in range(W):
        for c in range(pad_x + copied, scratch_width, W):
            store(packed, to + i * channel_step + c, splat(0.0))


def pack_rows() -> None:
    """Copy the input rows of the task into scratch."""
    for kz in range(taps_z):
        iz = z * stride_d + kz * dilation_d - pad_d
        for r in range(scratch_rows - (block_rows - rows) * SY):
            iy = row0 * SY + r - pad_y
            home = (kz * scratch_rows + r) * row_step
            begin = (iz * height + iy) * width
            outside = iy < 0 or iy >= height or iz < 0 or iz >= depth
            if SOURCE == PACK_BLOCKED and not outside:
                for cb in range((channels + W - 1) // W):
                    spread_line(image * x_batch + (cb * depth * height * width + begin) * W, home + cb * W * channel_step)
            else:
                for ch in range(channels):
                    if outside:
                        zero_line(home + ch * channel_step)
                    else:
                        copy_line(image * x_batch + ch * depth * height * width + begin, home + ch * channel_step)


def rows_tile(ROWS: int, row: int, col: int) -> None:
    """ROWS output rows from ``row`` of the task on, W columns from ``col`` on, the OT channels from ``first`` on."""
    for o in unroll(OT):
        start = broadcast(b, first + o)
        for r in unroll(ROWS):
            acc[r, o] = start
    at = weights_at
    for p in range(planes):
        for ky in range(0, taps_y, KY):
            base = source_at + p * plane_step + (row * SY + ky * DY) * row_step + col
            for kx in range(taps_x):
                tap = kx * DX
                place = base + tap % SX * remainder_step + tap // SX
                for k in unroll(KY):
                    for r in unroll(ROWS):
                        line[r] = load(source, place + (r * SY + k * DY) * row_step)
                    for o in unroll(OT):
                        weight = broadcast(w, at + (k * OT + o))
                        for r in unroll(ROWS):
                            acc[r, o] = fma(weight, line[r], acc[r, o])
                at = at + KY * OT
    left = row_out - col
    for o in unroll(OT):
        if not GUARD or first + o < outputs:
            for r in unroll(ROWS):
                inner = (((first + o) * depth_out + z) * height_out + row0 + row + r) * row_out + col
                y_value = acc[r, o]
                if PARTIAL:
                    out = epilogue(y_value, image, inner, first + o, left)
                    if left >= W:
                        store(y, image * y_batch + inner, out)
                    else:
                        store_partial(y, image * y_batch + inner, out, left)
                else:
                    out = epilogue(y_value, image, inner, first + o)
                    store(y, image * y_batch + inner, out)


def conv_rows(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, packed: F32Pointer, images: int, x_batch: int, y_batch: int,
    channels: int, outputs: int, groups: int, group_weights: int, depth: int, height: int, width: int, depth_out: int, height_out: int,
    row_out: int, planes: int, taps_z: int, taps_y: int, taps_x: int, stride_d: int, dilation_d: int, pad_d: int, pad_y: int,
    pad_x: int, copied: int, scratch_rows: int, scratch_width: int, remainder_step: int, row_step: int, plane_step: int,
    channel_step: int, block_rows: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """A task is a block of output rows of one image and depth, for one group of OT output channels.

    ``*_step`` are distances in elements of the source the kernel reads.
    """
    row_blocks = (height_out + block_rows - 1) // block_rows
    tasks = images * depth_out * row_blocks * groups
    acc = registers(TR, OT)
    line = registers(TR)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        part = task // groups
        first = task % groups * OT
        weights_at = task % groups * group_weights
        image = part // (depth_out * row_blocks)
        z = part // row_blocks % depth_out
        row0 = part % row_blocks * block_rows
        rows = min(block_rows, height_out - row0)
        if SOURCE == IN_PLACE:
            source = x
            source_at = image * x_batch + (z * stride_d * height + row0 * SY) * width
        else:
            source = packed
            source_at = 0
            if have != part:
                have = part
                pack_rows()
        full_rows = rows // TR * TR
        for column in range(0, row_out, W):
            col = min(column, row_out - W) if OVERLAP else column
            for row in range(0, full_rows, TR):
                rows_tile(TR, row, col)
            if TAIL_ROWS and full_rows < rows:
                rows_tile(TAIL_ROWS, full_rows, col)
