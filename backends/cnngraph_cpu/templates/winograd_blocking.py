"""How Winograd convolutions are cut up: the estimate of cycles, and what the templates of the three arithmetics share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, round_up
from cnngraph.kernels.template import KernelSpec, Target, Template
from cnngraph_cpu.templates.common import with_provisions
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry

TAPS = 9
_MORE_ROWS, _WORST = 3, 1.6
_PROVISIONS = ("GUARD", "PARTIAL_X", "PARTIAL_Y")
"""Constants whose 1 is right for every convolution, and 0 for those without partial tiles."""


@dataclass(frozen=True)
class OutputTile:
    """A size of output tiles.

    Attributes:
        outputs: pixels along an axis.
        forth, back: cycles of an input transform, and of an output transform of one vector of channels.
        filters: cycles of transforming in the kernel the filters of one input channel (of ``joined``) and a vector of output channels.
    """

    outputs: int
    forth: float
    back: float
    filters: float


@dataclass(frozen=True)
class Arithmetic:
    """What transformed numbers are, and what computing with them costs.

    Attributes:
        step: input channels that a product takes at once.
        number: bytes of a transformed activation or weight.
        joined: vectors of input channels that an input transform takes at once.
        tiles: the sizes of output tiles that are accurate enough.
        most_bytes: transformed weights beyond this are made in the kernel.
        any_raw: whether fewer may be made in the kernel, too.
        raw_room: size of the transformed tiles over that of the private cache, at most, where the kernel transforms weights.
        stream: bytes of weights that are read in a cycle.
        beside: how much of the shorter of both, reading weights and the products, goes by beside the other.
        apart: whether the channels of a product are of two blocks, which may be one and no other, or else neighbours.
        spills: cycles of a byte of scratch that the private cache has no room for.
        of_bytes: whether it takes dot products of bytes for a product and its sum to be one instruction, not fused multiply-adds.
    """

    step: int
    number: int
    joined: int
    tiles: tuple[OutputTile, ...]
    most_bytes: float
    any_raw: bool
    raw_room: float
    stream: float
    beside: float = 0.0
    apart: bool = False
    spills: float = 0.0
    of_bytes: bool = False

    def fused(self, target: Target) -> bool:
        """Whether a product and its sum are one instruction."""
        return target.dot if self.of_bytes else target.has_fma

    def steps(self, channels: int, width: int) -> int:
        """Products of a point over some input channels, in vectors of ``width`` lanes."""
        if not self.apart:
            return ceil_div(channels, self.step)
        whole, rest = divmod(channels, self.step * width)
        return whole * width + min(rest, width)


F32 = Arithmetic(1, 4, 1, (OutputTile(4, 220, 180, 200), OutputTile(2, 66, 60, 90)), 16 << 20, False, 4.0, 12.0)
"""Transformed weights take four times (F(2x2): 16/9) the memory of the filters. To make them in the kernel costs 512 to 512 channels 20
percent more time at 14x14 and 9 percent at 28x28 (Zen 4, one thread)."""

PAIRS = Arithmetic(2, 2, 1, (OutputTile(2, 66, 60, 90),), float("inf"), False, 4.0, 12.0)
"""Pairs of bfloat16, of which F(4x4, 3x3) would lose too many bits."""

SHORTS = Arithmetic(2, 2, 2, (OutputTile(4, 150, 170, 70),), 4 << 20, True, 2.0, 8.0, of_bytes=True)
"""Pairs of int16. Filters in the kernel cost little, for there are 18 bytes of a filter where there would be 72 of transformed weights."""


BLOCK_FLOAT = Arithmetic(
    2, 2, 1, (OutputTile(4, 290, 220, 0),), float("inf"), False, 4.0, 8.0, beside=0.9, apart=True, spills=1 / 16, of_bytes=True
)
"""Pairs of int16 in block floating point. To round weights in the kernel would take as long as their products with tiles of small maps.
18.9 MB out of memory took 2.2 million cycles on Zen 4 and 2.3 on Zen 5, hence 8 bytes a cycle."""


@dataclass(frozen=True)
class Blocking:
    """How a convolution is cut up.

    Attributes:
        outputs: pixels of an output tile along an axis.
        raw: whether the kernel transforms the weights, a chunk of channels at a time, instead of the plan.
        tile_rows: rows of tiles of a task.
        pixel_tiles, vectors: the register tile.
        padded: tiles of a task, rounded up to register tiles.
        cycles: estimate for an image.
    """

    outputs: int
    raw: bool
    tile_rows: int
    pixel_tiles: int
    vectors: int
    padded: int
    cycles: float

    @property
    def points(self) -> int:
        """Products of a tile."""
        return (self.outputs + 2) ** 2

    @property
    def register_tile(self) -> tuple[int, ...]:
        """What kernels are made for."""
        return self.outputs, int(self.raw), self.pixel_tiles, self.vectors

    @property
    def title(self) -> str:
        """For people, and for records of tuning."""
        size, raw = f"F({self.outputs}x{self.outputs},3x3)", ", weights transformed in the kernel" if self.raw else ""
        return f"{size}, {self.tile_rows} tile rows a block, {self.pixel_tiles} tiles x {self.vectors} vectors{raw}"


@lru_cache(maxsize=4096)
def choose_blocking(g: Geometry, target: Target, arithmetic: Arithmetic = F32) -> Blocking:
    """The blocking with the least estimated cycles whose scratch stays within the private cache where possible."""
    return min(_blockings(g, target, arithmetic), key=lambda b: b.cycles)


@lru_cache(maxsize=4096)
def alternatives(g: Geometry, target: Target, arithmetic: Arithmetic = F32) -> tuple[Blocking, ...]:
    """Blockings worth measuring besides the chosen one: the best of each kind of tile and number of vectors, and other numbers of rows."""
    chosen = choose_blocking(g, target, arithmetic)
    kinds: dict[tuple[int, int], Blocking] = {}
    rows: list[Blocking] = []
    for b in sorted(_blockings(g, target, arithmetic), key=lambda b: b.cycles):
        kinds.setdefault((b.outputs, b.vectors), b)
        if b.register_tile == chosen.register_tile:
            rows.append(b)
    found = dict.fromkeys([*rows[: _MORE_ROWS + 1], *kinds.values()])
    return tuple(b for b in sorted(found, key=lambda b: b.cycles) if b != chosen and b.cycles < _WORST * chosen.cycles)


@lru_cache(maxsize=4096)
def _best_by_tile(g: Geometry, target: Target, arithmetic: Arithmetic) -> dict[tuple[int, ...], Blocking]:
    """The least estimated cycles of each kind of tile and register tile."""
    found: dict[tuple[int, ...], Blocking] = {}
    for b in _blockings(g, target, arithmetic):
        if b.register_tile not in found or b.cycles < found[b.register_tile].cycles:
            found[b.register_tile] = b
    return found


def _register_tile(spec: KernelSpec, arithmetic: Arithmetic) -> tuple[int, ...]:
    constants = dict(spec.constants)
    return constants.get("M", arithmetic.tiles[0].outputs), constants.get("RAW", 0), constants["TT"], constants["TV"]


def _blockings(g: Geometry, target: Target, arithmetic: Arithmetic) -> Iterator[Blocking]:
    for tile in arithmetic.tiles:
        steps, out_blocks = arithmetic.steps(g.channels, target.width), ceil_div(g.out_channels, target.width)
        transformed = (tile.outputs + 2) ** 2 * steps * arithmetic.step * out_blocks * target.width * arithmetic.number
        large = transformed > arithmetic.most_bytes
        for raw in (False, True) if arithmetic.any_raw and not large else (large,):
            yield from _blockings_of(g, target, arithmetic, tile, raw)


def _blockings_of(g: Geometry, target: Target, arithmetic: Arithmetic, tile: OutputTile, raw: bool) -> Iterator[Blocking]:
    width, outputs, points = target.width, tile.outputs, (tile.outputs + 2) ** 2
    tiles_y, tiles_x = ceil_div(g.out[1], outputs), ceil_div(g.out[2], outputs)
    steps, out_blocks = arithmetic.steps(g.channels, target.width), ceil_div(g.out_channels, width)
    channel_bytes = steps * arithmetic.step * arithmetic.number
    spare, product = (1, 1 / 2) if arithmetic.fused(target) else (2, 1.0 if arithmetic.of_bytes else 1 / 2)
    weight_bytes = (TAPS if raw else points) * channel_bytes * out_blocks * width
    stream = weight_bytes / arithmetic.stream if weight_bytes > target.l2 // 2 else 0
    there = tile.filters * ceil_div(g.channels, arithmetic.joined) * out_blocks if raw else 0
    room = target.l2 * (arithmetic.raw_room if raw else 3 / 4)  # what the kernel transforms should serve all tiles
    for tile_rows in range(1, tiles_y + 1):
        count = tile_rows * tiles_x
        if tile_rows > 1 and points * count * channel_bytes > room:
            break
        row_blocks = ceil_div(tiles_y, tile_rows)
        for vectors in range(1, min(4, out_blocks) + 1):
            limit = (target.registers - spare - vectors) // vectors
            for pixel_tiles in range(1, limit + 1):
                padded = round_up(count, pixel_tiles)
                products = pixel_tiles * vectors * product
                cycles = max(products, (pixel_tiles + vectors) / 2 + 0.25 * vectors, 4.0) + 0.1 * pixel_tiles + 0.5 * vectors
                gemm = points * steps * ceil_div(out_blocks, vectors) * (padded // pixel_tiles) * cycles
                rows = (tile_rows * outputs + 2) * (tiles_x * outputs + 2) * ceil_div(g.channels, width) * width * 4
                beyond = max(0, points * padded * (channel_bytes + vectors * width * 4) + rows - target.l2) * arithmetic.spills
                transforms = beyond + count * (tile.forth * ceil_div(g.channels, arithmetic.joined * width) + tile.back * out_blocks)
                waits = stream - arithmetic.beside * min(stream, gemm)
                yield Blocking(outputs, raw, tile_rows, pixel_tiles, vectors, padded, row_blocks * (gemm + transforms + there + waits))


def blocks_at_once(choice: Blocking, blocks: int, target: Target) -> int:
    """How many of ``blocks`` the kernel transforms the weights of at a time; 0 unless raw.

    They stay within a quarter of the private cache, in chunks as equal as may be. A block is a vector of words of weights deep.
    """
    if not choice.raw:
        return 0
    block_bytes = choice.points * choice.vectors * target.width**2 * 4
    return ceil_div(blocks, ceil_div(blocks, max(1, target.l2 // 4 // block_bytes)))


def refuse_shape(g: Geometry, target: Target) -> str | None:
    """A refusal of other kernel shapes, of groups and of few channels."""
    if g.kernel != (1, 3, 3) or g.stride != (1, 1, 1) or g.dilation != (1, 1, 1):
        return "Winograd F(MxM,3x3) needs a 3x3 kernel with stride and dilation 1"
    if g.group != 1:
        return "grouped"
    if g.channels < target.width:
        return "fewer input channels than a vector has lanes"
    if g.pad[0] or g.size[0] != 1:
        return "three-dimensional"
    return None


def numbers_of(g: Geometry, choice: Blocking, target: Target, vectors: int, rows: int) -> dict[str, int]:
    """Extents and places by the kernels' names for them.

    Args:
        g: the convolution.
        choice: how it is cut up.
        target: the instruction set.
        vectors: of input channels, in a transformed tile.
        rows: of weights that a point of a channel tile has, each ``choice.vectors`` vectors.
    """
    width, tile_channels = target.width, choice.vectors * target.width
    tiles_y, tiles_x = ceil_div(g.out[1], choice.outputs), ceil_div(g.out[2], choice.outputs)
    scratch_rows, scratch_width = choice.tile_rows * choice.outputs + 2, tiles_x * choice.outputs + 2
    m_at = vectors * scratch_rows * scratch_width * width
    out_blocks = ceil_div(g.out_channels, width)
    tiles = ceil_div(out_blocks, choice.vectors)
    return {
        "blocks": ceil_div(g.channels, width), "out_blocks": out_blocks, "tiles": tiles, "height": g.size[1], "width": g.size[2],
        "rows_out": g.out[1], "cols_out": g.out[2], "tiles_y": tiles_y, "tiles_x": tiles_x,
        "tile_weights": (TAPS if choice.raw else choice.points) * rows * tile_channels,
        "pad_y": g.pad[1], "pad_x": min(g.pad[2], scratch_width), "copied": max(0, min(g.size[2], scratch_width - g.pad[2])),
        "scratch_rows": scratch_rows, "scratch_width": scratch_width, "block_tile_rows": choice.tile_rows,
        "tiles_padded": choice.padded, "m_at": m_at, "ready_at": m_at + choice.points * choice.padded * tile_channels,
        "chunk_blocks": blocks_at_once(choice, vectors, target),
        "tiles_per_group": _tiles_per_group(tiles, ceil_div(tiles_y, choice.tile_rows), raw=choice.raw),
    }  # fmt: skip


def scratch_of(choice: Blocking, numbers: dict[str, int], target: Target) -> int:
    """Elements of scratch: rows, products and the weights that are transformed at a time."""
    return numbers["ready_at"] + choice.points * numbers["chunk_blocks"] * target.width**2 * choice.vectors


def _tiles_per_group(tiles: int, row_blocks: int, *, raw: bool) -> int:
    """Channel tiles of a task. Groups repeat the input transform per thread, so there are no more than balance needs.

    Raw weights go with few and large row blocks, so that channel tiles alone are what many threads share.
    """
    for groups in range(1, tiles + 1):
        if row_blocks * groups >= 14 or (not raw and row_blocks * groups % 4 == 0):
            return ceil_div(tiles, groups)
    return 1


class BlockedWinograd:
    """What templates of Winograd convolutions have in common: the choice of a blocking."""

    arithmetic = F32

    def __init__(self, variant: str = "", like: KernelSpec | None = None) -> None:
        """Variants for tuning have another blocking, by name; those that share a kernel have its register tile."""
        self._variant, self._like = variant, like

    def candidates(self, node: Node, target: Target) -> dict[str, Template]:
        """Other tiles and other numbers of tile rows a block."""
        return {b.title: self._with(b.title) for b in alternatives(geometry(node), target, self.arithmetic)}

    def like(self, node: Node, target: Target, spec: KernelSpec) -> Template | None:
        """With the tiles of the kernel ``spec``, and its provisions for partial ones."""
        known = _best_by_tile(geometry(node), target, self.arithmetic)
        return self._with(like=spec) if _register_tile(spec, self.arithmetic) in known else None

    def _with(self, variant: str = "", like: KernelSpec | None = None) -> Template:
        return cast("Template", type(self)(variant, like))  # subclasses are templates

    def blocking(self, g: Geometry, target: Target) -> Blocking:
        """The blocking of this variant."""
        if self._like is not None:
            return _best_by_tile(g, target, self.arithmetic)[_register_tile(self._like, self.arithmetic)]
        if not self._variant:
            return choose_blocking(g, target, self.arithmetic)
        return next(b for b in alternatives(g, target, self.arithmetic) if b.title == self._variant)

    def shared(self, constants: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """The constants of a kernel, with the provisions of the one that is to be shared."""
        return with_provisions(constants, self._like, _PROVISIONS)

    def cost(self, node: Node, target: Target) -> float:
        """Cycles of multiplication, transforms and weight streaming."""
        return self.blocking(geometry(node), target).cycles
