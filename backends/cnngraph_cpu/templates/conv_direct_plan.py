"""When and how the direct convolution is used: register tile, blocking, weight packing, arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import itemgetter

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, DType, ceil_div, product, round_up
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
    only_floats,
    operand_layouts,
    overwritable,
    per_channel,
    refuse_epilogue,
)
from cnngraph_cpu.templates.tile_loops import ANY_TAIL, take_rows, tile_row, tile_rows, walk_taps

_PIXELS_PER_FLAT_ROW = 400
_SMALL_MACS = 50_000
_SMALL_COLS = 4
_FAR_ROWS = 4
_LEAST_SKIPPED = 100
_MANY_TILES = 16
_NEXT_BEST, _WORST = 3, 1.6
_BANDS = {"half the rows a block": 0.5, "twice the rows a block": 2.0}


@dataclass(frozen=True)
class Geometry:
    """A convolution lifted to three spatial axes (depth, height, width)."""

    images: Dim
    channels: int
    out_channels: int
    group: int
    size: tuple[int, int, int]
    out: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    pad: tuple[int, int, int]
    pad_end: tuple[int, int, int]

    @property
    def spread(self) -> bool:
        """Rows of taps lie so far apart that a task copies the rows of one output row alone, not all rows between them."""
        return self.kernel[1] > 1 and self.dilation[1] >= _FAR_ROWS

    @property
    def pointwise(self) -> bool:
        """1x1, stride 1, no padding: output pixel i depends on input pixel i alone."""
        return self.kernel == (1, 1, 1) and self.stride == (1, 1, 1) and not any(self.pad + self.pad_end)


def geometry(node: Node) -> Geometry:
    """The geometry of a Conv node."""
    op = node.op
    assert isinstance(op, Conv)
    x, y = node.input(0).type, node.output.type
    lift = 3 - len(op.kernel)
    rank = len(op.kernel)

    def three(values: Sequence[Dim], fill: int) -> tuple[int, int, int]:
        a, b, c = (fill,) * lift + tuple(int(v) for v in values)  # type: ignore[arg-type]
        return a, b, c

    channels, out_channels = x.shape[1], y.shape[1]
    assert isinstance(channels, int) and isinstance(out_channels, int)
    return Geometry(
        images=x.shape[0], channels=channels, out_channels=out_channels, group=op.group,
        size=three(x.shape[2:], 1), out=three(y.shape[2:], 1), kernel=three(op.kernel, 1), stride=three(op.strides, 1),
        dilation=three(op.dilations, 1), pad=three(op.pads[:rank], 0), pad_end=three(op.pads[rank:], 0),
    )  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """Register tile and the pixel grid it walks: rows x cols pixels times ``vectors`` of channels."""

    rows: int
    cols: int
    vectors: int
    tail: int
    grid_rows: int
    grid_cols: int
    cycles: float


def _grids(g: Geometry) -> Iterator[tuple[int, int]]:
    yield g.out[0] * g.out[1], g.out[2]
    if g.pointwise:
        pixels = product(g.out)
        for rows in range(1, min(pixels, 4096) + 1):
            if pixels % rows == 0 and pixels // rows <= _PIXELS_PER_FLAT_ROW:  # rows are what threads share
                yield rows, pixels // rows


def _is_small(g: Geometry) -> bool:
    """Problems that take microseconds share one kernel for all sizes and strides instead of compiling their own."""
    return product(g.out) * product(g.kernel) * g.out_channels * (g.channels // g.group) <= _SMALL_MACS


@lru_cache(maxsize=4096)
def choose_tile(g: Geometry, target: Target) -> Tile:
    """The register tile with the least estimated cycles per channel step.

    A tile of p pixels and v vectors costs max(p*v/2 FMA, (p+v)/2 loads, 4 for latency) cycles, plus a little for each
    stream of lines, on a core with two 512-bit ports; the ratios hold for one port too.
    """
    if _is_small(g):
        rows, cols = g.out[0] * g.out[1], g.out[2]
        work = rows * cols * ceil_div(g.out_channels, target.width) * 1.5
        return Tile(1, _SMALL_COLS, 1, ANY_TAIL, rows, cols, work)
    cycles, shape = min(_tiles(g, target), key=itemgetter(0))
    return Tile(*shape, cycles)


def _tiles(g: Geometry, target: Target) -> Iterator[tuple[float, tuple[int, int, int, int, int, int]]]:
    """Estimated cycles and shape (the other fields of :class:`Tile` in order) of every register tile."""
    out_blocks = ceil_div(g.out_channels, target.width)
    spare = 1 if target.has_fma else 2
    reads = {v: sum(b - a for a, b in group_spans(g, v * target.width)) * g.group / g.channels for v in (1, 2, 3, 4)}

    def cycles(pixels: int, vectors: int) -> float:
        return max(pixels * vectors / 2, (pixels + vectors) / 2 + 0.25 * vectors, 4.0) + 0.1 * pixels + 0.5 * vectors

    for grid_rows, grid_cols in _grids(g):
        for vectors in (1, 2, 3, 4):
            if vectors > out_blocks:
                break
            limit = (target.registers - spare - vectors) // vectors
            for cols in range(1, min(limit, grid_cols) + 1):
                tail = grid_cols % cols
                for rows in (1, 2, 3, 4) if g.out[0] == 1 and not g.spread else (1,):
                    if rows * cols > limit or rows > grid_rows:
                        break
                    full, rest = divmod(grid_rows, rows)
                    work = 0.0
                    for count, r in ((full, rows), (rest, 1)):
                        work += count * (grid_cols // cols * cycles(r * cols, vectors) + (cycles(r * tail, vectors) if tail else 0))
                    work *= reads[vectors]
                    work *= 1 + 0.002 * (tail > 0) + 0.02 * (rows > 1)  # among equals, the simpler kernel
                    yield work, (rows, cols, vectors, tail, grid_rows, grid_cols)


@lru_cache(maxsize=4096)
def alternatives(g: Geometry, target: Target) -> tuple[Tile, ...]:
    """Register tiles worth measuring besides the chosen one: the best of each number of vectors and kind, then the next best."""
    ranked: dict[tuple[int, int, int], Tile] = {}
    for cycles, shape in sorted(_tiles(g, target), key=itemgetter(0)):
        tile = Tile(*shape, cycles)
        ranked.setdefault((tile.rows, tile.cols, tile.vectors), tile)
    kinds: dict[tuple[bool, int], Tile] = {}
    for tile in ranked.values():
        kinds.setdefault((tile.rows > 1, tile.vectors), tile)
    chosen = choose_tile(g, target)
    found = dict.fromkeys([*list(ranked.values())[:_NEXT_BEST], *kinds.values()])
    return tuple(tile for tile in sorted(found, key=lambda t: t.cycles) if tile != chosen and tile.cycles < _WORST * chosen.cycles)


@lru_cache(maxsize=4096)
def _best_by_tile(g: Geometry, target: Target) -> dict[tuple[int, ...], Tile]:
    """The least estimated cycles of each register tile and tail, over the grids of pixels that have it."""
    found: dict[tuple[int, ...], Tile] = {}
    for cycles, shape in _tiles(g, target):
        if shape[:4] not in found or cycles < found[shape[:4]].cycles:
            found[shape[:4]] = Tile(*shape, cycles)
    return found


def _register_tile(spec: KernelSpec) -> tuple[int, ...]:
    return tuple(spec.constant(name) for name in ("TR", "TC", "TV", "TAIL_COLS"))


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
                take_rows, tile_rows, tile_row, walk_taps, kernel.pack_blocked, kernel.pack_plain, kernel.products, kernel.register_tile,
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
        g = geometry(node)
        if _is_small(g) or (g.pointwise and (self.step > 1 or g.channels < target.width)):
            return {}
        shapes = [(t.rows, t.cols, t.vectors) for t in alternatives(g, target)]
        found: dict[str, Template] = {"tile {}x{}x{}".format(*shape): type(self)(shape) for shape in shapes}
        return found if g.out[0] > 1 or g.kernel[0] > 1 or g.spread else found | {n: type(self)(None, b) for n, b in _BANDS.items()}

    def like(self, node: Node, target: Target, spec: KernelSpec) -> Template | None:
        """With the register tile of the kernel ``spec`` and its tail."""
        g = geometry(node)
        if _is_small(g) or (g.pointwise and (self.step > 1 or g.channels < target.width)):
            return None
        return type(self)(like=spec) if _register_tile(spec) in _best_by_tile(g, target) else None

    def _tile(self, g: Geometry, target: Target) -> Tile:
        if self._like is not None:
            return _best_by_tile(g, target)[_register_tile(self._like)]
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
        refusal = only_floats(node)
        if refusal:
            return refusal
        bias = node.inputs[2]
        if not node.input(1).is_constant or (bias is not None and not bias.is_constant):
            return "the weights are computed at run time"
        if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
            return "an extent is zero or depends on the batch"
        return refuse_epilogue(node.inputs[3:], node.output.type)

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
        g = geometry(node)
        return self._tile(g, target).cycles * product(g.kernel) * (g.channels // g.group) / self.step

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights and fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width = geometry(node), target.width
        x, y = node.input(0), node.output
        weights, bias = node.input(1).data, node.inputs[2]
        assert weights is not None
        plain, step = x.type.layout.plain, self.step
        element = DType.BF16 if step == 2 else DType.F32
        copies = plain or x.type.dtype is not element
        if copies and g.pointwise:  # the rows copied to scratch are those of the image: its pixels may not be taken as one row
            g = replace(g, pad_end=(0, 0, 1))
        tile, small = self._tile(g, target), _is_small(g)
        merged = plain and g.dilation[2] == 1
        in_place = not copies and not any(g.pad + g.pad_end) and ((g.kernel[0] == 1 and g.out[0] == 1) or g.pointwise)
        cb = round_up(g.channels, 1 if merged else step) if plain else width
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
        taps_x, tap_x, inner = g.kernel[2], g.dilation[2] * cb, cb // step
        if merged:
            inner, taps_x = ceil_div(g.kernel[2] * cb, step), 1
        divided, most = (inner, (4, 3, 2, 1)) if merged or plain else (g.channels // step, (4, 2, 1))
        if grouped:
            divided = math.gcd(*(bound for span in spans for bound in span))
        unroll = next(u for u in most if divided % u == 0)

        deep = g.out[0] > 1 or g.kernel[0] > 1
        deep = (deep or (g.spread and not in_place)) and not g.pointwise
        if in_place:
            columns = g.size[2] if not g.pointwise else tile.grid_cols
            row_step = columns * width
            block_step = product(g.size) * width
            tap_step = g.dilation[1] * row_step
            fit = _block_rows(tile, tile.grid_rows, tile.cols * tile.rows * used * width * element.itemsize, target)
            block_rows = self._scaled(_halved(fit, tile, tiles), tile)
            scratch_rows = scratch_width = copied = 0
        else:
            scratch_width = (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
            row_step = scratch_width * cb
            tap_step = row_step if deep else g.dilation[1] * row_step
            reach = (g.kernel[1] - 1) * g.dilation[1] + 1
            row_bytes = row_step * blocks * element.itemsize
            block_rows = 1 if deep else self._scaled(_scratch_block_rows(tile, reach, g.stride[1], row_bytes, target), tile)
            scratch_rows = g.kernel[0] * g.kernel[1] if deep else (block_rows - 1) * g.stride[1] + reach
            block_step = scratch_rows * row_step
            copied = max(0, min(g.size[2], scratch_width - g.pad[2]))
        row_blocks = ceil_div(tile.grid_rows, block_rows)
        constants = [
            ("TR", tile.rows), ("TC", tile.cols), ("TV", tile.vectors), ("TAIL_COLS", tile.tail),
            ("U", 1 if small else unroll), ("SOURCE", 0 if in_place else 2 if plain else 1),
            ("MERGED", int(merged)), ("GUARD", int(out_blocks % tile.vectors != 0)), ("DEPTH", int(deep)),
        ]  # fmt: skip
        if self._like is not None and self._like.constant("GUARD"):
            constants = [(name, 1 if name == "GUARD" else value) for name, value in constants]
        if step == 2:
            constants.append(("P", 2))
        if grouped:
            constants.append(("GROUPED", 1))
        if not (in_place or small):
            constants += skips(g, merged)
        if not small:
            constants += [("SX", g.stride[2]), ("SY", g.stride[1]), ("CB", cb)]
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tile.vectors)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(packed, element),
            "b": per_channel(None if bias is None else bias.data, g.out_channels, width, tile.vectors),
            "y": Pointer(y),
            "block_table": Packed(table),
            "packed": Scratch(max(4, (scratch_rows * row_step * blocks + step - 1) * element.itemsize), element),
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
            "pad_d": g.pad[0], "pad_y": g.pad[1], "pad_x": min(g.pad[2], scratch_width), "copied": copied, "row_step": row_step,
            "block_step": block_step, "scratch_rows": scratch_rows, "scratch_width": scratch_width, "block_rows": block_rows,
            "tiles_per_group": tiles_per_group_of(tiles, row_blocks), "SX": g.stride[2], "SY": g.stride[1], "CB": cb,
        }  # fmt: skip
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"tile {tile.rows}x{tile.cols} pixels x {tile.vectors}x{width} channels, {block_rows} rows a block"
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


def skips(g: Geometry, merged: bool) -> list[tuple[str, int]]:
    """The constants SKIP_ROWS and SKIP_COLUMNS of :mod:`cnngraph_cpu.templates.tile_loops`, where they pay.

    Columns do where of the taps of a row of pixels at least a hundredth lie on padding, since they take more code.
    """
    on_padding = sum(min(g.out[2], ceil_div(outside, g.stride[2])) for outside in _outside(g))
    columns = not merged and on_padding * _LEAST_SKIPPED >= g.kernel[2] * g.out[2]
    return [(name, 1) for name, pays in (("SKIP_ROWS", any(g.pad[:2] + g.pad_end[:2])), ("SKIP_COLUMNS", columns)) if pays]


def _outside(g: Geometry) -> Iterator[int]:
    """How far left and right of the image each tap of a line reaches."""
    for tap in range(g.kernel[2]):
        at = tap * g.dilation[2] - g.pad[2]
        yield max(0, -at)
        yield max(0, at + (g.out[2] - 1) * g.stride[2] - (g.size[2] - 1))


def group_spans(g: Geometry, tile_channels: int) -> list[tuple[int, int]]:
    """First and end of the input channels that each output tile reads: those of the groups it has a part of."""
    per_group_out, per_group_in = g.out_channels // g.group, g.channels // g.group
    spans = []
    for low in range(0, g.out_channels, tile_channels):
        high = min(low + tile_channels, g.out_channels) - 1
        spans.append((low // per_group_out * per_group_in, (high // per_group_out + 1) * per_group_in))
    return spans


def channel_blocks(g: Geometry, tiles: int, tile_channels: int, width: int, blocks: int) -> tuple[np.ndarray, int]:
    """First input-channel block of each output tile, and how many blocks every tile reads (the union of its groups)."""
    spans = group_spans(g, tile_channels)
    used = max((b - 1) // width - a // width + 1 for a, b in spans)
    return np.minimum(np.array([a // width for a, _ in spans], np.int64), blocks - used), used


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


def _block_rows(tile: Tile, rows: int, bytes_per_tile: int, target: Target) -> int:
    """Rows of a task that reads in place: as many as keep its input within a third of the private cache."""
    tiles_per_row = max(1, tile.grid_cols // max(1, tile.cols))
    row_bytes = max(1, bytes_per_tile // tile.rows * tiles_per_row)
    return _even_blocks(tile, rows, max(tile.rows, target.l2 // 3 // row_bytes // tile.rows * tile.rows))


def _scratch_block_rows(tile: Tile, reach: int, stride: int, row_bytes: int, target: Target) -> int:
    """Output rows of a task whose packed input stays within a third of the private cache."""
    best = tile.rows
    for rows in range(tile.rows, ceil_div(tile.grid_rows, tile.rows) * tile.rows + 1, tile.rows):
        if ((rows - 1) * stride + reach) * row_bytes <= target.l2 // 3:
            best = rows
    return _even_blocks(tile, tile.grid_rows, best)


def _even_blocks(tile: Tile, rows: int, fit: int) -> int:
    """At most ``fit`` rows a block, the blocks equal and an even number of them, so that threads get equal shares."""
    count = ceil_div(rows, fit)
    if count > 1:
        count += count % 2
    return min(fit, ceil_div(ceil_div(rows, count), tile.rows) * tile.rows)


def _halved(block_rows: int, tile: Tile, tiles: int) -> int:
    """Half of all rows where one block has a small odd number of channel tiles, of which two threads would get unequal shares."""
    even = tile.grid_rows % (2 * tile.rows) == 0
    return block_rows // 2 if block_rows >= tile.grid_rows and even and tiles % 2 and tiles < _MANY_TILES else block_rows


def tiles_per_group_of(tiles: int, row_blocks: int) -> int:
    """Channel tiles of a task: small enough that there are tasks for many threads, evenly divided where possible."""
    for groups in range(1, tiles + 1):
        if row_blocks * groups >= 16 and (row_blocks * groups % 4 == 0 or row_blocks * groups >= 48):
            return ceil_div(tiles, groups)
    return 1
