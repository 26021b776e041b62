"""Convolution of a plain image with few channels on the tile unit: the first layer of most networks.

The columns of a row of taps and the channels are joined to one axis, of which a row of a tile holds 32 elements: the row of the image is
copied with its channels interleaved and its padding, and a pixel's taps lie one after another in it. What remains
is a convolution of one column, see :mod:`cnngraph_cpu.templates.conv_tiles`, whose code multiplies and stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div
from cnngraph.kernels.specialize import parameters
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Scratch, Target
from cnngraph.ops.conv import Conv
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I64Pointer,
    get,
    get_int,
    load,
    load_partial,
    put,
    splat,
    store_four_lanes,
    store_halves,
    store_split,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import conv_tiles as shared
from cnngraph_cpu.templates.common import blocked, operand_layouts
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.conv_tiles import all_tasks
from cnngraph_cpu.templates.conv_tiles_plan import HELPERS, Lines, call_of, choose_lines, kind_of, refuse_narrow_pairs, refuse_tiles

TILE_PIXELS, TILE_BYTES, ROW_BYTES = shared.TILE_PIXELS, shared.TILE_BYTES, shared.ROW_BYTES

W = TN = MT = SPLIT = BYTES = PIXEL = GUARD = APART = 0  # fixed by the plan


def join_rows(image_at: int, iy: int) -> None:
    """Row ``iy`` of the image at ``image_at`` into ``joined``: [column, padding included][APART]."""
    row_in = image_at + iy * width_in
    whole = 0
    if APART == 4:
        whole = copied_in // W * W
        for c in range(0, whole, W):
            red = load(x, row_in + c)
            green = load(x, row_in + plane_in + c)
            blue = load(x, row_in + 2 * plane_in + c)
            fourth = splat(0.0)
            if channels_in == 4:
                fourth = load(x, row_in + 3 * plane_in + c)
            store_four_lanes(joined, (pad_in + c) * APART, red, green, blue, fourth)
    for c in range(min(pad_in, columns_in) * APART):
        put(joined, c, 0.0)
    for c in range((pad_in + whole) * APART, columns_in * APART):
        put(joined, c, 0.0)
    for ch in range(channels_in):
        for c in range(whole, copied_in):
            put(joined, (pad_in + c) * APART + ch, get(x, row_in + ch * plane_in + c))


def store_row(row_at: int, kb: int) -> None:
    """The pixels of an output row: of each one row of a tile, from ``joined``, to byte ``row_at`` of scratch."""
    left = channels - kb * 2 * W
    for c in range(pitch):
        place = c * step_in + kb * 2 * W
        if left >= 2 * W:
            first = load(joined, place)
            second = load(joined, place + W)
        else:
            first = load_partial(joined, place, left)
            second = load_partial(joined, place + W, left - W)
        if SPLIT:
            store_split(packed, row_at + c * PIXEL, first, second)
        else:
            store_halves(packed, row_at + c * PIXEL, first, second)


def pack_part(image0: int, row0: int, here: int) -> None:
    """The input rows of ``here`` images into scratch; ``row0`` is the first output row. A line has the pixels of the output, and of each
    the taps of a row of the image and of those up to ``further`` rows below.
    """
    for n in range(here):
        for phase in range(phases):
            for r in range(line_rows):
                iy = (row0 + r) * SY + get_int(phase_table, 4 * phase) - pad_y
                if iy + further >= 0 and iy < height:
                    join_rows((image0 + n) * x_batch, iy)
                for kb in range(k_blocks):
                    line_at = n // line_images * line_bytes + (kb * phases + phase) * plane_bytes + n % line_images * image_step * PIXEL
                    row_at = line_at + r * pitch * PIXEL
                    if iy + further < 0 or iy >= height:
                        fill_pixels(row_at, pitch)
                    else:
                        store_row(row_at, kb)


def conv_tiles_plain(
    x: F32Pointer, w: BytePointer, b: F32Pointer, y: F32Pointer, config: BytePointer, first_blocks: I64Pointer, tap_table: I64Pointer,
    phase_table: I64Pointer, packed: BytePointer, sums: F32Pointer, joined: F32Pointer, images: int, x_batch: int, y_batch: int,
    channels: int, k_blocks: int, used_blocks: int, panels: int, out_blocks: int, height: int, rows_out: int, cols_out: int,
    plane_out: int, taps: int, phases: int, SY: int, pad_y: int, pitch: int, line_rows: int, block_rows: int, together: int,
    line_images: int, image_step: int, plane_bytes: int, line_bytes: int, panel_bytes: int, panels_per_group: int, panels_at_once: int,
    channels_in: int, width_in: int, plane_in: int, columns_in: int, step_in: int, pad_in: int, copied_in: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``channels`` counts the joined elements of a row of taps. ``columns_in`` columns, ``pad_in`` of padding and ``copied_in`` of the
    image among them, are interleaved; from one output pixel to the next are ``step_in`` elements.
    """
    zero = 0
    further = 0
    all_tasks()


_ORDER = tuple(name for name, _ in parameters(conv_tiles_plain))


def joined_geometry(g: Geometry, apart: int, rows: int = 1, width: int = 0) -> Geometry:
    """The convolution of one column whose channels are the columns of taps and ``apart`` elements for the channels of ``g``.

    With several ``rows`` of taps in a pixel each row takes whole multiples of ``width`` channels.
    """
    return replace(
        g, channels=_row_channels(g, apart, rows, width) * rows, size=(1, g.size[1], g.out[2]), kernel=(1, ceil_div(g.kernel[1], rows), 1),
        stride=(1, g.stride[1], 1), dilation=(1, rows * g.dilation[1], 1), pad=(0, g.pad[1], 0),
        pad_end=(0, g.pad_end[1], 1),  # its rows may not be taken as one
    )  # fmt: skip


def _row_channels(g: Geometry, apart: int, rows: int, width: int) -> int:
    return g.kernel[2] * apart if rows == 1 else ceil_div(g.kernel[2] * apart, width) * width


def joined_weights(weights: np.ndarray, g: Geometry, apart: int, rows: int = 1, width: int = 0) -> np.ndarray:
    """The weights of :func:`joined_geometry`."""
    taps = ceil_div(g.kernel[1], rows)
    padded = np.zeros((g.out_channels, taps * rows, g.kernel[2], apart), weights.dtype)
    padded[:, : g.kernel[1], :, : g.channels] = np.moveaxis(weights.reshape(g.out_channels, g.channels, g.kernel[1], g.kernel[2]), 1, 3)
    joined = np.zeros((g.out_channels, rows, _row_channels(g, apart, rows, width), taps), weights.dtype)
    joined[:, :, : g.kernel[2] * apart] = np.moveaxis(padded.reshape(g.out_channels, taps, rows, -1), 1, 3)
    return joined


def apart_of(g: Geometry, block: int) -> int:
    """Elements of a column of a joined row, of which a row of a tile holds ``block``: three channels take four, which interleave faster."""
    return 4 if g.channels == 3 and ceil_div(4 * g.kernel[2], block) == ceil_div(3 * g.kernel[2], block) else g.channels


def interleaving_cycles(g: Geometry, lines: Lines, apart: int, rows: int = 1) -> float:
    """Estimated cycles of interleaving the rows that ``lines`` copy, ``rows`` of the image for each."""
    count = lines.row_blocks * (lines.block_rows + lines.reach) * len(lines.phases) * rows
    return (0.3 if apart == 4 else 1.5) * count * g.size[2] * g.channels


def joined_columns(g: Geometry) -> int:
    """Columns of a row of the image, padding included, that outputs meet."""
    return (g.out[2] - 1) * g.stride[2] + g.kernel[2]


def joined_arguments(g: Geometry, apart: int) -> dict[str, Argument]:
    """The arguments of joined rows, by name; ``apart`` elements lie between columns."""
    columns = joined_columns(g)
    numbers = {
        "channels_in": g.channels, "width_in": g.size[2], "plane_in": g.size[1] * g.size[2], "columns_in": columns,
        "step_in": g.stride[2] * apart, "pad_in": min(g.pad[2], columns), "copied_in": max(0, min(g.size[2], columns - g.pad[2])),
    }  # fmt: skip
    return {name: Extent(value) for name, value in numbers.items()}


class ConvTilesPlain:
    """Convolutions of a plain input with fewer channels than a vector has lanes, without groups or dilated columns."""

    name = "conv_tiles_plain"
    reorders_arithmetic = True
    code = Code(
        conv_tiles_plain,
        {**HELPERS, "pack_part": pack_part, "join_rows": join_rows, "store_row": store_row},
        "Convolution of a plain image on the tile unit, the columns of taps joined with the channels.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses targets without tiles, what the direct convolution refuses, and other inputs."""
        refusal = refuse_tiles(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.channels >= target.width or g.group != 1:
            return "groups, or as many channels as a vector has lanes"
        if g.dilation[2] != 1 and g.kernel[2] != 1:
            return "dilated columns"
        return refuse_narrow_pairs(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain in, blocked out."""
        layout = blocked(target)
        return [LayoutRequest((PLAIN, None, None, *operand_layouts(node.inputs[3:], node.output.type, layout)), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of the joined convolution, and of interleaving."""
        g, kind = geometry(node), kind_of(node)
        apart = apart_of(g, kind.channels)
        lines = choose_lines(joined_geometry(g, apart), kind, target.width)
        return lines.cycles + interleaving_cycles(g, lines, apart)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Split and pack the weights, fix the blocking."""
        op, g = node.op, geometry(node)
        weights = node.input(1).data
        assert isinstance(op, Conv) and weights is not None
        apart = apart_of(g, kind_of(node).channels)
        more = joined_arguments(g, apart)
        more["joined"] = Scratch((joined_columns(g) * apart + 2 * target.width) * 4)
        call = call_of(self.name, node, target, joined_geometry(g, apart), joined_weights(weights, g, apart), _ORDER, more)
        return replace(call, spec=replace(call.spec, constants=(*call.spec.constants, ("APART", apart))))
