"""When and how Winograd F(4x4, 3x3) is used: blocking, weight transform, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, round_up
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
from cnngraph_cpu.templates import winograd as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts, overwritable, per_channel
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect, Geometry, geometry

G = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)
"""The weight transform of F(4, 3) for the points 0, 1, -1, 2, -2 and infinity."""

_WEIGHT_BYTES_PER_CYCLE = 12.0


@dataclass(frozen=True)
class Blocking:
    """Tile rows of a task, register tile (pixel tiles x channel vectors), and the estimated cycles of an image."""

    tile_rows: int
    pixel_tiles: int
    vectors: int
    padded: int
    cycles: float


@lru_cache(maxsize=4096)
def choose_blocking(g: Geometry, target: Target) -> Blocking:
    """The blocking with the least estimated cycles whose scratch stays within the private cache where possible."""
    width = target.width
    tiles_y, tiles_x = ceil_div(g.out[1], 4), ceil_div(g.out[2], 4)
    blocks, out_blocks = ceil_div(g.channels, width), ceil_div(g.out_channels, width)
    spare = 1 if target.has_fma else 2
    weight_bytes = 36 * g.channels * out_blocks * width * 4
    best: Blocking | None = None
    for tile_rows in range(1, tiles_y + 1):
        count = tile_rows * tiles_x
        if tile_rows > 1 and 36 * count * g.channels * 4 > target.l2 * 3 // 4:
            break
        row_blocks = ceil_div(tiles_y, tile_rows)
        for vectors in (1, 2, 3, 4):
            if vectors > out_blocks:
                break
            limit = (target.registers - spare - vectors) // vectors
            for pixel_tiles in range(1, limit + 1):
                padded = round_up(count, pixel_tiles)
                step = max(pixel_tiles * vectors / 2, (pixel_tiles + vectors) / 2 + 0.25 * vectors, 4.0) + 0.1 * pixel_tiles + 0.5 * vectors
                gemm = 36 * g.channels * ceil_div(out_blocks, vectors) * (padded // pixel_tiles) * step
                transforms = count * (220 * blocks + 180 * out_blocks)
                stream = weight_bytes / _WEIGHT_BYTES_PER_CYCLE if weight_bytes > target.l2 // 2 else 0
                cycles = row_blocks * (gemm + transforms + stream)
                if best is None or cycles < best.cycles:
                    best = Blocking(tile_rows, pixel_tiles, vectors, padded, cycles)
    assert best is not None
    return best


class Winograd:
    """3x3 convolutions of stride 1 without groups or dilation, with at least a vector of input channels."""

    name = "winograd"
    reorders_arithmetic = True
    code = Code(
        kernel.winograd,
        {
            f.__name__: f
            for f in (
                kernel.pack_rows, kernel.input_line, kernel.output_line, kernel.transform_input, kernel.multiply,
                kernel.transform_output,
            )
        },
        "Winograd F(4x4, 3x3) convolution on blocked tensors.",
    )  # fmt: skip
    _direct = ConvDirect()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution refuses, and every other kernel shape."""
        refusal = self._direct.accepts(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.kernel != (1, 3, 3) or g.stride != (1, 1, 1) or g.dilation != (1, 1, 1):
            return "Winograd F(4x4,3x3) needs a 3x3 kernel with stride and dilation 1"
        if g.group != 1:
            return "grouped"
        if g.channels < target.width:
            return "fewer input channels than a vector has lanes"
        if g.pad[0] or g.size[0] != 1:
            return "three-dimensional"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of multiplication, transforms and weight streaming."""
        return choose_blocking(geometry(node), target).cycles

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Transform and pack the weights, fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width = geometry(node), target.width
        x, y, bias = node.input(0), node.output, node.inputs[2]
        weights = node.input(1).data
        assert weights is not None
        choice = choose_blocking(g, target)
        tv = choice.vectors
        blocks, out_blocks = ceil_div(g.channels, width), ceil_div(g.out_channels, width)
        tiles = ceil_div(out_blocks, tv)
        tiles_y, tiles_x = ceil_div(g.out[1], 4), ceil_div(g.out[2], 4)
        scratch_rows, scratch_width = choice.tile_rows * 4 + 2, tiles_x * 4 + 2
        v_at = blocks * scratch_rows * scratch_width * width
        m_at = v_at + 36 * blocks * choice.padded * width
        scratch = m_at + 36 * tv * choice.padded * width
        row_blocks = ceil_div(tiles_y, choice.tile_rows)
        numbers = {
            "channels": g.channels, "blocks": blocks, "out_blocks": out_blocks, "tiles": tiles, "height": g.size[1],
            "width": g.size[2], "rows_out": g.out[1], "cols_out": g.out[2], "tiles_y": tiles_y, "tiles_x": tiles_x,
            "tile_weights": 36 * g.channels * tv * width, "pad_y": g.pad[1], "pad_x": min(g.pad[2], scratch_width),
            "copied": max(0, min(g.size[2], scratch_width - g.pad[2])), "scratch_rows": scratch_rows,
            "scratch_width": scratch_width, "block_tile_rows": choice.tile_rows, "tiles_padded": choice.padded, "v_at": v_at,
            "m_at": m_at, "tiles_per_group": _tiles_per_group(tiles, row_blocks),
        }  # fmt: skip
        constants = [
            ("TT", choice.pixel_tiles), ("TV", tv), ("U", next(u for u in (2, 1) if g.channels % u == 0)),
            ("GUARD", int(out_blocks % tv != 0)), ("PARTIAL_X", int(g.out[2] % 4 != 0)), ("PARTIAL_Y", int(g.out[1] % 4 != 0)),
        ]  # fmt: skip
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tv)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(transform_weights(weights, g, tiles, tv * width)),
            "b": per_channel(None if bias is None else bias.data, g.out_channels, width, tv),
            "y": Pointer(y),
            "scratch": Scratch(scratch * 4),
            "images": Extent(g.images),
            "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"F(4x4,3x3), {choice.tile_rows} tile rows a block, {choice.pixel_tiles} tiles x {tv}x{width} channels"
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


def transform_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int) -> np.ndarray:
    """G g G^T of every filter, in float64, rounded once: ``[channel tile][36][channel][tile channel]``.

    The sums are written out, because a matrix product's bits depend on the machine.
    """
    filters = np.zeros((tiles * tile_channels, g.channels, 9), np.float32)
    filters[: g.out_channels] = w.reshape(g.out_channels, g.channels, 9)
    out = np.empty((tiles, 36, g.channels, tile_channels), np.float32)
    for tile in range(tiles):
        part = filters[tile * tile_channels : (tile + 1) * tile_channels]
        taps = np.ascontiguousarray(part.transpose(2, 1, 0)).astype(np.float64).reshape(3, 3, g.channels, tile_channels)
        rows = [sum(float(G[a, i]) * taps[i] for i in range(3) if G[a, i]) for a in range(6)]
        for a, row in enumerate(rows):
            for b in range(6):
                out[tile, 6 * a + b] = sum(float(G[b, j]) * row[j] for j in range(3) if G[b, j])
    return out


def _tiles_per_group(tiles: int, row_blocks: int) -> int:
    """Channel tiles of a task. Groups repeat the input transform per thread, so there are no more than balance needs."""
    for groups in range(1, tiles + 1):
        if row_blocks * groups >= 14 or (row_blocks * groups) % 4 == 0:
            return ceil_div(tiles, groups)
    return 1
