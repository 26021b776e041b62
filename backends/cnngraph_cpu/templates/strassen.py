"""1x1 convolution by seven products of quarters instead of eight, blocked layout (Strassen, Numer. Math. 13, 1969; Winograd's form).

Pixels are the rows of a matrix A, weights a matrix B, results C = A B. Each is cut in four: A by two neighbouring tiles of TP pixels (rows
1, 2) and by halves of the input channels, B by halves of the input channels and two neighbouring groups of TV vectors of output channels.
With S1 = A21 + A22, S2 = S1 - A11, S3 = A11 - A21, S4 = A12 - S2 and T1 = B12 - B11, T2 = B22 - T1, T3 = B22 - B12, T4 = T2 - B21 the steps
are, in the order of the weights,

    0: A11 B11   1: A12 B21   2: S2 T2   3: S3 T3   4: -A22 T4   5: S1 T1   6: S4 B22
    C11 = 0 + 1,  C21 = 0 + 2 + 3 + 4,  C22 = 0 + 2 + 3 + 5,  C12 = 0 + 2 + 5 + 6

so that chains of steps stay in registers; 0, 0 + 2, 0 + 2 + 3 and 5 are kept (``kept``: [3][TV][TP][W]) where they are needed again. The
steps are unrolled: in a loop the compiler spills all accumulators after each. The T are computed at compile time, the weights are
``[tile][step][channel of a half][TV*W]``. Sums of pixels are made for a panel of pairs of tiles that stays in the private cache
(``packed``: [pair][step][channel block of a half][pixel][W]) and serve all output channels.

The pixels behind the last whole pair are a pair of tiles of TAIL pixels. Of an odd number of pixels (SKIP) the last tile begins with the
last pixel of the one before, which it does not store. Unless IN_PLACE, the quarters of A are packed too: pixels of a stride, or of another
type. A pixel that is not finite makes those of its pair NaN.

With STEP = 2 sums and weights are bfloat16 and a step takes two input channels, as in :mod:`cnngraph_cpu.templates.conv_direct`.
"""

from __future__ import annotations

from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    add,
    ask_operands,
    broadcast,
    broadcast_pair,
    dot2,
    epilogue,
    fma,
    get_int,
    load,
    load_pairs,
    prefetch,
    registers,
    splat,
    store,
    sub,
    unroll,
)
from cnngraph_cpu.templates.tile_loops import AHEAD, LINE

STEP = 1
W = TP = TV = U = TAIL = SKIP = GUARD = IN_PLACE = 0  # fixed by the plan


def pack_pair(COUNT: int, first: int, second: int, to: int) -> None:
    """What the steps read, but for quarters that lie IN_PLACE, of two tiles of COUNT pixels that begin at ``first`` and ``second``."""
    for cb in range(half_blocks):
        for p in range(COUNT):
            if IN_PLACE:
                one = image * x_batch + cb * plane + (first + p) * W
                two = image * x_batch + cb * plane + (second + p) * W
            else:
                one = image * x_batch + cb * plane + get_int(places, first + p)
                two = image * x_batch + cb * plane + get_int(places, second + p)
            if IN_PLACE:
                for quarter in unroll(2):  # the next pair's
                    prefetch(x, one + quarter * half_blocks * plane + 2 * COUNT * W)
                    prefetch(x, two + quarter * half_blocks * plane + 2 * COUNT * W)
            a11 = load(x, one)
            a12 = load(x, one + half_blocks * plane)
            a21 = load(x, two)
            a22 = load(x, two + half_blocks * plane)
            at = to + (cb * COUNT + p) * W
            s1 = add(a21, a22)
            s2 = sub(s1, a11)
            store(packed, at + 2 * slot_step, s2)
            store(packed, at + 3 * slot_step, sub(a11, a21))
            store(packed, at + 5 * slot_step, s1)
            store(packed, at + 6 * slot_step, sub(a12, s2))
            if not IN_PLACE:
                store(packed, at, a11)
                store(packed, at + slot_step, a12)
                store(packed, at + 4 * slot_step, a22)


def product(COUNT: int) -> None:
    """Half the input channels of one step, added to ``acc``."""
    for cb in range(half_blocks):
        line = line_at + cb * line_step
        for i in range(0, W, U * STEP):
            for u in unroll(U):
                for k in unroll(TV):
                    if (u * TV + k) * W % LINE == 0:
                        prefetch(w, at + ((u * TV + k) * W + AHEAD) * STEP)
                    if STEP == 2:
                        weight[k] = load_pairs(w, at + (u * TV + k) * W * STEP)
                    else:
                        weight[k] = load(w, at + (u * TV + k) * W)
                for p in unroll(COUNT):
                    if STEP == 2:
                        values = broadcast_pair(source, line + p * W + u * STEP)
                        for k in unroll(TV):
                            acc[k, p] = dot2(acc[k, p], values, weight[k])
                    else:
                        value = broadcast(source, line + p * W + u)
                        for k in unroll(TV):
                            acc[k, p] = fma(weight[k], value, acc[k, p])
            at = at + U * TV * W * STEP
            line = line + U * STEP


def keep(COUNT: int, PLACE: int) -> None:
    """Store ``acc`` in ``kept``."""
    for k in unroll(TV):
        for p in unroll(COUNT):
            store(kept, ((PLACE * TV + k) * TP + p) * W, acc[k, p])


def add_kept(COUNT: int, PLACE: int) -> None:
    """Add what was kept to ``acc``."""
    for k in unroll(TV):
        for p in unroll(COUNT):
            acc[k, p] = add(acc[k, p], load(kept, ((PLACE * TV + k) * TP + p) * W))


def pair_of_tiles(COUNT: int, SKIPS: int, first: int, second: int, sums_at: int) -> None:
    """All steps for two tiles of COUNT pixels and the output channels of ``tile``."""
    at = tile * tile_weights
    for step in unroll(7):
        if step == 0 or step == 5:
            for k in unroll(TV):
                for p in unroll(COUNT):
                    acc[k, p] = zero
        elif step == 2 or step == 6:
            for k in unroll(TV):
                for p in unroll(COUNT):
                    acc[k, p] = load(kept, ((step // 3 * TV + k) * TP + p) * W)
            if step == 6:
                add_kept(COUNT, 0)
        if step == 1 or step > 3:
            channel_vector = tile * 2 * TV + (TV if step > 4 else 0)
            pixel = first
            stored = 1
            if step == 4 or step == 5:
                pixel = second
                stored = 1 - skipped
            for k in unroll(TV):
                for p in unroll(COUNT):
                    if p * W % (LINE * STEP) == 0:
                        ask_operands(image, ((channel_vector + k) * pixels + pixel) * W + p * W)
        source = packed
        line_at = sums_at + step * slot_step
        line_step = COUNT * W
        if IN_PLACE:
            if step < 2 or step == 4:
                source = x
                line_at = image * x_batch + (second if step == 4 else first) * W + (0 if step == 0 else half_blocks * plane)
                line_step = plane
        product(COUNT)
        if step == 0 or step == 2:
            keep(COUNT, 0)
        elif step == 3:
            keep(COUNT, 1)
        elif step == 5:
            keep(COUNT, 2)
            add_kept(COUNT, 1)
        if step == 1 or step > 3:
            for k in unroll(TV):
                if not GUARD or channel_vector + k < out_blocks:
                    bias = load(b, (channel_vector + k) * W)
                    inner = ((channel_vector + k) * pixels + pixel) * W
                    for p in unroll(COUNT):
                        if not SKIPS or p > 0 or stored:
                            y_value = add(bias, acc[k, p])
                            out = epilogue(y_value, image, inner + p * W, (channel_vector + k) * W)
                            store(y, image * y_batch + inner + p * W, out)


def first_task(share: int) -> None:
    """The task that a thread's share begins with: tasks count by their pixels, of which the last panel of an image may have fewer."""
    work = images * pixels * groups * share // threads
    panel = work % (pixels * groups) // (panel_pixels * groups)
    size = min(panel_pixels, pixels - panel * panel_pixels)
    group = (work % (pixels * groups) - panel * panel_pixels * groups + size // 2) // size
    found = (work // (pixels * groups) * panels + panel) * groups + group


def strassen(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, places: I64Pointer, packed: F32Pointer, kept: F32Pointer,
    images: int, x_batch: int, y_batch: int, half_blocks: int, out_blocks: int, tiles: int, pixels: int, plane: int, skipped: int,
    pairs: int, panel_pairs: int, slot_step: int, pair_step: int, tile_weights: int, tiles_per_group: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``pairs`` counts the pairs of tiles of TP pixels of an image, ``skipped`` the pixels of its last tile that the one before it stores.

    ``plane``: elements from a channel block of ``x`` to the next. ``places``: of the pixels in a block, unless IN_PLACE.
    """
    groups = (tiles + tiles_per_group - 1) // tiles_per_group
    all_pairs = pairs
    if TAIL:
        all_pairs = pairs + 1
    panels = (all_pairs + panel_pairs - 1) // panel_pairs
    panel_pixels = panel_pairs * 2 * TP
    zero = splat(0.0)
    acc = registers(TV, TP)
    weight = registers(TV)
    have = -1
    first_task(tid)
    begin = found
    first_task(tid + 1)
    for task in range(begin, found):
        part = task // groups
        image = part // panels
        pair0 = (part % panels) * panel_pairs
        whole = min(pair0 + panel_pairs, pairs)
        if have != part:
            have = part
            for pair in range(pair0, whole):
                first = pair * 2 * TP
                pack_pair(TP, first, min(first + TP, pixels - TP), (pair - pair0) * pair_step)
            if TAIL:
                if pair0 + panel_pairs > pairs:
                    pack_pair(TAIL, pairs * 2 * TP, pixels - TAIL, (pairs - pair0) * pair_step)
        group0 = (task % groups) * tiles_per_group
        for tile in range(group0, min(group0 + tiles_per_group, tiles)):
            for pair in range(pair0, whole):
                first = pair * 2 * TP
                pair_of_tiles(TP, SKIP if TAIL == 0 else 0, first, min(first + TP, pixels - TP), (pair - pair0) * pair_step)
            if TAIL:
                if pair0 + panel_pairs > pairs:
                    pair_of_tiles(TAIL, SKIP, pairs * 2 * TP, pixels - TAIL, (pairs - pair0) * pair_step)
