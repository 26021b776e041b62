"""The loops around and inside the register tiles of direct convolutions, of floats and of bytes.

Helpers, inlined into kernels that bring their own ``register_tile``, ``products``, ``pack_blocked`` and ``pack_plain``.

Taps that meet only padding are passed over: lines of taps above and below the image (SKIP_ROWS), and for the first and the last pixel of a
register tile those left and right of it (SKIP_COLUMNS), by more versions of the inner loop that leave out a column or a row of the tile.
Padding that is copied to scratch all the same serves the taps of which no version leaves out enough.
"""

from __future__ import annotations

IN_PLACE, PACK_BLOCKED, PACK_PLAIN = 0, 1, 2
"""SOURCE: where the input is read; copied into scratch from a blocked or a plain tensor."""
AHEAD = 2048
"""How many words of 4 bytes further weights are asked for while others are multiplied. A processor's prefetcher begins anew at every page
of 4 KiB: weights out of memory took ResNet-50's 1x1 layers at 7x7 565 us for 400, the 3x3 layer of stride 2 at 14x14 320 for 225
(Zen 5, one thread)."""
LINE = 16
"""Words in a cache line, of which each is asked for once."""
ANY_TAIL = -1
"""TAIL_COLS: the columns behind the last whole tile are counted at run time."""

SOURCE = TR = TC = TAIL_COLS = SX = SY = CB = DEPTH = SKIP_ROWS = SKIP_COLUMNS = 0  # fixed by the plan


def tile_row(ROWS: int, row: int) -> None:
    """All register tiles of ROWS output rows."""
    for col in range(0, full_cols, TC):
        register_tile(ROWS, TC, row, col)
    if TAIL_COLS == ANY_TAIL:
        for col in range(full_cols, grid_cols):
            register_tile(ROWS, 1, row, col)
    elif TAIL_COLS:
        col = full_cols
        register_tile(ROWS, TAIL_COLS, row, col)


def tile_rows() -> None:
    """All register tiles of the task's ``rows`` rows, TR at a time and then one by one.

    Where rows of taps are passed over, the first rows come last: they would leave gaps in the weights, which are fetched in order as long
    as there are none (8 bits, 512 channels at 7x7, weights in memory: 586 us, or 510 without passing over any).
    """
    full_rows = rows // TR * TR
    for row in range(0, full_rows, TR):
        if SKIP_ROWS:
            tile_row(TR, (row + TR) % full_rows)
        else:
            tile_row(TR, row)
    if TR > 1:
        for row in range(full_rows, rows):
            tile_row(1, row)


def take_rows(task: int) -> None:
    """The image and the block of output rows of a task, and where they read the input; scratch is filled where they are others."""
    part = task // groups
    image = part // row_blocks
    row0 = (part % row_blocks) * block_rows
    rows = min(block_rows, rows_out - row0)
    if SOURCE == IN_PLACE:
        source = x
        source_at = image * x_batch + (row0 * SY - pad_y) * row_step - pad_x * CB
    else:
        source = packed
        source_at = 0
        if have != part:
            have = part
            if SOURCE == PACK_BLOCKED:
                pack_blocked(x, packed, image, row0)
            else:
                pack_plain(x, packed, image, row0)


def find_row(row0: int, r: int) -> None:
    """The plane and the row of the image that row ``r`` of scratch holds; outside the image it is padding."""
    if DEPTH:
        z = (row0 // height_out) * stride_d + (r // taps_y) * dilation_d - pad_d
        iy = (row0 % height_out) * SY + (r % taps_y) * dilation_y - pad_y
    else:
        z = 0
        iy = row0 * SY + r - pad_y


def walk_taps(ROWS: int, COLS: int, STEP: int, LANES: int, row: int, col: int, base: int) -> None:
    """All taps of one block of channels, each by ``count`` steps of STEP elements of the source and LANES of the weights from ``at`` on.

    ``base`` is where the source's first tap of the register tile at (row, col) lies.
    """
    for ky in range(taps):
        for r in unroll(ROWS):
            line[r] = base + ky * tap_step + r * SY * row_step
        if SKIP_ROWS:
            if DEPTH:
                iy = (row0 + row) % height_out * SY + ky % taps_y * dilation_y - pad_y
                z = (row0 + row) // height_out * stride_d + ky // taps_y * dilation_d - pad_d
                if z < 0 or z >= depth:
                    iy = height
            else:
                iy = (row0 + row) * SY + ky * dilation_y - pad_y
        if SKIP_ROWS and (iy + (ROWS - 1) * SY < 0 or iy >= height):
            at = at + taps_x * count * LANES
        else:
            for kx in range(taps_x):
                if SKIP_COLUMNS:
                    place = col * SX + kx * (tap_x // CB) - pad_x
                if SKIP_COLUMNS and (place + (COLS - 1) * SX < 0 or place >= width):
                    at = at + count * LANES
                    for r in unroll(ROWS):
                        line[r] = line[r] + tap_x
                else:
                    if SKIP_ROWS and ROWS > 1 and iy < 0:
                        products(ROWS, 1, ROWS, 0, COLS)
                    elif SKIP_ROWS and ROWS > 1 and iy + (ROWS - 1) * SY >= height:
                        products(ROWS, 0, ROWS - 1, 0, COLS)
                    elif SKIP_COLUMNS and COLS > 1 and place < 0:
                        products(ROWS, 0, ROWS, 1, COLS)
                    elif SKIP_COLUMNS and COLS > 1 and place + (COLS - 1) * SX >= width:
                        products(ROWS, 0, ROWS, 0, COLS - 1)
                    else:
                        products(ROWS, 0, ROWS, 0, COLS)
                    for r in unroll(ROWS):
                        line[r] = line[r] + (tap_x - count * STEP)
