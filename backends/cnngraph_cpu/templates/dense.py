"""Dense layers: rows times a constant matrix, bias and epilogue.

Weights are packed ``[tile][TV][k][W]``, or with P = 2, for dot products of pairs of bfloat16, ``[tile][TV][k/2][W][2]``: as many streams
as a tile has vectors. Of one row the time is that of reading the weights, and a processor's prefetcher follows a stream only so far ahead
(Intel's 20 lines of a page: at 110 ns at most 11.6 GB/s, which is what VGG-16's dense layers take in the peers). A tile of MT rows
shares every weight vector it loads; the remaining rows run in smaller tiles, with the same order of additions, so a row's bits do
not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, ceil_div
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Dense
from cnngraph_cpu.language import (
    F32Pointer,
    broadcast,
    broadcast_pair,
    dot2,
    epilogue,
    fma,
    load,
    load_pairs,
    registers,
    store,
    store_partial,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import (
    epilogue_arguments,
    operand_layouts,
    overwritable,
    per_channel,
    refuse_epilogue,
    refuse_weights,
)

P = 1
W = TV = MT = U = 0
_BLOCK_ROWS, _MOST_VECTORS = 60, 4


def dense_tile(ROWS: int, row: int, tile: int) -> None:
    """ROWS rows times TV vectors of outputs."""
    for v in unroll(TV):
        first = load(b, (tile * TV + v) * W)
        for r in unroll(ROWS):
            acc[r, v] = first
    at = tile * depth * TV * W
    for k in range(0, depth, U * P):
        for u in unroll(U):
            for v in unroll(TV):
                if P == 2:
                    weight[v] = load_pairs(w, at + v * depth * W + u * W * P)
                else:
                    weight[v] = load(w, at + v * depth * W + u * W)
            for r in unroll(ROWS):
                if P == 2:
                    pair = broadcast_pair(x, (row + r) * x_batch + k + u * P)
                    for v in unroll(TV):
                        acc[r, v] = dot2(acc[r, v], pair, weight[v])
                else:
                    value = broadcast(x, (row + r) * x_batch + k + u)
                    for v in unroll(TV):
                        acc[r, v] = fma(weight[v], value, acc[r, v])
        at = at + U * W * P
    for r in unroll(ROWS):
        for v in unroll(TV):
            column = (tile * TV + v) * W
            left = outputs - column
            result = acc[r, v]
            if left >= W:
                out = epilogue(result, row + r, column, column)
                store(y, (row + r) * y_batch + column, out)
            elif left > 0:
                out = epilogue(result, row + r, column, column, left)
                store_partial(y, (row + r) * y_batch + column, out, left)


def dense(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, rows: int, x_batch: int, y_batch: int, depth: int, outputs: int,
    tiles: int, block_rows: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[rows, outputs] = epilogue(x[rows, depth] w + b)``; a task is a tile of outputs for ``block_rows`` rows."""
    acc = registers(MT, TV)
    weight = registers(TV)
    row_blocks = (rows + block_rows - 1) // block_rows
    tasks = tiles * row_blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        tile = task // row_blocks
        row = task % row_blocks * block_rows
        stop = min(row + block_rows, rows)
        while row + MT <= stop:
            dense_tile(MT, row, tile)
            row = row + MT
        if MT > 4 and row + 4 <= stop:
            dense_tile(4, row, tile)
            row = row + 4
        if MT > 2:
            while row + 2 <= stop:
                dense_tile(2, row, tile)
                row = row + 2
        if MT > 1:
            while row < stop:
                dense_tile(1, row, tile)
                row = row + 1


class DenseLayer:
    """Dense with constant weights."""

    name = "dense"
    reorders_arithmetic = False
    step = 1
    code = Code(dense, {"dense_tile": dense_tile}, "Dense layer with packed constant weights.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses weights that are computed at run time."""
        if not isinstance(node.op, Dense):
            return "not a dense layer"
        refusal = refuse_weights(node)
        if refusal:
            return refusal
        if any(d == 0 for d in (*node.input(0).type.shape, *node.output.type.shape)):
            return "an empty matrix"
        return refuse_epilogue(node.inputs[3:], node.output.type)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        rest = operand_layouts(node.inputs[3:], node.output.type, PLAIN)
        return [LayoutRequest((PLAIN, None, None, *rest), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Weights read."""
        weights = node.input(1).data
        assert weights is not None
        return weights.size / target.width / self.step

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights by output tiles."""
        op, x, y, bias = node.op, node.input(0), node.output, node.inputs[2]
        assert isinstance(op, Dense)
        weights = node.input(1).data
        assert weights is not None
        depth, outputs = weights.shape
        width = target.width
        vectors = ceil_div(outputs, width)
        tv = ceil_div(vectors, ceil_div(vectors, _MOST_VECTORS))  # as few vectors without outputs as possible
        mt = max(1, min((target.registers - tv - 2) // tv, 6))
        tiles = ceil_div(outputs, tv * width)
        padded = np.zeros((depth, tiles * tv * width), np.float32)
        padded[:, :outputs] = weights
        steps = padded.reshape(depth // self.step, self.step, tiles, tv, width).transpose(2, 3, 0, 4, 1)
        packed = np.ascontiguousarray(steps.astype(weights.dtype))
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tv)
        constants = [("MT", mt), ("TV", tv), ("U", 4 if depth % (4 * self.step) == 0 else 1), *kinds]
        if self.step == 2:
            constants.append(("P", 2))
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "w": Packed(packed), "b": per_channel(None if bias is None else bias.data, outputs, width, tv),
            "y": Pointer(y), "rows": Extent(y.type.shape[0]), "x_batch": BatchStride(x), "y_batch": BatchStride(y),
            "depth": Extent(depth), "outputs": Extent(outputs), "tiles": Extent(tiles),
            "block_rows": Extent(_BLOCK_ROWS // mt * mt), **operands,
        }  # fmt: skip
        spec = KernelSpec(self.name, target.isa, tuple(constants), op.epilogue)
        return KernelCall(spec, arguments, (f"{mt} rows x {tv}x{width} outputs",), overwritable(node.inputs[3:], y))


class DensePairs(DenseLayer):
    """Dense with constant weights of bfloat16, whose products are added in pairs."""

    name = "dense_pairs"
    reorders_arithmetic = True
    step = 2

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses targets without such dot products, other types, and a row with half a pair at its end."""
        refusal = super().accepts(node, target)
        if refusal:
            return refusal
        if not target.dot2:
            return "the instruction set has no dot products of bfloat16"
        if {node.input(0).type.dtype, node.input(1).type.dtype} != {DType.BF16}:
            return "not a dense layer in bfloat16"
        weights = node.input(1).data
        assert weights is not None
        return "an odd number of inputs" if weights.shape[0] % 2 else None
