"""Convolution of a plain 8-bit image with few channels on the tile unit: the first layer of most networks.

As in :mod:`cnngraph_cpu.templates.conv_tiles_plain` the columns of a row of taps and the channels are joined to one axis, which fills less
than half of a tile's row of 64 bytes (28 of 7x7 taps and three channels). So several rows of taps (ROWS) share it, each in whole vectors
(PIECES): with two of 7 rows a pixel meets four products for seven, with three of 3x3 taps one for three. Of stride 2 every row of the
image still is interleaved once, and half as many pixels are copied. What lies behind the taps of a row has zero weights, which for
floats would let an infinity through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, ceil_div
from cnngraph.kernels.specialize import parameters
from cnngraph.kernels.template import Extent, KernelCall, LayoutRequest, Scratch, Target
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    I64Pointer,
    get_byte,
    load_bytes,
    put_byte,
    registers,
    splat_int,
    store_byte_blocks,
    store_four_bytes,
    to_float,
    xor_int,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import qconv_tiles as shared
from cnngraph_cpu.templates.common import blocked, operand_layouts
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.conv_tiles import all_tasks
from cnngraph_cpu.templates.conv_tiles_plain import (
    apart_of,
    interleaving_cycles,
    joined_arguments,
    joined_columns,
    joined_geometry,
    joined_weights,
    pack_part,
)
from cnngraph_cpu.templates.conv_tiles_plan import BYTES, HELPERS, choose_lines
from cnngraph_cpu.templates.qconv_tiles_plan import call_of, refuse_bytes
from cnngraph_cpu.templates.quantized import layer_of

FLIPS = shared.FLIPS
TILE_PIXELS, TILE_BYTES, ROW_BYTES = shared.TILE_PIXELS, shared.TILE_BYTES, shared.ROW_BYTES

W = TN = MT = SPLIT = PIXEL = GUARD = OUT = FLIP = ZERO_GIVEN = PACK4 = APART = ROWS = PIECES = 0  # fixed by the plan


def blank_row(row_to: int) -> None:
    """A row of padding at ``row_to`` in ``joined``."""
    for c in range(columns_in * APART):
        put_byte(joined, row_to + c, zero)


def interleave_row(row_in: int, row_to: int) -> None:
    """A row of the image, from byte ``row_in`` of its first channel on, to ``row_to`` in ``joined``: [column, padding included][APART]."""
    whole = 0
    if APART == 4:
        whole = copied_in // W * W
        for c in range(0, whole, W):
            red = load_bytes(x, row_in + c)
            green = load_bytes(x, row_in + plane_in + c)
            blue = load_bytes(x, row_in + 2 * plane_in + c)
            alpha = splat_int(0)
            if channels_in == 4:
                alpha = load_bytes(x, row_in + 3 * plane_in + c)
            if FLIP:
                red = xor_int(red, splat_int(FLIPS))
                green = xor_int(green, splat_int(FLIPS))
                blue = xor_int(blue, splat_int(FLIPS))
                alpha = xor_int(alpha, splat_int(FLIPS))
            store_four_bytes(joined, row_to + (pad_in + c) * APART, red, green, blue, alpha)
    for c in range(min(pad_in, columns_in) * APART):
        put_byte(joined, row_to + c, zero)
    for c in range((pad_in + whole) * APART, columns_in * APART):
        put_byte(joined, row_to + c, zero)
    for ch in range(channels_in):
        for c in range(whole, copied_in):
            if FLIP:
                put_byte(joined, row_to + (pad_in + c) * APART + ch, get_byte(x, row_in + ch * plane_in + c) ^ FLIPS)
            else:
                put_byte(joined, row_to + (pad_in + c) * APART + ch, get_byte(x, row_in + ch * plane_in + c))


def join_rows(image_at: int, iy: int) -> None:
    """ROWS rows of taps' rows from ``iy`` on of the image at ``image_at`` into ``joined``, ``joined_step`` bytes apart."""
    for part in range(ROWS):
        part_y = iy + part * dilation_y
        if part_y >= 0 and part_y < height:
            interleave_row(image_at + part_y * width_in, part * joined_step)
        else:
            blank_row(part * joined_step)


def store_row(row_at: int, kb: int) -> None:
    """As in :mod:`cnngraph_cpu.templates.conv_tiles_plain`; PIECES vectors of each of ROWS rows, or four of one."""
    second = W
    third = 2 * W
    fourth = 3 * W
    if ROWS > 1:
        second = min(1 // PIECES, ROWS - 1) * joined_step + 1 % PIECES * W
        third = min(2 // PIECES, ROWS - 1) * joined_step + 2 % PIECES * W
        fourth = min(3 // PIECES, ROWS - 1) * joined_step + 3 % PIECES * W
    for c in range(pitch):
        at = c * step_in + kb * ROW_BYTES
        store_byte_blocks(packed, row_at + c * PIXEL, joined, at, at + second, at + third, at + fourth, 0)


def qconv_tiles_plain(
    x: BytePointer, w: BytePointer, b: I32Pointer, weight_sums: I32Pointer, factors: F32Pointer, zero_at: BytePointer, y: BytePointer,
    y_floats: F32Pointer, y_words: I32Pointer, config: BytePointer, first_blocks: I64Pointer, tap_table: I64Pointer,
    phase_table: I64Pointer, packed: BytePointer, sums: I32Pointer, joined: BytePointer, images: int, x_batch: int, y_batch: int,
    k_blocks: int, used_blocks: int, panels: int, out_blocks: int, height: int, rows_out: int, cols_out: int, plane_out: int, taps: int,
    phases: int, SY: int, pad_y: int, pitch: int, line_rows: int, block_rows: int, together: int, line_images: int, image_step: int,
    plane_bytes: int, line_bytes: int, panel_bytes: int, panels_per_group: int, panels_at_once: int, channels_in: int, width_in: int,
    plane_in: int, columns_in: int, step_in: int, pad_in: int, copied_in: int, joined_step: int, dilation_y: int, x_zero: int, y_zero: int,
    low_int: int, high_int: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """See :func:`cnngraph_cpu.templates.qconv_tiles.qconv_tiles` and :func:`cnngraph_cpu.templates.conv_tiles_plain.conv_tiles_plain`."""
    low = to_float(low_int)
    high = to_float(high_int)
    low_byte = low_int + y_zero
    high_byte = high_int + y_zero
    zero = x_zero
    if ZERO_GIVEN:
        zero = get_byte(zero_at, 0)
        if FLIP:
            zero = zero ^ FLIPS
    scale = registers(4)
    further = (ROWS - 1) * dilation_y
    all_tasks()


_ORDER = tuple(name for name, _ in parameters(qconv_tiles_plain))


@lru_cache(maxsize=1024)
def _shared_rows(g: Geometry, width: int) -> tuple[int, float]:
    """How many rows of taps share a row of a tile, and the estimated cycles."""
    apart = apart_of(g, BYTES.channels)
    most = max(1, BYTES.channels // (ceil_div(g.kernel[2] * apart, width) * width))
    best: tuple[int, float] | None = None
    for rows in range(1, min(most, g.kernel[1]) + 1):
        lines = choose_lines(joined_geometry(g, apart, rows, width), BYTES, width)
        cycles = lines.cycles + interleaving_cycles(g, lines, apart, rows)
        if best is None or cycles < best[1]:
            best = rows, cycles
    assert best is not None
    return best


class QConvTilesPlain:
    """Integer convolutions of a plain input with fewer channels than a vector has lanes, without groups or dilated columns."""

    name = "qconv_tiles_plain"
    reorders_arithmetic = False
    code = Code(
        qconv_tiles_plain,
        {
            **HELPERS, "pack_part": pack_part, "join_rows": join_rows, "blank_row": blank_row, "interleave_row": interleave_row,
            "store_row": store_row, "store_run": shared.store_run, "store_pixel": shared.store_pixel,
        },
        "Convolution of a plain 8-bit image on the tile unit, the columns of taps joined with the channels.",
    )  # fmt: skip

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses targets without tiles, what the other kernel refuses, other inputs, and weights that fit no signed byte."""
        refusal = refuse_bytes(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.channels >= target.width or g.group != 1:
            return "groups, or as many channels as a vector has lanes"
        if g.dilation[2] != 1 and g.kernel[2] != 1:
            return "dilated columns"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain in, blocked out."""
        layout = blocked(target)
        rest = operand_layouts(layer_of(node).operands, node.output.type, layout)
        return [LayoutRequest((PLAIN, *[None] * (len(node.inputs) - 1 - len(rest)), *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of the joined convolution, and of interleaving."""
        return _shared_rows(geometry(node), target.width)[1]

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights, fix the blocking."""
        g, layer, width = geometry(node), layer_of(node), target.width
        apart, (rows, _) = apart_of(g, BYTES.channels), _shared_rows(g, width)
        step = ceil_div(joined_columns(g) * apart, ROW_BYTES) * ROW_BYTES + ROW_BYTES
        more = joined_arguments(g, apart)
        more |= {"joined": Scratch(rows * step, DType.U8), "joined_step": Extent(step), "dilation_y": Extent(g.dilation[1])}
        weights = joined_weights(layer.weights, g, apart, rows, width)
        call = call_of(self.name, node, target, joined_geometry(g, apart, rows, width), layer, weights, _ORDER, more)
        constants = (("APART", apart), ("ROWS", rows), ("PIECES", ceil_div(g.kernel[2] * apart, width)))
        return replace(call, spec=replace(call.spec, constants=(*call.spec.constants, *constants)))
