"""Products of two computed matrices by tiles: one block has BM rows and BN columns of one product.

The left matrix is copied and read as the pixels of :mod:`cnngraph_cuda.templates.conv_gemm` are; the right one lies [depth][column] and
is copied in panels of 128 bytes, ``chunk ^ (row & 7)`` within each. On tensor cores in a 16-bit type, ldmatrix transposes it on the way
to the registers; in tf32 single words are read; in float32 a thread has WM/4 rows times 4 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, Sym, ceil_div, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph_cuda.language import (
    DataPointer,
    as_bits,
    block_x,
    block_y,
    both,
    cp_async16,
    cp_commit,
    cp_wait,
    fma,
    ldmatrix,
    ldmatrix_transposed,
    lds1,
    lds4,
    mma,
    registers,
    round_tf32,
    select,
    shared_base,
    store_pair,
    store_quad,
    sync,
    thread,
    unroll,
)
from cnngraph_cuda.source import TF32, Code
from cnngraph_cuda.templates.common import cuda, kernel_call, launch, math_of
from cnngraph_cuda.templates.matmul import LEADING, MatMulPlain, leading_strides

BM = BN = WM = WN = ST = THREADS = DT = MATH = VL = BK = 0
BYTES = 128
"""Bytes of the summed axis in a tile."""


def copy_tiles(slot: int) -> None:
    """Start copying the next tile of both matrices into the buffer at byte ``slot``."""
    here = depth_at + (tid & 7) * VL
    size = select(here < depth, 16, 0)
    for i in unroll(BM * 8 // THREADS):
        m = first_m + (tid >> 3) + THREADS // 8 * i
        inside = select(m < rows, size, 0)
        to = base + slot + THREADS * 16 * i + (tid >> 3) * BYTES + (((tid & 7) ^ ((tid >> 3) & 7)) << 4)
        cp_async16(to, a, select(inside > 0, left + m * depth + here, 0), inside)
    for i in unroll(BN * 8 // THREADS):
        piece = tid + THREADS * i
        k = (piece >> 3) % BK
        n = first_n + ((piece >> 3) // BK * 8 + (piece & 7)) * VL
        inside = select(both(depth_at + k < depth, n < columns), 16, 0)
        to = base + slot + BM * BYTES + (piece >> 3) * BYTES + (((piece & 7) ^ (k & 7)) << 4)
        cp_async16(to, b, select(inside > 0, right + (depth_at + k) * columns + n, 0), inside)
    depth_at = depth_at + BK


def matmul_gemm(
    a: DataPointer, b: DataPointer, y: DataPointer, rows: int, columns: int, depth: int, row_tiles: int, d1: int, d2: int, d3: int,
    a0: int, a1: int, a2: int, a3: int, b0: int, b1: int, b2: int, b3: int,
) -> None:  # fmt: skip
    """``y[i0, i1, i2, i3] = a[..] @ b[..]``; a0.. and b0.. are strides of the leading axes, 0 where broadcast."""
    acc = registers(WM // 16, WN // 8, 4)
    fa = registers(WM // 16, 4)
    fb = registers(WN // 8, 2)
    total = registers(WM // 4, 4)
    va = registers(WM // 4, 4)
    vb = registers(4, 4)

    tid = thread()
    lane = tid & 31
    warp = tid >> 5
    warp_m = warp % (BM // WM) * WM
    warp_n = warp // (BM // WM) * WN
    product = block_x() // row_tiles
    first_m = (block_x() - product * row_tiles) * BM
    first_n = block_y() * BN
    i3 = product
    i2 = i3 // d3
    i3 = i3 - i2 * d3
    i1 = i2 // d2
    i2 = i2 - i1 * d2
    i0 = i1 // d1
    i1 = i1 - i0 * d1
    left = i0 * a0 + i1 * a1 + i2 * a2 + i3 * a3
    right = i0 * b0 + i1 * b1 + i2 * b2 + i3 * b3
    base = shared_base()
    tiles = (depth + BK - 1) // BK
    depth_at = 0
    if MATH:
        for i in unroll(WM // 16):
            for j in unroll(WN // 8):
                for e in unroll(4):
                    acc[i, j, e] = 0.0
    else:
        for i in unroll(WM // 4):
            for e in unroll(4):
                total[i, e] = 0.0
    for s in unroll(ST - 1):
        if s < tiles:
            copy_tiles(s * (BM + BN) * BYTES)
        cp_commit()
    read = 0
    write = (ST - 1) * (BM + BN) * BYTES
    for tile in range(tiles):
        cp_wait(ST - 2)
        sync()
        if tile + (ST - 1) < tiles:
            copy_tiles(write)
        cp_commit()
        a_at = base + read + (warp_m + (lane & 15)) * BYTES
        b_at = base + read + BM * BYTES
        if MATH:
            for k in unroll(4):
                for i in unroll(WM // 16):
                    (*fa[i],) = ldmatrix(a_at + i * 2048 + ((((lane >> 4) + 2 * k) ^ (lane & 7)) << 4))
                if MATH == TF32:
                    for j in unroll(WN // 8):
                        n = warp_n + 8 * j + (lane >> 2)
                        for h in unroll(2):
                            row = 8 * k + 4 * h + (lane & 3)
                            word = lds1(b_at + ((n >> 5) * BK + row) * BYTES + ((((n >> 2) & 7) ^ (row & 7)) << 4) + (n & 3) * 4)
                            fb[j, h] = round_tf32(as_bits(word))
                    for i in unroll(WM // 16):
                        for e in unroll(4):
                            fa[i, e] = round_tf32(fa[i, e])
                else:
                    row = 16 * k + (lane & 15)
                    for j in unroll(WN // 16):
                        chunk = (warp_n >> 3) + 2 * j + (lane >> 4)
                        fb[2 * j, 0], fb[2 * j, 1], fb[2 * j + 1, 0], fb[2 * j + 1, 1] = ldmatrix_transposed(
                            b_at + ((chunk >> 3) * BK + row) * BYTES + (((chunk & 7) ^ (row & 7)) << 4)
                        )
                for i in unroll(WM // 16):
                    for j in unroll(WN // 8):
                        (*acc[i, j],) = mma(*acc[i, j], *fa[i], *fb[j])
        else:
            a_row = base + read + (warp_m + (lane >> 3)) * BYTES
            n = warp_n + (lane & 7) * 4
            for k in range(8):
                for i in unroll(WM // 4):
                    (*va[i],) = lds4(a_row + i * 512 + ((k ^ (((lane >> 3) + 4 * i) & 7)) << 4))
                for h in unroll(4):
                    (*vb[h],) = lds4(b_at + ((n >> 5) * BK + 4 * k + h) * BYTES + ((((n >> 2) & 7) ^ ((4 * k + h) & 7)) << 4))
                for h in unroll(4):
                    for i in unroll(WM // 4):
                        for e in unroll(4):
                            total[i, e] = fma(va[i, h], vb[h, e], total[i, e])
        read = select(read == (ST - 1) * (BM + BN) * BYTES, 0, read + (BM + BN) * BYTES)
        write = select(write == (ST - 1) * (BM + BN) * BYTES, 0, write + (BM + BN) * BYTES)
    cp_wait(0)
    result = product * rows * columns
    if MATH:
        for i in unroll(WM // 16):
            for half in unroll(2):
                m = first_m + warp_m + 16 * i + 8 * half + (lane >> 2)
                for j in unroll(WN // 8):
                    n = first_n + warp_n + 8 * j + (lane & 3) * 2
                    if both(m < rows, n < columns):
                        store_pair(y, result + m * columns + n, acc[i, j, 2 * half], acc[i, j, 2 * half + 1])
    else:
        n = first_n + warp_n + (lane & 7) * 4
        for i in unroll(WM // 4):
            m = first_m + warp_m + (lane >> 3) + 4 * i
            if both(m < rows, n < columns):
                store_quad(y, result + m * columns + n, total[i, 0], total[i, 1], total[i, 2], total[i, 3])


class MatMulGemm(MatMulPlain):
    """MatMul of row-major tensors whose rows are whole 16-byte pieces."""

    name = "matmul_gemm"
    code = Code(matmul_gemm, {"copy_tiles": copy_tiles}, "Products of two computed matrices, by tiles.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what :class:`MatMulPlain` refuses, rows of odd lengths, and leading axes beside rows that depend on the batch."""
        refusal = super().accepts(node, target)
        if refusal:
            return refusal
        lanes, shape = cuda(target).lanes, node.output.type.shape
        depth, columns = node.input(0).type.shape[-1], shape[-1]
        if isinstance(depth, Sym) or isinstance(columns, Sym) or depth % lanes or columns % lanes or depth == 0:
            return f"rows that are not whole vectors of {lanes}"
        if isinstance(shape[-2], Sym) and any(d != 1 for d in shape[:-2]):
            return "leading axes beside rows that depend on the batch"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Below that of the kernel that computes single elements."""
        return 0.5

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block a tile; the larger tile where there are enough of it."""
        gpu, left, right, y = cuda(target), node.input(0), node.input(1), node.output
        shape, depth = y.type.shape, left.type.shape[-1]
        rows, columns = shape[-2], shape[-1]
        assert isinstance(depth, int) and isinstance(columns, int)
        lead = numel(shape[:-2])
        count = (lead.scale * gpu.batch if isinstance(lead, Sym) else lead) * ceil_div(columns, 64)
        fixed = rows.scale * gpu.batch if isinstance(rows, Sym) else rows
        bn, wm, wn, stages = 64, 32, 32, 3
        large = count * ceil_div(fixed, 128) >= gpu.multiprocessors and stages * (128 + bn) * BYTES <= gpu.shared
        bm = 128 if large else 64
        threads = bm // wm * (bn // wn) * 32
        row_tiles = 1 << 30 if isinstance(rows, Sym) else ceil_div(rows, bm)
        units: Dim = rows if isinstance(rows, Sym) else numel((lead, row_tiles))
        padded: list[Dim] = [*[1] * (LEADING - (len(shape) - 2)), *shape[:-2]]
        arguments: dict[str, Argument] = {
            **launch(
                units, bm if isinstance(rows, Sym) else 1, threads, y=ceil_div(columns, bn), shared=stages * (bm + bn) * BYTES,
                values=(left, right, y),
            ),
            "a": Pointer(left), "b": Pointer(right), "y": Pointer(y), "rows": Extent(rows), "columns": Extent(columns),
            "depth": Extent(depth), "row_tiles": Extent(row_tiles), **{f"d{i}": Extent(padded[i]) for i in range(1, LEADING)},
            **leading_strides(left, right),
        }  # fmt: skip
        constants = (
            ("BM", bm), ("BN", bn), ("WM", wm), ("WN", wn), ("ST", stages), ("BK", BYTES // gpu.dtype.itemsize),
            ("MATH", math_of(gpu)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants, notes=(f"{bm}x{bn} tiles",))
