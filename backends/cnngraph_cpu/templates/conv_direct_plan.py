"""When and how the direct convolution is used: weight packing, arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, ceil_div, product, round_up
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
    Template,
)
from cnngraph.ops.conv import Conv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import conv_direct as kernel
from cnngraph_cpu.templates.common import (
    blocked,
    epilogue_arguments,
    operand_layouts,
    overwritable,
    per_channel,
    refuse_layer,
    with_provisions,
)
from cnngraph_cpu.templates.conv_geometry import Geometry, channel_blocks, collide, geometry, group_spans, padding_unread, skips
from cnngraph_cpu.templates.conv_register_tiles import (
    Tile,
    alternatives,
    best_by_tile,
    choose_tile,
    halved,
    is_small,
    rows_in_place,
    rows_in_scratch,
    tile_of,
    tiles_per_group_of,
)
from cnngraph_cpu.templates.tile_loops import find_row, take_rows, tile_row, tile_rows, walk_taps

_PLANES = 8
"""Planes of channels that are read where they are at most: as many as lines of cache that begin in the same set."""
_BANDS = {"half the rows a block": 0.5, "twice the rows a block": 2.0}


class ConvDirect:
    """Convolution by register tiles over a blocked or small-channel plain input, any kernel, stride, dilation, groups."""

    name = "conv_direct"
    reorders_arithmetic = False
    step = 1
    code = Code(
        kernel.conv_direct,
        {
            f.__name__: f
            for f in (
                take_rows, tile_rows, tile_row, walk_taps, find_row, kernel.pack_blocked, kernel.pack_plain, kernel.pack_planes,
                kernel.pack_pairs, kernel.products, kernel.register_tile,
            )
        },
        "Direct convolution, register-tiled over output pixels and channels.",
    )  # fmt: skip

    def __init__(self, shape: tuple[int, int, int] | None = None, band: float = 1.0, like: KernelSpec | None = None) -> None:
        """Variants for tuning have a register tile of ``shape`` rows, columns and vectors, or ``band`` times the rows a block.

        Those that share a kernel have its register tile.
        """
        self._shape, self._band, self._like = shape, band, like

    def candidates(self, node: Node, target: Target) -> dict[str, Template]:
        """Other register tiles, fewer and more rows a block."""
        g = self._problem(node, target)
        if is_small(g):
            return {}
        shapes = [(t.rows, t.cols, t.vectors) for t in alternatives(g, target)]
        found: dict[str, Template] = {"tile {}x{}x{}".format(*shape): type(self)(shape) for shape in shapes}
        return found if g.out[0] > 1 or g.kernel[0] > 1 or g.spread else found | {n: type(self)(None, b) for n, b in _BANDS.items()}

    def like(self, node: Node, target: Target, spec: KernelSpec) -> Template | None:
        """With the register tile of the kernel ``spec`` and its tail."""
        g = self._problem(node, target)
        if is_small(g):
            return None
        return type(self)(like=spec) if tile_of(spec) in best_by_tile(g, target) else None

    def _copies(self, node: Node, target: Target) -> bool:
        """Whether rows are packed into scratch because the kernel cannot multiply what the image holds.

        Images with a vector of channels and more are blocked once layouts are chosen, though not yet while they are.
        """
        x = node.input(0).type
        element, planes = (DType.BF16, 0) if self.step == 2 else (DType.F32, _PLANES)
        return x.dtype is not element or (x.layout.plain and planes < geometry(node).channels < target.width)

    def _problem(self, node: Node, target: Target) -> Geometry:
        """The convolution's geometry; rows copied to scratch are those of the image, whose pixels may then not be taken as one row."""
        g = geometry(node)
        return replace(g, pad_end=(0, 0, 1)) if g.pointwise and self._copies(node, target) else g

    def _in_place(self, g: Geometry, tile: Tile, target: Target, plain: bool) -> bool:
        """Whether the kernel reads the image where it is: no padding that it would read, no blocks that drive each other from the cache."""
        if plain and any(g.pad + g.pad_end):
            return False
        if g.pointwise:
            return True
        if not any(g.pad + g.pad_end):
            return g.kernel[0] == 1 and g.out[0] == 1
        if is_small(g) or not padding_unread(g, tile.rows, tile.cols):
            return False
        row = g.size[2] * target.width * 4 // self.step
        blocks = ceil_div(g.channels, target.width)
        reach = (g.kernel[1] - 1) * g.dilation[1] + 1
        rows = (rows_in_scratch(tile, reach, g.stride[1], row * blocks, target) - 1) * g.stride[1] + reach
        return not collide(blocks, g.size[1] * row, min(rows, g.size[1]) * row)

    def _tile(self, g: Geometry, target: Target) -> Tile:
        if self._like is not None:
            return best_by_tile(g, target)[tile_of(self._like)]
        if self._shape is None:
            return choose_tile(g, target)
        return next(t for t in alternatives(g, target) if (t.rows, t.cols, t.vectors) == self._shape)

    def _scaled(self, block_rows: int, tile: Tile) -> int:
        if self._band == 1:
            return block_rows
        return min(max(1, int(block_rows * self._band) // tile.rows), ceil_div(tile.grid_rows, tile.rows)) * tile.rows

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what is no float32 convolution with constant weights."""
        if not isinstance(node.op, Conv):
            return "not a convolution"
        return refuse_layer(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out; a plain input too if it has fewer channels than a vector has lanes."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        requests = [LayoutRequest((layout, None, None, *rest), (layout,))]
        g = geometry(node)
        if g.channels < target.width and g.group == 1:
            requests.insert(0, LayoutRequest((PLAIN, None, None, *rest), (layout,)))
        return requests

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of the inner loops."""
        g = self._problem(node, target)
        return self._tile(g, target).cycles * product(g.kernel) * (g.channels // g.group) / self.step

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights and fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width = self._problem(node, target), target.width
        x, y = node.input(0), node.output
        weights, bias = node.input(1).data, node.inputs[2]
        assert weights is not None
        plain, step = x.type.layout.plain, self.step
        element = DType.BF16 if step == 2 else DType.F32
        copies = self._copies(node, target)
        tile, small = self._tile(g, target), is_small(g)
        planar = plain and step == 1
        merged = plain and g.dilation[2] == 1 and (step == 2 or g.channels == 1)
        in_place = not copies and self._in_place(g, tile, target, plain)
        cb = round_up(g.channels, 1 if merged else step) if plain else width
        pixel = 1 if planar else cb  # elements from a pixel of the source to the next
        blocks = 1 if plain else ceil_div(g.channels, width)
        out_blocks = ceil_div(g.out_channels, width)
        tiles = ceil_div(out_blocks, tile.vectors)
        grouped = g.group > 1 and step == 1 and not small
        if plain:
            table, used = np.zeros(tiles, np.int64), 1
        else:
            table, used = channel_blocks(g, tiles, tile.vectors * width, width, blocks)
        spans = group_spans(g, tile.vectors * width) if grouped else block_spans(table, used, cb, g.channels)
        if grouped:
            table = np.array(spans, np.int64).T.copy()

        def packed() -> np.ndarray:
            return pack_weights(weights, g, spans, tile.vectors * width, cb, step, merged).astype(element.numpy, copy=False)

        tile_weights = product(g.kernel[:2]) * line_of(g, spans, cb, step, merged) * tile.vectors * width
        taps_x, tap_x, inner = g.kernel[2], g.dilation[2] * pixel, cb // step
        if merged:
            inner, taps_x = ceil_div(g.kernel[2] * cb, step), 1
        divided, most = (inner, (4, 3, 2, 1)) if merged or plain else (g.channels // step, (4, 2, 1))
        if grouped:
            divided = math.gcd(*(bound for span in spans for bound in span))
        # no pixel twice in a step: the compiler would keep its broadcast in memory, all lanes of it
        limit = g.stride[2] if merged and step == 1 else max(most)
        unroll = next(u for u in most if divided % u == 0 and u <= limit)

        deep = g.out[0] > 1 or g.kernel[0] > 1 or g.pad[0] > 0
        deep = (deep or (g.spread and not in_place)) and not g.pointwise
        reach = (g.kernel[1] - 1) * g.dilation[1] + 1
        if in_place:
            columns = g.size[2] if not g.pointwise else tile.grid_cols
            row_step = columns * pixel
            block_step = product(g.size) * pixel
            tap_step = g.dilation[1] * row_step
            pixel_bytes = used * cb * element.itemsize
            if g.kernel[1] > 1:
                fit = rows_in_scratch(tile, reach, g.stride[1], columns * pixel_bytes, target)
            else:
                fit = rows_in_place(tile, tile.grid_rows, tile.cols * tile.rows * pixel_bytes, target)
            block_rows = self._scaled(halved(fit, tile, tiles), tile)
            scratch_rows = scratch_width = copied = 0
        else:
            scratch_width = (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
            row_step = scratch_width * pixel
            tap_step = row_step if deep else g.dilation[1] * row_step
            row_bytes = scratch_width * cb * blocks * element.itemsize
            block_rows = 1 if deep else self._scaled(rows_in_scratch(tile, reach, g.stride[1], row_bytes, target), tile)
            if plain:  # two threads should not pack all rows each: 3 channels, 7x7, 224x224, pairs: 108 of 686 us
                block_rows = min(block_rows, round_up(ceil_div(tile.grid_rows, 2), tile.rows))
            scratch_rows = g.kernel[0] * g.kernel[1] if deep else (block_rows - 1) * g.stride[1] + reach
            block_step = scratch_rows * row_step
            copied = max(0, min(g.size[2], scratch_width - g.pad[2]))
        scratch = scratch_rows * scratch_width * cb * blocks + (width if planar else step - 1)
        row_blocks = ceil_div(tile.grid_rows, block_rows)
        constants = [
            ("TR", tile.rows), ("TC", tile.cols), ("TV", tile.vectors), ("TAIL_COLS", tile.tail),
            ("U", 1 if small else unroll), ("SOURCE", 0 if in_place else 2 if plain else 1),
            ("MERGED", int(merged)), ("GUARD", int(out_blocks % tile.vectors != 0)), ("DEPTH", int(deep)),
        ]  # fmt: skip
        constants = with_provisions(constants, self._like, ("GUARD",))
        if step == 2:
            constants.append(("P", 2))
        if planar and not merged:
            constants.append(("PLANAR", 1))
        if grouped:
            constants.append(("GROUPED", 1))
        if not small:
            constants += [*skips(g, merged, in_place), ("SX", g.stride[2]), ("SY", g.stride[1]), ("CB", pixel)]
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tile.vectors)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(packed, element),
            "b": per_channel(None if bias is None else bias.data, g.out_channels, width, tile.vectors),
            "y": Pointer(y),
            "block_table": Packed(table),
            "packed": Scratch(max(4, scratch * element.itemsize), element),
            "images": Extent(g.images),
            "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }
        numbers = {
            "channels": g.channels, "blocks": blocks, "used_blocks": used, "out_blocks": out_blocks, "tiles": tiles,
            "depth": g.size[0], "height": g.size[1], "width": g.size[2], "rows_out": tile.grid_rows, "height_out": g.out[1],
            "row_out": tile.grid_cols * width, "full_cols": tile.grid_cols // tile.cols * tile.cols, "grid_cols": tile.grid_cols,
            "taps": g.kernel[0] * g.kernel[1],
            "taps_y": g.kernel[1], "taps_x": taps_x, "tap_x": tap_x, "tap_step": tap_step, "inner_count": inner,
            "tile_weights": tile_weights, "stride_d": g.stride[0], "dilation_d": g.dilation[0], "dilation_y": g.dilation[1],
            "pad_d": g.pad[0], "pad_y": g.pad[1], "pad_x": g.pad[2] if in_place else min(g.pad[2], scratch_width), "copied": copied,
            "row_step": row_step, "block_step": block_step, "channel_step": product(g.size) if in_place else scratch_rows * scratch_width,
            "scratch_rows": scratch_rows, "scratch_width": scratch_width,
            "block_rows": block_rows, "tiles_per_group": tiles_per_group_of(tiles, row_blocks),
            "SX": g.stride[2], "SY": g.stride[1], "CB": pixel,
        }  # fmt: skip
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"tile {tile.rows}x{tile.cols} pixels x {tile.vectors}x{width} channels, {block_rows} rows a block"
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


def block_spans(table: np.ndarray, used: int, cb: int, channels: int) -> list[tuple[int, int]]:
    """First and end of the input channels of each tile that reads ``used`` blocks of ``cb`` channels from block ``table[tile]`` on."""
    return [(int(first) * cb, min((int(first) + used) * cb, channels)) for first in table]


def line_of(g: Geometry, spans: Sequence[tuple[int, int]], cb: int, step: int, merged: bool) -> int:
    """Weights of one output channel for a line of taps, see :func:`pack_weights`."""
    return round_up(cb * g.kernel[2], step) if merged else max(round_up(stop - start, step) for start, stop in spans) * g.kernel[2]


def pack_weights(
    w: np.ndarray, g: Geometry, spans: Sequence[tuple[int, int]], tile_channels: int, cb: int, step: int = 1, merged: bool = False
) -> np.ndarray:
    """``[tile][block][kd*kh][kw][step of channels in block][tile channel][channel of the step]``, steps of 1 or 2 channels.

    Each tile has its ``spans`` of input channels, in which blocks may begin and end raggedly; other channels are not stored.
    ``merged``: steps run through the columns of a line of taps, whose last one may be completed with zeros.
    """
    taps_y, taps_x = g.kernel[0] * g.kernel[1], g.kernel[2]
    per_group_out, per_group_in = g.out_channels // g.group, g.channels // g.group
    source = w.reshape(g.out_channels, per_group_in, taps_y, taps_x)
    line = line_of(g, spans, cb, step, merged)
    out = np.zeros((len(spans), taps_y * line * tile_channels), np.float32)
    for tile, (start, stop) in enumerate(spans):
        dense = np.zeros((round_up(stop - start, step), taps_y, taps_x, tile_channels), np.float32)
        low, high = tile * tile_channels, min((tile + 1) * tile_channels, g.out_channels)
        for group in range(low // per_group_out, (high - 1) // per_group_out + 1):
            a, b = max(low, group * per_group_out), min(high, (group + 1) * per_group_out)
            at = group * per_group_in - start
            dense[at : at + per_group_in, :, :, a - low : b - low] = source[a:b].transpose(1, 2, 3, 0)
        if merged:  # one block
            steps = np.zeros((taps_y, line, tile_channels), np.float32)
            steps[:, : cb * taps_x] = dense[:cb].transpose(1, 2, 0, 3).reshape(taps_y, -1, tile_channels)
            out[tile] = steps.reshape(taps_y, -1, step, tile_channels).swapaxes(2, 3).reshape(-1)
            continue
        position = 0
        for block in range(start // cb * cb, stop, cb):
            piece = dense[max(block - start, 0) : block - start + cb]
            steps = piece.reshape(-1, step, taps_y, taps_x, tile_channels).transpose(2, 3, 0, 4, 1)
            out[tile, position : position + piece.size] = steps.reshape(-1)
            position += piece.size
    return out
