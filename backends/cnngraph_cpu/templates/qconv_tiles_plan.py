"""When and how 8-bit convolutions run on the tile unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType, ceil_div
from cnngraph.kernels.specialize import parameters
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Scratch, Target
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import qconv_tiles as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.conv_tiles import TILE_PIXELS
from cnngraph_cpu.templates.conv_tiles_plan import (
    BYTES,
    HELPERS,
    LEAST_CHANNELS,
    choose_lines,
    gather_weights,
    line_arguments,
    note,
    steps_of,
    tile_order,
)
from cnngraph_cpu.templates.qconv_plan import QConv
from cnngraph_cpu.templates.quantized import Layer, bound_arguments, channel_arguments, layer_of, packs, signed_weights

_DIRECT = QConv()
_ORDER = tuple(name for name, _ in parameters(kernel.qconv_tiles))


class QConvTiles:
    """QLinearConv and ConvInteger, as :class:`QConv` computes them, bit for bit; groups of at least 16 channels."""

    name = "qconv_tiles"
    reorders_arithmetic = False
    code = Code(
        kernel.qconv_tiles,
        {**HELPERS, "pack_pixels": kernel.pack_pixels, "store_run": kernel.store_run, "store_pixel": kernel.store_pixel},
        "Convolution of 8-bit tensors on the tile unit, 32 pixels x 32 channels of sums in tiles.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses targets without tiles, what the other kernel refuses, groups of few channels, weights that fit no signed byte."""
        refusal = refuse_bytes(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.channels // g.group < LEAST_CHANNELS:
            return f"fewer than {LEAST_CHANNELS} input channels a group fill too little of a tile's rows"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(layer_of(node).operands, node.output.type, layout)
        return [LayoutRequest((layout, *[None] * (len(node.inputs) - 1 - len(rest)), *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of tile products, packing, storing and weight streaming."""
        g = geometry(node)
        return choose_lines(_joined(g, _shared_rows(g, target.width), target.width), BYTES, target.width).cycles

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Pack the weights, fix the blocking."""
        g, layer, width = geometry(node), layer_of(node), target.width
        rows, blocks = _shared_rows(g, width), ceil_div(g.channels, width)
        more: dict[str, Argument] = {"blocks": Extent(blocks), "dilation_y": Extent(g.dilation[1])}
        call = call_of(
            self.name, node, target, _joined(g, rows, width), layer, _joined_weights(layer.weights, g, rows, width), _ORDER, more
        )
        shared = (("ROWS", rows), ("BLOCKS", blocks)) if rows > 1 else ()
        return replace(call, spec=replace(call.spec, constants=(*call.spec.constants, *shared)))


@lru_cache(maxsize=4096)
def _shared_rows(g: Geometry, width: int) -> int:
    """How many rows of taps share a row of a tile."""
    if g.group != 1 or g.kernel[0] != 1:
        return 1
    most = BYTES.channels // (ceil_div(g.channels, width) * width)
    return min(range(1, max(1, min(most, g.kernel[1])) + 1), key=lambda rows: choose_lines(_joined(g, rows, width), BYTES, width).cycles)


def _joined(g: Geometry, rows: int, width: int) -> Geometry:
    """The convolution whose channels are those of ``g``, in whole vectors, for each of ``rows`` rows of taps."""
    if rows == 1:
        return g
    return replace(
        g, channels=rows * ceil_div(g.channels, width) * width, kernel=(1, ceil_div(g.kernel[1], rows), g.kernel[2]),
        dilation=(1, rows * g.dilation[1], g.dilation[2]), pad_end=(0, g.pad_end[1], 1),  # its rows may not be taken as one
    )  # fmt: skip


def _joined_weights(weights: np.ndarray, g: Geometry, rows: int, width: int) -> np.ndarray:
    """The weights of :func:`_joined`."""
    if rows == 1:
        return weights
    taps, channels = ceil_div(g.kernel[1], rows), ceil_div(g.channels, width) * width
    padded = np.zeros((g.out_channels, channels, taps * rows, g.kernel[2]), weights.dtype)
    padded[:, : g.channels, : g.kernel[1]] = weights.reshape(g.out_channels, g.channels, g.kernel[1], g.kernel[2])
    return np.moveaxis(padded.reshape(g.out_channels, channels, taps, rows, g.kernel[2]), 3, 1).reshape(
        g.out_channels, -1, taps, g.kernel[2]
    )


def call_of(
    template: str, node: Node, target: Target, g: Geometry, layer: Layer, weights: np.ndarray, order: Sequence[str],
    more: dict[str, Argument],
) -> KernelCall:  # fmt: skip
    """The call of a layer whose pixels lie in lines as ``g`` and its ``weights`` say; ``more`` adds to or replaces the shared arguments."""
    op = node.op
    assert isinstance(op, (QLinearConv, ConvInteger))
    width, y = target.width, node.output
    lines = choose_lines(g, BYTES, width)
    panels, used, across = steps_of(g, BYTES, width)
    shared = line_arguments(g, lines, BYTES, width)
    table = shared["first_blocks"]
    assert isinstance(table, Packed)
    epilogue = op.epilogue if isinstance(op, ConvInteger) else None
    kinds, operands = epilogue_arguments(epilogue, layer.operands, y.type, width, across)
    sums = layer.weights.reshape(g.out_channels, -1).astype(np.int64).sum(axis=1)
    dense = gather_weights(weights.astype(np.int8), g, table.data, used, panels, across * width, BYTES.channels)
    given: dict[str, Argument] = {
        "x": Pointer(layer.x), "w": Packed(tile_order(dense, 4).reshape(-1).view(np.uint8)),
        **channel_arguments(layer, sums, None, g.out_channels, across * width), "y": Pointer(y), "y_floats": Pointer(y),
        "y_words": Pointer(y), "sums": Scratch(2 * TILE_PIXELS * across * width * 4, DType.I32), "images": Extent(g.images),
        "x_batch": BatchStride(layer.x), "y_batch": BatchStride(y), **shared, **bound_arguments(layer), **more,
    }  # fmt: skip
    constants = [
        ("TN", across), ("BYTES", 1), ("PIXEL", BYTES.pixel_bytes), ("GUARD", int(ceil_div(g.out_channels, width) % across != 0)),
        ("OUT", layer.output), ("FLIP", int(layer.signed)), ("ZERO_GIVEN", int(not isinstance(layer.x_zero, int))),
        ("PACK4", int(packs(layer, y.type.dtype))),
    ]  # fmt: skip
    arguments = {name: given[name] for name in order} | operands
    spec = KernelSpec(template, target.isa, tuple(constants + kinds), epilogue)
    return KernelCall(spec, arguments, (note(lines, BYTES),))


def refuse_bytes(node: Node, target: Target) -> str | None:
    """A refusal of targets without tiles, of what the other kernel refuses, and of weights that fit no signed byte."""
    refusal = _DIRECT.accepts(node, target)
    if refusal:
        return refusal
    if not target.tiles:
        return "the instruction set has no tiles"
    if signed_weights(layer_of(node).weights)[1] is not None:
        return "weights whose zero point leaves them outside a signed byte"
    return None
