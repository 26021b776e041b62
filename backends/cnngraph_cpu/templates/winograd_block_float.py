"""Winograd convolution F(4x4, 3x3) of bfloat16 in block floating point (Lavin and Gray, arXiv:1509.09308): transforms in float32,
products of int16.

All transformed numbers of a tile, 36 points of every channel, are rounded to integers of one unit, the largest magnitude among them over
``limit``. Weights have a unit for every point and output channel, chosen by the plan so that no input can take a sum of products beyond
int32. Products and sums are exact; the units come back in float32. The points are 0, 2/3, -2/3, 3/2, -3/2 and infinity, which amplify
errors less than half as much as whole numbers do (Alam et al., arXiv:2201.10369). Where B^T makes numbers two thirds as large as
elsewhere, in the rows of 3/2 and -3/2, units are smaller by as much, which costs nothing.

A NaN or an infinity in a tile, or a transform beyond float32, makes the tile's unit NaN, and so every result of the tile. Units depend
on nothing but the numbers of the tile.

The structure is that of :mod:`cnngraph_cpu.templates.winograd`, and the products are those of :mod:`cnngraph_cpu.templates.qwinograd`.
Words hold two channels, of the same lane of two neighbouring blocks; the last of an odd number of blocks is joined with zeros. Scratch:
input rows, a transformed tile ``[channel block][36][W]`` and the units of all tiles in float32, ``v`` ``[36][pair of blocks][tile][W]`` and
``m`` ``[36][TV][tile][W]`` in words. Weights: ``[channel tile][36][pair of channels, and then the units][TV*W]``.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    F32Pointer,
    I32Pointer,
    add,
    broadcast,
    div,
    fma,
    largest_magnitude,
    load,
    load_words,
    maximum,
    mul,
    put,
    reduce_max,
    registers,
    splat,
    splat_int,
    store,
    store_words,
    sub,
    to_float,
    to_floats,
    to_shorts,
    unroll,
    words_as_floats,
)
from cnngraph_cpu.templates.tile_loops import LINE  # noqa: F401  its helpers' constant

M, P, SHORT, BIASED = 4, 6, 1, 0
W = TV = TT = U = GUARD = PARTIAL_X = PARTIAL_Y = 0  # fixed by the plan


def input_line() -> None:
    """T = B^T d."""
    even = fma(minus_q2, d[2], d[4])
    odd = fma(minus_q2, d[1], d[3])
    t[1] = fma(p1, odd, even)
    t[2] = fma(minus_p1, odd, even)
    even = fma(minus_p2, d[2], d[4])
    odd = fma(minus_p2, d[1], d[3])
    t[3] = fma(q1, odd, even)
    t[4] = fma(minus_q1, odd, even)
    t[0] = fma(minus_both, d[2], add(d[0], d[4]))
    t[5] = fma(minus_both, d[3], add(d[1], d[5]))


def output_line() -> None:
    """T = A^T S d, where S divides by the magnitudes of the points 2/3, -2/3, 3/2 and -3/2, by which G is multiplied."""
    sum12 = add(d[1], d[2])
    dif12 = sub(d[1], d[2])
    sum34 = add(d[3], d[4])
    dif34 = sub(d[3], d[4])
    t[0] = fma(q1, sum12, fma(p1, sum34, d[0]))
    t[1] = add(dif12, dif34)
    t[2] = fma(p1, sum12, mul(q1, sum34))
    t[3] = fma(p2, dif12, fma(q2, dif34, d[5]))


def transform_tile(ty: int, tx: int) -> None:
    """One tile into scratch, and its largest magnitudes, by how many of their rows of B^T are those of 3/2 and -3/2."""
    for n in unroll(3):
        most[n] = zero
    for cb in range(blocks):
        at = ((cb * scratch_rows + ty * M) * scratch_width + tx * M) * W
        to = tile_at + cb * P * P * W
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
                most[j // 3 - j // 5 + i // 3 - i // 5] = largest_magnitude(most[j // 3 - j // 5 + i // 3 - i // 5], t[i])
                store(packed, to + (j * P + i) * W, t[i])


def round_tile(place: int) -> None:
    """A tile from scratch into ``v``, in units that are written to ``units``."""
    top = reduce_max(largest_magnitude(largest_magnitude(most[0], mul(q1, most[1])), mul(q2, most[2])))
    put(packed, units_at + place, top * unit + (top - top))  # NaN, where top is not finite
    factor[0] = div(most_units, maximum(splat(top), least))
    factor[1] = mul(factor[0], q1)
    factor[2] = mul(factor[0], q2)
    for pb in range(pair_blocks):
        at = tile_at + 2 * pb * P * P * W
        to = (pb * tiles_padded + place) * W
        for j in unroll(P):
            for i in unroll(P):
                low = load(packed, at + (j * P + i) * W)
                high = load(packed, at + (P * P + j * P + i) * W)
                store_words(v, to + (j * P + i) * v_step, to_shorts(low, high, factor[j // 3 - j // 5 + i // 3 - i // 5]))


def transform_input(tile_rows_here: int) -> None:
    """All tiles of the task into ``v``."""
    for ty in range(tile_rows_here):
        for tx in range(tiles_x):
            transform_tile(ty, tx)
            round_tile(ty * tiles_x + tx)


def take_sums(i: int) -> None:
    """Column ``i`` of the sums of a tile into D, times the units of the weights."""
    for j in unroll(P):
        sums = to_floats(load_words(m, at + (j * P + i) * m_step))
        d[j] = mul(sums, words_as_floats(load_words(w, tile * tile_weights + ((j * P + i) * (pairs + 1) + pairs) * TV * W + k * W)))


def take_pixel(i: int) -> None:
    """A pixel before the epilogue: times the unit of the tile, and the bias."""
    y_value = fma(broadcast(packed, units_at + ty * tiles_x + tx), t[i], bias)


def winograd_block_float(
    x: F32Pointer, w: I32Pointer, b: F32Pointer, y: F32Pointer, scratch: F32Pointer, v: I32Pointer, m: I32Pointer,
    images: int, x_batch: int, y_batch: int, channels: int, pairs: int, pair_blocks: int, limit: int,
    blocks: int, out_blocks: int, tiles: int, height: int, width: int, rows_out: int, cols_out: int, tiles_y: int, tiles_x: int,
    tile_weights: int, pad_y: int, pad_x: int, copied: int, scratch_rows: int, scratch_width: int,
    block_tile_rows: int, tiles_padded: int, tile_at: int, tiles_per_group: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``tile_at`` is an offset in scratch; ``tiles`` counts channel tiles, ``tiles_y``/``tiles_x`` pixel tiles."""
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (tiles_y + block_tile_rows - 1) // block_tile_rows
    tasks = images * row_blocks * groups
    packed = scratch
    units_at = tile_at + 2 * pair_blocks * P * P * W
    v_step = pair_blocks * tiles_padded * W
    m_step = TV * tiles_padded * W
    zero = splat(0.0)
    nothing = splat_int(0)
    p1 = splat(2 / 3)
    p2 = splat(4 / 9)
    q1 = splat(3 / 2)
    q2 = splat(9 / 4)
    minus_p1 = splat(-2 / 3)
    minus_p2 = splat(-4 / 9)
    minus_q1 = splat(-3 / 2)
    minus_q2 = splat(-9 / 4)
    minus_both = splat(-97 / 36)
    least = splat(1e-30)
    most_units = splat(to_float(limit))
    unit = to_float(1) / to_float(limit)
    d = registers(P)
    t = registers(P)
    s = registers(P, P)
    most = registers(3)
    factor = registers(3)
    acc = registers(TV, TT)
    weight = registers(TV)
    have = -1
    for i in range(P * P):
        store(packed, tile_at + ((2 * pair_blocks - 1) * P * P + i) * W, zero)
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        take_part(task)
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            multiply(tile, w, tile * tile_weights, (pairs + 1) * TV * W, 0, pair_blocks)
            transform_output(tile, image, tile_row0, tile_rows_here)
