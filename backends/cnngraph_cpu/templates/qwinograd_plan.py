"""When and how Winograd F(4x4, 3x3) of 8-bit tensors is used: blocking, weight transform, the proof that sums come out exactly."""

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
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import qwinograd as kernel
from cnngraph_cpu.templates.common import epilogue_arguments
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.qconv_plan import QConv
from cnngraph_cpu.templates.quantized import UNUSED, Layer, layer_of, packs, padded
from cnngraph_cpu.templates.winograd import take_part
from cnngraph_cpu.templates.winograd_blocking import SHORTS, TAPS, BlockedWinograd, numbers_of, refuse_shape, scratch_of

G = ((6, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 6))
"""The weight transform: points 0, 1, -1, 2, -2 and infinity.

The factors 1/24, -1/6, -1/6, 1/24, 1/24 and 1/6 of the rows are in the output transform.
"""

_POINTS = 36
_LARGEST = 1 << 25
"""Sums, bias included, below this in magnitude come out of the transforms exactly: they arrive times 64, modulo 2**32."""


class QWinograd(BlockedWinograd):
    """3x3 8-bit convolutions of stride 1 without groups or dilation, whose sums are known to stay below 2**25."""

    name = "qwinograd"
    reorders_arithmetic = False
    arithmetic = SHORTS
    code = Code(
        kernel.qwinograd,
        {
            f.__name__: f
            for f in (
                kernel.pack_rows, kernel.input_line, kernel.output_line, kernel.transform_input, kernel.weight_line,
                kernel.transform_weights, kernel.multiply, kernel.finish, kernel.transform_output, take_part,
            )
        },
        "Exact Winograd convolution F(4x4, 3x3) of 8-bit tensors.",
    )  # fmt: skip
    _direct = QConv()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution refuses, other kernel shapes, few channels, and weights whose sums may grow too large."""
        refusal = self._direct.accepts(node, target) or refuse_shape(geometry(node), target)
        if refusal is None and largest_sum(layer_of(node)) >= _LARGEST:
            return "sums may reach 2**25"
        return refusal

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        return [self._direct.layouts(node, target)[-1]]

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Transform and pack the weights, fix the blocking."""
        op = node.op
        assert isinstance(op, (QLinearConv, ConvInteger))
        g, width, layer = geometry(node), target.width, layer_of(node)
        choice = self.blocking(g, target)
        y, tv = node.output, choice.vectors
        pairs, pair_blocks = ceil_div(g.channels, 2), ceil_div(g.channels, 2 * width)
        numbers = numbers_of(g, choice, target, pair_blocks, pairs)
        out_blocks, tiles = numbers["out_blocks"], numbers["tiles"]
        given = not isinstance(layer.x_zero, int)
        epilogue = op.epilogue if isinstance(op, ConvInteger) else None
        kinds, operands = epilogue_arguments(epilogue, layer.operands, y.type, width, tv)
        constants = [
            ("TT", choice.pixel_tiles), ("TV", tv), ("U", pairs_at_once(pairs, target)),
            ("GUARD", int(out_blocks % tv != 0)), ("PARTIAL_X", int(g.out[2] % 4 != 0)), ("PARTIAL_Y", int(g.out[1] % 4 != 0)),
            ("OUT", layer.output), ("SIGNED", int(layer.signed)), ("ZERO_GIVEN", int(given)), ("PACK4", int(packs(layer, y.type.dtype))),
        ]  # fmt: skip
        constants = self.shared(constants)
        if choice.raw:
            constants += [("RAW", 1), ("APART", _POINTS)]
        pack = pack_weights if choice.raw else transform_weights
        size = tiles * tv * width
        bias = None if layer.bias is None else layer.bias.astype(np.int64) * _POINTS
        arguments: dict[str, Argument] = {
            "x": Pointer(layer.x), "w": Packed(partial(pack, layer.weights, g, tiles, tv * width), DType.I32),
            "b": padded(bias, size, np.int32),
            "factors": UNUSED if layer.factors is None else padded(layer.factors, size, np.float32),
            "zero_at": Pointer(layer.x_zero) if not isinstance(layer.x_zero, int) else UNUSED,
            "y": Pointer(y), "y_floats": Pointer(y), "y_words": Pointer(y),
            "packed": Scratch(scratch_of(choice, numbers, target) * 4, DType.I32),
            "v": Scratch(_POINTS * pair_blocks * choice.padded * width * 4, DType.I32),
            "images": Extent(g.images), "x_batch": BatchStride(layer.x), "y_batch": BatchStride(y),
        }  # fmt: skip
        others = {
            "x_zero": layer.x_zero if isinstance(layer.x_zero, int) else 0,
            "y_zero": layer.y_zero, "low_int": layer.low - layer.y_zero, "high_int": layer.high - layer.y_zero,
        }  # fmt: skip
        extents = {"pairs": pairs, "pair_blocks": pair_blocks, **numbers, **others}
        arguments.update({name: Extent(value) for name, value in extents.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), epilogue)
        note = f"F(4x4,3x3) in int16, {choice.tile_rows} tile rows a block, {choice.pixel_tiles} tiles x {tv}x{width} channels"
        note += ", weights transformed in the kernel" if choice.raw else ""
        return KernelCall(spec, arguments, (note,))


def largest_sum(layer: Layer) -> int:
    """The largest magnitude that a sum of the layer, bias included, can have for any input."""
    rows = layer.weights.reshape(layer.weights.shape[0], -1).astype(np.int64)
    low, high = (-128, 127) if layer.signed else (0, 255)
    if isinstance(layer.x_zero, int):
        low, high = low - layer.x_zero, high - layer.x_zero
    else:
        low, high = -255, 255
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    bias = np.zeros(len(rows), np.int64) if layer.bias is None else layer.bias.astype(np.int64)
    most, least = positive * high + negative * low + bias, positive * low + negative * high + bias
    return int(np.maximum(np.abs(most), np.abs(least)).max(initial=0))


def pairs_at_once(pairs: int, target: Target) -> int:
    """Pairs of channels a round of the inner loop takes.

    One with VNNI: of two dependent dot products LLVM takes the second apart, into a product and a sum, a quarter slower in all.
    """
    return 1 if target.dot else next(u for u in (4, 2, 1) if pairs % u == 0 and target.width % u == 0)


def _filters(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int) -> np.ndarray:
    """Filters completed with zeros: ``[channel tile][tile channel][pair of channels][2][tap]``."""
    pairs = ceil_div(g.channels, 2)
    filters = np.zeros((tiles * tile_channels, 2 * pairs, TAPS), np.int16)
    filters[: g.out_channels, : g.channels] = w.reshape(g.out_channels, g.channels, TAPS)
    return filters.reshape(tiles, tile_channels, pairs, 2, TAPS)


def pack_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int) -> np.ndarray:
    """Filters for kernels that transform them: int16, ``[channel tile][pair of channels][tap][tile channel][2]``, seen as int32."""
    filters = _filters(w, g, tiles, tile_channels).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(filters).view(np.int32).reshape(tiles, -1)


def transform_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int) -> np.ndarray:
    """G g G^T of every filter: int16 by pairs of channels, ``[channel tile][36][pair of channels][tile channel][2]``, seen as int32."""
    out = np.empty((tiles, _POINTS, ceil_div(g.channels, 2), tile_channels, 2), np.int16)
    for tile, part in enumerate(_filters(w, g, tiles, tile_channels)):
        taps = part.reshape(*part.shape[:-1], 3, 3).transpose(3, 4, 1, 0, 2)
        for point, weights in enumerate(transform_filters(taps, G)):
            out[tile, point] = weights
    return out.view(np.int32).reshape(tiles, -1)
