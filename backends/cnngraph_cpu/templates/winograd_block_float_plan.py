"""When and how Winograd F(4x4, 3x3) in block floating point is used: blocking, units, the proof that no sum overflows."""

from __future__ import annotations

from functools import partial
from math import isqrt

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType, ceil_div
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, Packed, Pointer, Scratch, Target
from cnngraph.kernels.winograd import transform_filters
from cnngraph.ops.conv import Conv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import qwinograd, winograd
from cnngraph_cpu.templates import winograd_block_float as kernel
from cnngraph_cpu.templates.common import epilogue_arguments, overwritable, per_channel
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.qwinograd_plan import pairs_at_once
from cnngraph_cpu.templates.winograd_blocking import BLOCK_FLOAT, numbers_of
from cnngraph_cpu.templates.winograd_plan import Winograd, filters_of

G = (
    (1, 0, 0), *((-27 / 65, -27 / 65 * a, -27 / 65 * a * a) for a in (2 / 3, -2 / 3)),
    *((12 / 65, 12 / 65 * a, 12 / 65 * a * a) for a in (3 / 2, -3 / 2)), (0, 0, 1),
)  # fmt: skip
"""The weight transform: points 0, 2/3, -2/3, 3/2, -3/2 and infinity. Four rows are multiplied by the points' magnitudes."""

_POINTS = 36
_FINER = tuple(1.5 ** sum(row in (3, 4) for row in divmod(point, 6)) for point in range(_POINTS))
"""How much smaller than its tile's unit that of a point's activations is."""


class WinogradBlockFloat(Winograd):
    """3x3 convolutions of stride 1 whose weights are bfloat16, on every instruction set, for all multiply pairs of int16.

    What units round off is less than what the result loses when it is stored as bfloat16, so that ``rounds_tiles`` is not said.
    """

    name = "winograd_block_float"
    arithmetic = BLOCK_FLOAT
    code = Code(
        kernel.winograd_block_float,
        {
            f.__name__: f
            for f in (
                winograd.pack_rows, kernel.input_line, kernel.output_line, kernel.transform_tile, kernel.round_tile, kernel.transform_input,
                qwinograd.multiply, kernel.take_sums, kernel.take_pixel, winograd.transform_output, winograd.take_part,
            )
        },
        "Winograd convolution F(4x4, 3x3) on blocked tensors, in block floating point.",
    )  # fmt: skip

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what Winograd in float32 refuses, other weights, and few channels."""
        refusal = super().accepts(node, target)
        if refusal:
            return refusal
        if node.input(1).type.dtype is not DType.BF16:
            return "not a convolution in bfloat16"
        return "fewer input channels than two vectors have lanes" if geometry(node).channels < 2 * target.width else None

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Transform, round and pack the weights, fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width = geometry(node), target.width
        x, y, bias = node.input(0), node.output, node.inputs[2]
        weights = node.input(1).data
        assert weights is not None
        choice = self.blocking(g, target)
        tv, pairs, limit = choice.vectors, BLOCK_FLOAT.steps(g.channels, width), largest_activation(g)
        pair_blocks = ceil_div(pairs, width)
        numbers = numbers_of(g, choice, target, ceil_div(g.channels, width), pairs + 1)
        tiles, out_blocks, tile_at = (numbers[name] for name in ("tiles", "out_blocks", "m_at"))
        constants = [
            ("TT", choice.pixel_tiles), ("TV", tv), ("U", pairs_at_once(pairs, target)), ("GUARD", int(out_blocks % tv != 0)),
            ("PARTIAL_X", int(g.out[2] % 4 != 0)), ("PARTIAL_Y", int(g.out[1] % 4 != 0)),
        ]  # fmt: skip
        constants = self.shared(constants)
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tv)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(partial(pack_units, weights, g, tiles, tv * width, width), DType.I32),
            "b": per_channel(None if bias is None else bias.data, g.out_channels, width, tv),
            "y": Pointer(y),
            "scratch": Scratch((tile_at + 2 * pair_blocks * _POINTS * width + choice.padded) * 4),
            "v": Scratch(_POINTS * pair_blocks * choice.padded * width * 4, DType.I32),
            "m": Scratch(_POINTS * tv * choice.padded * width * 4, DType.I32),
            "images": Extent(g.images), "x_batch": BatchStride(x), "y_batch": BatchStride(y),
        }  # fmt: skip
        unused = ("m_at", "ready_at", "chunk_blocks", "tiles_per_group")
        extents = {
            "channels": g.channels, "pairs": pairs, "pair_blocks": pair_blocks, "limit": limit,
            **{name: value for name, value in numbers.items() if name not in unused},
            "tile_at": tile_at, "tiles_per_group": numbers["tiles_per_group"],
        }  # fmt: skip
        arguments.update({name: Extent(value) for name, value in extents.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"F(4x4,3x3) in block floating point, {choice.tile_rows} tile rows a block, "
        note += f"{choice.pixel_tiles} tiles x {tv}x{width} channels"
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


def largest_activation(g: Geometry) -> int:
    """Units of the largest transformed number of a tile.

    Sums of ``C`` products have 31 bits for both operands. With 2**35 / C as the square of this, each takes about the share of the error
    that it has to: an activation's unit is a fraction of the largest number of a tile, a weight's one of the mean over the channels.
    """
    return min(32767, isqrt(2**35 // g.channels))


def round_weights(w: np.ndarray, g: Geometry, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Transformed filters of output channels, completed to ``channels``, as integers, and their units.

    Whatever the activations, ``limit`` times the sum of the magnitudes over the input channels stays below 2**31, and with it every sum.
    A channel with a weight that is not finite has the unit NaN.

    Returns:
        int16 ``[36][input channel][channel]``, and the units ``[36][channel]`` in float32, those of the activations' points included.
    """
    taps = filters_of(w, g, channels).reshape(channels, g.channels, 3, 3).transpose(2, 3, 1, 0)
    whole = np.empty((_POINTS, g.channels, channels), np.int16)
    units = np.empty((_POINTS, channels), np.float32)
    room = (2**31 - 1) / largest_activation(g) - g.channels / 2 - 1  # half a unit is what rounding adds to a magnitude
    with np.errstate(invalid="ignore", over="ignore"):
        for point, transformed in enumerate(transform_filters(taps, G)):
            magnitudes = np.abs(transformed)
            unit = np.maximum(np.maximum(magnitudes.sum(axis=0) / room, magnitudes.max(axis=0) / 32767), 1e-30)
            finite = np.isfinite(unit)
            whole[point] = np.rint(np.where(finite, transformed, 0) / np.where(finite, unit, 1))
            units[point] = np.where(finite, unit, np.nan) / _FINER[point]
    return whole, units


def pack_units(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, width: int) -> np.ndarray:
    """:func:`round_weights` by pairs of channels, and then units: ``[channel tile][36][pair, units][tile channel]`` words."""
    pairs = BLOCK_FLOAT.steps(g.channels, width)
    whole, units = round_weights(w, g, tiles * tile_channels)
    first = np.array([pair // width * 2 * width + pair % width for pair in range(pairs)])
    whole = np.concatenate([whole, np.zeros((_POINTS, 2 * width, whole.shape[2]), np.int16)], axis=1)
    words = np.stack([whole[:, first], whole[:, first + width]], axis=3).view(np.int32)[..., 0]
    rows = np.concatenate([words, units.view(np.int32)[:, None]], axis=1).reshape(_POINTS, pairs + 1, tiles, tile_channels)
    return np.ascontiguousarray(rows.transpose(2, 0, 1, 3)).reshape(tiles, -1)
