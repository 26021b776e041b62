"""When and how 1x1 convolutions take Strassen's seven products: blocking, sums of weights, arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import attrgetter

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType, ceil_div, product
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
from cnngraph_cpu.templates import strassen as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts, overwritable, per_channel, with_provisions
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.conv_pairs import RATE, ConvPairs
from cnngraph_cpu.templates.conv_register_tiles import step_cycles

STEPS = 7
_NEXT_BEST, _WORST = 3, 1.6
_LEAST_MACS = 10_000_000
"""Multiply-adds from which layers of bfloat16 take it: ResNet-18's shortcuts (6.4 million) took its largest error from 1.4 to 2.1 %."""
_PROVISIONS = ("SKIP", "GUARD")
"""Constants whose 1 is right for every convolution."""
_KEPT, _PACKED, _IN_PLACE = 2.7, 14.0, 10.0
"""Half cycles for each vector of results, of which some are kept, and for each vector of a quarter of the pixels whose sums are made."""
_MORE_WEIGHTS, _STREAM = 3 / 4, 24.0
"""Sums of weights over the weights, and their bytes that are read from memory in half a cycle beside the products."""


@dataclass(frozen=True)
class Blocking:
    """How a convolution is cut up.

    Attributes:
        tile, vectors: pixels and vectors of output channels of the register tile.
        pairs: whole pairs of tiles of an image.
        tail: pixels of the two last, smaller tiles; 0 for none.
        cycles: estimate for an image, in the unit of :func:`cnngraph_cpu.templates.conv_register_tiles.choose_tile`.
    """

    tile: int
    vectors: int
    pairs: int
    tail: int
    cycles: float


@lru_cache(maxsize=4096)
def choose_blocking(g: Geometry, target: Target, step: int) -> Blocking:
    """The blocking with the least estimated cycles, for products that take ``step`` input channels at once."""
    return min(_blockings(g, target, step), key=attrgetter("cycles"))


def _blockings(g: Geometry, target: Target, step: int) -> Iterator[Blocking]:
    pixels, out_blocks = product(g.out), ceil_div(g.out_channels, target.width)
    depth, half_blocks = g.channels // (2 * step), g.channels // (2 * target.width)
    spare = 1 if target.has_fma else 2
    sums = _IN_PLACE if g.pointwise else _PACKED
    weight_bytes = g.channels * out_blocks * target.width * 4 / step
    stream = weight_bytes * _MORE_WEIGHTS / _STREAM if weight_bytes > target.l2 // 2 else 0
    for vectors in range(1, 5):
        tiles = ceil_div(out_blocks, 2 * vectors)
        for tile in range(1, (target.registers - spare - vectors) // vectors + 1):
            pairs, rest = divmod(pixels, 2 * tile) if pixels >= 2 * tile else (1, 0)
            if 2 * tile > pixels + 1:
                break
            tail = ceil_div(rest, 2)

            def cycles(count: int, vectors: int = vectors, tiles: int = tiles) -> float:
                return tiles * (STEPS * depth * step_cycles(count, vectors) + 4 * _KEPT * count * vectors) + sums * count * half_blocks

            yield Blocking(tile, vectors, pairs, tail, pairs * cycles(tile) + (cycles(tail) if tail else 0) + stream)


@lru_cache(maxsize=4096)
def _best_by_tile(g: Geometry, target: Target, step: int) -> dict[tuple[int, int, int], Blocking]:
    """The blocking of each register tile with its tail, the least estimated cycles first."""
    return {(b.tile, b.vectors, b.tail): b for b in sorted(_blockings(g, target, step), key=attrgetter("cycles"))}


class Strassen:
    """1x1 convolutions of any stride without groups, whose input channels are two halves of whole blocks."""

    name = "strassen"
    reorders_arithmetic = True
    parts_channels = True
    step = 1
    code = Code(
        kernel.strassen,
        {f.__name__: f for f in (kernel.pack_pair, kernel.product, kernel.keep, kernel.add_kept, kernel.pair_of_tiles, kernel.first_task)},
        "1x1 convolution by Strassen's seven products of quarters.",
    )

    _direct: Template = ConvDirect()

    def __init__(self, tile: tuple[int, int, int] | None = None, like: KernelSpec | None = None) -> None:
        """Variants for tuning have a register tile of pixels and vectors with a tail; those that share a kernel have its."""
        self._like, self._tile = like, _tile_of(like) if like else tile

    def candidates(self, node: Node, target: Target) -> dict[str, Template]:
        """Other register tiles."""
        known = _best_by_tile(geometry(node), target, self.step)
        chosen = self._blocking(geometry(node), target)
        others = [tile for tile, b in known.items() if b != chosen and b.cycles < _WORST * chosen.cycles]
        return {"pairs of {} x {} vectors, tail {}".format(*tile): type(self)(tile) for tile in others[:_NEXT_BEST]}

    def like(self, node: Node, target: Target, spec: KernelSpec) -> Template | None:
        """With the register tile of the kernel ``spec``, and its provisions."""
        if spec.constant("IN_PLACE") != self._in_place(node) or _tile_of(spec) not in _best_by_tile(geometry(node), target, self.step):
            return None
        return type(self)(like=spec)

    def _blocking(self, g: Geometry, target: Target) -> Blocking:
        return _best_by_tile(g, target, self.step)[self._tile] if self._tile else choose_blocking(g, target, self.step)

    def _in_place(self, node: Node) -> bool:
        """Whether steps that take quarters of the pixels read them where they are."""
        return geometry(node).pointwise and node.input(0).type.dtype is (DType.BF16 if self.step == 2 else DType.F32)

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution refuses, and every other kernel shape."""
        refusal = self._direct.accepts(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.kernel != (1, 1, 1) or g.group != 1 or any(g.pad + g.pad_end):
            return "Strassen's products are for 1x1 kernels without padding or groups"
        if g.channels % (2 * target.width):
            return "the input channels are not two halves of whole vectors"
        if g.out_channels <= target.width or product(g.out) < 2:
            return "no two vectors of output channels, or no two pixels"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of multiplication and of sums."""
        return self._blocking(geometry(node), target).cycles * (RATE if self.step == 2 else 1)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Add up and pack the weights, fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width, step = geometry(node), target.width, self.step
        x, y, bias = node.input(0), node.output, node.inputs[2]
        weights = node.input(1).data
        assert weights is not None
        element = DType.BF16 if step == 2 else DType.F32
        in_place, choice = self._in_place(node), self._blocking(g, target)
        pixels, half_blocks, out_blocks = product(g.out), g.channels // (2 * width), ceil_div(g.out_channels, width)
        tile_vectors = 2 * choice.vectors
        tiles = ceil_div(out_blocks, tile_vectors)
        all_pairs = choice.pairs + (choice.tail > 0)
        slot = half_blocks * choice.tile * width
        held = (4 if in_place else STEPS) * slot * element.itemsize
        panel_pairs = 1 if tiles == 1 else _even_share(all_pairs, tiles, held, target)
        constants = [
            ("TP", choice.tile), ("TV", choice.vectors), ("U", 1), ("TAIL", choice.tail),
            ("SKIP", pixels % 2), ("GUARD", int(out_blocks % tile_vectors != 0)), ("IN_PLACE", int(in_place)),
        ]  # fmt: skip
        if step == 2:
            constants.append(("STEP", 2))
        constants = with_provisions(constants, self._like, _PROVISIONS)
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width, tile_vectors)
        arguments: dict[str, Argument] = {
            "x": Pointer(x),
            "w": Packed(partial(pack_weights, weights, g, tiles, choice.vectors * width, step), element),
            "b": per_channel(None if bias is None else bias.data, g.out_channels, width, tile_vectors),
            "y": Pointer(y),
            "places": Packed(np.zeros(1, np.int64) if in_place else _places(g, width)),
            "packed": Scratch(panel_pairs * STEPS * slot * element.itemsize, element),
            "kept": Scratch(3 * choice.vectors * choice.tile * width * 4),
            "images": Extent(g.images),
            "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }
        numbers = {
            "half_blocks": half_blocks, "out_blocks": out_blocks, "tiles": tiles, "pixels": pixels, "plane": product(g.size) * width,
            "skipped": pixels % 2, "pairs": choice.pairs, "panel_pairs": panel_pairs, "slot_step": slot, "pair_step": STEPS * slot,
            "tile_weights": STEPS * (g.channels // 2) * choice.vectors * width,
            "tiles_per_group": _tiles_per_group(tiles, all_pairs // panel_pairs),
        }  # fmt: skip
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"pairs of {choice.tile} pixels x {choice.vectors}x{width} channels, {panel_pairs} pairs a panel"
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


class StrassenPairs(Strassen):
    """The same with dot products of pairs of bfloat16: sums of pixels and of weights are rounded to bfloat16 again."""

    name = "strassen_pairs"
    rounds_tiles = True
    step = 2
    _direct = ConvPairs()

    def cost(self, node: Node, target: Target) -> float:
        """Of small layers, which gain microseconds, more than any other way, for sums are rounded once more."""
        g = geometry(node)
        small = product(g.out) * g.channels * g.out_channels < _LEAST_MACS
        return super().cost(node, target) * (2 if small else 1)


def _tile_of(spec: KernelSpec) -> tuple[int, int, int]:
    """Pixels and vectors of the register tile of a kernel, and the pixels of the smaller one."""
    return spec.constant("TP"), spec.constant("TV"), spec.constant("TAIL")


def _places(g: Geometry, width: int) -> np.ndarray:
    """Elements from the beginning of a channel block to each pixel that is read."""
    z, y, x = (np.arange(n) * s for n, s in zip(g.out, g.stride, strict=True))
    return (((z[:, None, None] * g.size[1] + y[:, None]) * g.size[2] + x) * width).reshape(-1)


def _even_share(pairs: int, tiles: int, held: int, target: Target) -> int:
    """Pairs of a panel, whose sums take ``held`` bytes each.

    All in half the private cache where threads share the channel tiles and few repeat the sums, or a divisor of their number in a quarter.
    """
    if tiles >= 8 and tiles % 4 == 0 and pairs * held <= target.l2 // 2:
        return pairs
    return max(n for n in range(1, max(1, min(pairs, target.l2 // 4 // held)) + 1) if pairs % n == 0)


def _tiles_per_group(tiles: int, panels: int) -> int:
    """Channel tiles of a task. Groups repeat the sums per thread, so there are no more than balance needs."""
    enough = [n for n in range(1, tiles + 1) if panels * n >= 14 or panels * n % 4 == 0]
    even = [n for n in enough if tiles % n == 0]
    return ceil_div(tiles, (even or enough or [tiles])[0])


def pack_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, step: int = 1) -> np.ndarray:
    """The steps' weights, summed in float64 and rounded once: ``[tile][step][channels of a half / step][tile channel][step]``."""
    filters = np.zeros((tiles * 2 * tile_channels, g.channels))
    filters[: g.out_channels] = w.reshape(g.out_channels, g.channels)
    halves = filters.reshape(tiles, 2, tile_channels, 2, g.channels // 2)
    b11, b12, b21, b22 = (halves[:, column, :, row] for row in (0, 1) for column in (0, 1))
    t2 = b22 - b12 + b11
    stacked = np.stack([b11, b21, t2, b22 - b12, b21 - t2, b12 - b11, b22], axis=1)
    split = stacked.reshape(tiles, STEPS, tile_channels, -1, step).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(split, np.float32).astype((DType.BF16 if step == 2 else DType.F32).numpy, copy=False)
