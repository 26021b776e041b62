"""When and how convolutions run on the tile unit: lines of pixels, blocking, weight packing, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType, ceil_div, product
from cnngraph.kernels.emulate_tile import from_bf16, full_configuration, to_bf16
from cnngraph.kernels.specialize import parameters
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
from cnngraph.ops.conv import Conv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import conv_tiles as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts, overwritable, per_channel
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_geometry import Geometry, channel_blocks, geometry
from cnngraph_cpu.templates.conv_register_tiles import tiles_per_group_of

_L2 = 2 << 20
"""Bytes of the private cache of every CPU that has tiles."""
_LINE_BYTES, _CHUNK_BYTES = _L2 * 3 // 8, _L2 // 8
"""Room in it for packed pixels, and for the panels of weights that all of them meet before the next panels, which come meanwhile."""
_PART_PIXELS, _PART_IMAGES = 1024, 16
_WEIGHT_BYTES_PER_CYCLE = 9.0
"""From beyond the private cache: what the first version took for 512 channels at 7x7 beyond what it took at 14x14."""
_STORE_CYCLES = 3.0
"""Of a pixel and vector of channels, for what the tile unit waits (estimated)."""
LEAST_CHANNELS = 16
LEAST_SPLIT_CHANNELS = 64
"""Of float32. What the pairs round off grows in the layers after it; narrow layers, the first one above all, add most to it for the least
time. With pairs in every convolution of 16 channels or more, FastestDet and a selfie segmenter differ by 4e-4 of the output's scale from
float32; from 64 on by 4e-5 and 1e-4; with the first convolution as well by 2e-4 and 3e-4.
"""
_FLAT_COLS = 512


@dataclass(frozen=True)
class Kind:
    """What the tiles hold.

    Attributes:
        name: for the notes.
        channels: of a pixel in a row of a tile.
        pixel_bytes: of a pixel in scratch, for these channels.
        products: tile products for each tile of channels, taps and sums.
        step_cycles: estimated cycles of a step: 32 channels (64 of bytes), one tap, 32 pixels, 32 output channels. The unit's rate is
            16 a product. The first version was measured with 190 to 284 for twelve products and 64 to 103 for four, the more the more of
            pixels and weights came from the private cache at some 43 bytes a cycle; of 3x3 convolutions now only the weights do.
        pack_cycles: estimated cycles to pack a pixel of these channels.
    """

    name: str
    channels: int
    pixel_bytes: int
    products: int
    step_cycles: float
    pack_cycles: float


SPLIT = Kind("float32 as bfloat16 pairs", 32, 128, 3, 215.0, 7.0)
HALVES = Kind("bfloat16", 32, 64, 1, 80.0, 3.0)
BYTES = Kind("bytes", 64, 64, 1, 80.0, 4.0)


@dataclass(frozen=True)
class Lines:
    """How a convolution's pixels lie in scratch, and the blocking of its outputs. Distances are in pixels.

    Attributes:
        rows, cols: the output; of a 1x1 convolution of stride 1, its pixels in any rows.
        phases: (row, column, first column inside the input, column after the last) of each phase that a tap needs.
        taps: (phase, shift in its line) of each tap.
        pitch: from row to row of a line.
        overlap: columns of padding behind a row that are those before the next one.
        reach: rows of a line beyond those of the output.
        shift: the largest of ``taps``.
        block_rows, row_blocks: output rows of a part, and parts of an image.
        together: images of a part.
        plane: pixels of one phase of a line.
        cycles: estimated for an image.
    """

    rows: int
    cols: int
    height: int
    width: int
    phases: tuple[tuple[int, int, int, int], ...]
    taps: tuple[tuple[int, int], ...]
    pitch: int
    overlap: int
    reach: int
    shift: int
    block_rows: int
    row_blocks: int
    together: int
    plane: int
    cycles: float

    @property
    def line_images(self) -> int:
        """Images that share a line: where no tap looks beyond its own pixel, all of a part."""
        return self.together if self.shift == 0 else 1


def _flat(g: Geometry, most: int) -> tuple[int, int]:
    """Rows and columns of a 1x1 convolution's pixels: rows as long as divide them evenly, of at most ``most``."""
    pixels = product(g.out)
    cols = next(c for c in range(min(pixels, most), 0, -1) if pixels % c == 0)
    return pixels // cols, cols


def steps_of(g: Geometry, kind: Kind, width: int) -> tuple[int, int, int]:
    """(panels, channel blocks that a panel meets, tiles across a panel)."""
    out_blocks = ceil_div(g.out_channels, width)
    across = min(2, out_blocks)
    panels = ceil_div(out_blocks, across)
    _, used = channel_blocks(g, panels, across * width, kind.channels, ceil_div(g.channels, kind.channels))
    return panels, used, across


@lru_cache(maxsize=4096)
def choose_lines(g: Geometry, kind: Kind, width: int) -> Lines:
    """The blocking with the least estimated cycles whose packed pixels stay within the private cache where possible."""
    k_blocks = ceil_div(g.channels, kind.channels)
    room = max(2 * kernel.TILE_PIXELS, _LINE_BYTES // (k_blocks * kind.pixel_bytes))
    rows, cols = _flat(g, min(_FLAT_COLS, room)) if g.pointwise else g.out[1:]
    height, columns = (rows, cols) if g.pointwise else g.size[1:]
    (_, ky, kx), (_, sy, sx), (_, dy, dx), (_, _, pad_x) = g.kernel, g.stride, g.dilation, g.pad
    places = [(y * dy % sy, x * dx % sx) for y in range(ky) for x in range(kx)]
    used = sorted(set(places))
    reach, reach_x = (ky - 1) * dy // sy, (kx - 1) * dx // sx
    pitch = cols + reach_x
    phases = []
    for py, px in used:
        end = max(0, min(pitch, ceil_div(columns + pad_x - px, sx)))
        phases.append((py, px, min(max(0, ceil_div(pad_x - px, sx)), end), end))
    overlap = min(reach_x, *(min(begin, pitch - end) for _, _, begin, end in phases))
    pitch -= overlap
    shifts = [y * dy // sy * pitch + x * dx // sx for y in range(ky) for x in range(kx)]
    taps = tuple((used.index(place), shift) for place, shift in zip(places, shifts, strict=True))
    shift = reach * pitch + reach_x
    panels, blocks, across = steps_of(g, kind, width)
    weights = panels * blocks * len(taps) * across * kernel.TILE_BYTES * (2 if kind is SPLIT else 1)
    stream = weights / _WEIGHT_BYTES_PER_CYCLE
    best: Lines | None = None
    for block_rows in dict.fromkeys(ceil_div(rows, count) for count in range(1, rows + 1)):
        row_blocks = ceil_div(rows, block_rows)
        pixels = (block_rows - 1) * pitch + cols
        plane = _plane(pixels, shift)
        nbytes = plane * len(used) * k_blocks * kind.pixel_bytes
        if best is not None and nbytes > _LINE_BYTES and block_rows < rows:
            continue
        step = kind.step_cycles * across / 2
        work = panels * blocks * len(taps) * step * ceil_div(pixels, kernel.TILE_PIXELS) / 2 + panels * across * pixels * _STORE_CYCLES
        stays = weights <= _L2 // 2
        work = max(work, stream / row_blocks if stays else stream)  # the weights come meanwhile
        work += (block_rows + reach) * pitch * len(used) * k_blocks * kind.pack_cycles
        cycles = row_blocks * work
        crowded = nbytes > _LINE_BYTES
        few = row_blocks * panels < 8 or (row_blocks > 1 and row_blocks % 2 == 1)
        preference = cycles * (1 + 0.03 * few + 1.0 * crowded)
        if best is None or preference < best_preference:
            best_preference = preference
            best = Lines(
                rows, cols, height, columns, tuple(phases), taps, pitch, overlap, reach, shift, block_rows, row_blocks, 1, plane, cycles,
            )  # fmt: skip
    assert best is not None
    return best if g.images == 1 or best.row_blocks > 1 else _together(best, kind, k_blocks)


def _plane(pixels: int, shift: int) -> int:
    """Pixels of a phase: whole pairs of tiles, and what taps meet beyond.

    The channel blocks of a pair of tiles stay in the first cache for all panels of a 1x1 convolution, so they may not all begin in the
    same half of its sets, as they would 4096 bytes apart.
    """
    pairs = ceil_div(pixels, 2 * kernel.TILE_PIXELS)
    return (pairs if shift else pairs | 1) * 2 * kernel.TILE_PIXELS + shift


def _together(lines: Lines, kind: Kind, k_blocks: int) -> Lines:
    """As many whole images as a part holds: their tiles are fuller, and weights are read once for all."""
    pixels = lines.rows * lines.pitch
    image_bytes = lines.plane * len(lines.phases) * k_blocks * kind.pixel_bytes
    count = max(1, min(_PART_IMAGES, _PART_PIXELS // pixels, _LINE_BYTES // image_bytes))
    plane = _plane(count * pixels, 0) if lines.shift == 0 else lines.plane
    return replace(lines, together=count, plane=plane)


def line_arguments(g: Geometry, lines: Lines, kind: Kind, width: int) -> dict[str, Argument]:
    """The arguments that the kernels of floats and of bytes share, by name."""
    panels, used, across = steps_of(g, kind, width)
    k_blocks = ceil_div(g.channels, kind.channels)
    table, _ = channel_blocks(g, panels, across * width, kind.channels, k_blocks)
    plane_bytes = lines.plane * kind.pixel_bytes
    line_bytes = plane_bytes * len(lines.phases) * k_blocks
    tap_table = [phase * plane_bytes + shift * kind.pixel_bytes for phase, shift in lines.taps]
    panel_bytes = used * len(lines.taps) * across * kernel.TILE_BYTES * (2 if kind is SPLIT else 1)
    plane_in = lines.height * lines.width * width
    numbers = {
        "channels": g.channels, "k_blocks": k_blocks, "block_step": plane_in * (kind.channels // width), "plane_in": plane_in,
        "used_blocks": used, "panels": panels, "out_blocks": ceil_div(g.out_channels, width), "height": lines.height,
        "width": lines.width, "rows_out": lines.rows, "cols_out": lines.cols, "plane_out": lines.rows * lines.cols * width,
        "taps": len(lines.taps), "phases": len(lines.phases), "SX": g.stride[2], "SY": g.stride[1], "pad_y": g.pad[1],
        "pad_x": g.pad[2], "pitch": lines.pitch, "overlap": lines.overlap, "line_rows": lines.block_rows + lines.reach,
        "block_rows": lines.block_rows,
        "together": lines.together, "line_images": lines.line_images, "image_step": (lines.block_rows + lines.reach) * lines.pitch,
        "plane_bytes": plane_bytes, "line_bytes": line_bytes, "panel_bytes": panel_bytes,
        "panels_per_group": tiles_per_group_of(panels, lines.row_blocks), "panels_at_once": max(1, _CHUNK_BYTES // panel_bytes),
    }  # fmt: skip
    return {
        "config": Packed(full_configuration()),
        "first_blocks": Packed(table),
        "tap_table": Packed(np.array(tap_table, np.int64)),
        "phase_table": Packed(np.array(lines.phases, np.int64).reshape(-1)),
        "packed": Scratch(line_bytes * (lines.together // lines.line_images), DType.U8),
        **{name: Extent(value) for name, value in numbers.items()},
    }


_DIRECT = ConvDirect()

HELPERS = {
    f.__name__: f
    for f in (
        kernel.fill_pixels, kernel.pack_pixels, kernel.pack_part, kernel.dot, kernel.products, kernel.multiply, kernel.take_sums,
        kernel.ask_pixels, kernel.store_run, kernel.store_pixels, kernel.all_tiles, kernel.all_tasks,
    )
}  # fmt: skip


class ConvTiles:
    """Convolutions of float32, as pairs of bfloat16, and of bfloat16: any kernel, stride, dilation, groups of at least 16 channels.

    An infinity, or a number beyond bfloat16's range (3.39e38), becomes NaN in a pair.
    """

    name = "conv_tiles"
    reorders_arithmetic = True
    code = Code(kernel.conv_tiles, HELPERS, "Convolution on the tile unit, 32 pixels x 32 channels of sums in tiles.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses targets without tiles, what the direct convolution refuses, and groups of few channels."""
        refusal = refuse_tiles(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.channels // g.group < LEAST_CHANNELS:
            return f"fewer than {LEAST_CHANNELS} input channels a group fill too little of a tile's rows"
        return refuse_narrow_pairs(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of tile products, packing, epilogue and weight streaming."""
        return choose_lines(geometry(node), kind_of(node), target.width).cycles

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Split and pack the weights, fix the blocking."""
        weights = node.input(1).data
        assert weights is not None
        return call_of(self.name, node, target, geometry(node), weights, _ORDER, {})


_ORDER = tuple(name for name, _ in parameters(kernel.conv_tiles))


def call_of(
    template: str, node: Node, target: Target, g: Geometry, weights: np.ndarray, order: Sequence[str], more: dict[str, Argument]
) -> KernelCall:
    """The call of a Conv whose pixels lie in lines as ``g`` and its weights say; ``more`` adds to or replaces the shared arguments."""
    op, width, kind = node.op, target.width, kind_of(node)
    assert isinstance(op, Conv)
    x, y, bias = node.input(0), node.output, node.inputs[2]
    lines = choose_lines(g, kind, width)
    panels, used, across = steps_of(g, kind, width)
    shared = line_arguments(g, lines, kind, width)
    table = shared["first_blocks"]
    assert isinstance(table, Packed)
    guard = int(ceil_div(g.out_channels, width) % across != 0)
    constants = [("TN", across), ("SPLIT", int(kind is SPLIT)), ("PIXEL", kind.pixel_bytes), ("GUARD", guard)]
    if kind is HALVES and x.type.dtype is DType.BF16:
        constants.append(("COPIED", 1))
    kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, across)
    dense = gather_weights(weights.astype(np.float32), g, table.data, used, panels, across * width, kind.channels)
    given: dict[str, Argument] = {
        "x": Pointer(x), "w": Packed(pack_floats(dense, kind is SPLIT)),
        "b": per_channel(None if bias is None else bias.data, g.out_channels, width, across), "y": Pointer(y),
        "sums": Scratch(2 * kernel.TILE_PIXELS * across * width * 4), "images": Extent(g.images), "x_batch": BatchStride(x),
        "y_batch": BatchStride(y), **shared, **more,
    }  # fmt: skip
    arguments = {name: given[name] for name in order} | operands
    spec = KernelSpec(template, target.isa, tuple(constants + kinds), op.epilogue)
    return KernelCall(spec, arguments, (note(lines, kind),), overwritable(node.inputs[3:], y))


def refuse_tiles(node: Node, target: Target) -> str | None:
    """A refusal of what the direct convolution refuses, targets without tiles, and three axes."""
    refusal = _DIRECT.accepts(node, target)
    if refusal:
        return refusal
    if not target.tiles:
        return "the instruction set has no tiles"
    g = geometry(node)
    if g.size[0] != 1 or g.kernel[0] != 1 or g.out[0] != 1 or g.pad[0] or g.pad_end[0]:
        return "three spatial axes"
    return None


def refuse_narrow_pairs(node: Node) -> str | None:
    """A refusal if the convolution is of float32 with too few channels for pairs of bfloat16 to be precise enough."""
    g = geometry(node)
    if kind_of(node) is SPLIT and g.channels // g.group < LEAST_SPLIT_CHANNELS:
        return f"float32 with fewer than {LEAST_SPLIT_CHANNELS} input channels a group keeps its precision elsewhere"
    return None


def kind_of(node: Node) -> Kind:
    """How the tiles hold the activations: where the weights are bfloat16, activations of float32 are rounded while they are packed."""
    return HALVES if node.input(1).type.dtype is DType.BF16 else SPLIT


def note(lines: Lines, kind: Kind) -> str:
    """What the blocking is, for reports."""
    part = f"{lines.together} images" if lines.together > 1 else f"{lines.block_rows} rows of {lines.cols} pixels"
    return f"tiles of {kind.name}, {part} a part"


def gather_weights(w: np.ndarray, g: Geometry, table: np.ndarray, used: int, panels: int, panel_channels: int, block: int) -> np.ndarray:
    """``[panel][channel block][channel in it][tap][panel channel]``, zero where a panel's channel does not read an input channel."""
    taps = product(g.kernel)
    per_group_out, per_group_in = g.out_channels // g.group, g.channels // g.group
    source = w.reshape(g.out_channels, per_group_in, taps)
    out = np.zeros((panels, used * block, taps, panel_channels), w.dtype)
    for panel in range(panels):
        start = int(table[panel]) * block
        low, high = panel * panel_channels, min((panel + 1) * panel_channels, g.out_channels)
        for group in range(low // per_group_out, (high - 1) // per_group_out + 1):
            a, b = max(low, group * per_group_out), min(high, (group + 1) * per_group_out)
            at = group * per_group_in - start
            out[panel, at : at + per_group_in, :, a - low : b - low] = source[a:b].transpose(1, 2, 0)
    return out.reshape(panels, used, block, taps, panel_channels)


def tile_order(dense: np.ndarray, together: int) -> np.ndarray:
    """``[panel][channel block][tap][tile][row][channel][together]``: neighbouring input channels of a tile's row lie side by side."""
    panels, used, block, taps, panel_channels = dense.shape
    split = dense.reshape(panels, used, block // together, together, taps, panel_channels // 16, 16)
    return np.ascontiguousarray(split.transpose(0, 1, 4, 5, 2, 6, 3))


def pack_floats(dense: np.ndarray, split: bool) -> np.ndarray:
    """bfloat16 bits as bytes; with ``split`` the low parts of a step come first, then the high parts."""
    high = to_bf16(dense)
    if not split:
        return tile_order(high, 2).reshape(-1).view(np.uint8)
    low = to_bf16(dense - from_bf16(high))
    return np.ascontiguousarray(np.stack([tile_order(low, 2), tile_order(high, 2)], axis=3)).reshape(-1).view(np.uint8)
