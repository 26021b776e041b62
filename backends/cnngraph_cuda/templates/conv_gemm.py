"""Convolution as a matrix product: pixels x outputs, summed over taps and channels (implicit GEMM).

A block of threads computes BM pixels times BN output channels; a warp WM times WN. Activations are channels-last, weights
[output][tap][channel] with rows padded to whole tiles. The summed axis is walked in tiles of 128 bytes, eight chunks of 16 bytes;
each thread copies the same chunk column of several rows, so that one (tap, channel) counter a thread serves all of them. Tiles
pass through ST buffers in shared memory, filled by asynchronous copies that read nothing (zeros) where the window leaves the image. A chunk
is stored at column ``chunk ^ (row & 7)``, which keeps copies and ldmatrix free of bank conflicts.

MATH says how products are summed: on tensor cores (mma.sync in tf32, f16 or bf16), or by float32 multiply-adds, where a thread has
WM/4 pixels times WN/8 outputs, four pixels and eight outputs apart, so that shared memory is read without conflicts. With GROUP, WM x WN
is what a warpgroup of 128 threads computes by wgmma, straight from shared memory, whose swizzle is that of the hardware; in tf32 the
pixels pass through registers, where they are rounded. Products run on while the next tile's copies are issued.

TMA says what the tensor memory accelerator copies (only with GROUP): the weights, or both matrices, where the pixels of a tile are rows
of memory that follow each other, or where each tile belongs to one tap (an im2col map). One thread asks for whole boxes, of which a
barrier for each buffer counts the bytes; parity tells its phases apart. What lies beyond the map's array arrives as zeros and counts
as well.

Blocks that follow each other compute the same pixels, for as many blocks as the outputs need: pixels are read from memory once.

With PHASES the rows are pixels of one phase of a transposed convolution: result pixels ``stride * j + r`` with the same r are an ordinary
convolution of stride 1 (see :mod:`cnngraph_cuda.templates.conv_transpose_gemm`); each phase is a block in z, with weights of its own.

With SPLIT the summed axis is divided among blocks as well, where there are too few tiles to occupy the GPU: blocks of one result leave
their sums in a workspace, and the last to arrive adds them in a fixed order.

At the end the sums go through shared memory once more, so that bias, epilogue and store work on 16 bytes a thread; operands such as
a residual are loaded AHEAD vectors at a time, so that their latencies overlap.
"""

from __future__ import annotations

from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    I32Pointer,
    PixelSource,
    WeightSource,
    add,
    as_bits,
    as_float,
    below,
    block_x,
    block_y,
    block_z,
    both,
    count_up,
    cp_async16,
    cp_commit,
    cp_wait,
    dot4,
    fence,
    finish_epilogue,
    grid_x,
    grid_y,
    grid_z,
    ldcg4,
    ldmatrix,
    lds1,
    lds4,
    load_epilogue,
    load_floats,
    mbarrier_expect,
    mbarrier_fence,
    mbarrier_init,
    mbarrier_wait,
    mma,
    proxy_fence,
    registers,
    round_tf32,
    select,
    shared_base,
    store_quad,
    store_vector,
    sts1,
    sts2,
    sts4,
    sync,
    thread,
    tma_im2col,
    tma_load,
    unroll,
    wgmma,
    wgmma_commit,
    wgmma_fence,
    wgmma_wait,
    wgmma_zeros,
)

BM = BN = WM = WN = ST = THREADS = POINT = SPLIT = DT = MATH = VL = GROUP = AHEAD = PHASES = TMA = 0
TF32 = 1
DESCRIPTOR = 1 << 30 | 1024 >> 4
"""High word of a matrix descriptor: 128-byte swizzle, 1024 bytes from eight rows to the next eight (PTX ISA, matrix descriptor)."""
LOW = 1 << 16
"""The low word's leading byte offset, which the hardware does not use in this layout."""


def load_boxes(slot: int, landed: int) -> None:
    """Have the next tile copied into the buffer at byte ``slot``; the barrier at ``landed`` counts its bytes."""
    if tid == 0:
        if TMA == 1:
            mbarrier_expect(landed, BN * 128)
        else:
            mbarrier_expect(landed, (BM + BN) * 128)
            if TMA == 2:
                tma_load(base + slot, x, group * x_group + depth_at, first_m, landed)
            else:
                channel = group * x_group + chunk * (16 // (4 if DT == 0 else 2))
                tma_im2col(
                    base + slot, x, channel, left, top, image, landed, tap_column * dilation_w, tap_row * dilation_h,
                )  # fmt: skip
        tma_load(base + slot + BM * 128, w, depth_at, weight_row, landed)
    depth_at = depth_at + 128 // (4 if DT == 0 else 2)
    if TMA == 3:
        next_tile()


def next_tile() -> None:
    """Step the counters of channels and taps."""
    chunk = chunk + step_chunk
    if POINT == 0:
        over = select(chunk >= chunks, 1, 0)
        chunk = chunk - over * chunks
        tap_column = tap_column + step_column + over
        beyond = select(tap_column >= taps_w, 1, 0)
        tap_column = tap_column - beyond * taps_w
        tap_row = tap_row + step_row + beyond


def copy_tile(slot: int) -> None:
    """Start copying the next tile into the buffer at byte ``slot``, thread by thread, and step the counters."""
    full = select(tap_row < taps_h, select(chunk < chunks, select(chunk == chunks - 1, last_bytes, 16), 0), 0)
    if POINT:
        step = chunk * (16 // (4 if DT == 0 else 2))
    else:
        step = (tap_row * dilation_h * width + tap_column * dilation_w) * x_pixel + chunk * (16 // (4 if DT == 0 else 2))
    for i in unroll(BM * 8 // THREADS):
        if POINT:
            inside[i] = below(high[i], 1)
        else:
            inside[i] = both(below(high[i] + tap_row * dilation_h, height), below(wide[i] + tap_column * dilation_w, width))
        cp_async16(to + slot + THREADS * 16 * i, x, select(inside[i], source[i] + step, 0), select(inside[i], full, 0))
    if TMA == 0:
        for i in unroll(BN * 8 // THREADS):
            cp_async16(to + slot + BM * 128 + THREADS * 16 * i, w, weight + THREADS // 8 * i * depth, 16)
        weight = weight + 128 // (4 if DT == 0 else 2)
    next_tile()


def multiply_groups() -> None:
    """Issue the products of a warpgroup for one tile."""
    if MATH == TF32:
        for i in unroll(WM // 64):
            for k in unroll(4):
                (*fa[4 * i + k],) = ldmatrix(a_at[k] + read + i * 8192)
                for e in unroll(4):
                    fa[4 * i + k, e] = round_tf32(fa[4 * i + k, e])
    wgmma_fence()
    for i in unroll(WM // 64):
        if MATH == TF32:
            for k in unroll(4):
                wide_sums[i] = wgmma(wide_sums[i], *fa[4 * i + k], b_matrix + (read >> 4) + 2 * k, DESCRIPTOR)
        else:
            wide_sums[i] = wgmma(wide_sums[i], a_matrix + (read >> 4) + 512 * i, b_matrix + (read >> 4), DESCRIPTOR)
    wgmma_commit()


def share_result() -> None:
    """Leave this block's sums in the workspace; the last block of a result to come adds all of them up, in order, and goes on."""
    place = serial * grid_z()
    for part in range(BM * BN // (4 * THREADS)):
        line = tid // (BN // 4) + part * (THREADS * 4 // BN)
        (*quad,) = lds4(base + (line * (BN + 8) + tid % (BN // 4) * 4) * 4)
        store_quad(partial, ((place + block_z()) * BM + line) * BN + tid % (BN // 4) * 4, *quad)
    fence()
    sync()
    if tid == 0:
        sts1(base, as_float(count_up(counters, serial, grid_z() - 1)))
    sync()
    mine = select(as_bits(lds1(base)) == grid_z() - 1, 1, 0)
    sync()
    fence()
    if mine == 1:
        for part in range(BM * BN // (4 * THREADS)):
            line = tid // (BN // 4) + part * (THREADS * 4 // BN)
            (*quad,) = ldcg4(partial, (place * BM + line) * BN + tid % (BN // 4) * 4)
            for other in range(1, grid_z()):
                (*more,) = ldcg4(partial, ((place + other) * BM + line) * BN + tid % (BN // 4) * 4)
                for e in unroll(4):
                    quad[e] = add(quad[e], more[e])
            sts4(base + (line * (BN + 8) + tid % (BN // 4) * 4) * 4, *quad)
    sync()


def conv_gemm(
    x: PixelSource, w: WeightSource, b: F32Pointer, y: DataPointer, rows: int, plane: int, out_width: int, outputs: int, x_batch: int,
    x_pixel: int, x_group: int, y_batch: int, y_pixel: int, height: int, width: int, chunks: int, last_bytes: int, taps_h: int,
    taps_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int, dilation_h: int, dilation_w: int, step_chunk: int,
    step_column: int, step_row: int, depth: int, tiles: int, group_rows: int, phase_h: int, phase_w: int, lead_h: int, lead_w: int,
    full_height: int, full_width: int, counters: I32Pointer, partial: F32Pointer,
) -> None:  # fmt: skip
    """``y = epilogue(conv(x, w) + b)``. A plane is an image of the output; depth is the length of a row of weights.

    With PHASES there are phase_h x phase_w phases, a plane is the grid of one, and phase r begins ``(r + lead) // phase`` pixels on.
    """
    high = registers(BM * 8 // THREADS)
    wide = registers(BM * 8 // THREADS)
    source = registers(BM * 8 // THREADS)
    inside = registers(BM * 8 // THREADS)
    a_at = registers(4)
    b_at = registers(4)
    acc = registers(WM // 16, WN // 8, 4)
    wide_sums = registers(WM // 64)
    fa = registers(WM // 16, 4)
    fb = registers(WN // 8, 2)
    total = registers(WM // 4, WN // 8)
    va = registers(WM // 4, 4)
    vb = registers(WN // 8, 4)
    v = registers(VL)
    bias = registers(VL)
    tile_row = registers(AHEAD)
    image_of = registers(AHEAD)
    live = registers(AHEAD)
    pixel_of = registers(AHEAD)
    quad = registers(4)
    more = registers(4)

    tid = thread()
    lane = tid & 31
    warp = tid >> 5
    if GROUP:
        group_m = (warp >> 2) % (BM // WM) * WM
        warp_m = group_m + (warp & 3) * 16
        warp_n = (warp >> 2) // (BM // WM) * WN
    else:
        warp_m = warp % (BM // WM) * WM
        warp_n = warp // (BM // WM) * WN
    serial = block_y() * grid_x() + block_x()
    first_m = serial // grid_y() * BM
    first_n = serial % grid_y() * BN
    if SPLIT:
        group = 0
        share = (tiles + grid_z() - 1) // grid_z()
        first_tile = block_z() * share
        count = select(tiles - first_tile < share, tiles - first_tile, share)
    else:
        group = block_z()
        first_tile = 0
        count = tiles
    part_of_weights = group
    if PHASES:
        group = part_of_weights // (phase_h * phase_w)
        phase_row = (part_of_weights - group * (phase_h * phase_w)) // phase_w
        phase_column = part_of_weights - (group * phase_h + phase_row) * phase_w
    base = shared_base()
    if TMA < 2:
        row = tid >> 3
        to = base + row * 128 + (((tid & 7) ^ (row & 7)) << 4)
        for i in unroll(BM * 8 // THREADS):
            m = first_m + row + THREADS // 8 * i
            image = m // plane
            pixel = m - image * plane
            if POINT:
                high[i] = select(m < rows, 0, 1)
                source[i] = image * x_batch + pixel * x_pixel + group * x_group
            else:
                out_row = pixel // out_width
                left = (pixel - out_row * out_width) * stride_w - pad_w
                top = out_row * stride_h - pad_h
                if PHASES:
                    top = top + (phase_row + lead_h) // phase_h
                    left = left + (phase_column + lead_w) // phase_w
                source[i] = image * x_batch + (top * width + left) * x_pixel + group * x_group
                high[i] = select(m < rows, top, -1000000)
                wide[i] = left
        first_chunk = first_tile * 8 + (tid & 7)
    if TMA == 3:
        first_chunk = first_tile * 8
        image = first_m // plane
        pixel = first_m - image * plane
        top = pixel // out_width
        left = (pixel - top * out_width) * stride_w - pad_w
        top = top * stride_h - pad_h
    if POINT and TMA < 2:
        chunk = first_chunk
        tap_row = 0
    elif TMA != 2:
        chunk = first_chunk % chunks
        tap_column = first_chunk // chunks
        tap_row = tap_column // taps_w
        tap_column = tap_column - tap_row * taps_w
    if TMA:
        depth_at = first_tile * (128 // (4 if DT == 0 else 2))
        weight_row = part_of_weights * group_rows + first_n
        ready = base + ST * (BM + BN) * 128
        if tid == 0:
            for s in unroll(ST):
                mbarrier_init(ready + 8 * s, 1)
            mbarrier_fence()
            proxy_fence()
    else:
        weight = (part_of_weights * group_rows + first_n + row) * depth + first_chunk * (16 // (4 if DT == 0 else 2))

    if GROUP:
        for i in unroll(WM // 64):
            wide_sums[i] = wgmma_zeros()
    elif MATH:
        for i in unroll(WM // 16):
            for j in unroll(WN // 8):
                for e in unroll(4):
                    acc[i, j, e] = 0.0
    else:
        for i in unroll(WM // 4):
            for j in unroll(WN // 8):
                total[i, j] = 0.0
    for s in unroll(ST - 1):
        if s < count:
            if TMA:
                load_boxes(s * (BM + BN) * 128, ready + 8 * s)
            if TMA < 2:
                copy_tile(s * (BM + BN) * 128)
        if TMA < 2:
            cp_commit()
    if TMA:
        sync()
        refill = ready + 8 * (ST - 1)
        last_ready = refill
        parity = 0
    if GROUP:
        a_matrix = ((base + group_m * 128) >> 4) + LOW
        b_matrix = ((base + BM * 128 + warp_n * 128) >> 4) + LOW
        for k in unroll(4):
            a_at[k] = base + (warp_m + (lane & 15)) * 128 + ((((lane >> 4) + 2 * k) ^ (lane & 7)) << 4)
    elif MATH:
        for k in unroll(4):
            a_at[k] = base + (warp_m + (lane & 15)) * 128 + ((((lane >> 4) + 2 * k) ^ (lane & 7)) << 4)
            b_at[k] = base + BM * 128 + (warp_n + (lane & 7) + (lane >> 4 << 3)) * 128 + (((((lane >> 3) & 1) + 2 * k) ^ (lane & 7)) << 4)
    else:
        a_row = base + (warp_m + (lane >> 3)) * 128
        b_row = base + BM * 128 + (warp_n + (lane & 7)) * 128
    read = 0
    write = (ST - 1) * (BM + BN) * 128
    for tile in range(count):
        if TMA:
            mbarrier_wait(ready, parity)
        if TMA < 2:
            cp_wait(ST - 2)
            if GROUP and (TMA == 0 or MATH != TF32):
                proxy_fence()
        sync()
        if TMA:
            if tile + (ST - 1) < count:
                load_boxes(write, refill)
        if GROUP:
            multiply_groups()
        if TMA < 2:
            if tile + (ST - 1) < count:
                copy_tile(write)
            cp_commit()
        if GROUP:
            for i in unroll(WM // 64):
                wide_sums[i] = wgmma_wait(wide_sums[i])
        elif MATH:
            for k in unroll(4):
                for i in unroll(WM // 16):
                    (*fa[i],) = ldmatrix(a_at[k] + read + i * 2048)
                for j in unroll(WN // 16):
                    fb[2 * j, 0], fb[2 * j, 1], fb[2 * j + 1, 0], fb[2 * j + 1, 1] = ldmatrix(b_at[k] + read + j * 2048)
                if MATH == TF32:
                    for i in unroll(WM // 16):
                        for e in unroll(4):
                            fa[i, e] = round_tf32(fa[i, e])
                for i in unroll(WM // 16):
                    for j in unroll(WN // 8):
                        (*acc[i, j],) = mma(*acc[i, j], *fa[i], *fb[j])
        else:
            for k in range(8):
                for i in unroll(WM // 4):
                    (*va[i],) = lds4(a_row + read + i * 512 + ((k ^ (((lane >> 3) + 4 * i) & 7)) << 4))
                for j in unroll(WN // 8):
                    (*vb[j],) = lds4(b_row + read + j * 1024 + ((k ^ (lane & 7)) << 4))
                for i in unroll(WM // 4):
                    for j in unroll(WN // 8):
                        total[i, j] = dot4(total[i, j], *va[i], *vb[j])
        if TMA:
            parity = select(ready == last_ready, 1 - parity, parity)
            ready = select(ready == last_ready, last_ready - 8 * (ST - 1), ready + 8)
            refill = select(refill == last_ready, last_ready - 8 * (ST - 1), refill + 8)
        read = select(read == (ST - 1) * (BM + BN) * 128, 0, read + (BM + BN) * 128)
        write = select(write == (ST - 1) * (BM + BN) * 128, 0, write + (BM + BN) * 128)

    if TMA < 2:
        cp_wait(0)
    sync()
    if GROUP:
        for i in unroll(WM // 64):
            for j in unroll(WN // 8):
                at = base + ((warp_m + i * 64 + (lane >> 2)) * (BN + 8) + warp_n + j * 8 + (lane & 3) * 2) * 4
                sts2(at, wide_sums[i][4 * j], wide_sums[i][4 * j + 1])
                sts2(at + 8 * (BN + 8) * 4, wide_sums[i][4 * j + 2], wide_sums[i][4 * j + 3])
    elif MATH:
        for i in unroll(WM // 16):
            for j in unroll(WN // 8):
                at = base + ((warp_m + i * 16 + (lane >> 2)) * (BN + 8) + warp_n + j * 8 + (lane & 3) * 2) * 4
                sts2(at, acc[i, j, 0], acc[i, j, 1])
                sts2(at + 8 * (BN + 8) * 4, acc[i, j, 2], acc[i, j, 3])
    else:
        for i in unroll(WM // 4):
            for j in unroll(WN // 8):
                sts1(base + ((warp_m + (lane >> 3) + 4 * i) * (BN + 8) + warp_n + (lane & 7) + 8 * j) * 4, total[i, j])
    sync()
    column = tid % (BN // VL) * VL
    if SPLIT:
        mine = 1
        if grid_z() > 1:
            share_result()
    else:
        mine = 1
    channel = group * outputs + first_n + column
    if both(mine == 1, first_n + column < outputs):
        (*bias,) = load_floats(b, group * group_rows + first_n + column)
        for part in range(BM * BN // (VL * THREADS * AHEAD)):
            for u in unroll(AHEAD):
                tile_row[u] = tid // (BN // VL) + (part * AHEAD + u) * (THREADS * VL // BN)
                m = select(first_m + tile_row[u] < rows, first_m + tile_row[u], rows - 1)
                image_of[u] = m // plane
                pixel_of[u] = m - image_of[u] * plane
                live[u] = first_m + tile_row[u] < rows
                if PHASES:
                    out_row = pixel_of[u] // out_width * phase_h + phase_row
                    out_column = pixel_of[u] % out_width * phase_w + phase_column
                    live[u] = both(both(out_row < full_height, out_column < full_width), first_m + tile_row[u] < rows)
                    pixel_of[u] = select(out_row < full_height, out_row, 0) * full_width + select(out_column < full_width, out_column, 0)
                load_epilogue(u, image_of[u], pixel_of[u], channel)
            for u in unroll(AHEAD):
                for e in unroll(VL // 4):
                    v[4 * e], v[4 * e + 1], v[4 * e + 2], v[4 * e + 3] = lds4(base + (tile_row[u] * (BN + 8) + column + 4 * e) * 4)
                for e in unroll(VL):
                    v[e] = add(v[e], bias[e])
                finish_epilogue(v, u)
                if live[u]:
                    store_vector(y, image_of[u] * y_batch + pixel_of[u] * y_pixel + channel, *v)
