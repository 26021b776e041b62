"""Convolution of 8-bit tensors on the tile unit (AMX): what differs from :mod:`cnngraph_cpu.templates.conv_tiles`.

A row of a tile holds 64 channels of a pixel. Activations count as unsigned (signed ones have 128 added while being packed) and
weights as signed; zero points enter as in :mod:`cnngraph_cpu.templates.qconv_direct`, and sums are as exact as there.

At most 32 channels leave half of that to other rows of taps (ROWS, each in BLOCKS vectors): with 16 channels a pixel meets three products
for nine of 3x3 taps, with 32 six. What lies behind the last row has zero weights.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    I64Pointer,
    add_int,
    epilogue,
    get_byte,
    load,
    load_bytes,
    load_words,
    mul,
    mul_int,
    registers,
    round_between,
    splat,
    splat_int,
    store,
    store_byte_blocks,
    store_bytes,
    store_four_rounded,
    store_words,
    sub_int,
    to_float,
    to_floats,
    unroll,
    xor_int,
)
from cnngraph_cpu.templates import conv_tiles as floats
from cnngraph_cpu.templates.conv_tiles import all_tasks

TO_BYTES, TO_FLOATS, TO_WORDS = 0, 1, 2
FLIPS = 128
TILE_PIXELS, TILE_BYTES, ROW_BYTES = floats.TILE_PIXELS, floats.TILE_BYTES, floats.ROW_BYTES

W = TN = MT = SPLIT = BYTES = PIXEL = GUARD = OUT = FLIP = ZERO_GIVEN = PACK4 = ROWS = BLOCKS = 0  # fixed by the plan


def pack_pixels(source: int, step: int, to: int, copied: int) -> None:
    """``copied`` pixels of 64 channels, ``step`` bytes apart. Blocks that do not exist are the last that does: their weights are zero."""
    left = blocks - 1 - kb * 4
    second = min(1, left) * plane_in
    third = min(2, left) * plane_in
    fourth = min(3, left) * plane_in
    if ROWS > 1:
        second = min(1 // BLOCKS, ROWS - 1) * row_step + 1 % BLOCKS * plane_in
        third = min(2 // BLOCKS, ROWS - 1) * row_step + 2 % BLOCKS * plane_in
        fourth = min(3 // BLOCKS, ROWS - 1) * row_step + 3 % BLOCKS * plane_in
    if ROWS > 1 and (iy < 0 or iy + further >= height):
        fill_pixels(to, copied)
        for part in range(ROWS * BLOCKS):
            part_y = iy + part // BLOCKS * dilation_y
            if part_y >= 0 and part_y < height:
                part_at = source + part // BLOCKS * row_step + part % BLOCKS * plane_in
                for c in range(copied):
                    value = load_bytes(x, part_at + c * step)
                    if FLIP:
                        value = xor_int(value, splat_int(FLIPS))
                    store_bytes(packed, to + c * PIXEL + part * W, value)
    else:
        for c in range(copied):
            pixel = source + c * step
            store_byte_blocks(packed, to + c * PIXEL, x, pixel, pixel + second, pixel + third, pixel + fourth, FLIP * FLIPS)


def store_pixel(place: int, inner: int) -> None:
    """One vector of sums at ``place`` with its bias, requantised or with the epilogue."""
    total = add_int(load_words(sums, place), bias)
    if OUT == TO_BYTES:
        result = add_int(round_between(mul(to_floats(total), factor), splat(low), splat(high)), splat_int(y_zero))
        store_bytes(y, image * y_batch + inner, result)
    elif OUT == TO_FLOATS:
        y_value = to_floats(total)
        out = epilogue(y_value, image, inner, channel)
        store(y_floats, image * y_batch + inner, out)
    else:
        store_words(y_words, image * y_batch + inner, total)


def store_run(i: int, count: int, v: int) -> None:
    """As in :mod:`cnngraph_cpu.templates.conv_tiles`; bytes of four pixels at a time."""
    bias = load_words(b, channel)
    if ZERO_GIVEN:
        bias = sub_int(bias, mul_int(load_words(weight_sums, channel), splat_int(zero)))
    if OUT == TO_BYTES:
        factor = load(factors, channel)
    done = 0
    if PACK4:
        done = count // 4 * 4
        for c in range(0, done, 4):
            for k in unroll(4):
                scale[k] = mul(to_floats(add_int(load_words(sums, ((i + c + k) * TN + v) * W), bias)), factor)
            store_four_rounded(y, image * y_batch + inner_at + c * W, scale[0], scale[1], scale[2], scale[3], y_zero, low_byte, high_byte)
    for c in range(done, count):
        store_pixel(((i + c) * TN + v) * W, inner_at + c * W)


def qconv_tiles(
    x: BytePointer, w: BytePointer, b: I32Pointer, weight_sums: I32Pointer, factors: F32Pointer, zero_at: BytePointer, y: BytePointer,
    y_floats: F32Pointer, y_words: I32Pointer, config: BytePointer, first_blocks: I64Pointer, tap_table: I64Pointer,
    phase_table: I64Pointer, packed: BytePointer, sums: I32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, k_blocks: int,
    block_step: int, plane_in: int, used_blocks: int, panels: int, out_blocks: int, height: int, width: int, rows_out: int, cols_out: int,
    plane_out: int, taps: int, phases: int, SX: int, SY: int, pad_y: int, pad_x: int, pitch: int, overlap: int, line_rows: int,
    block_rows: int, together: int, line_images: int, image_step: int, plane_bytes: int, line_bytes: int, panel_bytes: int,
    panels_per_group: int, panels_at_once: int, dilation_y: int, x_zero: int, y_zero: int, low_int: int, high_int: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """See :func:`cnngraph_cpu.templates.conv_tiles.conv_tiles`, and for the numbers of the quantisation
    :func:`cnngraph_cpu.templates.qconv_direct.qconv`. ``blocks`` counts those of W input channels.
    """
    low = to_float(low_int)
    high = to_float(high_int)
    low_byte = low_int + y_zero
    high_byte = high_int + y_zero
    zero = x_zero
    if ZERO_GIVEN:
        zero = get_byte(zero_at, 0)
        if FLIP:
            zero = zero ^ FLIPS
    scale = registers(4)
    further = 0
    if ROWS > 1:
        further = (ROWS - 1) * dilation_y
        row_step = dilation_y * width * W
    all_tasks()
