"""The loops around the register tiles of direct convolutions, of floats and of bytes.

Helpers, inlined into kernels that bring their own ``register_tile``, ``pack_blocked`` and ``pack_plain``.
"""

from __future__ import annotations

IN_PLACE, PACK_BLOCKED, PACK_PLAIN = 0, 1, 2
"""SOURCE: where the input is read; copied into scratch from a blocked or a plain tensor."""
ANY_TAIL = -1
"""TAIL_COLS: the columns behind the last whole tile are counted at run time."""

SOURCE = TR = TC = TAIL_COLS = SY = 0  # fixed by the plan


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
    """All register tiles of the task's ``rows`` rows, TR at a time and then one by one."""
    full_rows = rows // TR * TR
    for row in range(0, full_rows, TR):
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
        source_at = image * x_batch + row0 * SY * row_step
    else:
        source = packed
        source_at = 0
        if have != part:
            have = part
            if SOURCE == PACK_BLOCKED:
                pack_blocked(x, packed, image, row0)
            else:
                pack_plain(x, packed, image, row0)
