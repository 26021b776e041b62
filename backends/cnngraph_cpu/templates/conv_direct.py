"""Direct convolution, register-tiled, output NCHW[W]c.

A task is one image, one block of output rows and one group of output-channel tiles. Unless the input can be read in
place, the task first copies the input rows it needs into scratch, zero padding included, so that the inner kernel has
no border cases. The inner kernel keeps ROWS x COLS pixels times TV channel vectors in registers and streams the packed
weights once per register tile: ``[tile][channel block][row tap][column tap][channel][TV*W]``.

With P = 2 scratch and weights are bfloat16, and a step takes two input channels at once: a pair of a pixel is broadcast and multiplied
with pairs of weights, ``[tile][channel block][row tap][column tap][pair of channels][TV*W][2]``. Where taps and channels merge, the last
pair of a line may be a half, whose other weight is 0.

Scratch is ``[channel block][row][column][CB]``. CB is W for a blocked input. A plain input with fewer than W channels (an image) is read
as it is, or copied row by row: PLANAR, ``[channel][row][column]``, so that a step to the next channel is one to the next plane. The column
taps of a single channel are one contiguous loop (MERGED). With P = 2 an image's channels become innermost, CB is their count, and the
column taps merge with them.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    ask_operands,
    broadcast,
    broadcast_pair,
    dot2,
    epilogue,
    fma,
    get,
    get_int,
    load,
    load_pairs,
    load_partial,
    prefetch,
    put,
    registers,
    splat,
    store,
    store_joined,
    unroll,
)
from cnngraph_cpu.templates.tile_loops import AHEAD, ANY_TAIL, IN_PLACE, LINE, PACK_BLOCKED, find_row, take_rows, tile_rows, walk_taps  # noqa: F401  its helpers' constants

P = 1
W = TV = U = GROUPED = SOURCE = ROWS = COLS = TR = TC = TAIL_COLS = MERGED = GUARD = 0  # fixed by the plan
DEPTH = SKIP_ROWS = SKIP_COLUMNS = PLANAR = 0  # likewise


def pack_blocked(x: F32Pointer, packed: F32Pointer, image: int, row0: int) -> None:
    """Copy the rows from ``row0`` on (in padded coordinates) of a blocked image into scratch."""
    for cb in range(blocks):
        for r in range(scratch_rows):
            find_row(row0, r)
            to = (cb * scratch_rows + r) * scratch_width * W
            if iy < 0 or iy >= height or z < 0 or z >= depth:
                for c in range(scratch_width):
                    store(packed, to + c * W, splat(0.0))
            else:
                at = image * x_batch + ((cb * depth + z) * height + iy) * width * W
                for c in range(pad_x):
                    store(packed, to + c * W, splat(0.0))
                for c in range(copied):
                    prefetch(x, at + (depth * height * width + c) * W)  # the next block's
                    store(packed, to + (pad_x + c) * W, load(x, at + c * W))
                for c in range(pad_x + copied, scratch_width):
                    store(packed, to + c * W, splat(0.0))


def pack_plain(x: F32Pointer, packed: F32Pointer, image: int, row0: int) -> None:
    """As :func:`pack_blocked` from a plain image."""
    if P == 2:
        pack_pairs(x, packed, image, row0)
    else:
        pack_planes(x, packed, image, row0)


def pack_planes(x: F32Pointer, packed: F32Pointer, image: int, row0: int) -> None:
    """Whole vectors of the rows of each channel. What a row's last vector writes behind its end the next row overwrites."""
    whole = copied // W * W
    for ch in range(channels):
        for r in range(scratch_rows):
            find_row(row0, r)
            to = ch * channel_step + r * row_step
            if iy < 0 or iy >= height or z < 0 or z >= depth:
                for c in range(0, scratch_width, W):
                    store(packed, to + c, splat(0.0))
            else:
                at = image * x_batch + ((ch * depth + z) * height + iy) * width
                for c in range(0, pad_x, W):
                    store(packed, to + c, splat(0.0))
                for c in range(0, whole, W):
                    store(packed, to + pad_x + c, load(x, at + c))
                if whole < copied:
                    store(packed, to + pad_x + whole, load_partial(x, at + whole, copied - whole))
                for c in range(pad_x + copied, scratch_width, W):
                    store(packed, to + c, splat(0.0))


def pack_pairs(x: F32Pointer, packed: F32Pointer, image: int, row0: int) -> None:
    """Channels become innermost."""
    for r in range(scratch_rows):
        find_row(row0, r)
        to = r * scratch_width * CB
        if iy < 0 or iy >= height or z < 0 or z >= depth:
            for c in range(scratch_width * CB):
                put(packed, to + c, 0.0)
        else:
            for c in range((pad_x if MERGED else pad_x + copied) * CB):
                put(packed, to + c, 0.0)
            whole = 0
            if CB == 3 and channels == 3:  # an image
                at = image * x_batch + (z * height + iy) * width
                plane_in = depth * height * width
                whole = copied // W * W
                for c in range(0, whole, W):
                    store_joined(packed, to + (pad_x + c) * 3, load(x, at + c), load(x, at + plane_in + c), load(x, at + 2 * plane_in + c))
            for ch in range(channels):
                at = image * x_batch + ((ch * depth + z) * height + iy) * width
                for c in range(whole, copied):
                    put(packed, to + (pad_x + c) * CB + ch, get(x, at + c))
            for c in range((pad_x + copied) * CB, scratch_width * CB):
                put(packed, to + c, 0.0)
    if MERGED:  # the last pair of the last line may have half of it behind its end
        put(packed, scratch_rows * scratch_width * CB, 0.0)


def products(ROWS: int, TOP: int, BOTTOM: int, FIRST: int, END: int) -> None:
    """One tap of ``count`` steps of channels, for the pixels FIRST to END of the rows TOP to BOTTOM of a register tile."""
    for i in range(0, count, U):
        for u in unroll(U):
            for v in unroll(TV):
                if (u * TV + v) * W % LINE == 0:
                    prefetch(w, at + ((u * TV + v) * W + AHEAD) * P)
                if P == 2:
                    weight[v] = load_pairs(w, at + (u * TV + v) * W * P)
                else:
                    weight[v] = load(w, at + (u * TV + v) * W)
            for r in unroll(TOP, BOTTOM):
                for c in unroll(FIRST, END):
                    if P == 2:
                        pair = broadcast_pair(source, line[r] + c * SX * CB + u * P)
                        for v in unroll(TV):
                            acc[v, r, c] = dot2(acc[v, r, c], pair, weight[v])
                    else:
                        value = broadcast(source, line[r] + c * SX * CB + u * (channel_step if PLANAR else 1))
                        for v in unroll(TV):
                            acc[v, r, c] = fma(weight[v], value, acc[v, r, c])
        at = at + U * TV * W * P
        for r in unroll(ROWS):
            line[r] = line[r] + U * (channel_step if PLANAR else P)


def register_tile(ROWS: int, COLS: int, row: int, col: int) -> None:
    """One register tile: ROWS x COLS output pixels at (row, col) of the task, TV channel vectors of ``tile``."""
    for v in unroll(TV):
        first = load(b, (tile * TV + v) * W)
        for r in unroll(ROWS):
            for c in unroll(COLS):
                if c * W % (LINE * P) == 0:
                    ask_operands(image, (tile * TV + v) * plane + (row0 + row + r) * row_out + col * W + c * W)
                acc[v, r, c] = first
    at = weights_at
    for cb in range(first_block, first_block + used_blocks):
        if MERGED:
            count = inner_count
        elif P == 2:
            count = min(W // 2, (channels + 1) // 2 - cb * (W // 2))
        else:
            count = min(W, channels - cb * W)
        if GROUPED:  # only the channels of the tile's groups
            skipped = max(0, first_channel - cb * W)
            count = min(W, end_channel - cb * W) - skipped
        base = source_at + cb * block_step + row * SY * row_step + col * SX * CB
        if GROUPED:
            base = base + skipped
        walk_taps(ROWS, COLS, channel_step if PLANAR else P, TV * W * P, row, col, base)
    for v in unroll(TV):
        if not GUARD or tile * TV + v < out_blocks:
            for r in unroll(ROWS):
                inner = (tile * TV + v) * plane + (row0 + row + r) * row_out + col * W
                for c in unroll(COLS):
                    y_value = acc[v, r, c]
                    out = epilogue(y_value, image, inner + c * W, (tile * TV + v) * W)
                    store(y, image * y_batch + inner + c * W, out)


def conv_direct(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, block_table: I64Pointer, packed: F32Pointer,
    images: int, x_batch: int, y_batch: int, channels: int, blocks: int, used_blocks: int, out_blocks: int, tiles: int,
    depth: int, height: int, width: int, rows_out: int, height_out: int, row_out: int, full_cols: int, grid_cols: int,
    taps: int, taps_y: int, taps_x: int, tap_x: int, tap_step: int, inner_count: int, tile_weights: int,
    stride_d: int, dilation_d: int, dilation_y: int, pad_d: int, pad_y: int, pad_x: int, copied: int,
    row_step: int, block_step: int, channel_step: int, scratch_rows: int, scratch_width: int,
    block_rows: int, tiles_per_group: int, SX: int, SY: int, CB: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``tap_step``/``row_step``/``block_step``/``channel_step``/``tap_x`` are distances in elements of the source the kernel reads.

    The strides SX, SY and the pixel size CB are arguments too, so that small problems can share one kernel; for others
    the plan makes them constants.
    """
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (rows_out + block_rows - 1) // block_rows
    tasks = images * row_blocks * groups
    plane = rows_out * row_out
    acc = registers(TV, ROWS, COLS)
    weight = registers(TV)
    line = registers(ROWS)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        take_rows(task)
        group0 = (task % groups) * tiles_per_group
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            weights_at = tile * tile_weights
            if GROUPED:
                first_channel = get_int(block_table, tile)
                end_channel = get_int(block_table, tiles + tile)
                first_block = first_channel // W
                used_blocks = (end_channel + W - 1) // W - first_block
            else:
                first_block = get_int(block_table, tile)
            tile_rows()
