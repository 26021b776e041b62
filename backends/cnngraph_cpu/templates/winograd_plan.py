"""When and how Winograd F(4x4, 3x3) and F(2x2, 3x3) are used: blocking, weight transform, arguments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType, ceil_div, round_up
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
from cnngraph.kernels.winograd import transform_filters
from cnngraph.ops.conv import Conv
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates import winograd as kernel
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts, overwritable, per_channel
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry

G = {4: ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 2, 4), (1, -2, 4), (0, 0, 1)), 2: ((1, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 1))}
"""The weight transform by outputs of a tile along an axis: points 0, 1, -1, (2, -2) and infinity.

The factors 1/4, -1/6, -1/6, 1/24, 1/24, 1 (1, 1/2, 1/2, 1) of the rows are in the output transform.
"""

_TRANSFORM_CYCLES = {4: (220, 180), 2: (66, 60)}
"""Cycles of an input and of an output transform of one tile and vector of channels."""

_WEIGHT_TRANSFORM_CYCLES = {4: 200, 2: 90}
"""Cycles of transforming the filters of one input channel and a vector of output channels in the kernel."""

_MOST_WEIGHT_BYTES = 16 << 20
"""Transformed weights beyond this are made in the kernel: they take four times (F(2x2): 16/9) the memory of the filters. 512 to 512
channels take 20 percent more time for it at 14x14 and 9 percent at 28x28 (Zen 4, one thread)."""

_WEIGHT_BYTES_PER_CYCLE = 12.0
_TAPS = 9
_MORE_ROWS, _WORST = 3, 1.6
_PROVISIONS = ("GUARD", "PARTIAL_X", "PARTIAL_Y")
"""Constants whose 1 is right for every convolution, and 0 for those without partial tiles."""


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


@lru_cache(maxsize=4096)
def choose_blocking(g: Geometry, target: Target, step: int = 1) -> Blocking:
    """The blocking with the least estimated cycles whose scratch stays within the private cache where possible.

    ``step``: input channels a step of products takes, 2 for pairs of bfloat16.
    """
    return min(_blockings(g, target, step), key=lambda b: b.cycles)


@lru_cache(maxsize=4096)
def alternatives(g: Geometry, target: Target, step: int = 1) -> tuple[Blocking, ...]:
    """Blockings worth measuring besides the chosen one: the best of each kind of tile and number of vectors, and other numbers of rows."""
    chosen = choose_blocking(g, target, step)
    kinds: dict[tuple[int, int], Blocking] = {}
    rows: list[Blocking] = []
    for b in sorted(_blockings(g, target, step), key=lambda b: b.cycles):
        kinds.setdefault((b.outputs, b.vectors), b)
        if (b.outputs, b.pixel_tiles, b.vectors) == (chosen.outputs, chosen.pixel_tiles, chosen.vectors):
            rows.append(b)
    found = dict.fromkeys([*rows[: _MORE_ROWS + 1], *kinds.values()])
    return tuple(b for b in sorted(found, key=lambda b: b.cycles) if b != chosen and b.cycles < _WORST * chosen.cycles)


@lru_cache(maxsize=4096)
def _best_by_tile(g: Geometry, target: Target, step: int) -> dict[tuple[int, ...], Blocking]:
    """The least estimated cycles of each kind of tile and register tile."""
    found: dict[tuple[int, ...], Blocking] = {}
    for b in _blockings(g, target, step):
        key = (b.outputs, int(b.raw), b.pixel_tiles, b.vectors)
        if key not in found or b.cycles < found[key].cycles:
            found[key] = b
    return found


def _register_tile(spec: KernelSpec) -> tuple[int, ...]:
    constants = dict(spec.constants)
    return constants["M"], constants.get("RAW", 0), constants["TT"], constants["TV"]


def _blockings(g: Geometry, target: Target, step: int) -> Iterator[Blocking]:
    for outputs in G if step == 1 else (2,):  # of F(4x4, 3x3) bfloat16 loses too many bits
        yield from _blockings_of(g, target, outputs, step)


def _blockings_of(g: Geometry, target: Target, outputs: int, step: int) -> Iterator[Blocking]:
    width = target.width
    tiles_y, tiles_x = ceil_div(g.out[1], outputs), ceil_div(g.out[2], outputs)
    blocks, out_blocks = ceil_div(g.channels, width), ceil_div(g.out_channels, width)
    points = (outputs + 2) ** 2
    spare = 1 if target.has_fma else 2
    number = 4 // step
    raw = step == 1 and points * g.channels * out_blocks * width * number > _MOST_WEIGHT_BYTES
    weight_bytes = (_TAPS if raw else points) * g.channels * out_blocks * width * number
    stream = weight_bytes / _WEIGHT_BYTES_PER_CYCLE if weight_bytes > target.l2 // 2 else 0
    forth, back = _TRANSFORM_CYCLES[outputs]
    there = _WEIGHT_TRANSFORM_CYCLES[outputs] * g.channels * out_blocks if raw else 0
    room = target.l2 * (4 if raw else 3 / 4)  # what the kernel transforms should serve all tiles
    for tile_rows in range(1, tiles_y + 1):
        count = tile_rows * tiles_x
        if tile_rows > 1 and points * count * g.channels * number > room:
            break
        row_blocks = ceil_div(tiles_y, tile_rows)
        for vectors in range(1, min(4, out_blocks) + 1):
            limit = (target.registers - spare - vectors) // vectors
            for pixel_tiles in range(1, limit + 1):
                padded = round_up(count, pixel_tiles)
                products = pixel_tiles * vectors
                cycles = max(products / 2, (pixel_tiles + vectors) / 2 + 0.25 * vectors, 4.0) + 0.1 * pixel_tiles + 0.5 * vectors
                gemm = points * (g.channels // step) * ceil_div(out_blocks, vectors) * (padded // pixel_tiles) * cycles
                transforms = count * (forth * blocks + back * out_blocks)
                yield Blocking(outputs, raw, tile_rows, pixel_tiles, vectors, padded, row_blocks * (gemm + transforms + there + stream))


def _chunk_blocks(choice: Blocking, blocks: int, target: Target) -> int:
    """Channel blocks whose transformed weights stay within a quarter of the private cache, in chunks as equal as may be; 0 unless raw."""
    if not choice.raw:
        return 0
    block_bytes = (choice.outputs + 2) ** 2 * choice.vectors * target.width**2 * 4
    return ceil_div(blocks, ceil_div(blocks, max(1, target.l2 // 4 // block_bytes)))


class Winograd:
    """3x3 convolutions of stride 1 without groups or dilation, with at least a vector of input channels."""

    name = "winograd"
    reorders_arithmetic = True
    step = 1
    code = Code(
        kernel.winograd,
        {
            f.__name__: f
            for f in (
                kernel.pack_rows, kernel.input_line, kernel.output_line, kernel.transform_input, kernel.weight_line,
                kernel.transform_weights, kernel.multiply, kernel.transform_output,
            )
        },
        "Winograd convolution, F(4x4, 3x3) or F(2x2, 3x3), on blocked tensors.",
    )  # fmt: skip
    _direct = ConvDirect()

    def __init__(self, variant: str = "", like: KernelSpec | None = None) -> None:
        """Variants for tuning have another blocking, by name; those that share a kernel have its register tile."""
        self._variant, self._like = variant, like

    def candidates(self, node: Node, target: Target) -> dict[str, Template]:
        """Other tiles and other numbers of tile rows a block."""
        return {_title(b): type(self)(_title(b)) for b in alternatives(geometry(node), target, self.step)}

    def like(self, node: Node, target: Target, spec: KernelSpec) -> Template | None:
        """With the tiles of the kernel ``spec``, and its provisions for partial ones."""
        return type(self)(like=spec) if _register_tile(spec) in _best_by_tile(geometry(node), target, self.step) else None

    def _blocking(self, g: Geometry, target: Target) -> Blocking:
        if self._like is not None:
            return _best_by_tile(g, target, self.step)[_register_tile(self._like)]
        if not self._variant:
            return choose_blocking(g, target, self.step)
        return next(b for b in alternatives(g, target, self.step) if _title(b) == self._variant)

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution refuses, and every other kernel shape."""
        refusal = self._direct.accepts(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.kernel != (1, 3, 3) or g.stride != (1, 1, 1) or g.dilation != (1, 1, 1):
            return "Winograd F(MxM,3x3) needs a 3x3 kernel with stride and dilation 1"
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
        return self._blocking(geometry(node), target).cycles

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Transform and pack the weights, fix the blocking."""
        op = node.op
        assert isinstance(op, Conv)
        g, width = geometry(node), target.width
        x, y, bias = node.input(0), node.output, node.inputs[2]
        weights = node.input(1).data
        assert weights is not None
        choice, step = self._blocking(g, target), self.step
        element = DType.BF16 if step == 2 else DType.F32
        tv, m = choice.vectors, choice.outputs
        points = (m + 2) ** 2
        blocks, out_blocks = ceil_div(g.channels, width), ceil_div(g.out_channels, width)
        tiles = ceil_div(out_blocks, tv)
        tiles_y, tiles_x = ceil_div(g.out[1], m), ceil_div(g.out[2], m)
        scratch_rows, scratch_width = choice.tile_rows * m + 2, tiles_x * m + 2
        m_at = blocks * scratch_rows * scratch_width * width
        ready_at = m_at + points * tv * choice.padded * width
        chunk_blocks = _chunk_blocks(choice, blocks, target)
        scratch = ready_at + points * chunk_blocks * width * tv * width
        row_blocks = ceil_div(tiles_y, choice.tile_rows)
        numbers = {
            "channels": g.channels, "blocks": blocks, "out_blocks": out_blocks, "tiles": tiles, "height": g.size[1],
            "width": g.size[2], "rows_out": g.out[1], "cols_out": g.out[2], "tiles_y": tiles_y, "tiles_x": tiles_x,
            "tile_weights": (_TAPS if choice.raw else points) * g.channels * tv * width,
            "pad_y": g.pad[1], "pad_x": min(g.pad[2], scratch_width),
            "copied": max(0, min(g.size[2], scratch_width - g.pad[2])), "scratch_rows": scratch_rows,
            "scratch_width": scratch_width, "block_tile_rows": choice.tile_rows, "tiles_padded": choice.padded,
            "m_at": m_at, "ready_at": ready_at, "chunk_blocks": chunk_blocks,
            "tiles_per_group": tiles_per_group(tiles, row_blocks, raw=choice.raw),
        }  # fmt: skip
        constants = [
            ("M", m), ("P", m + 2), ("TT", choice.pixel_tiles), ("TV", tv), ("U", next(u for u in (2, 1) if g.channels % (u * step) == 0)),
            ("GUARD", int(out_blocks % tv != 0)), ("PARTIAL_X", int(g.out[2] % m != 0)), ("PARTIAL_Y", int(g.out[1] % m != 0)),
        ]  # fmt: skip
        if self._like is not None:
            constants = [(name, max(value, self._like.constant(name)) if name in _PROVISIONS else value) for name, value in constants]
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
            "scratch": Scratch(scratch * 4),
            "v": Scratch(points * blocks * choice.padded * width * element.itemsize, element),
            "images": Extent(g.images),
            "x_batch": BatchStride(x),
            "y_batch": BatchStride(y),
        }
        arguments.update({name: Extent(value) for name, value in numbers.items()})
        arguments.update(operands)
        spec = KernelSpec(self.name, target.isa, tuple(constants + kinds), op.epilogue)
        note = f"F({m}x{m},3x3), {choice.tile_rows} tile rows a block, {choice.pixel_tiles} tiles x {tv}x{width} channels"
        note += ", weights transformed in the kernel" if choice.raw else ""
        return KernelCall(spec, arguments, (note,), overwritable(node.inputs[3:], y))


def _title(b: Blocking) -> str:
    return f"F({b.outputs}x{b.outputs},3x3), {b.tile_rows} tile rows a block, {b.pixel_tiles} tiles x {b.vectors} vectors"


def _filters(w: np.ndarray, g: Geometry, channels: int) -> np.ndarray:
    """Filters of output channels, completed to ``channels`` with zeros: ``[channel][input channel][tap]``."""
    filters = np.zeros((channels, g.channels, _TAPS), np.float32)
    filters[: g.out_channels] = w.reshape(g.out_channels, g.channels, _TAPS)
    return filters


def pack_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, _outputs: int) -> np.ndarray:
    """Filters for kernels that transform them: ``[channel tile][channel][tap][tile channel]``."""
    filters = _filters(w, g, tiles * tile_channels).reshape(tiles, tile_channels, g.channels, _TAPS)
    return np.ascontiguousarray(filters.transpose(0, 2, 3, 1))


def transform_weights(w: np.ndarray, g: Geometry, tiles: int, tile_channels: int, outputs: int) -> np.ndarray:
    """G g G^T of every filter, in float64, rounded once: ``[channel tile][P*P][channel][tile channel]``, P = outputs + 2."""
    filters = _filters(w, g, tiles * tile_channels)
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


def tiles_per_group(tiles: int, row_blocks: int, *, raw: bool = False) -> int:
    """Channel tiles of a task. Groups repeat the input transform per thread, so there are no more than balance needs.

    Raw weights go with few and large row blocks, so that channel tiles alone are what many threads share.
    """
    for groups in range(1, tiles + 1):
        if row_blocks * groups >= 14 or (not raw and row_blocks * groups % 4 == 0):
            return ceil_div(tiles, groups)
    return 1
