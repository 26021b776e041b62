"""Transposed convolution by phases, register-tiled, output NCHW[W]c.

Result pixels o with the same remainder r = o mod stride form a phase, which is an ordinary convolution of stride 1: with
o = stride*j + r the terms stride*i + dilation*t - begin = o are those taps t for which r + begin - dilation*t is a multiple of the
stride, and i = j + (r + begin - dilation*t) / stride. No multiplication by an inserted zero is ever made, and every phase stores
its pixels at their place in the result, stride apart, so that nothing is interleaved afterwards.
(Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016.)

A task is one image, one block of grid rows j and one group of output-channel tiles. The rows that all phases need are copied to
scratch once, zeros around them included, unless every phase reads pixel j alone. Weights: ``[tile][phase][channel
block][tap][channel][TV*W]``; with DEPTHWISE (a filter for each channel) ``[block][phase][tap][W]``.
"""

from __future__ import annotations

from cnngraph_cpu.language import F32Pointer, I64Pointer, broadcast, epilogue, fma, get_int, load, registers, splat, store, unroll
from cnngraph_cpu.templates.tile_loops import ANY_TAIL, tile_rows

FIELDS = 9
"""Numbers of a phase in the table: taps along three axes, grid sizes along three, places of its weights, source and result."""

W = TV = U = TR = TC = TAIL_COLS = IN_PLACE = GUARD = GUARD_COLS = DEPTH = DEPTHWISE = ROWS = COLS = 0  # fixed by the plan
SKIP_ROWS = 0  # likewise, for all


def pack(image: int, row0: int) -> None:
    """Copy the source rows of a task, zeros around them included, into scratch."""
    for cb in range(blocks):
        for r in range(scratch_rows):
            if DEPTH:
                z = row0 // grid_y + first_z + r // reach_y
                iy = row0 % grid_y + first_y + r % reach_y
            else:
                z = 0
                iy = row0 + first_y + r
            to = (cb * scratch_rows + r) * scratch_width * W
            if iy < 0 or iy >= height or z < 0 or z >= depth:
                for c in range(scratch_width):
                    store(packed, to + c * W, splat(0.0))
            else:
                at = image * x_batch + (((cb * depth + z) * height + iy) * width + skipped) * W
                for c in range(lead):
                    store(packed, to + c * W, splat(0.0))
                for c in range(copied):
                    store(packed, to + (lead + c) * W, load(x, at + c * W))
                for c in range(lead + copied, scratch_width):
                    store(packed, to + c * W, splat(0.0))


def register_tile(ROWS: int, COLS: int, row: int, col: int) -> None:
    """ROWS x COLS pixels of the phase at grid (row, col) of the task, TV channel vectors of ``tile``."""
    for v in unroll(TV):
        first = load(b, (tile * TV + v) * W)
        for r in unroll(ROWS):
            for c in unroll(COLS):
                acc[v, r, c] = first
    at = phase_weights
    for cb in range(first_block, first_block + used_blocks):
        count = min(W, channels - cb * W)
        for kz in range(taps_z):
            for ky in range(taps_y):
                base = phase_source + cb * block_step + row * row_step + kz * tap_z + ky * tap_y + col * W
                for r in unroll(ROWS):
                    line[r] = base + r * row_step
                for kx in range(taps_x):
                    if DEPTHWISE:
                        weight[0] = load(w, at)
                        for r in unroll(ROWS):
                            for c in unroll(COLS):
                                acc[0, r, c] = fma(weight[0], load(source, line[r] + c * W), acc[0, r, c])
                        at = at + W
                        for r in unroll(ROWS):
                            line[r] = line[r] + tap_x
                    else:
                        for i in range(0, count, U):
                            for u in unroll(U):
                                for v in unroll(TV):
                                    weight[v] = load(w, at + (u * TV + v) * W)
                                for r in unroll(ROWS):
                                    for c in unroll(COLS):
                                        value = broadcast(source, line[r] + c * W + u)
                                        for v in unroll(TV):
                                            acc[v, r, c] = fma(weight[v], value, acc[v, r, c])
                            at = at + U * TV * W
                            for r in unroll(ROWS):
                                line[r] = line[r] + U
                        for r in unroll(ROWS):
                            line[r] = line[r] + (tap_x - count)
    for v in unroll(TV):
        if not GUARD or tile * TV + v < out_blocks:
            for r in unroll(ROWS):
                inner = (tile * TV + v) * plane + phase_to + (row + r) * row_out + col * column_out
                for c in unroll(COLS):
                    if not GUARD_COLS or col + c < phase_cols:
                        y_value = acc[v, r, c]
                        out = epilogue(y_value, image, inner + c * column_out, (tile * TV + v) * W)
                        store(y, image * y_batch + inner + c * column_out, out)


def tile_row(ROWS: int, row: int) -> None:
    """All register tiles of ROWS grid rows."""
    for col in range(0, full_cols, TC):
        register_tile(ROWS, TC, row, col)
    if TAIL_COLS == ANY_TAIL:
        for col in range(full_cols, grid_x):
            register_tile(ROWS, 1, row, col)
    elif TAIL_COLS:
        col = full_cols
        register_tile(ROWS, TAIL_COLS, row, col)


def conv_transpose(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, block_table: I64Pointer, phase_table: I64Pointer, packed: F32Pointer,
    images: int, x_batch: int, y_batch: int, channels: int, blocks: int, used_blocks: int, out_blocks: int, tiles: int, phases: int,
    depth: int, height: int, width: int, grid_rows: int, grid_y: int, grid_x: int, full_cols: int, plane: int, plane_out: int,
    row_out: int, column_out: int, stride_z: int, first_z: int, first_y: int, reach_y: int, skipped: int, lead: int, copied: int,
    scratch_rows: int, scratch_width: int, tap_z: int, tap_y: int, tap_x: int, row_step: int, block_step: int, tile_weights: int,
    block_rows: int, tiles_per_group: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """The grid has ``grid_rows`` (of all depths) x ``grid_x`` pixels. ``row_out`` and ``column_out`` are the distances in the result
    between neighbouring grid rows and columns of a phase, ``plane_out`` between depths; ``tap_*`` and ``*_step`` are distances
    in the source.
    """
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    row_blocks = (grid_rows + block_rows - 1) // block_rows
    tasks = images * row_blocks * groups
    acc = registers(TV, ROWS, COLS)
    weight = registers(TV)
    line = registers(ROWS)
    have = -1
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        part = task // groups
        image = part // row_blocks
        row0 = (part % row_blocks) * block_rows
        if IN_PLACE:
            source = x
            source_at = image * x_batch + row0 * row_step
        else:
            source = packed
            source_at = 0
            if have != part:
                have = part
                pack(image, row0)
        group0 = (task % groups) * tiles_per_group
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            first_block = get_int(block_table, tile)
            for phase in range(phases):
                entry = phase * FIELDS
                taps_z = get_int(phase_table, entry)
                taps_y = get_int(phase_table, entry + 1)
                taps_x = get_int(phase_table, entry + 2)
                phase_cols = get_int(phase_table, entry + 5)
                phase_weights = tile * tile_weights + get_int(phase_table, entry + 6)
                phase_source = source_at + get_int(phase_table, entry + 7)
                if DEPTH:
                    j_z = row0 // grid_y
                    j_y = row0 % grid_y
                    phase_to = get_int(phase_table, entry + 8) + j_z * stride_z * plane_out + j_y * row_out
                    rows = min(1, min(get_int(phase_table, entry + 3) - j_z, get_int(phase_table, entry + 4) - j_y))
                else:
                    phase_to = get_int(phase_table, entry + 8) + row0 * row_out
                    rows = min(min(block_rows, grid_rows - row0), get_int(phase_table, entry + 4) - row0)
                rows = max(rows, 0)
                tile_rows()
