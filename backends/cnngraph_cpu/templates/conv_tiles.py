"""Convolution on the tile unit (AMX): rows of 64 bytes, 32 pixels times 32 channels of sums in four tiles.

A task is one part (images, or a block of output rows of one) and a group of panels of output channels. It copies the input
rows it needs into scratch, zero padding included, as lines of pixels: 64 bytes of channels of one pixel are a row of a tile, and 16
consecutive pixels of a line a tile. Columns and rows are split by their remainders by the stride (*phases*), so that
the pixels which one tap meets are again consecutive. A line goes over the edge of rows: outputs are computed there too, and not
stored; the padding behind a row is that before the next one as far as there are both. Scratch is
``[line][channel block][phase][pixel][PIXEL bytes]``.

float32 is split into two bfloat16, high = bf16(x) and low = bf16(x - high), 64 bytes each, and high*high, high*low and low*high are
added in float32 (Henry, Tang and Heinecke, arXiv:1904.06376). Weights are split and packed at compile time, ``[panel][channel
block][tap][low, high][tile][16 rows][16 channels][2]``.

Every pixel is a row of a tile of its own and meets the same products in the same order wherever it lies, so its bits do not depend on
the batch or the threads.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I64Pointer,
    add,
    ask_operands,
    epilogue,
    fill_row,
    get_int,
    load,
    load_partial,
    prefetch_row,
    store,
    store_half_blocks,
    store_halves,
    store_split,
    tile_configure,
    tile_dot_bf16,
    tile_dot_bytes,
    tile_load,
    tile_release,
    tile_store,
    tile_zero,
    unroll,
)

TILE_PIXELS, TILE_BYTES, ROW_BYTES = 16, 1024, 64

W = TN = MT = SPLIT = BYTES = PIXEL = GUARD = COPIED = 0  # fixed by the plan


def fill_pixels(fill_at: int, filled: int) -> None:
    """``filled`` pixels of padding in scratch."""
    for c in range(filled * (PIXEL // ROW_BYTES)):
        fill_row(packed, fill_at + c * ROW_BYTES, zero)


def pack_pixels(source: int, step: int, to: int, copied: int) -> None:
    """``copied`` pixels of 32 channels, ``step`` elements apart; lanes beyond the last channel count as zero."""
    left = channels - kb * 2 * W
    if left >= 2 * W:
        for c in range(copied):
            if COPIED:
                store_half_blocks(packed, to + c * PIXEL, x, source + c * step, source + c * step + plane_in)
            else:
                first = load(x, source + c * step)
                second = load(x, source + c * step + plane_in)
                if SPLIT:
                    store_split(packed, to + c * PIXEL, first, second)
                else:
                    store_halves(packed, to + c * PIXEL, first, second)
    else:
        for c in range(copied):
            first = load_partial(x, source + c * step, left)
            second = load_partial(x, source + c * step + plane_in, left - W)
            if SPLIT:
                store_split(packed, to + c * PIXEL, first, second)
            else:
                store_halves(packed, to + c * PIXEL, first, second)


def pack_part(image0: int, row0: int, here: int) -> None:
    """The input rows of ``here`` images into scratch, of each with those up to ``further`` below; ``row0`` is the first output row."""
    for n in range(here):
        for kb in range(k_blocks):
            for phase in range(phases):
                begin = get_int(phase_table, 4 * phase + 2)
                end = get_int(phase_table, 4 * phase + 3)
                line_at = n // line_images * line_bytes + (kb * phases + phase) * plane_bytes + n % line_images * image_step * PIXEL
                for r in range(line_rows):
                    iy = (row0 + r) * SY + get_int(phase_table, 4 * phase) - pad_y
                    row_at = line_at + r * pitch * PIXEL
                    if iy + further < 0 or iy >= height:
                        fill_pixels(row_at, pitch)
                    else:
                        ix = begin * SX + get_int(phase_table, 4 * phase + 1) - pad_x
                        place = (image0 + n) * x_batch + kb * block_step + (iy * width + ix) * W
                        fill_pixels(row_at, begin)
                        pack_pixels(place, SX * W, row_at + begin * PIXEL, end - begin)
                        fill_pixels(row_at + end * PIXEL, pitch - end)
                fill_pixels(line_at + line_rows * pitch * PIXEL, overlap)


def dot(c: int, a: int, b: int) -> None:
    """Tile c += a b."""
    if BYTES:
        tile_dot_bytes(c, a, b)
    else:
        tile_dot_bf16(c, a, b)


def products(MT: int, met: int, at: int) -> None:
    """The products of one channel block and one tap: of MT tiles of pixels at ``met`` with TN tiles of weights.

    A sum waits for 3 others before its next product, which hides the latency of 52 cycles behind 16 each.
    """
    for m in unroll(MT):
        tile_load(4 + m, packed, met + m * TILE_PIXELS * PIXEL, PIXEL)
        for n in unroll(TN):
            if m == 0:
                tile_load(6 + n, w, at + n * TILE_BYTES, ROW_BYTES)
            dot(m * TN + n, 4 + m, 6 + n)
    if SPLIT:
        for m in unroll(MT):
            for n in unroll(TN):
                if m == 0:
                    tile_load(6 + n, w, at + (TN + n) * TILE_BYTES, ROW_BYTES)
                dot(m * TN + n, 4 + m, 6 + n)
        for m in unroll(MT):
            tile_load(4 + m, packed, met + m * TILE_PIXELS * PIXEL + ROW_BYTES, PIXEL)
            for n in unroll(TN):
                dot(m * TN + n, 4 + m, 6 + n)


def multiply(MT: int, source: int, panel: int) -> None:
    """The sums of MT tiles of pixels at ``source`` in scratch and one panel, in tiles; weights at ``fetched`` are fetched by the way."""
    for i in unroll(MT * TN):
        tile_zero(i)
    at = panel * panel_bytes
    block_at = source + get_int(first_blocks, panel) * phases * plane_bytes
    for kb in range(used_blocks):
        for tap in range(taps):
            products(MT, block_at + get_int(tap_table, tap), at)
            for c in range(0, ahead, ROW_BYTES):
                prefetch_row(w, fetched + c)
            fetched = fetched + ahead
            at = at + (1 + SPLIT) * TN * TILE_BYTES
        block_at = block_at + phases * plane_bytes


def take_sums(MT: int) -> None:
    """The sums of MT tiles of pixels from their tiles into ``sums``."""
    for m in unroll(MT):
        for n in unroll(TN):
            tile_store(m * TN + n, sums, (m * TILE_PIXELS * TN + n) * W, TN * ROW_BYTES)


def ask_pixels() -> None:
    """Ask for the operands of what waits in ``sums``, which is stored after the next products, as if its pixels lay in one row."""
    place = held_base // pitch
    first = (held_row + place % line_rows) * cols_out + held_base % pitch
    for v in unroll(TN):
        for c in range(0, held, 1 if SPLIT or BYTES else 2):  # bfloat16 has two vectors in a line
            ask_operands(held_image + place // line_rows, (held_panel * TN + v) * plane_out + (first + c) * W)


def store_run(i: int, count: int, v: int) -> None:
    """Bias, epilogue and storing of ``count`` pixels from the sums ``i`` on, vector ``v`` of the panel's channels."""
    bias = load(b, channel)
    for c in range(count):
        y_value = add(load(sums, ((i + c) * TN + v) * W), bias)
        out = epilogue(y_value, image, inner_at + c * W, channel)
        store(y, image * y_batch + inner_at + c * W, out)


def store_pixels() -> None:
    """What waits in ``sums``: pixels of a line from ``held_base`` on; those beyond a row or an image are left out."""
    place = held_base // pitch
    col = held_base - place * pitch
    image = place // line_rows
    row = place - image * line_rows
    image = image + held_image
    i = 0
    while i < held:
        run = min(held - i, pitch - col)
        if row < held_rows and col < cols_out:
            count = min(run, cols_out - col)
            for v in unroll(TN):
                if not GUARD or held_panel * TN + v < out_blocks:
                    channel = (held_panel * TN + v) * W
                    inner_at = (held_panel * TN + v) * plane_out + ((held_row + row) * cols_out + col) * W
                    store_run(i, count, v)
        i = i + run
        col = 0
        row = row + 1
        if row == line_rows:
            row = 0
            image = image + 1


def all_tiles() -> None:
    """Every tile of pixels and every panel of the task; a chunk of panels stays in the private cache for all pixels.

    The sums of tiles are stored behind the products of the next, so that vectors work while the tile unit does; after the last task what
    still waits.
    """
    if group0 < group_end:
        lines = (here + line_images - 1) // line_images
        most = (min(line_images, here) - 1) * image_step + (rows - 1) * pitch + cols_out
        sharing = lines * ((most + 2 * TILE_PIXELS - 1) // (2 * TILE_PIXELS)) * ROW_BYTES
        ahead = 0
        if sharing <= (1 + SPLIT) * TN * TILE_BYTES:
            ahead = ((1 + SPLIT) * TN * TILE_BYTES + sharing - 1) // sharing * ROW_BYTES
    chunk = group0
    panel = group0
    line = 0
    base = 0
    while chunk < group_end or (task == end_task and held > 0):
        pixels = 0
        if chunk < group_end:
            chunk_end = min(chunk + panels_at_once, group_end)
            if panel == chunk and line == 0 and base == 0:
                fetched = chunk_end * panel_bytes
            first_image = line * line_images
            last_image = min(line_images, here - first_image) - 1
            pixels = last_image * image_step + (rows - 1) * pitch + cols_out
            if pixels - base > TILE_PIXELS:
                multiply(2, line * line_bytes + base * PIXEL, panel)
            else:
                multiply(1, line * line_bytes + base * PIXEL, panel)
        if held > 0:
            store_pixels()
        held = 0
        if chunk < group_end:
            if pixels - base > TILE_PIXELS:
                take_sums(2)
            else:
                take_sums(1)
            held = min(2 * TILE_PIXELS, pixels - base)
            held_base = base
            held_panel = panel
            held_image = image0 + first_image
            held_row = row0
            held_rows = rows
            ask_pixels()
            panel = panel + 1
            if panel == chunk_end:
                panel = chunk
                base = base + 2 * TILE_PIXELS
                if base >= pixels:
                    base = 0
                    line = line + 1
                    if line == lines:
                        line = 0
                        chunk = chunk_end
                        panel = chunk


def all_tasks() -> None:
    """This thread's share of all parts and groups of panels; the parts have as equal numbers of images as there can be."""
    tile_configure(config, 0)
    groups = (panels + panels_per_group - 1) // panels_per_group
    row_blocks = (rows_out + block_rows - 1) // block_rows
    image_parts = max(1, (images + together - 1) // together)
    shared = (images + image_parts - 1) // image_parts
    tasks = min(images, image_parts) * row_blocks * groups
    end_task = tasks * (tid + 1) // threads
    have = -1
    held = held_base = held_panel = held_image = held_row = held_rows = 0
    for task in range(tasks * tid // threads, end_task + 1):
        part = task // groups
        image0 = part // row_blocks * shared
        row0 = part % row_blocks * block_rows
        rows = min(block_rows, rows_out - row0)
        here = min(shared, images - image0)
        group0 = task % groups * panels_per_group
        group_end = group0
        if task < end_task:
            group_end = min(group0 + panels_per_group, panels)
            if have != part:
                have = part
                pack_part(image0, row0, here)
        all_tiles()
    tile_release()


def conv_tiles(
    x: F32Pointer, w: BytePointer, b: F32Pointer, y: F32Pointer, config: BytePointer, first_blocks: I64Pointer, tap_table: I64Pointer,
    phase_table: I64Pointer, packed: BytePointer, sums: F32Pointer, images: int, x_batch: int, y_batch: int, channels: int, k_blocks: int,
    block_step: int, plane_in: int, used_blocks: int, panels: int, out_blocks: int, height: int, width: int, rows_out: int, cols_out: int,
    plane_out: int, taps: int, phases: int, SX: int, SY: int, pad_y: int, pad_x: int, pitch: int, overlap: int, line_rows: int,
    block_rows: int, together: int, line_images: int, image_step: int, plane_bytes: int, line_bytes: int, panel_bytes: int,
    panels_per_group: int, panels_at_once: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """At most ``together`` images, or ``block_rows`` rows of one, are a part; ``line_images`` share a line, ``image_step`` pixels apart.

    ``tap_table`` holds bytes from a pixel to that which the tap meets; ``phase_table`` row, column, and the first and last column of a
    line that lie inside the input. ``plane_in`` elements lie between blocks of W channels, ``block_step`` between those of a tile's row.
    """
    zero = 0
    further = 0
    all_tasks()
