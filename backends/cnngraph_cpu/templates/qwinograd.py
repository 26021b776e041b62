r"""Winograd convolution F(4x4, 3x3) of 8-bit tensors, exact: the bits of :mod:`cnngraph_cpu.templates.qconv_direct`.

y = A^T [ (G g G^T) * (B^T d B) ] A (Lavin and Gray, arXiv:1509.09308) with G multiplied by integers that make it whole. Transformed
activations, less their zero point, stay within 100 * 255 and transformed weights within 49 * 255, so both are int16, and a step of
products takes two input channels (``dot_shorts``). Sums wrap around as int32 does. What comes out of the transform back is the sum y
times 9 * 2**k, k at most 6, modulo 2**32: a multiplication by the inverse of 9 and a shift give y itself wherever \|y\| < 2**25,
whatever happened to wrap on the way; the plan knows the weights and refuses others. A quarter of the multiplications at half the rate
of bytes with VNNI, at twice the rate without.

The structure is that of :mod:`cnngraph_cpu.templates.winograd`. A vector has 2*W channels, those of two blocks, of which words of two
neighbours are broadcast. Scratch: input rows ``[pair of blocks][row][column][2*W]``, ``v`` ``[36][pair of blocks][tile][2*W]``,
``m`` ``[36][TV][tile][W]``; weights ``[channel tile][36][pair of channels][TV*W][2]``. With RAW they are transformed in the kernel, a
chunk of channels at a time (``ready``), and ``[channel tile][pair of channels][9][TV*W][2]`` in memory. The bias, times 36, enters the
sums of the point (1, 1), which all outputs share.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    add_int,
    add_shorts,
    advance,
    dot_shorts,
    epilogue,
    get_byte,
    get_word,
    load,
    load_shorts,
    load_signed_shorts,
    load_words,
    mul,
    mul_int,
    prefetch,
    registers,
    round_between,
    shift_left,
    shift_right,
    shift_shorts,
    splat,
    splat_int,
    store,
    store_bytes,
    store_four_rounded,
    store_words,
    sub_int,
    sub_shorts,
    to_float,
    to_floats,
    unroll,
)
from cnngraph_cpu.templates.tile_loops import LINE
from cnngraph_cpu.templates.winograd import take_part

TO_BYTES, TO_FLOATS, TO_WORDS = 0, 1, 2
POINTS, SHARED = 36, 7
BIASED = 1
INVERSE_OF_9 = 0x38E38E39
BOTH = 0x10001

RAW, APART = 0, 1
W = TV = TT = U = GUARD = PARTIAL_X = PARTIAL_Y = OUT = SIGNED = ZERO_GIVEN = PACK4 = 0  # fixed by the plan


def pack_rows(image: int, row0: int) -> None:
    """Copy the input rows of a task into scratch, widened, less the zero point, padded with zeros."""
    for pb in range(pair_blocks):
        for r in range(scratch_rows):
            iy = row0 * 4 + r - pad_y
            to = (pb * scratch_rows + r) * scratch_width * W
            if iy < 0 or iy >= height:
                for c in range(scratch_width):
                    store_words(packed, to + c * W, nothing)
            else:
                at = image * x_batch + (2 * pb * height + iy) * width * W
                other = image * x_batch + (min(2 * pb + 1, blocks - 1) * height + iy) * width * W
                for c in range(pad_x):
                    store_words(packed, to + c * W, nothing)
                for c in range(copied):
                    if SIGNED:
                        pixel = load_signed_shorts(x, at + c * W, other + c * W)
                    else:
                        pixel = load_shorts(x, at + c * W, other + c * W)
                    store_words(packed, to + (pad_x + c) * W, sub_shorts(pixel, zeros))
                for c in range(pad_x + copied, scratch_width):
                    store_words(packed, to + c * W, nothing)


def input_line() -> None:
    """T = B^T d, in int16."""
    dif31 = shift_shorts(sub_shorts(d[3], d[1]), 1)
    dif42 = sub_shorts(d[4], d[2])
    t[0] = add_shorts(shift_shorts(sub_shorts(d[0], d[2]), 2), dif42)
    t[1] = sub_shorts(add_shorts(d[3], d[4]), shift_shorts(add_shorts(d[1], d[2]), 2))
    t[2] = add_shorts(shift_shorts(sub_shorts(d[1], d[2]), 2), sub_shorts(d[4], d[3]))
    t[3] = add_shorts(dif42, dif31)
    t[4] = sub_shorts(dif42, dif31)
    t[5] = sub_shorts(sub_shorts(d[5], d[3]), shift_shorts(dif31, 1))


def output_line() -> None:
    """T = 24, 12, 6 and 6 times A^T S d, S the factors that G leaves out."""
    sum12 = add_int(d[1], d[2])
    dif12 = sub_int(d[1], d[2])
    sum34 = add_int(d[3], d[4])
    dif34 = sub_int(d[3], d[4])
    t[0] = add_int(d[0], sub_int(sum34, shift_left(sum12, 2)))
    t[1] = sub_int(dif34, shift_left(dif12, 1))
    t[2] = sub_int(sum34, sum12)
    t[3] = add_int(d[5], sub_int(shift_left(dif34, 1), dif12))


def transform_input(tile_rows_here: int) -> None:
    """All tiles of the task into ``v``."""
    for pb in range(pair_blocks):
        for ty in range(tile_rows_here):
            for tx in range(tiles_x):
                at = ((pb * scratch_rows + ty * 4) * scratch_width + tx * 4) * W
                to = (pb * tiles_padded + ty * tiles_x + tx) * W
                for i in unroll(6):
                    for j in unroll(6):
                        d[j] = load_words(packed, at + (j * scratch_width + i) * W)
                    input_line()
                    for j in unroll(6):
                        s[j, i] = t[j]
                for j in unroll(6):
                    for i in unroll(6):
                        d[i] = s[j, i]
                    input_line()
                    for i in unroll(6):
                        store_words(v, to + (j * 6 + i) * v_step, t[i])


def weight_line() -> None:
    """T = G d, in int16."""
    even = add_shorts(d[0], d[2])
    odd = add_shorts(d[0], shift_shorts(d[2], 2))
    twice = shift_shorts(d[1], 1)
    t[0] = add_shorts(shift_shorts(d[0], 2), shift_shorts(d[0], 1))
    t[1] = add_shorts(even, d[1])
    t[2] = sub_shorts(even, d[1])
    t[3] = add_shorts(odd, twice)
    t[4] = sub_shorts(odd, twice)
    t[5] = add_shorts(shift_shorts(d[2], 2), shift_shorts(d[2], 1))


def transform_weights(tile: int, first: int, count: int) -> None:
    """``ready`` of ``count`` pairs of input channels from ``first`` on and the output channels of one tile."""
    for c in range(count):
        for k in range(TV):
            at = tile * tile_weights + ((first + c) * 9 * TV + k) * W
            to = (c * POINTS * TV + k) * W
            for i in unroll(3):
                for j in unroll(3):
                    d[j] = load_words(w, at + (j * 3 + i) * TV * W)
                weight_line()
                for j in unroll(6):
                    s[j, i] = t[j]
            for j in unroll(6):
                for i in unroll(3):
                    d[i] = s[j, i]
                weight_line()
                for i in unroll(6):
                    store_words(ready, to + (j * 6 + i) * TV * W, t[i])


def multiply(tile: int, weights: I32Pointer, start: int, step: int, first_block: int, end_block: int) -> None:
    """``m`` of one channel tile: 36 products over the channels of some pairs of blocks, added to ``m`` unless these are the first.

    The weights of a point begin ``step`` after those of the point before, and those of its pairs lie APART vectors times TV apart.
    Those of the next point are asked for meanwhile, as in :mod:`cnngraph_cpu.templates.winograd`.
    """
    for xi in range(POINTS):
        if RAW:
            for i in range(ahead):
                prefetch(w, next_at + (xi * ahead + i) * W)
        for tt in range(0, tiles_padded, TT):
            if RAW and first_block > 0:
                for k in unroll(TV):
                    for p in unroll(TT):
                        acc[k, p] = load_words(m, ((xi * TV + k) * tiles_padded + tt + p) * W)
            else:
                for k in unroll(TV):
                    value = nothing
                    if BIASED and xi == SHARED:
                        value = load_words(b, (tile * TV + k) * W)
                    for p in unroll(TT):
                        acc[k, p] = value
            here = start + xi * step
            if not RAW:
                asked = here + step + min(tt // TT, TV - 1) * (step // TV)
            for pb in range(first_block, end_block):
                line = xi * v_step + (pb * tiles_padded + tt) * W
                for i in range(0, min(W, pairs - pb * W), U):
                    for u in unroll(U):
                        if not RAW and u * W % LINE == 0:
                            prefetch(weights, asked + u * W)
                        for k in unroll(TV):
                            weight[k] = load_words(weights, here + (u * APART * TV + k) * W)
                        for p in unroll(TT):
                            value = splat_int(get_word(v, line + p * W + u))
                            for k in unroll(TV):
                                acc[k, p] = dot_shorts(acc[k, p], value, weight[k])
                    here = here + U * APART * TV * W
                    if not RAW:
                        asked = asked + U * W
                    line = line + U
            for k in unroll(TV):
                for p in unroll(TT):
                    store_words(m, ((xi * TV + k) * tiles_padded + tt + p) * W, acc[k, p])


def finish(place: int, i: int) -> None:
    """Store the sums of one pixel."""
    if OUT == TO_BYTES:
        result = add_int(round_between(mul(to_floats(t[i]), factor), low, high), splat_int(y_zero))
        store_bytes(y, image * y_batch + place, result)
    elif OUT == TO_FLOATS:
        y_value = to_floats(t[i])
        out = epilogue(y_value, image, place, channel)
        store(y_floats, image * y_batch + place, out)
    else:
        store_words(y_words, image * y_batch + place, t[i])


def transform_output(tile: int, image: int, tile_row0: int, tile_rows_here: int) -> None:
    """Back to sums, and their requantisation or epilogue."""
    for k in range(TV):
        channel = (tile * TV + k) * W
        if not GUARD or tile * TV + k < out_blocks:
            if OUT == TO_BYTES:
                factor = load(factors, channel)
            for ty in range(tile_rows_here):
                for tx in range(tiles_x):
                    at = (k * tiles_padded + ty * tiles_x + tx) * W
                    for i in unroll(6):
                        for j in unroll(6):
                            d[j] = load_words(m, at + (j * 6 + i) * m_step)
                        output_line()
                        for j in unroll(4):
                            s[j, i] = t[j]
                    oy = (tile_row0 + ty) * 4
                    ox = tx * 4
                    inner = ((tile * TV + k) * rows_out + oy) * cols_out * W + ox * W
                    for j in unroll(4):
                        if not PARTIAL_Y or oy + j < rows_out:
                            for i in unroll(6):
                                d[i] = s[j, i]
                            output_line()
                            for i in unroll(4):
                                t[i] = shift_right(mul_int(t[i], ninth), max(1, 3 - j) + max(1, 3 - i))
                            if PACK4:
                                if not PARTIAL_X or ox + 3 < cols_out:
                                    store_four_rounded(
                                        y, image * y_batch + inner + j * cols_out * W, mul(to_floats(t[0]), factor),
                                        mul(to_floats(t[1]), factor), mul(to_floats(t[2]), factor), mul(to_floats(t[3]), factor),
                                        y_zero, low_byte, high_byte,
                                    )  # fmt: skip
                                else:
                                    for i in unroll(3):
                                        if ox + i < cols_out:
                                            finish(inner + (j * cols_out + i) * W, i)
                            else:
                                for i in unroll(4):
                                    if not PARTIAL_X or ox + i < cols_out:
                                        finish(inner + (j * cols_out + i) * W, i)


def qwinograd(
    x: BytePointer, w: I32Pointer, b: I32Pointer, factors: F32Pointer, zero_at: BytePointer, y: BytePointer, y_floats: F32Pointer,
    y_words: I32Pointer, packed: I32Pointer, v: I32Pointer, images: int, x_batch: int, y_batch: int, pairs: int, pair_blocks: int,
    blocks: int, out_blocks: int, tiles: int, height: int, width: int, rows_out: int, cols_out: int, tiles_y: int, tiles_x: int,
    tile_weights: int, pad_y: int, pad_x: int, copied: int, scratch_rows: int, scratch_width: int, block_tile_rows: int, tiles_padded: int,
    m_at: int, ready_at: int, chunk_blocks: int, tiles_per_group: int, x_zero: int, y_zero: int, low_int: int, high_int: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """``m_at`` and ``ready_at`` are offsets in scratch; ``tiles`` counts channel tiles, ``tiles_y``/``tiles_x`` pixel tiles.

    ``chunk_blocks`` pairs of channel blocks are a chunk, ``ahead`` the vectors of the next chunk that each point asks for.
    With ZERO_GIVEN the zero point stands in memory at ``zero_at``. ``low_int`` and ``high_int`` bound the result less its zero point.
    """
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (tiles_y + block_tile_rows - 1) // block_tile_rows
    tasks = images * row_blocks * groups
    m = advance(packed, m_at)
    ready = advance(packed, ready_at)
    ahead = (chunk_blocks * W * 9 * TV + POINTS - 1) // POINTS
    v_step = pair_blocks * tiles_padded * W
    m_step = TV * tiles_padded * W
    low = splat(to_float(low_int))
    high = splat(to_float(high_int))
    low_byte = low_int + y_zero
    high_byte = high_int + y_zero
    zero = x_zero
    if ZERO_GIVEN:
        zero = get_byte(zero_at, 0)
        if SIGNED:
            zero = (zero ^ 128) - 128
    zeros = splat_int((zero & 65535) * BOTH)
    nothing = splat_int(0)
    ninth = splat_int(INVERSE_OF_9)
    d = registers(6)
    t = registers(6)
    s = registers(6, 6)
    acc = registers(TV, TT)
    weight = registers(TV)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        take_part(task)
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            if RAW:
                for chunk in range((pair_blocks + chunk_blocks - 1) // chunk_blocks):
                    block0 = chunk * chunk_blocks
                    block1 = min(block0 + chunk_blocks, pair_blocks)
                    next_at = tile * tile_weights + min(pairs, block1 * W) * 9 * TV * W
                    transform_weights(tile, block0 * W, min(pairs, block1 * W) - block0 * W)
                    multiply(tile, ready, 0, TV * W, block0, block1)
            else:
                multiply(tile, w, tile * tile_weights, pairs * TV * W, 0, pair_blocks)
            transform_output(tile, image, tile_row0, tile_rows_here)
