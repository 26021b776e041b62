"""Winograd convolution F(MxM, 3x3), M 4 or 2, stride 1, blocked layout (Lavin and Gray, arXiv:1509.09308).

y = A^T [ (G g G^T) * (B^T d B) ] A on PxP input tiles, P = M+2, that overlap by two pixels: 36 multiplications for 16 outputs of 9
taps each, a quarter of the direct method's, or 16 for 4, four ninths. The smaller tile has less than half the weights to read, which
decides for deep layers on small maps. G g G^T is computed in float64 at compile time.

A task is one image, a block of tile rows and a group of output-channel tiles. It copies its input rows with their zero
padding into scratch, transforms them (``v``: [P*P][channel block][tile][W]), and for each channel tile multiplies (``m``:
[P*P][TV][tile][W]) and transforms back. Tiles beyond the edge are computed and not stored.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    F32Pointer,
    add,
    advance,
    broadcast,
    epilogue,
    fma,
    load,
    registers,
    splat,
    store,
    sub,
    unroll,
)

W = M = P = TV = TT = U = GUARD = PARTIAL_X = PARTIAL_Y = 0  # fixed by the plan


def pack_rows(image: int, row0: int) -> None:
    """Copy the input rows of a task, padded with zeros, into scratch ``[channel block][row][column][W]``."""
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
    """T = A^T d."""
    if P == 4:
        t[0] = add(d[0], add(d[1], d[2]))
        t[1] = sub(sub(d[1], d[2]), d[3])
    else:
        t[0] = add(add(d[0], add(d[1], d[2])), add(d[3], d[4]))
        t[1] = fma(two, sub(d[3], d[4]), sub(d[1], d[2]))
        t[2] = fma(four, add(d[3], d[4]), add(d[1], d[2]))
        t[3] = add(fma(eight, sub(d[3], d[4]), sub(d[1], d[2])), d[5])


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


def multiply(tile: int) -> None:
    """``m`` of one channel tile: P*P products over the input channels."""
    at0 = tile * tile_weights
    for xi in range(P * P):
        for tt in range(0, tiles_padded, TT):
            for k in unroll(TV):
                for p in unroll(TT):
                    acc[k, p] = zero
            at = at0 + xi * channels * TV * W
            for cb in range(blocks):
                line = xi * v_step + (cb * tiles_padded + tt) * W
                for i in range(0, min(W, channels - cb * W), U):
                    for u in unroll(U):
                        for k in unroll(TV):
                            weight[k] = load(w, at + (u * TV + k) * W)
                        for p in unroll(TT):
                            value = broadcast(v, line + p * W + u)
                            for k in unroll(TV):
                                acc[k, p] = fma(weight[k], value, acc[k, p])
                    at = at + U * TV * W
                    line = line + U
            for k in unroll(TV):
                for p in unroll(TT):
                    store(m, ((xi * TV + k) * tiles_padded + tt + p) * W, acc[k, p])


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
                        for j in unroll(P):
                            d[j] = load(m, at + (j * P + i) * m_step)
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
                                    y_value = add(bias, t[i])
                                    out = epilogue(y_value, image, place, channel)
                                    store(y, image * y_batch + place, out)


def winograd(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, scratch: F32Pointer,
    images: int, x_batch: int, y_batch: int, channels: int, blocks: int, out_blocks: int, tiles: int,
    height: int, width: int, rows_out: int, cols_out: int, tiles_y: int, tiles_x: int, tile_weights: int,
    pad_y: int, pad_x: int, copied: int, scratch_rows: int, scratch_width: int,
    block_tile_rows: int, tiles_padded: int, v_at: int, m_at: int, tiles_per_group: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``v_at`` and ``m_at`` are offsets in scratch; ``tiles`` counts channel tiles, ``tiles_y``/``tiles_x`` pixel tiles."""
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (tiles_y + block_tile_rows - 1) // block_tile_rows
    tasks = images * row_blocks * groups
    packed = scratch
    v = advance(scratch, v_at)
    m = advance(scratch, m_at)
    v_step = blocks * tiles_padded * W
    m_step = TV * tiles_padded * W
    zero = splat(0.0)
    two = splat(2.0)
    four = splat(4.0)
    eight = splat(8.0)
    minus4 = splat(-4.0)
    minus5 = splat(-5.0)
    d = registers(P)
    t = registers(P)
    s = registers(P, P)
    acc = registers(TV, TT)
    weight = registers(TV)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        part = task // groups
        image = part // row_blocks
        tile_row0 = (part % row_blocks) * block_tile_rows
        tile_rows_here = min(block_tile_rows, tiles_y - tile_row0)
        if have != part:
            have = part
            pack_rows(image, tile_row0)
            transform_input(tile_rows_here)
        group0 = (task % groups) * tiles_per_group
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            multiply(tile)
            transform_output(tile, image, tile_row0, tile_rows_here)
