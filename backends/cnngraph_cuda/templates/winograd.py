"""Winograd convolution F(2x2, 3x3) of stride 1 in float32, all in one kernel (Lavin and Gray, arXiv:1509.09308).

A block of 256 threads computes BT tiles of 2x2 pixels times BK outputs. The summed axis is walked in steps of CB channels: each thread
reads the 4x4 pixels of one tile and channel, transforms them in registers and leaves them in shared memory; the weights, transformed
when the network is compiled, are copied beside them. That makes 16 matrix products of BT x CB x BK, of which a warp has two. Both
operands have two buffers: while one is multiplied, the other's weights are copied and its pixels are on their way to registers, so that
a step has one barrier. At the end the sums go through shared memory, 32 outputs at a time; a thread transforms four outputs of a tile
back, and bias, epilogue and store work on 16 bytes. This is the division of work of Yan, Wang and Chu, "Optimizing batched Winograd
convolution on GPUs" (PPoPP 2020): 32 tiles, 64 outputs, 8 channels, 8x8 sums of two points a thread.

Shared memory holds pixels as ``[channel][point][tile]``, with 16 bytes between channels, so that the eight channels and four tiles that a
warp writes at once lie in 32 banks, and weights as ``[point][channel][output]``. Lanes have their places in a warp's product as in
Gray's SGEMM (github.com/NervanaSystems/maxas/wiki/SGEMM): eight neighbours read two chunks of four tiles and four chunks of four outputs.
Sums lie as ``[point][tile][32 outputs]``, four of them at ``chunk ^ (tile & 4)``.

Pixels outside the image, of tiles beyond the last, and of channels beyond the last are not read, but zero.
"""

from __future__ import annotations

from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    add,
    below,
    block_x,
    block_y,
    both,
    cp_async16,
    cp_commit,
    cp_wait,
    finish_epilogue,
    fma4,
    grid_x,
    grid_y,
    lds4,
    load_epilogue,
    load_floats,
    load_four_if,
    opaque,
    registers,
    select,
    shared_base,
    store_vector,
    sts1,
    sts4,
    sub,
    sync,
    thread,
    unroll,
)

BK = AHEAD = VL = THREADS = 0
P = 4
"""Pixels of a transformed tile along an axis."""
BT, CB = 32, 8
"""Tiles of a block, channels of a step: together one for each thread."""
PITCH = P * P * BT * 4 + 16
"""Bytes from channel to channel of the transformed pixels."""


def locate_tile() -> None:
    """Which outputs the block computes, and which tile the thread transforms."""
    serial = block_y() * grid_x() + block_x()
    block_n = serial % grid_y()
    first_n = block_n * BK
    tile = serial // grid_y() * BT + (tid >> 3)
    clamped = select(tile < tiles, tile, tiles - 1)
    image = clamped // plane
    tile_row = (clamped - image * plane) // tiles_x
    tile_column = (clamped - image * plane - tile_row * tiles_x) * 2
    tile_row = tile_row * 2


def input_line() -> None:
    """T = B^T d."""
    t[0] = sub(d[0], d[2])
    t[1] = add(d[1], d[2])
    t[2] = sub(d[2], d[1])
    t[3] = sub(d[1], d[3])


def output_line() -> None:
    """T = A^T d."""
    t[0] = add(d[0], add(d[1], d[2]))
    t[1] = sub(sub(d[1], d[2]), d[3])


def load_patch() -> None:
    """Begin reading the pixels of the next step."""
    here = select(channel < channels, inside_w, 0)
    for i in unroll(P):
        (*patch[i],) = load_four_if(x, source + i * line_pitch, x_pixel * 4, select((inside_h & (1 << i)) == 0, 0, here))
    channel = channel + CB
    source = source + CB


def copy_weights(slot: int) -> None:
    """Begin copying the weights of the next step into the buffer at byte ``slot``."""
    for i in unroll(P * P * CB * BK // (4 * THREADS)):
        cp_async16(to_weights + slot + THREADS * 16 * i, w, weight + THREADS * 4 * i, 16)
    weight = weight + P * P * CB * BK


def store_patch(slot: int) -> None:
    """B^T d B of the pixels read last, into the buffer at byte ``slot``."""
    for j in unroll(P):
        for i in unroll(P):
            d[i] = patch[i, j]
        input_line()
        for i in unroll(P):
            patch[i, j] = t[i]
    for i in unroll(P):
        for j in unroll(P):
            d[j] = patch[i, j]
        input_line()
        for j in unroll(P):
            sts1(to_pixels + slot + (i * P + j) * BT * 4, t[j])


def read_operands(point: int, part: int) -> None:
    """What a thread multiplies of one channel and of the warp's point ``point``, into registers ``part``."""
    for h in unroll(BT // 16):
        (*va[part, h],) = lds4(a_row + point * BT * 4 + 64 * h)
    for h in unroll(BK // 32):
        (*vb[part, h],) = lds4(b_row + point * CB * BK * 4 + 128 * h)


def multiply(point: int, part: int) -> None:
    """Add the products of registers ``part`` to the sums of a point."""
    for h in unroll(BT // 16):
        for e in unroll(4):
            for k in unroll(BK // 32):
                (*acc[point, 4 * h + e, k],) = fma4(*acc[point, 4 * h + e, k], va[part, h, e], *vb[part, k])


def finish_tile(first: int) -> None:
    """A^T m A of four outputs of a tile, from output ``first`` of the block on; bias, epilogue, store."""
    column = first_n + first + (tid & 7) * 4
    if column < outputs:
        (*bias,) = load_floats(b, column)
        for i in unroll(2):
            for j in unroll(2):
                live[2 * i + j] = both(tile < tiles, both(tile_row + i < out_height, tile_column + j < out_width))
                pixel_of[2 * i + j] = select(live[2 * i + j], (tile_row + i) * out_width + tile_column + j, 0)
                load_epilogue(2 * i + j, image, pixel_of[2 * i + j], column)
        for j in unroll(P):
            for i in unroll(P):
                (*sums[i],) = lds4(from_sums + (i * P + j) * BT * 128)
            for e in unroll(4):
                for i in unroll(P):
                    d[i] = sums[i, e]
                output_line()
                for i in unroll(2):
                    half[i, j, e] = t[i]
        for i in unroll(2):
            for e in unroll(4):
                for j in unroll(P):
                    d[j] = half[i, j, e]
                output_line()
                for j in unroll(2):
                    whole[j, e] = t[j]
            for j in unroll(2):
                for e in unroll(4):
                    v[e] = add(whole[j, e], bias[e])
                finish_epilogue(v, 2 * i + j)
                if live[2 * i + j]:
                    store_vector(y, image * y_batch + pixel_of[2 * i + j] * y_pixel + column, *v)


def winograd(
    x: DataPointer, w: F32Pointer, b: F32Pointer, y: DataPointer, tiles: int, plane: int, tiles_x: int, channels: int, outputs: int,
    steps: int, height: int, width: int, pad_h: int, pad_w: int, out_height: int, out_width: int, x_batch: int, x_pixel: int,
    y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """``y = epilogue(conv(x, w) + b)``. A plane is the tiles of an image; weights lie ``[output block][step][point][channel][output]``."""
    patch = registers(P, P)
    d = registers(P)
    t = registers(P)
    acc = registers(2, BT // 4, BK // 32, 4)
    va = registers(2, BT // 16, 4)
    vb = registers(2, BK // 32, 4)
    bias = registers(VL)
    v = registers(VL)
    sums = registers(P, 4)
    half = registers(2, P, 4)
    whole = registers(2, 4)
    live = registers(4)
    pixel_of = registers(4)

    tid = thread()
    lane = tid & 31
    warp = tid >> 5
    locate_tile()
    channel = tid & 7
    line_pitch = width * x_pixel
    source = image * x_batch + (tile_row - pad_h) * line_pitch + (tile_column - pad_w) * x_pixel + channel
    inside_h = 0
    inside_w = 0
    for i in unroll(P):
        inside_h = inside_h + select(below(tile_row - pad_h + i, height), 1 << i, 0)
        inside_w = inside_w + select(below(tile_column - pad_w + i, width), 1 << i, 0)
    inside_h = select(tile < tiles, inside_h, 0)
    weight = block_n * steps * (P * P * CB * BK) + tid * 4

    base = shared_base()
    to_pixels = base + channel * PITCH + (tid >> 3) * 4
    to_weights = base + CB * PITCH + tid * 16
    tile_chunk = (lane & 1) + (lane >> 4 << 1)
    output_chunk = (lane >> 1) & 7
    a_first = base + warp * (2 * BT * 4) + tile_chunk * 16
    b_first = base + CB * PITCH + warp * (2 * CB * BK * 4) + output_chunk * 16
    for q in unroll(2):
        for i in unroll(BT // 4):
            for k in unroll(BK // 32):
                for e in unroll(4):
                    acc[q, i, k, e] = 0.0

    copy_weights(0)
    cp_commit()
    load_patch()
    store_patch(0)
    read = 0
    write = CB * (PITCH + P * P * BK * 4)
    for step in range(steps):
        cp_wait(0)
        sync()
        if step + 1 < steps:
            copy_weights(write)
            load_patch()
        cp_commit()
        a_row = a_first + read
        b_row = b_first + read
        if AHEAD:
            read_operands(0, 0)
            for c in range(CB):
                read_operands(1, 1)
                multiply(0, 0)
                a_row = a_row + PITCH
                b_row = b_row + BK * 4
                read_operands(0, 0)  # after the last channel this reads what nothing uses
                multiply(1, 1)
        else:
            for c in range(CB):
                for q in unroll(2):
                    read_operands(q, 0)
                    multiply(q, 0)
                a_row = a_row + PITCH
                b_row = b_row + BK * 4
        if step + 1 < steps:
            store_patch(write)
        read = write
        write = CB * (PITCH + P * P * BK * 4) - write

    tid = opaque(tid)
    locate_tile()
    to_sums = base + warp * (2 * BT * 128) + tile_chunk * 512 + ((output_chunk ^ ((lane & 1) << 2)) << 4)
    from_sums = base + (tid >> 3) * 128 + (((tid & 7) ^ (((tid >> 5) & 1) << 2)) << 4)
    for k in unroll(BK // 32):
        sync()
        for q in unroll(2):
            for h in unroll(BT // 16):
                for e in unroll(4):
                    sts4(to_sums + (q * BT + 16 * h + e) * 128, *acc[q, 4 * h + e, k])
        sync()
        finish_tile(32 * k)
