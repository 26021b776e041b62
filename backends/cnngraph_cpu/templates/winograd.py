"""Winograd convolution F(MxM, 3x3), M 4 or 2, stride 1, blocked layout (Lavin and Gray, arXiv:1509.09308).

y = A^T [ (G g G^T) * (B^T d B) ] A on PxP input tiles, P = M+2, that overlap by two pixels: 36 multiplications for 16 outputs of 9
taps each, a quarter of the direct method's, or 16 for 4, four ninths. The smaller tile has less than half the weights to read, which
decides for deep layers on small maps. G g G^T is computed in float64 at compile time, or (RAW) in float32 when it is needed: a quarter
of the bytes in memory, or 9 of 16.

A task is one image, a block of tile rows and a group of output-channel tiles. It copies its input rows with their zero
padding into scratch, transforms them (``v``: [P*P][channel block][tile][W]), and for each channel tile multiplies (``m``:
[P*P][TV][tile][W]) and transforms back. Tiles beyond the edge are computed and not stored. With RAW the filters of a channel tile are
transformed a chunk of input channels at a time, which stays in the private cache (``ready``: [channel][P*P][TV][W]; writing to 36 far
places takes twice as long), and the products of a chunk are added to those of the chunks before it. Its successor is asked for meanwhile.

With STEP = 2 the transformed tiles and weights are bfloat16 and a step takes two input channels at once, as in
:mod:`cnngraph_cpu.templates.conv_direct`: weights are ``[channel tile][P*P][pair of channels][TV*W][2]``. Sums and transforms are float32.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    F32Pointer,
    add,
    advance,
    broadcast,
    broadcast_pair,
    dot2,
    epilogue,
    fma,
    load,
    load_pairs,
    load_partial,
    mul,
    prefetch,
    registers,
    splat,
    store,
    sub,
    unroll,
)
from cnngraph_cpu.templates.tile_loops import LINE

RAW, APART, STEP, SHORT = 0, 1, 1, 0
W = M = P = TV = TT = U = GUARD = PARTIAL_X = PARTIAL_Y = 0  # fixed by the plan


def pack_rows(image: int, row0: int) -> None:
    """Copy the input rows of a task, padded with zeros, into scratch ``[channel block][row][column][W]``.

    With SHORT the lanes of the last block that are no channels become zero.
    """
    for cb in range(blocks):
        for r in range(scratch_rows):
            iy = row0 * M + r - pad_y
            to = (cb * scratch_rows + r) * scratch_width * W
            if iy < 0 or iy >= height:
                for c in range(scratch_width):
                    store(packed, to + c * W, zero)
            else:
                at = image * x_batch + (cb * height + iy) * width * W
                for c in range(pad_x):
                    store(packed, to + c * W, zero)
                for c in range(copied):
                    prefetch(x, at + (height * width + c) * W)  # the next block's
                    if SHORT:
                        store(packed, to + (pad_x + c) * W, load_partial(x, at + c * W, channels - cb * W))
                    else:
                        store(packed, to + (pad_x + c) * W, load(x, at + c * W))
                for c in range(pad_x + copied, scratch_width):
                    store(packed, to + c * W, zero)


def input_line() -> None:
    """T = B^T d."""
    if P == 4:
        t[0] = sub(d[0], d[2])
        t[1] = add(d[1], d[2])
        t[2] = sub(d[2], d[1])
        t[3] = sub(d[1], d[3])
    else:
        t[0] = fma(four, d[0], fma(minus5, d[2], d[4]))
        t[1] = fma(minus4, add(d[1], d[2]), add(d[3], d[4]))
        t[2] = fma(four, sub(d[1], d[2]), sub(d[4], d[3]))
        t[3] = fma(two, sub(d[3], d[1]), sub(d[4], d[2]))
        t[4] = fma(two, sub(d[1], d[3]), sub(d[4], d[2]))
        t[5] = fma(four, d[1], fma(minus5, d[3], d[5]))


def output_line() -> None:
    """T = A^T S d, S the factors that G leaves out."""
    sum12 = add(d[1], d[2])
    dif12 = sub(d[1], d[2])
    if P == 4:
        t[0] = fma(half, sum12, d[0])
        t[1] = sub(mul(half, dif12), d[3])
    else:
        sum34 = add(d[3], d[4])
        dif34 = sub(d[3], d[4])
        even = mul(minus_sixth, sum12)
        odd = mul(minus_sixth, dif12)
        t[0] = fma(quarter, d[0], fma(twenty_fourth, sum34, even))
        t[1] = fma(twelfth, dif34, odd)
        t[2] = fma(sixth, sum34, even)
        t[3] = fma(third, dif34, add(odd, d[5]))


def transform_input(tile_rows_here: int) -> None:
    """All tiles of the task into ``v``."""
    for cb in range(blocks):
        for ty in range(tile_rows_here):
            for tx in range(tiles_x):
                at = ((cb * scratch_rows + ty * M) * scratch_width + tx * M) * W
                to = (cb * tiles_padded + ty * tiles_x + tx) * W
                for i in unroll(P):
                    for j in unroll(P):
                        d[j] = load(packed, at + (j * scratch_width + i) * W)
                    input_line()
                    for j in unroll(P):
                        s[j, i] = t[j]
                for j in unroll(P):
                    for i in unroll(P):
                        d[i] = s[j, i]
                    input_line()
                    for i in unroll(P):
                        store(v, to + (j * P + i) * v_step, t[i])


def weight_line() -> None:
    """T = G d."""
    even = add(d[0], d[2])
    t[0] = d[0]
    t[1] = add(even, d[1])
    t[2] = sub(even, d[1])
    if P == 4:
        t[3] = d[2]
    else:
        odd = fma(four, d[2], d[0])
        t[3] = fma(two, d[1], odd)
        t[4] = fma(minus2, d[1], odd)
        t[5] = d[2]


def transform_weights(tile: int, first: int, count: int) -> None:
    """``ready`` of ``count`` input channels from ``first`` on and the output channels of one tile."""
    for c in range(count):
        for k in range(TV):
            at = tile * tile_weights + ((first + c) * 9 * TV + k) * W
            to = (c * P * P * TV + k) * W
            for i in unroll(3):
                for j in unroll(3):
                    d[j] = load(w, at + (j * 3 + i) * TV * W)
                weight_line()
                for j in unroll(P):
                    s[j, i] = t[j]
            for j in unroll(P):
                for i in unroll(3):
                    d[i] = s[j, i]
                weight_line()
                for i in unroll(P):
                    store(ready, to + (j * P + i) * TV * W, t[i])


def multiply(weights: F32Pointer, start: int, step: int, first_block: int, end_block: int) -> None:
    """``m`` of one channel tile: P*P products over the channels of some blocks, added to ``m`` unless these are the first.

    The weights of a point begin ``step`` after those of the point before, and those of its channels lie APART vectors times TV apart.
    Unless RAW, each of the first TV rounds over the channels asks for its share of the weights of the next point, at the rate at which a
    core reads memory: 256 to 256 channels at 14x14 take 387 us for 628 in a network, 512 at 7x7 607 for 1130 (Zen 5, one thread).
    """
    for xi in range(P * P):
        if RAW:
            for i in range(ahead):
                prefetch(w, next_at + (xi * ahead + i) * W)
        for tt in range(0, tiles_padded, TT):
            for k in unroll(TV):
                for p in unroll(TT):
                    acc[k, p] = zero
            if RAW:
                if first_block > 0:
                    for k in unroll(TV):
                        for p in unroll(TT):
                            acc[k, p] = load(m, ((xi * TV + k) * tiles_padded + tt + p) * W)
            at = start + xi * step
            if not RAW:
                asked = at + step + min(tt // TT, TV - 1) * (step // TV)
            for cb in range(first_block, end_block):
                line = xi * v_step + (cb * tiles_padded + tt) * W
                for i in range(0, min(W, channels - cb * W), U * STEP):
                    for u in unroll(U):
                        if not RAW and u * W % LINE == 0:
                            prefetch(weights, asked + u * W * STEP)
                        for k in unroll(TV):
                            if STEP == 2:
                                weight[k] = load_pairs(weights, at + (u * TV + k) * W * STEP)
                            else:
                                weight[k] = load(weights, at + (u * APART * TV + k) * W)
                        for p in unroll(TT):
                            if STEP == 2:
                                pair = broadcast_pair(v, line + p * W + u * STEP)
                                for k in unroll(TV):
                                    acc[k, p] = dot2(acc[k, p], pair, weight[k])
                            else:
                                value = broadcast(v, line + p * W + u)
                                for k in unroll(TV):
                                    acc[k, p] = fma(weight[k], value, acc[k, p])
                    at = at + U * APART * TV * W * STEP
                    if not RAW:
                        asked = asked + U * W * STEP
                    line = line + U * STEP
            for k in unroll(TV):
                for p in unroll(TT):
                    store(m, ((xi * TV + k) * tiles_padded + tt + p) * W, acc[k, p])


def take_sums(i: int) -> None:
    """Column ``i`` of the products of a tile into D."""
    for j in unroll(P):
        d[j] = load(m, at + (j * P + i) * m_step)


def take_pixel(i: int) -> None:
    """A pixel before the epilogue."""
    y_value = add(bias, t[i])


def transform_output(tile: int, image: int, tile_row0: int, tile_rows_here: int) -> None:
    """Back to pixels, bias and epilogue included."""
    for k in range(TV):
        channel = (tile * TV + k) * W
        if not GUARD or tile * TV + k < out_blocks:
            bias = load(b, channel)
            for ty in range(tile_rows_here):
                for tx in range(tiles_x):
                    at = (k * tiles_padded + ty * tiles_x + tx) * W
                    for i in unroll(P):
                        take_sums(i)
                        output_line()
                        for j in unroll(M):
                            s[j, i] = t[j]
                    oy = (tile_row0 + ty) * M
                    ox = tx * M
                    inner = ((tile * TV + k) * rows_out + oy) * cols_out * W + ox * W
                    for j in unroll(M):
                        if not PARTIAL_Y or oy + j < rows_out:
                            for i in unroll(P):
                                d[i] = s[j, i]
                            output_line()
                            for i in unroll(M):
                                if not PARTIAL_X or ox + i < cols_out:
                                    place = inner + (j * cols_out + i) * W
                                    take_pixel(i)
                                    out = epilogue(y_value, image, place, channel)
                                    store(y, image * y_batch + place, out)


def take_part(task: int) -> None:
    """The image, the tile rows and the channel tiles of a task; scratch is filled where the rows are others."""
    part = task // groups
    image = part // row_blocks
    tile_row0 = (part % row_blocks) * block_tile_rows
    tile_rows_here = min(block_tile_rows, tiles_y - tile_row0)
    if have != part:
        have = part
        pack_rows(image, tile_row0)
        transform_input(tile_rows_here)
    group0 = (task % groups) * tiles_per_group


def winograd(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, scratch: F32Pointer, v: F32Pointer,
    images: int, x_batch: int, y_batch: int, channels: int, blocks: int, out_blocks: int, tiles: int,
    height: int, width: int, rows_out: int, cols_out: int, tiles_y: int, tiles_x: int, tile_weights: int,
    pad_y: int, pad_x: int, copied: int, scratch_rows: int, scratch_width: int,
    block_tile_rows: int, tiles_padded: int, m_at: int, ready_at: int, chunk_blocks: int,
    tiles_per_group: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``m_at`` and ``ready_at`` are offsets in scratch; ``tiles`` counts channel tiles, ``tiles_y``/``tiles_x`` pixel tiles.

    ``chunk_blocks`` channel blocks are a chunk, ``ahead`` the vectors of the next chunk that each point asks for.
    """
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (tiles_y + block_tile_rows - 1) // block_tile_rows
    tasks = images * row_blocks * groups
    packed = scratch
    m = advance(scratch, m_at)
    ready = advance(scratch, ready_at)
    v_step = blocks * tiles_padded * W
    m_step = TV * tiles_padded * W
    zero = splat(0.0)
    two = splat(2.0)
    four = splat(4.0)
    third = splat(1 / 3)
    minus2 = splat(-2.0)
    minus4 = splat(-4.0)
    minus5 = splat(-5.0)
    half = splat(1 / 2)
    quarter = splat(1 / 4)
    sixth = splat(1 / 6)
    twelfth = splat(1 / 12)
    twenty_fourth = splat(1 / 24)
    minus_sixth = splat(-1 / 6)
    d = registers(P)
    t = registers(P)
    s = registers(P, P)
    acc = registers(TV, TT)
    weight = registers(TV)
    ahead = (chunk_blocks * W * 9 * TV + P * P - 1) // (P * P)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        take_part(task)
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            if RAW:
                for chunk in range((blocks + chunk_blocks - 1) // chunk_blocks):
                    block0 = chunk * chunk_blocks
                    block1 = min(block0 + chunk_blocks, blocks)
                    next_at = tile * tile_weights + min(channels, block1 * W) * 9 * TV * W
                    transform_weights(tile, block0 * W, min(channels, block1 * W) - block0 * W)
                    multiply(ready, 0, TV * W, block0, block1)
            else:
                multiply(w, tile * tile_weights, channels * TV * W, 0, blocks)
            transform_output(tile, image, tile_row0, tile_rows_here)
