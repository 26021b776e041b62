"""Products of rows of 8-bit integers with a constant matrix: QLinearMatMul, QGemm, MatMulInteger.

Weights are packed ``[tile][group of 4 of the depth][TV*W][4]``; the last group of a row that is no multiple of four is put together
byte by byte, because four bytes could lie beyond the end of the tensor. See :mod:`cnngraph_cpu.templates.qconv_direct`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops.quantized import MatMulInteger, QGemm, QLinearMatMul
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    add_int,
    broadcast_word,
    dot4,
    get_byte,
    load,
    load_words,
    mul,
    mul_int,
    registers,
    round_between,
    splat,
    splat_int,
    store,
    store_bytes,
    store_bytes_partial,
    store_partial,
    store_words,
    store_words_partial,
    sub_int,
    to_float,
    to_floats,
    unroll,
    xor_int,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.qconv_plan import tile_target
from cnngraph_cpu.templates.quantized import bound_arguments, channel_arguments, finite, layer_of, refuse_layer, signed_weights

TO_BYTES, TO_FLOATS, TO_WORDS = 0, 1, 2
FOUR_FLIPS = 0x80808080
W = TV = MT = U = OUT = FLIP = SUMS = ZERO_GIVEN = ROWS = 0
_BLOCK_ROWS = 60


def step(ROWS: int) -> None:
    """Add the products of ``value`` of each row, four bytes broadcast, with the weights at ``at``."""
    for v in unroll(TV + SUMS):
        weight[v] = load_words(w, at + v * W)
    for r in unroll(ROWS):
        for v in unroll(TV + SUMS):
            acc[r, v] = dot4(acc[r, v], value[r], weight[v])
    at = at + (TV + SUMS) * W


def qdense_tile(ROWS: int, row: int, tile: int) -> None:
    """ROWS rows times TV vectors of outputs."""
    for v in unroll(TV):
        start = load_words(b, (tile * TV + v) * W)
        if ZERO_GIVEN:
            start = sub_int(start, mul_int(load_words(weight_sums, (tile * TV + v) * W), splat_int(zero)))
        for r in unroll(ROWS):
            acc[r, v] = start
    if SUMS:
        for r in unroll(ROWS):
            acc[r, TV] = splat_int(0)
    at = tile * tile_weights
    for k in range(0, depth - 3, 4):
        for r in unroll(ROWS):
            value[r] = broadcast_word(x, (row + r) * depth + k)
            if FLIP:
                value[r] = xor_int(value[r], splat_int(FOUR_FLIPS))
        step(ROWS)
    whole = depth // 4 * 4
    if whole < depth:
        for r in unroll(ROWS):
            bytes_left = 0
            for k in range(depth - whole):
                bytes_left = bytes_left + (get_byte(x, (row + r) * depth + whole + k) << (8 * k))
            value[r] = splat_int(bytes_left)
            if FLIP:
                value[r] = xor_int(value[r], splat_int(FOUR_FLIPS))
        step(ROWS)
    for v in unroll(TV):
        column = (tile * TV + v) * W
        left = outputs - column
        if OUT != TO_WORDS:
            factor = load(factors, column)
        for r in unroll(ROWS):
            total = acc[r, v]
            if SUMS:
                total = add_int(total, mul_int(load_words(deltas, column), acc[r, TV]))
            to = (row + r) * outputs + column
            if OUT == TO_BYTES:
                result = add_int(round_between(mul(to_floats(total), factor), splat(low), splat(high)), splat_int(y_zero))
                if left >= W:
                    store_bytes(y, to, result)
                elif left > 0:
                    store_bytes_partial(y, to, result, left)
            elif OUT == TO_FLOATS:
                product = mul(to_floats(total), factor)
                if left >= W:
                    store(y_floats, to, product)
                elif left > 0:
                    store_partial(y_floats, to, product, left)
            elif left >= W:
                store_words(y_words, to, total)
            elif left > 0:
                store_words_partial(y_words, to, total, left)


def qdense(
    x: BytePointer, w: I32Pointer, b: I32Pointer, weight_sums: I32Pointer, deltas: I32Pointer, factors: F32Pointer,
    zero_at: BytePointer, y: BytePointer, y_floats: F32Pointer, y_words: I32Pointer, rows: int, depth: int, outputs: int, tiles: int,
    tile_weights: int, block_rows: int, x_zero: int, y_zero: int, low_int: int, high_int: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[rows, outputs]``; a task is a tile of outputs for ``block_rows`` rows."""
    low = to_float(low_int)
    high = to_float(high_int)
    zero = x_zero
    if ZERO_GIVEN:
        zero = get_byte(zero_at, 0)
        if FLIP:
            zero = zero ^ 128
    acc = registers(MT, TV + 1)
    weight = registers(TV + 1)
    value = registers(MT)
    row_blocks = (rows + block_rows - 1) // block_rows
    tasks = tiles * row_blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        tile = task // row_blocks
        row = task % row_blocks * block_rows
        stop = min(row + block_rows, rows)
        while row + MT <= stop:
            qdense_tile(MT, row, tile)
            row = row + MT
        if MT > 1:
            while row < stop:
                qdense_tile(1, row, tile)
                row = row + 1


class QDense:
    """Integer matrix products with a constant matrix of two axes on the right."""

    name = "qdense"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(qdense, {"qdense_tile": qdense_tile, "step": step}, "Rows of 8-bit integers times a packed constant matrix.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses right operands that are computed or have more axes, and parameters by row."""
        if not isinstance(node.op, (QLinearMatMul, QGemm, MatMulInteger)):
            return "not an integer matrix product"
        refusal = refuse_layer(node, node.op)
        if refusal:
            return refusal
        x, weights = node.input(0).type, node.input(1 if isinstance(node.op, MatMulInteger) else 3).type
        if weights.rank != 2 or x.rank < 2:
            return "not rows times a matrix"
        if any(d == 0 for d in (*x.shape, *weights.shape)) or not isinstance(x.shape[-1], int):
            return "an empty matrix"
        return finite(layer_of(node))

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN, *[None] * (len(node.inputs) - 1)), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Weights read."""
        weights = layer_of(node).weights
        return weights.size / (4 * target.width)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights by output tiles."""
        layer, width, y = layer_of(node), target.width, node.output
        depth, outputs = layer.weights.shape
        weights, deltas = signed_weights(np.ascontiguousarray(layer.weights.T))
        sums_lanes = 0 if deltas is None else width
        tv = min(4, ceil_div(outputs, width))
        spare = tile_target(target).registers
        mt = max(1, min((spare - tv - bool(sums_lanes)) // (tv + 1 + bool(sums_lanes)), 6))
        tiles, groups = ceil_div(outputs, tv * width), ceil_div(depth, 4)
        packed = np.zeros((tiles, groups, tv * width + sums_lanes, 4), np.int8)
        whole = np.zeros((tiles * tv * width, groups * 4), np.int8)
        whole[:outputs, :depth] = weights
        packed[:, :, : tv * width] = whole.reshape(tiles, tv * width, groups, 4).transpose(0, 2, 1, 3)
        packed[:, :, tv * width :] = (np.arange(groups * 4) < depth).reshape(groups, 1, 4)
        sums = layer.weights.astype(np.int64).sum(axis=0)
        constants = (
            ("MT", mt), ("TV", tv), ("OUT", layer.output), ("FLIP", int(layer.signed)), ("SUMS", int(deltas is not None)),
            ("ZERO_GIVEN", int(not isinstance(layer.x_zero, int))),
        )  # fmt: skip
        numbers = {
            "rows": numel(layer.x.type.shape[:-1]), "depth": depth, "outputs": outputs, "tiles": tiles,
            "tile_weights": packed[0].size // 4, "block_rows": _BLOCK_ROWS // mt * mt,
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(layer.x), "w": Packed(packed.reshape(-1).view(np.int32)),
            **channel_arguments(layer, sums, deltas, outputs, tv * width), "y": Pointer(y), "y_floats": Pointer(y),
            "y_words": Pointer(y), **{name: Extent(value) for name, value in numbers.items()}, **bound_arguments(layer),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments, (f"{mt} rows x {tv}x{width} outputs",))
