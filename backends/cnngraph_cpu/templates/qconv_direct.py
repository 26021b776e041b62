"""Convolution of 8-bit tensors, register-tiled, input and output NCHW[W]c with one byte an element.

The structure is that of :mod:`cnngraph_cpu.templates.conv_direct`; a step of the inner kernel takes four input channels: four bytes
of a pixel are broadcast and their products with the weights of TV*W output channels are added to int32 sums by ``dot4``. Weights are
packed ``[tile][channel block][row tap][column tap][group of 4 channels][TV*W][4]``.

Activations count as unsigned; signed ones have 128 added (FLIP), while being packed or after the broadcast. The zero point of the
input enters through the weights' sums: sum((x - z) * w) = sum(x * w) - z * sum(w). Padding is the zero point, so that it adds
nothing; taps on it are passed over where it is 0. With SUMS the packed weights hold one more vector of ones: the sums of the input
itself, by which weights are corrected whose zero point does not leave them in a signed byte.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    I64Pointer,
    add_int,
    broadcast_word,
    dot4,
    epilogue,
    get_byte,
    get_int,
    load,
    load_bytes,
    load_words,
    mul,
    mul_int,
    prefetch,
    put_byte,
    registers,
    round_between,
    splat,
    splat_int,
    store,
    store_bytes,
    store_four_bytes,
    store_four_rounded,
    store_words,
    sub_int,
    to_float,
    to_floats,
    unroll,
    xor_int,
)
from cnngraph_cpu.templates.tile_loops import AHEAD, ANY_TAIL, IN_PLACE, LINE, PACK_BLOCKED, find_row, take_rows, tile_rows, walk_taps  # noqa: F401  its helpers' constants

TO_BYTES, TO_FLOATS, TO_WORDS = 0, 1, 2
FOUR_FLIPS = 0x80808080

W = TV = U = SOURCE = ROWS = COLS = TR = TC = TAIL_COLS = MERGED = GUARD = OUT = FLIP = SUMS = ZERO_GIVEN = PACK4 = 0  # fixed by the plan
DEPTH = SKIP_ROWS = SKIP_COLUMNS = 0  # likewise


def pack_blocked(x: BytePointer, packed: BytePointer, image: int, row0: int) -> None:
    """Copy the rows from ``row0`` on (in padded coordinates) of a blocked image into scratch."""
    for cb in range(blocks):
        for r in range(scratch_rows):
            find_row(row0, r)
            to = (cb * scratch_rows + r) * scratch_width * W
            if iy < 0 or iy >= height or z < 0 or z >= depth:
                for c in range(scratch_width):
                    store_bytes(packed, to + c * W, splat_int(zero))
            else:
                at = image * x_batch + ((cb * depth + z) * height + iy) * width * W
                for c in range(pad_x):
                    store_bytes(packed, to + c * W, splat_int(zero))
                for c in range(copied):
                    if FLIP:
                        store_bytes(packed, to + (pad_x + c) * W, xor_int(load_bytes(x, at + c * W), splat_int(128)))
                    else:
                        store_bytes(packed, to + (pad_x + c) * W, load_bytes(x, at + c * W))
                for c in range(pad_x + copied, scratch_width):
                    store_bytes(packed, to + c * W, splat_int(zero))


def pack_plain(x: BytePointer, packed: BytePointer, image: int, row0: int) -> None:
    """As :func:`pack_blocked` from a plain image; channels become innermost, CB bytes a pixel."""
    for r in range(scratch_rows):
        find_row(row0, r)
        to = r * scratch_width * CB
        whole = 0
        inside = iy >= 0 and iy < height and z >= 0 and z < depth
        if inside:
            if CB == 4 and channels == 3:  # an image
                at = image * x_batch + (z * height + iy) * width
                plane_in = depth * height * width
                whole = copied // W * W
                for c in range(0, whole, W):
                    red = load_bytes(x, at + c)
                    green = load_bytes(x, at + plane_in + c)
                    blue = load_bytes(x, at + 2 * plane_in + c)
                    if FLIP:
                        red = xor_int(red, splat_int(128))
                        green = xor_int(green, splat_int(128))
                        blue = xor_int(blue, splat_int(128))
                    store_four_bytes(packed, to + (pad_x + c) * 4, red, green, blue, splat_int(zero))
        for c in range(pad_x * CB):
            put_byte(packed, to + c, zero)
        for c in range((pad_x + whole) * CB, scratch_width * CB):
            put_byte(packed, to + c, zero)
        if inside:
            for ch in range(channels):
                at = image * x_batch + ((ch * depth + z) * height + iy) * width
                for c in range(whole, copied):
                    if FLIP:
                        put_byte(packed, to + (pad_x + c) * CB + ch, get_byte(x, at + c) ^ 128)
                    else:
                        put_byte(packed, to + (pad_x + c) * CB + ch, get_byte(x, at + c))


def packed_columns(COLS: int) -> None:
    """Round, shift, bound and store the pixels in ``scale``, four at a time; three that remain are stored with the one before them."""
    for four in unroll(COLS // 4):
        store_four_rounded(
            y, image * y_batch + inner + four * 4 * W, scale[four * 4], scale[four * 4 + 1], scale[four * 4 + 2], scale[four * 4 + 3],
            y_zero, low_byte, high_byte,
        )  # fmt: skip
    if COLS % 4 == 3 and COLS > 4:
        store_four_rounded(
            y, image * y_batch + inner + (COLS - 4) * W, scale[COLS - 4], scale[COLS - 3], scale[COLS - 2], scale[COLS - 1],
            y_zero, low_byte, high_byte,
        )  # fmt: skip
    else:
        for c in unroll(COLS % 4):
            result = add_int(round_between(scale[COLS // 4 * 4 + c], splat(low), splat(high)), splat_int(y_zero))
            store_bytes(y, image * y_batch + inner + (COLS // 4 * 4 + c) * W, result)


def products(ROWS: int, TOP: int, BOTTOM: int, FIRST: int, END: int) -> None:
    """One tap of ``count`` steps of four channels, for the pixels FIRST to END of the rows TOP to BOTTOM of a register tile."""
    for i in range(0, count, U):
        for u in unroll(U):
            for v in unroll(TV + SUMS):
                if (u * (TV + SUMS) + v) * W % LINE == 0:
                    prefetch(w, at + (u * (TV + SUMS) + v) * W + AHEAD)
                weight[v] = load_words(w, at + (u * (TV + SUMS) + v) * W)
            for r in unroll(TOP, BOTTOM):
                for c in unroll(FIRST, END):
                    value = broadcast_word(source, line[r] + c * SX * CB + u * 4)
                    if FLIP and SOURCE == IN_PLACE:
                        value = xor_int(value, splat_int(FOUR_FLIPS))
                    for v in unroll(TV + SUMS):
                        acc[v, r, c] = dot4(acc[v, r, c], value, weight[v])
        at = at + U * (TV + SUMS) * W
        for r in unroll(ROWS):
            line[r] = line[r] + U * 4


def register_tile(ROWS: int, COLS: int, row: int, col: int) -> None:
    """One register tile: ROWS x COLS output pixels at (row, col) of the task, TV channel vectors of ``tile``."""
    for v in unroll(TV):
        first = load_words(b, (tile * TV + v) * W)
        if ZERO_GIVEN:
            first = sub_int(first, mul_int(load_words(weight_sums, (tile * TV + v) * W), splat_int(zero)))
        for r in unroll(ROWS):
            for c in unroll(COLS):
                acc[v, r, c] = first
    if SUMS:
        for r in unroll(ROWS):
            for c in unroll(COLS):
                acc[TV, r, c] = splat_int(0)
    at = weights_at
    for cb in range(first_block, first_block + used_blocks):
        if MERGED:
            count = inner_count
        else:
            count = min(W // 4, groups_in - cb * (W // 4))
        walk_taps(ROWS, COLS, 4, (TV + SUMS) * W, row, col, source_at + cb * block_step + row * SY * row_step + col * SX * CB)
    for v in unroll(TV):
        if not GUARD or tile * TV + v < out_blocks:
            channel = (tile * TV + v) * W
            if SUMS:
                correction = load_words(deltas, channel)
            if OUT == TO_BYTES:
                factor = load(factors, channel)
            for r in unroll(ROWS):
                inner = (tile * TV + v) * plane + (row0 + row + r) * row_out + col * W
                for c in unroll(COLS):
                    total = acc[v, r, c]
                    if SUMS:
                        total = add_int(total, mul_int(correction, acc[TV, r, c]))
                    if PACK4:
                        scale[c] = mul(to_floats(total), factor)
                    elif OUT == TO_BYTES:
                        scaled = mul(to_floats(total), factor)
                        result = add_int(round_between(scaled, splat(low), splat(high)), splat_int(y_zero))
                        store_bytes(y, image * y_batch + inner + c * W, result)
                    elif OUT == TO_FLOATS:
                        y_value = to_floats(total)
                        out = epilogue(y_value, image, inner + c * W, channel)
                        store(y_floats, image * y_batch + inner + c * W, out)
                    else:
                        store_words(y_words, image * y_batch + inner + c * W, total)
                if PACK4:
                    packed_columns(COLS)


def qconv(
    x: BytePointer, w: I32Pointer, b: I32Pointer, weight_sums: I32Pointer, deltas: I32Pointer, factors: F32Pointer,
    zero_at: BytePointer, y: BytePointer, y_floats: F32Pointer, y_words: I32Pointer, block_table: I64Pointer, packed: BytePointer,
    images: int, x_batch: int, y_batch: int, channels: int, groups_in: int, blocks: int, used_blocks: int, out_blocks: int, tiles: int,
    depth: int, height: int, width: int, rows_out: int, height_out: int, row_out: int, full_cols: int, grid_cols: int,
    taps: int, taps_y: int, taps_x: int, tap_x: int, tap_step: int, inner_count: int, tile_weights: int, stride_d: int, dilation_d: int,
    dilation_y: int, pad_d: int, pad_y: int, pad_x: int, copied: int, row_step: int, block_step: int, scratch_rows: int,
    scratch_width: int, block_rows: int, tiles_per_group: int,
    x_zero: int, y_zero: int, low_int: int, high_int: int, SX: int, SY: int, CB: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``x_zero`` is of the unsigned input; with ZERO_GIVEN it stands in memory at ``zero_at`` instead.

    ``low_int`` and ``high_int`` bound the result less its zero point. Distances are in elements of the source, weights in words.
    """
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (rows_out + block_rows - 1) // block_rows
    tasks = images * row_blocks * groups
    plane = rows_out * row_out
    low = to_float(low_int)
    high = to_float(high_int)
    low_byte = low_int + y_zero
    high_byte = high_int + y_zero
    zero = x_zero
    if ZERO_GIVEN:
        zero = get_byte(zero_at, 0)
        if FLIP:
            zero = zero ^ 128
    acc = registers(TV + 1, ROWS, COLS)
    weight = registers(TV + 1)
    scale = registers(COLS)
    line = registers(ROWS)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        take_rows(task)
        group0 = (task % groups) * tiles_per_group
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            weights_at = tile * tile_weights
            first_block = get_int(block_table, tile)
            tile_rows()
