"""When and how the 8-bit convolution is used: register tile, blocking, weight packing, arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div, product, round_up
from cnngraph.kernels.template import (
    Argument,
    BatchStride,
    Extent,
    KernelCall,
    KernelSpec,
    LayoutRequest,
    Packed,
    Pointer,
    Scratch,
    Target,
)
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import qconv_direct as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts, refuse_epilogue
from cnngraph_cpu.templates.conv_geometry import Geometry, channel_blocks, geometry, padding_unread, skips
from cnngraph_cpu.templates.conv_register_tiles import (
    Tile,
    best_by_tile,
    choose_tile,
    is_small,
    rows_in_place,
    rows_in_scratch,
    tiles_per_group_of,
)
from cnngraph_cpu.templates.quantized import (
    Layer,
    bound_arguments,
    channel_arguments,
    finite,
    layer_of,
    packs,
    refuse_layer,
    signed_weights,
    unsigned_zero,
)
from cnngraph_cpu.templates.tile_loops import find_row, take_rows, tile_row, tile_rows, walk_taps

_SHARE = 4
"""Blocks of rows are as many as of float32, though bytes would fit fewer: threads need tasks."""


def flat(g: Geometry) -> bool:
    """Whether the depth axis is trivial."""
    return g.size[0] == g.kernel[0] == g.out[0] == 1 and not g.pad[0] and not g.pad_end[0]


def tile_target(target: Target) -> Target:
    """The target as :func:`choose_tile` should see it: registers less what a step of dot products needs besides."""
    return dataclasses.replace(target, registers=target.registers - (2 if target.dot else 5), has_fma=True)


class QConv:
    """QLinearConv, and ConvInteger to int32 or to float32 with an epilogue: any kernel, stride, dilation, groups."""

    name = "qconv"
    reorders_arithmetic = False
    code = Code(
        kernel.qconv,
        {
            f.__name__: f
            for f in (
                take_rows, tile_rows, tile_row, walk_taps, find_row, kernel.pack_blocked, kernel.pack_plain, kernel.packed_columns,
                kernel.products, kernel.register_tile,
            )
        },
        "Convolution of 8-bit tensors, register-tiled over output pixels and channels.",
    )  # fmt: skip

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters that are computed at run time, and what :meth:`refuse_shape` does but for three spatial axes."""
        op = node.op
        if not isinstance(op, (QLinearConv, ConvInteger)):
            return "not an integer convolution"
        return refuse_layer(node, op) or self._refuse_extents(node)

    def refuse_shape(self, node: Node) -> str | None:
        """A refusal for reasons of shapes, of the epilogue, or of multipliers."""
        return self._refuse_extents(node) or (None if flat(geometry(node)) else "three spatial axes")

    def _refuse_extents(self, node: Node) -> str | None:
        if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
            return "an extent is zero or depends on the batch"
        layer = layer_of(node)
        return finite(layer) or refuse_epilogue(layer.operands, node.output.type)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out; a plain input too if it has fewer channels than a vector has lanes."""
        layout = blocked(target)
        others: list[None] = [None] * 8
        rest = operand_layouts(layer_of(node).operands, node.output.type, layout)
        head = others[: len(node.inputs) - 1 - len(rest)]
        requests = [LayoutRequest((layout, *head, *rest), (layout,))]
        g = geometry(node)
        if g.channels < target.width and g.group == 1:
            requests.insert(0, LayoutRequest((PLAIN, *head, *rest), (layout,)))
        return requests

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of the inner loops."""
        g = geometry(node)
        channels = g.channels if g.group == 1 else min(g.channels, max(g.channels // g.group, target.width))
        instructions = 1 if target.dot else 4  # of a dot product of four bytes
        return chosen_tile(node, target).cycles * product(g.kernel) * ceil_div(channels, 4) * instructions

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights and fix the blocking."""
        op = node.op
        assert isinstance(op, (QLinearConv, ConvInteger))
        g, width, layer = geometry(node), target.width, layer_of(node)
        x, y = layer.x, node.output
        tile, small = chosen_tile(node, target), is_small(g)
        plain = x.type.layout.plain
        merged = plain and g.dilation[2] == 1
        deep = not flat(g) and not g.pointwise
        skipped = not small and isinstance(layer.x_zero, int) and unsigned_zero(layer) == 0
        in_place = not plain and not deep and (not any(g.pad + g.pad_end) or (skipped and padding_unread(g, tile.rows, tile.cols)))
        cb = round_up(g.channels, 4) if plain else width
        blocks = 1 if plain else ceil_div(g.channels, width)
        groups_in = ceil_div(g.channels, 4)
        out_blocks = ceil_div(g.out_channels, width)
        tiles, tile_channels = ceil_div(out_blocks, tile.vectors), tile.vectors * width
        if plain:
            table, used = np.zeros(tiles, np.int64), 1
        else:
            table, used = channel_blocks(g, tiles, tile_channels, width, blocks)
        weights, deltas = signed_weights(layer.weights)
        packed = pack_weights(weights, g, table, used, tiles, tile_channels, cb, width if deltas is not None else 0)
        taps_x, tap_x, inner = g.kernel[2], g.dilation[2] * cb, cb // 4
        if merged:
            inner, taps_x = g.kernel[2] * cb // 4, 1
        if merged or plain:
            unroll = next(u for u in (4, 3, 2, 1) if inner % u == 0)
        else:
            unroll = next(u for u in (4, 2, 1) if groups_in % u == 0 and (width // 4) % u == 0)
        if in_place:
            columns = g.size[2] if not g.pointwise else tile.grid_cols
            row_step = columns * width
            block_step = product(g.size) * width
            tap_step = g.dilation[1] * row_step
            block_rows = rows_in_place(tile, tile.grid_rows, tile.cols * tile.rows * used * width * _SHARE, target)
            scratch_rows = scratch_width = copied = 0
        else:
            scratch_width = (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
            row_step = scratch_width * cb
            tap_step = row_step if deep else g.dilation[1] * row_step
            reach = (g.kernel[1] - 1) * g.dilation[1] + 1
            block_rows = 1 if deep else rows_in_scratch(tile, reach, g.stride[1], row_step * blocks * _SHARE, target)
            scratch_rows = g.kernel[0] * g.kernel[1] if deep else (block_rows - 1) * g.stride[1] + reach
            block_step = scratch_rows * row_step
            copied = max(0, min(g.size[2], scratch_width - g.pad[2]))
        constants = [
            ("TR", tile.rows), ("TC", tile.cols), ("TV", tile.vectors), ("TAIL_COLS", tile.tail),
            ("U", 1 if small else unroll), ("SOURCE", 0 if in_place else 2 if plain else 1), ("MERGED", int(merged)),
            ("GUARD", int(out_blocks % tile.vectors != 0)), ("OUT", layer.output), ("FLIP", int(layer.signed)),
            ("SUMS", int(deltas is not None)), ("ZERO_GIVEN", int(not isinstance(layer.x_zero, int))),
            ("PACK4", int(packs(layer, y.type.dtype))),
        ]  # fmt: skip
        if deep:
            constants.append(("DEPTH", 1))
        if skipped:
            constants += skips(g, merged, in_place)
        if not small:
            constants += [("SX", g.stride[2]), ("SY", g.stride[1]), ("CB", cb)]
        epilogue = op.epilogue if isinstance(op, ConvInteger) else None
        kinds, operands = epilogue_arguments(epilogue, layer.operands, y.type, width, tile.vectors)
        sums = layer.weights.reshape(g.out_channels, -1).astype(np.int64).sum(axis=1)
        channel = channel_arguments(layer, sums, deltas, g.out_channels, tile_channels)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "w": Packed(packed), **channel, "y": Pointer(y), "y_floats": Pointer(y), "y_words": Pointer(y),
            "block_table": Packed(table), "packed": Scratch(max(4, scratch_rows * row_step * blocks)), "images": Extent(g.images),
            "x_batch": BatchStride(x), "y_batch": BatchStride(y),
        }  # fmt: skip
        row_blocks = ceil_div(tile.grid_rows, block_rows)
        numbers = {
            "channels": g.channels, "groups_in": groups_in, "blocks": blocks, "used_blocks": used, "out_blocks": out_blocks,
            "tiles": tiles, "depth": g.size[0], "height": g.size[1], "width": g.size[2], "rows_out": tile.grid_rows, "height_out": g.out[1],
            "row_out": tile.grid_cols * width, "full_cols": tile.grid_cols // tile.cols * tile.cols, "grid_cols": tile.grid_cols,
            "taps": g.kernel[0] * g.kernel[1], "taps_y": g.kernel[1], "taps_x": taps_x, "tap_x": tap_x, "tap_step": tap_step,
            "inner_count": inner, "tile_weights": packed[0].size, "stride_d": g.stride[0], "dilation_d": g.dilation[0],
            "dilation_y": g.dilation[1], "pad_d": g.pad[0], "pad_y": g.pad[1],
            "pad_x": g.pad[2] if in_place else min(g.pad[2], scratch_width), "copied": copied,
            "row_step": row_step, "block_step": block_step, "scratch_rows": scratch_rows, "scratch_width": scratch_width,
            "block_rows": block_rows, "tiles_per_group": tiles_per_group_of(tiles, row_blocks),
        }  # fmt: skip
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(bound_arguments(layer))
        arguments.update({"SX": Extent(g.stride[2]), "SY": Extent(g.stride[1]), "CB": Extent(cb), **operands})
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), epilogue)
        note = f"tile {tile.rows}x{tile.cols} pixels x {tile.vectors}x{width} channels, {block_rows} rows a block"
        return KernelCall(spec, arguments, (note,))


def chosen_tile(node: Node, target: Target) -> Tile:
    """The least estimated cycles; one vector of channels where each group needs the sums of its own inputs."""
    g = geometry(node)
    tile = choose_tile(g, tile_target(target))
    if g.group == 1 or tile.vectors == 1 or signed_weights(layer_of(node).weights)[1] is None:
        return tile
    return min((t for t in best_by_tile(g, tile_target(target)).values() if t.vectors == 1), key=lambda t: t.cycles)


def pack_weights(
    w: np.ndarray, g: Geometry, table: np.ndarray, used: int, tiles: int, tile_channels: int, cb: int, ones: int
) -> np.ndarray:
    """int32 words of four bytes: ``[tile][block][kh][kw][group of 4 channels][tile channel (+ ones)]``.

    A ragged last block is stored without its padding groups; tiles are equally long. ``ones`` more lanes
    hold 1 for every channel that exists and, with groups, that the lane's own channel reads; the tile then is one vector.
    """
    taps_y, taps_x = g.kernel[0] * g.kernel[1], g.kernel[2]
    per_group_out, per_group_in = g.out_channels // g.group, g.channels // g.group
    source = w.reshape(g.out_channels, per_group_in, taps_y, taps_x)
    lanes = tile_channels + ones
    out = np.zeros((tiles, used * cb * taps_y * taps_x * lanes), np.int8)
    for tile in range(tiles):
        start = int(table[tile]) * cb
        stop = min(start + used * cb, g.channels)
        dense = np.zeros((round_up(stop - start, 4), taps_y, taps_x, lanes), np.int8)
        low, high = tile * tile_channels, min((tile + 1) * tile_channels, g.out_channels)
        for group in range(low // per_group_out, (high - 1) // per_group_out + 1):
            a, b = max(low, group * per_group_out), min(high, (group + 1) * per_group_out)
            at = group * per_group_in - start
            dense[at : at + per_group_in, :, :, a - low : b - low] = source[a:b].transpose(1, 2, 3, 0)
            if ones and g.group > 1:
                dense[at : at + per_group_in, :, :, tile_channels + a - low : tile_channels + b - low] = 1
        if g.group == 1:
            dense[: stop - start, :, :, tile_channels:] = 1
        position = 0
        for block in range(0, dense.shape[0], cb):
            piece = dense[block : block + cb]
            fours = piece.reshape(-1, 4, taps_y, taps_x, lanes).transpose(2, 3, 0, 4, 1)
            out[tile, position : position + piece.size] = fours.reshape(-1)
            position += piece.size
    return out.view(np.int32)


__all__ = ["Layer", "QConv", "Tile", "flat", "geometry", "pack_weights", "tile_target"]
