"""When and how convolutions with few output channels run with their columns in the lanes of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div, product, round_up
from cnngraph.kernels.operands import FULL
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Scratch, Target
from cnngraph.ops.conv import Conv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import conv_rows as kernel
from cnngraph_cpu.templates.common import (
    blocked,
    epilogue_arguments,
    operand_layouts,
    overwritable,
    per_channel,
    refuse_layer,
)
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry, padding_share
from cnngraph_cpu.templates.conv_register_tiles import even_blocks

_MOST_ROWS, _MOST_TAPS, _MOST_MULTIPLICATIONS = 8, 7, 200
_MOST_OUTPUTS = 16
_COPIED_PLAIN, _COPIED_STRIDED = 0.1, 0.7
"""Cycles to copy an element of a plain input into rows, measured: by vectors, and one by one."""
_REORDERED = 2.0
"""Cycles a pixel of the result that may have to be reordered for its readers, who are not known; an element, of as many channels as
there are lanes, which pooling and other kernels want blocked."""
_PIXELS_PER_FLAT_ROW = 512


@dataclass(frozen=True)
class RowTile:
    """Register tile: ``rows`` output rows by W columns by ``outputs`` channels, ``taps`` rows of taps unrolled; cycles of one image."""

    rows: int
    outputs: int
    taps: int
    cycles: float


def flattened(g: Geometry, width: int) -> Geometry:
    """A pointwise convolution with its pixels dealt to rows of whole vectors, if they can be; others as they are."""
    pixels = product(g.out)
    if not g.pointwise or g.out[2] % width == 0:
        return g
    fitting = [columns for columns in range(width, min(pixels, _PIXELS_PER_FLAT_ROW) + 1, width) if pixels % columns == 0]
    if not fitting:
        return g
    size = (1, pixels // fitting[-1], fitting[-1])
    return replace(g, size=size, out=size)


def choose_rows(g: Geometry, target: Target) -> RowTile:
    """The register tile with the least estimated cycles, of the tiles that leave registers for the input rows and a weight."""
    spare = 2 if target.has_fma else 3
    vectors = g.out[0] * ceil_div(g.out[2], target.width)
    steps = vectors * g.channels * g.kernel[0] * g.kernel[2]

    def cycles(rows: int, outputs: int, taps: int) -> float:
        """Of one column tap: multiply-adds on two ports or their latency; loads, most of which cross cache lines; broadcasts."""
        lines = rows + taps - 1 if g.stride[1] == 1 and g.dilation[1] == 1 else rows * taps
        loads = lines * (1.0 if g.kernel[2] > 1 else 0.5) + outputs * taps * 0.5
        return g.kernel[1] // taps * (max(taps * rows * outputs / 2, loads, 4.0 * taps) + 0.1 * (lines + rows * outputs) + 1.0)

    found = []
    for groups in range(1, g.out_channels + 1):
        outputs = ceil_div(g.out_channels, groups)
        if ceil_div(g.out_channels, outputs) != groups:
            continue
        for rows in range(1, min(_MOST_ROWS, g.out[1]) + 1):
            if rows * (outputs + 1) + spare > target.registers:
                break
            taps = g.kernel[1] if g.kernel[1] <= _MOST_TAPS and g.kernel[1] * rows * outputs <= _MOST_MULTIPLICATIONS else 1
            full, tail = divmod(g.out[1], rows)
            work = full * cycles(rows, outputs, taps) + (cycles(tail, outputs, taps) if tail else 0.0)
            found.append(RowTile(rows, outputs, taps, work * groups * steps))
    return min(found, key=lambda tile: tile.cycles)


class ConvRows:
    """Convolution whose vectors run along the rows of the image, for few output channels."""

    name = "conv_rows"
    reorders_arithmetic = False
    code = Code(
        kernel.conv_rows,
        {f.__name__: f for f in (kernel.zero_line, kernel.copy_line, kernel.spread_line, kernel.pack_rows, kernel.rows_tile)},
        "Convolution by register tiles of rows, columns in the lanes, few output channels.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what is no convolution with constant weights, groups, and more outputs than a vector has lanes."""
        if not isinstance(node.op, Conv):
            return "not a convolution"
        refusal = refuse_layer(node)
        if refusal:
            return refusal
        if node.op.group > 1:
            return "a convolution of groups"
        if geometry(node).out_channels > _MOST_OUTPUTS:
            return f"more than {_MOST_OUTPUTS} output channels"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain; a blocked input too where its channels fill vectors and columns are not strided."""
        rest = operand_layouts(node.inputs[3:], node.output.type, PLAIN)
        requests = [LayoutRequest((PLAIN, None, None, *rest), (PLAIN,))]
        g = geometry(node)
        if g.stride[2] == 1 and g.channels >= target.width:
            requests.append(LayoutRequest((blocked(target), None, None, *rest), (PLAIN,)))
        return requests

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of the inner loops, of copying the input into rows, and of a later change of the result's layout.

        Products with padding count double: the direct convolution, whose estimate has them, passes over them.
        """
        g = geometry(node)
        plain = node.input(0).type.layout.plain
        flat = flattened(g, target.width)
        copied = g.out[0] * g.kernel[0] * g.channels * g.size[1] * g.size[2]
        if plain and _unpadded(flat) and flat.out[2] >= target.width:
            copied = 0
        a_copy = _COPIED_STRIDED if g.stride[2] > 1 else _COPIED_PLAIN if plain else 0.15 + 2.4 / target.width  # transposed
        moved = product(g.out) * (1 if g.out_channels < target.width else g.out_channels)
        return choose_rows(flat, target).cycles * (1 + padding_share(g)) + a_copy * copied + _REORDERED * moved

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights and fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        width = target.width
        g = flattened(geometry(node), width)
        x, y = node.input(0), node.output
        weights, bias = node.input(1).data, node.inputs[2]
        assert weights is not None
        plain, stride_x = x.type.layout.plain, g.stride[2]
        tile = choose_rows(g, target)
        groups = ceil_div(g.out_channels, tile.outputs)
        packed = pack_weights(weights, g, tile)
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, 1, tile.outputs)
        ragged = g.out[2] % width != 0
        overlap = ragged and g.out[2] >= width and all(kind != FULL for _, kind in kinds)
        in_place = plain and _unpadded(g) and (overlap or not ragged)
        pixels = g.size[1] * g.size[2]
        if in_place:
            scratch_rows = scratch_width = copied = remainder = scratch = 0
            row_step, plane_step, channel_step = g.size[2], g.size[0] * pixels, 0
            block_rows = even_blocks(g.out[1], tile.rows, target.l2 // 3 // (g.channels * g.size[2] * g.stride[1] * 4))
        else:
            scratch_width = (g.out[2] - 1) * stride_x + (g.kernel[2] - 1) * g.dilation[2] + 1
            remainder = round_up(ceil_div(scratch_width, stride_x) + width, width)
            row_step = remainder * stride_x
            reach = (g.kernel[1] - 1) * g.dilation[1] + 1
            planes = round_up(g.channels, 1 if plain else width) * g.kernel[0]
            fit = (target.l2 // 3 // (planes * row_step * 4) - reach) // g.stride[1] + 1
            block_rows = even_blocks(g.out[1], tile.rows, fit)
            scratch_rows = (block_rows - 1) * g.stride[1] + reach
            plane_step = scratch_rows * row_step
            channel_step = plane_step * g.kernel[0]
            copied = max(0, min(g.size[2], scratch_width - g.pad[2]))
            scratch = planes * plane_step
        constants = [
            ("TR", tile.rows), ("TAIL_ROWS", g.out[1] % tile.rows), ("OT", tile.outputs), ("KY", tile.taps), ("SX", stride_x),
            ("SY", g.stride[1]), ("DX", g.dilation[2]), ("DY", g.dilation[1]),
            ("SOURCE", kernel.IN_PLACE if in_place else kernel.PACK_PLAIN if plain else kernel.PACK_BLOCKED),
            ("GUARD", int(g.out_channels % tile.outputs != 0)), ("PARTIAL", int(ragged and not overlap)),
            ("OVERLAP", int(overlap)), ("CHANNEL_SCALAR", 1), *kinds,
        ]  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "w": Packed(packed), "b": per_channel(None if bias is None else bias.data, g.out_channels, 1, tile.outputs),
            "y": Pointer(y), "packed": Scratch(max(4, scratch * 4)), "images": Extent(g.images), "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }  # fmt: skip
        numbers = {
            "channels": g.channels, "outputs": g.out_channels, "groups": groups, "group_weights": packed[0].size, "depth": g.size[0],
            "height": g.size[1], "width": g.size[2], "depth_out": g.out[0], "height_out": g.out[1], "row_out": g.out[2],
            "planes": g.channels * g.kernel[0], "taps_z": g.kernel[0], "taps_y": g.kernel[1], "taps_x": g.kernel[2],
            "stride_d": g.stride[0], "dilation_d": g.dilation[0], "pad_d": g.pad[0], "pad_y": g.pad[1],
            "pad_x": min(g.pad[2], scratch_width), "copied": copied, "scratch_rows": scratch_rows, "scratch_width": scratch_width,
            "remainder_step": remainder, "row_step": row_step, "plane_step": plane_step, "channel_step": channel_step,
            "block_rows": block_rows,
        }  # fmt: skip
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        note = f"tile {tile.rows}x{width} pixels x {tile.outputs} channels, {block_rows} rows a block"
        return KernelCall(
            KernelSpec(self.name, target.isa, tuple(constants), op.epilogue), arguments, (note,), overwritable(node.inputs[3:], y)
        )


def _unpadded(g: Geometry) -> bool:
    """Whether rows of the input can be read as they are, wherever the vectors lie that do not reach behind their ends."""
    return g.stride[2] == 1 and g.kernel[0] == 1 and not any(g.pad + g.pad_end)


def pack_weights(weights: np.ndarray, g: Geometry, tile: RowTile) -> np.ndarray:
    """``[group][channel, depth tap][row tap / taps][column tap][taps][outputs]``, zeros behind the last output."""
    groups = ceil_div(g.out_channels, tile.outputs)
    padded = np.zeros((groups * tile.outputs, g.channels, *g.kernel), np.float32)
    padded[: g.out_channels] = weights.reshape(g.out_channels, g.channels, *g.kernel)
    parts = padded.reshape(groups, tile.outputs, g.channels * g.kernel[0], g.kernel[1] // tile.taps, tile.taps, g.kernel[2])
    return np.ascontiguousarray(parts.transpose(0, 2, 3, 5, 4, 1)).reshape(groups, -1)
