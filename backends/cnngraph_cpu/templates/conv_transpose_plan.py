"""When and how the transposed convolution is used: phases, register tile, blocking, weight packing, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as tuples
from math import gcd

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import Dim, ceil_div, per_image, product, round_up
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
from cnngraph.ops.conv_transpose import ConvTranspose
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import conv_transpose as kernel
from cnngraph_cpu.templates.common import (
    blocked,
    epilogue_arguments,
    operand_layouts,
    overwritable,
    per_channel,
    refuse_layer,
)
from cnngraph_cpu.templates.conv_direct_plan import block_spans, pack_weights
from cnngraph_cpu.templates.conv_geometry import Geometry, channel_blocks
from cnngraph_cpu.templates.conv_register_tiles import Tile, choose_tile, tiles_per_group_of
from cnngraph_cpu.templates.tile_loops import ANY_TAIL, tile_rows

_MOST_PHASES = 4096
_MOST_SCRATCH = 1 << 26


@dataclass(frozen=True)
class AxisPhase:
    """One remainder along one axis: its taps by ascending offset, the offset of the first, and its pixels.

    Tap n reads source pixel ``j + offset + n * Axis.step`` for grid pixel j.
    """

    remainder: int
    taps: tuple[int, ...]
    offset: int
    pixels: int


@dataclass(frozen=True)
class Axis:
    """One spatial axis as phases.

    Attributes:
        grid: grid pixels, the most that a phase has.
        step: distance in the source between neighbouring taps of a phase.
        first, last: least and greatest offset of any tap.
    """

    extent: int
    stride: int
    out: int
    grid: int
    step: int
    first: int
    last: int
    phases: tuple[AxisPhase, ...]

    @property
    def reach(self) -> int:
        """Source pixels that one grid pixel needs over all phases."""
        return self.last - self.first + 1


def axis_phases(extent: int, kernel: int, stride: int, begin: int, dilation: int, out: int) -> Axis:
    """The phases along one axis. A phase without taps holds the bias."""
    phases = []
    for remainder in range(min(stride, out)):
        taps = [t for t in reversed(range(kernel)) if (remainder + begin - dilation * t) % stride == 0]
        offset = (remainder + begin - dilation * taps[0]) // stride if taps else 0
        phases.append(AxisPhase(remainder, tuple(taps), offset, ceil_div(out - remainder, stride)))
    step = dilation // gcd(dilation, stride)
    used = [p for p in phases if p.taps]
    first = min((p.offset for p in used), default=0)
    last = max((p.offset + (len(p.taps) - 1) * step for p in used), default=0)
    phases = [p if p.taps else AxisPhase(p.remainder, (), first, p.pixels) for p in phases]
    return Axis(extent, stride, out, ceil_div(out, stride), step, first, last, tuple(phases))


@dataclass(frozen=True)
class Plan:
    """A transposed convolution lifted to three spatial axes (depth, height, width)."""

    images: Dim
    channels: int
    out_channels: int
    group: int
    axes: tuple[Axis, Axis, Axis]

    @property
    def depthwise(self) -> bool:
        """Whether every channel has a filter of its own."""
        return self.group == self.channels == self.out_channels

    @property
    def in_place(self) -> bool:
        """Whether every phase reads the source pixel of its grid pixel alone."""
        return all(a.first == a.last == 0 and a.grid == a.extent for a in self.axes)

    @property
    def deep(self) -> bool:
        """Whether the depth axis matters: a kernel of several planes may reach past the only one of the image."""
        z = self.axes[0]
        return z.grid > 1 or z.extent > 1 or z.first != 0 or z.reach > 1

    def geometry(self, taps: tuple[int, int, int]) -> Geometry:
        """The grid as a convolution of stride 1 with ``taps``, for choosing a tile and packing weights."""
        z, y, x = self.axes
        return Geometry(
            self.images, self.channels, self.out_channels, self.group, size=(z.extent, y.extent, x.extent), out=(z.grid, y.grid, x.grid),
            kernel=taps, stride=(1, 1, 1), dilation=(1, 1, 1), pad=(0, 0, 0), pad_end=(0, 0, 1),
        )  # fmt: skip


def lifted(node: Node) -> Plan:
    """The phases of a ConvTranspose node."""
    op = node.op
    assert isinstance(op, ConvTranspose)
    x, y = node.input(0).type, node.output.type
    channels, outputs = x.shape[1], y.shape[1]
    assert isinstance(channels, int) and isinstance(outputs, int)
    axes = [axis_phases(1, 1, 1, 0, 1, 1) for _ in range(3 - len(op.kernel))]
    for i, extent in enumerate(x.shape[2:]):
        assert isinstance(extent, int)
        axes.append(axis_phases(extent, op.kernel[i], op.strides[i], op.begins[i], op.dilations[i], op.out[i]))
    z, y_axis, x_axis = axes
    return Plan(x.shape[0], channels, outputs, op.group, (z, y_axis, x_axis))


def _tile(p: Plan, target: Target) -> Tile:
    """The register tile; with a filter for each channel it has one channel vector."""
    taps = tuple(max(1, max(len(f.taps) for f in a.phases)) for a in p.axes)
    g = p.geometry((taps[0], taps[1], taps[2]))
    if not p.depthwise:
        return choose_tile(g, target)
    alone = Geometry(
        g.images, target.width, target.width, 1, size=g.size, out=g.out, kernel=g.kernel, stride=g.stride, dilation=g.dilation,
        pad=g.pad, pad_end=g.pad_end,
    )  # fmt: skip
    return choose_tile(alone, target)


class ConvTransposeDirect:
    """Transposed convolution of any kernel, stride, dilation and group over a blocked input."""

    name = "conv_transpose"
    reorders_arithmetic = False
    code = Code(
        kernel.conv_transpose,
        {f.__name__: f for f in (tile_rows, kernel.tile_row, kernel.pack, kernel.register_tile)},
        "Transposed convolution by phases, register-tiled over grid pixels and channels.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what is no float32 transposed convolution with constant weights."""
        if not isinstance(node.op, ConvTranspose):
            return "not a transposed convolution"
        refusal = refuse_layer(node)
        if refusal:
            return refusal
        if product(min(s, o) for s, o in zip(node.op.strides, node.op.out, strict=True)) > _MOST_PHASES:
            return f"more than {_MOST_PHASES} phases"
        z, y, x = lifted(node).axes
        if z.reach * y.reach * (x.grid + x.reach) * round_up(per_image(node.input(0).type.shape[1]), target.width) * 4 > _MOST_SCRATCH:
            return "its taps reach over too many source rows"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of the inner loops."""
        p = lifted(node)
        taps = product(sum(len(f.taps) for f in a.phases) for a in p.axes)
        if p.depthwise:
            return product(a.grid for a in p.axes) * max(taps, 1) * ceil_div(p.channels, target.width) * 1.0
        return _tile(p, target).cycles * max(taps, 1) * p.channels

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights of every phase and fix the blocking."""
        op = node.op
        assert isinstance(op, ConvTranspose)
        p, width = lifted(node), target.width
        x, y, bias = node.input(0), node.output, node.inputs[2]
        tile, (az, ay, ax) = _tile(p, target), p.axes
        small = tile.tail == ANY_TAIL
        blocks, out_blocks = ceil_div(p.channels, width), ceil_div(p.out_channels, width)
        tiles = ceil_div(out_blocks, tile.vectors)
        if p.depthwise:
            table, used = np.arange(blocks, dtype=np.int64), 1
        else:
            table, used = channel_blocks(p.geometry((1, 1, 1)), tiles, tile.vectors * width, width, blocks)

        row_step = (ax.extent if p.in_place else ax.grid + ax.reach - 1) * width
        reach = 1 if p.in_place else ay.reach
        if p.in_place:
            block_rows = 1 if p.deep else _rows_within(tile, 1, row_step * used * 4, target)
            scratch_rows = 0
            block_step = az.extent * ay.extent * row_step
        else:
            block_rows = 1 if p.deep else _rows_within(tile, reach, row_step * blocks * 4, target)
            scratch_rows = az.reach * reach if p.deep else block_rows + reach - 1
            block_step = scratch_rows * row_step
        lead = min(max(0, -ax.first), ax.grid + ax.reach - 1)
        skipped = max(0, ax.first)
        copied = max(0, min(ax.extent - skipped, ax.grid + ax.reach - 1 - lead))
        phases, packed = self._phases(node, p, tile, table, used, tiles, target, reach, row_step)

        grid_rows = az.grid * ay.grid
        row_blocks = ceil_div(grid_rows, block_rows)
        numbers = {
            "channels": p.channels, "blocks": blocks, "used_blocks": used, "out_blocks": out_blocks, "tiles": tiles,
            "phases": len(phases), "depth": az.extent, "height": ay.extent, "width": ax.extent, "grid_rows": grid_rows,
            "grid_y": ay.grid, "grid_x": ax.grid, "full_cols": ax.grid // tile.cols * tile.cols,
            "plane": az.out * ay.out * ax.out * width, "plane_out": ay.out * ax.out * width,
            "row_out": ay.stride * ax.out * width, "column_out": ax.stride * width, "stride_z": az.stride, "first_z": az.first,
            "first_y": ay.first, "reach_y": reach, "skipped": skipped, "lead": lead, "copied": copied, "scratch_rows": scratch_rows,
            "scratch_width": ax.grid + ax.reach - 1, "tap_z": az.step * reach * row_step, "tap_y": ay.step * row_step,
            "tap_x": ax.step * width, "row_step": row_step, "block_step": block_step, "tile_weights": packed.shape[1],
            "block_rows": block_rows, "tiles_per_group": tiles_per_group_of(tiles, row_blocks),
        }  # fmt: skip
        constants = [
            ("TR", tile.rows), ("TC", tile.cols), ("TV", tile.vectors), ("TAIL_COLS", tile.tail),
            ("U", 1 if small or p.depthwise else next(u for u in (4, 2, 1) if p.channels % u == 0)), ("IN_PLACE", int(p.in_place)),
            ("GUARD", int(out_blocks % tile.vectors != 0)), ("GUARD_COLS", int(ax.out % ax.stride != 0)), ("DEPTH", int(p.deep)),
            ("DEPTHWISE", int(p.depthwise)),
        ]  # fmt: skip
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tile.vectors)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(packed),
            "b": per_channel(None if bias is None else bias.data, p.out_channels, width, tile.vectors),
            "y": Pointer(y),
            "block_table": Packed(table),
            "phase_table": Packed(phases),
            "packed": Scratch(max(4, scratch_rows * row_step * blocks * 4)),
            "images": Extent(p.images),
            "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"{len(phases)} phases, tile {tile.rows}x{tile.cols} pixels x {tile.vectors}x{width} channels, {block_rows} rows a block"
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))

    def _phases(
        self, node: Node, p: Plan, tile: Tile, table: np.ndarray, used: int, tiles: int, target: Target, reach: int, row_step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The table of phases, and the packed weights ``[tile, everything of a tile]``."""
        data = node.input(1).data
        assert data is not None
        az, ay, ax = p.axes
        width, per_out = target.width, p.out_channels // p.group
        kernel_size = (1,) * (5 - data.ndim) + data.shape[2:]
        grouped = data.reshape(p.group, p.channels // p.group, per_out, *kernel_size)
        by_output = grouped.swapaxes(1, 2).reshape(p.out_channels, p.channels // p.group, *kernel_size)
        rows, pieces, place = [], [], 0
        for fz, fy, fx in tuples(az.phases, ay.phases, ax.phases):
            taps = (len(fz.taps), len(fy.taps), len(fx.taps))
            if all(taps):
                chosen = by_output[:, :, fz.taps][:, :, :, fy.taps][:, :, :, :, fx.taps]
                if p.depthwise:
                    piece = np.zeros((tiles * width, product(taps)), np.float32)
                    piece[: p.channels] = chosen.reshape(p.channels, -1)
                    piece = np.ascontiguousarray(piece.reshape(tiles, width, -1).transpose(0, 2, 1)).reshape(tiles, -1)
                else:
                    g = p.geometry(taps)
                    piece = pack_weights(chosen, g, block_spans(table, used, width, p.channels), tile.vectors * width, width)
                pieces.append(piece)
            else:
                taps, piece = (0, 0, 0), np.zeros((tiles, 0), np.float32)
            shift = (fz.offset - az.first) * reach + fy.offset - ay.first
            source = shift * row_step + (fx.offset - ax.first) * width
            to = ((fz.remainder * ay.out + fy.remainder) * ax.out + fx.remainder) * width
            rows.append([*taps, fz.pixels, fy.pixels, fx.pixels, place, source, to])
            place += piece.shape[1]
        packed = np.ascontiguousarray(np.concatenate(pieces, axis=1)) if pieces else np.zeros((tiles, 1), np.float32)
        return np.array(rows, np.int64), packed


def _rows_within(tile: Tile, reach: int, row_bytes: int, target: Target) -> int:
    """Grid rows of a task whose source stays within a third of the private cache: equal blocks, an even number of them."""
    fit = tile.rows
    for rows in range(tile.rows, ceil_div(tile.grid_rows, tile.rows) * tile.rows + 1, tile.rows):
        if (rows - 1 + reach) * row_bytes <= target.l2 // 3:
            fit = rows
    count = ceil_div(tile.grid_rows, fit)
    if count > 1:
        count += count % 2
    return min(fit, ceil_div(ceil_div(tile.grid_rows, count), tile.rows) * tile.rows)
