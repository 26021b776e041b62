"""Matrix products of two computed tensors, with batches."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, SymbolicBatchError, numel, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import MatMul
from cnngraph_cpu.language import F32Pointer, broadcast, fma, load, load_partial, registers, splat, store, store_partial, unroll
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import only_floats
from cnngraph_cpu.templates.strides import broadcast_strides, merge_axes

W = MT = TV = 0
_BLOCK_ROWS = 24
_BATCH_AXES = 2


def product_tile(ROWS: int, row: int) -> None:
    """ROWS rows times TV vectors of columns; each element is one chain of additions in the order of k."""
    for r in unroll(ROWS):
        for v in unroll(TV):
            acc[r, v] = splat(0.0)
    for k in range(depth):
        for v in unroll(TV):
            right[v] = load(b, b_at + k * columns + first + v * W)
        for r in unroll(ROWS):
            left = broadcast(a, a_at + (row + r) * depth + k)
            for v in unroll(TV):
                acc[r, v] = fma(left, right[v], acc[r, v])
    for r in unroll(ROWS):
        for v in unroll(TV):
            store(y, y_at + (row + r) * columns + first + v * W, acc[r, v])


def narrow_tile(ROWS: int, row: int, column: int, count: int) -> None:
    """ROWS rows times ``count`` <= W columns."""
    for r in unroll(ROWS):
        acc[r, 0] = splat(0.0)
    for k in range(depth):
        values = load_partial(b, b_at + k * columns + column, count)
        for r in unroll(ROWS):
            acc[r, 0] = fma(broadcast(a, a_at + (row + r) * depth + k), values, acc[r, 0])
    for r in unroll(ROWS):
        store_partial(y, y_at + (row + r) * columns + column, acc[r, 0], count)


def rows_of_tile(ROWS: int, row: int) -> None:
    """ROWS rows of the task's columns."""
    if first + TV * W <= columns:
        product_tile(ROWS, row)
    else:
        for column in range(first, columns, W):
            narrow_tile(ROWS, row, column, min(W, columns - column))


def matmul(
    a: F32Pointer, b: F32Pointer, y: F32Pointer, d0: int, d1: int, rows: int, depth: int, columns: int, a0: int, a1: int, b0: int,
    b1: int, block_rows: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[d0, d1, rows, columns]``; ``a0 .. b1`` are the strides of the operands along d0 and d1, 0 where one is shared."""
    acc = registers(MT, TV)
    right = registers(TV)
    row_blocks = (rows + block_rows - 1) // block_rows
    tiles = (columns + TV * W - 1) // (TV * W)
    tasks = d0 * d1 * row_blocks * tiles
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        first = task % tiles * (TV * W)
        part = task // tiles
        start = part % row_blocks * block_rows
        part = part // row_blocks
        a_at = part // d1 * a0 + part % d1 * a1
        b_at = part // d1 * b0 + part % d1 * b1
        y_at = part * rows * columns
        stop = min(start + block_rows, rows)
        full = start + (stop - start) // MT * MT
        for row in range(start, full, MT):
            rows_of_tile(MT, row)
        for row in range(full, stop):
            rows_of_tile(1, row)


def _loops(node: Node) -> tuple[list[Dim], list[list[Dim]], Dim, Dim, Dim]:
    """Merged batch extents, the operands' strides along them, and rows, depth and columns."""
    a, b = node.input(0).type.shape, node.input(1).type.shape
    left = a if len(a) > 1 else (1, *a)
    right = b if len(b) > 1 else (*b, 1)
    rows, depth, columns = left[-2], left[-1], right[-1]
    if all(d == 1 for d in right[:-2]):
        return [1], [[0], [0]], numel((*left[:-2], rows)), depth, columns
    rank = max(len(left), len(right)) - 2
    padded = [(1,) * (rank + 2 - len(s)) + tuple(s) for s in (left, right)]
    batch = tuple(q if p == 1 else p for p, q in zip(padded[0][:-2], padded[1][:-2], strict=True))
    strides = [[numel((s, numel(p[-2:]))) for s in broadcast_strides(p[:-2], batch)] for p in padded]
    extents, merged = merge_axes(batch, strides)
    return extents, merged, rows, depth, columns


class MatMulPlain:
    """numpy.matmul with up to two separate batch axes."""

    name = "matmul"
    reorders_arithmetic = False
    code = Code(matmul, {f.__name__: f for f in (product_tile, narrow_tile, rows_of_tile)}, "Product of matrices computed at run time.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses batch axes that do not merge into two."""
        if not isinstance(node.op, MatMul):
            return "not a matrix product"
        refusal = only_floats(node)
        if refusal:
            return refusal
        if any(d == 0 for v in (node.input(0), node.input(1)) for d in v.type.shape):
            return "an empty matrix"
        try:
            extents, *_ = _loops(node)
        except SymbolicBatchError:
            return "a stride mixes the batch"
        return f"{len(extents)} separate batch axes" if len(extents) > _BATCH_AXES else None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Multiply-adds."""
        return node.op.cost((node.input(0).type, node.input(1).type), (node.output.type,)).macs / target.width + per_image(
            node.output.type.physical_elements
        )

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a block of rows and a tile of columns of one matrix."""
        extents, strides, rows, depth, columns = _loops(node)
        outer = [*([1] * (_BATCH_AXES - len(extents))), *extents]
        steps = [[*([0] * (_BATCH_AXES - len(s))), *s] for s in strides]
        wide = columns if isinstance(columns, int) else target.width * 4
        tv = max(1, min(4 if target.registers >= 32 else 2, wide // target.width))
        numbers: dict[str, Dim] = {
            "d0": outer[0], "d1": outer[1], "rows": rows, "depth": depth, "columns": columns, "a0": steps[0][0], "a1": steps[0][1],
            "b0": steps[1][0], "b1": steps[1][1], "block_rows": _BLOCK_ROWS,
        }  # fmt: skip
        arguments: dict[str, Argument] = {"a": Pointer(node.input(0)), "b": Pointer(node.input(1)), "y": Pointer(node.output)}
        arguments |= {name: Extent(value) for name, value in numbers.items()}
        return KernelCall(KernelSpec(self.name, target.isa, (("MT", 4), ("TV", tv))), arguments)
