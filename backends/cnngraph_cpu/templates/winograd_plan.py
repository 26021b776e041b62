"""When and how Winograd F(4x4, 3x3) and F(2x2, 3x3) are used: blocking, weight transform, arguments."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType, ceil_div
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
from cnngraph.kernels.winograd import transform_filters
from cnngraph.ops.conv import Conv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import winograd as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts, overwritable, per_channel
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.winograd_blocking import TAPS, BlockedWinograd, numbers_of, refuse_shape, scratch_of

G = {4: ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1)), 2: ((1, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 1))}
"""The weight transform by outputs of a tile along an axis: points 0, 1, -1, (2, -2) and infinity.

The factors 1/4, -1/6, -1/6, 1/24, 1/24, 1 (1, 1/2, 1/2, 1) of the rows are in the output transform.
"""


class Winograd(BlockedWinograd):
    """3x3 convolutions of stride 1 without groups or dilation, with at least a vector of input channels."""

    name = "winograd"
    reorders_arithmetic = True
    code = Code(
        kernel.winograd,
        {
            f.__name__: f
            for f in (
                kernel.pack_rows, kernel.input_line, kernel.output_line, kernel.transform_input, kernel.weight_line,
                kernel.transform_weights, kernel.multiply, kernel.take_sums, kernel.take_pixel, kernel.transform_output, kernel.take_part,
            )
        },
        "Winograd convolution, F(4x4, 3x3) or F(2x2, 3x3), on blocked tensors.",
    )  # fmt: skip
    _direct = ConvDirect()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution refuses, and every other kernel shape."""
        return self._direct.accepts(node, target) or refuse_shape(geometry(node), target)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Transform and pack the weights, fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width = geometry(node), target.width
        x, y, bias = node.input(0), node.output, node.inputs[2]
        weights = node.input(1).data
        assert weights is not None
        choice, step = self.blocking(g, target), self.arithmetic.step
        element = DType.BF16 if step == 2 else DType.F32
        tv, m, points = choice.vectors, choice.outputs, choice.points
        numbers = numbers_of(g, choice, target, ceil_div(g.channels, width), g.channels)
        blocks, out_blocks, tiles = (numbers[name] for name in ("blocks", "out_blocks", "tiles"))
        constants = [
            ("M", m), ("P", m + 2), ("TT", choice.pixel_tiles), ("TV", tv), ("U", next(u for u in (2, 1) if g.channels % (u * step) == 0)),
            ("GUARD", int(out_blocks % tv != 0)), ("PARTIAL_X", int(g.out[2] % m != 0)), ("PARTIAL_Y", int(g.out[1] % m != 0)),
        ]  # fmt: skip
        constants = self.shared(constants)
        if step == 2:
            constants.append(("STEP", 2))
        if choice.raw:
            constants += [("RAW", 1), ("APART", points)]
        pack = pack_weights if choice.raw else pack_pairs if step == 2 else transform_weights
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tv)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(partial(pack, weights, g, tiles, tv * width, m), element),
            "b": per_channel(None if bias is None else bias.data, g.out_channels, width, tv),
            "y": Pointer(y),
            "scratch": Scratch(scratch_of(choice, numbers, target) * 4),
            "v": Scratch(points * blocks * choice.padded * width * element.itemsize, element),
            "images": Extent(g.images),
            "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }
        arguments.update({"channels": Extent(g.channels), **{name: Extent(value) for name, value in numbers.items()}})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"F({m}x{m},3x3), {choice.tile_rows} tile rows a block, {choice.pixel_tiles} tiles x {tv}x{width} channels"
        note += ", weights transformed in the kernel" if choice.raw else ""
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


def filters_of(w: np.ndarray, g: Geometry, channels: int) -> np.ndarray:
    """Filters of output channels, completed to ``channels`` with zeros: ``[channel][input channel][tap]``."""
    filters = np.zeros((channels, g.channels, TAPS), np.float32)
    filters[: g.out_channels] = w.reshape(g.out_channels, g.channels, TAPS)
    return filters


def pack_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, _outputs: int) -> np.ndarray:
    """Filters for kernels that transform them: ``[channel tile][channel][tap][tile channel]``."""
    filters = filters_of(w, g, tiles * tile_channels).reshape(tiles, tile_channels, g.channels, TAPS)
    return np.ascontiguousarray(filters.transpose(0, 2, 3, 1))


def transform_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, outputs: int) -> np.ndarray:
    """G g G^T of every filter, in float64, rounded once: ``[channel tile][P*P][channel][tile channel]``, P = outputs + 2."""
    filters = filters_of(w, g, tiles * tile_channels)
    out = np.empty((tiles, (outputs + 2) ** 2, g.channels, tile_channels), np.float32)
    for tile in range(tiles):
        part = filters[tile * tile_channels : (tile + 1) * tile_channels]
        taps = np.ascontiguousarray(part.transpose(2, 1, 0)).reshape(3, 3, g.channels, tile_channels)
        for point, weights in enumerate(transform_filters(taps, G[outputs])):
            out[tile, point] = weights
    return out


def pack_pairs(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, outputs: int) -> np.ndarray:
    """:func:`transform_weights` in bfloat16 by pairs of channels: ``[channel tile][P*P][pair of channels][tile channel][2]``."""
    transformed = transform_weights(w, g, tiles, tile_channels, outputs)
    pairs = transformed.reshape(*transformed.shape[:2], g.channels // 2, 2, tile_channels).swapaxes(3, 4)
    return pairs.astype(DType.BF16.numpy)
