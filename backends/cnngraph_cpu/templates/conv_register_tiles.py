"""Register tiles of direct convolutions, of floats and of bytes: which there are, the best, and the rows of pixels that are a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

from cnngraph.ir.types import ceil_div, product, round_up
from cnngraph.kernels.template import KernelSpec, Target
from cnngraph_cpu.templates.conv_geometry import Geometry, group_spans
from cnngraph_cpu.templates.tile_loops import ANY_TAIL

_PIXELS_PER_FLAT_ROW = 400
_SMALL_MACS = 50_000
_SMALL_COLS = 4
_MANY_TILES = 16
_NEXT_BEST, _WORST = 3, 1.6


@dataclass(frozen=True)
class Tile:
    """Register tile and the pixel grid it walks: rows x cols pixels times ``vectors`` of channels."""

    rows: int
    cols: int
    vectors: int
    tail: int
    grid_rows: int
    grid_cols: int
    cycles: float


def _grids(g: Geometry) -> Iterator[tuple[int, int]]:
    yield g.out[0] * g.out[1], g.out[2]
    if g.pointwise:
        pixels = product(g.out)
        for rows in range(1, min(pixels, 4096) + 1):
            if pixels % rows == 0 and pixels // rows <= _PIXELS_PER_FLAT_ROW:  # rows are what threads share
                yield rows, pixels // rows


def is_small(g: Geometry) -> bool:
    """Problems that take microseconds share one kernel for all sizes and strides instead of compiling their own."""
    return product(g.out) * product(g.kernel) * g.out_channels * (g.channels // g.group) <= _SMALL_MACS


def step_cycles(pixels: int, vectors: int) -> float:
    """Estimated cycles of a channel step of a register tile, see :func:`choose_tile`."""
    return max(pixels * vectors / 2, (pixels + vectors) / 2 + 0.25 * vectors, 4.0) + 0.1 * pixels + 0.5 * vectors


@lru_cache(maxsize=4096)
def choose_tile(g: Geometry, target: Target) -> Tile:
    """The register tile with the least estimated cycles per channel step.

    A tile of p pixels and v vectors costs max(p*v/2 FMA, (p+v)/2 loads, 4 for latency) cycles, plus a little for each
    stream of lines, on a core with two 512-bit ports; the ratios hold for one port too.
    """
    if is_small(g):
        rows, cols = g.out[0] * g.out[1], g.out[2]
        work = rows * cols * ceil_div(g.out_channels, target.width) * 1.5
        return Tile(1, _SMALL_COLS, 1, ANY_TAIL, rows, cols, work)
    cycles, shape = min(_tiles(g, target), key=itemgetter(0))
    return Tile(*shape, cycles)


def _tiles(g: Geometry, target: Target) -> Iterator[tuple[float, tuple[int, int, int, int, int, int]]]:
    """Estimated cycles and shape (the other fields of :class:`Tile` in order) of every register tile."""
    out_blocks = ceil_div(g.out_channels, target.width)
    spare = 1 if target.has_fma else 2
    reads = {v: sum(b - a for a, b in group_spans(g, v * target.width)) * g.group / g.channels for v in (1, 2, 3, 4)}

    for grid_rows, grid_cols in _grids(g):
        for vectors in (1, 2, 3, 4):
            if vectors > out_blocks:
                break
            limit = (target.registers - spare - vectors) // vectors
            for cols in range(1, min(limit, grid_cols) + 1):
                tail = grid_cols % cols
                for rows in (1, 2, 3, 4) if g.out[0] == 1 and not g.spread else (1,):
                    if rows * cols > limit or rows > grid_rows:
                        break
                    full, rest = divmod(grid_rows, rows)
                    work = 0.0
                    for count, r in ((full, rows), (rest, 1)):
                        ragged = step_cycles(r * tail, vectors) if tail else 0
                        work += count * (grid_cols // cols * step_cycles(r * cols, vectors) + ragged)
                    work *= reads[vectors]
                    work *= 1 + 0.002 * (tail > 0) + 0.02 * (rows > 1)  # among equals, the simpler kernel
                    yield work, (rows, cols, vectors, tail, grid_rows, grid_cols)


@lru_cache(maxsize=4096)
def alternatives(g: Geometry, target: Target) -> tuple[Tile, ...]:
    """Register tiles worth measuring besides the chosen one: the best of each number of vectors and kind, then the next best."""
    ranked: dict[tuple[int, int, int], Tile] = {}
    for cycles, shape in sorted(_tiles(g, target), key=itemgetter(0)):
        tile = Tile(*shape, cycles)
        ranked.setdefault((tile.rows, tile.cols, tile.vectors), tile)
    kinds: dict[tuple[bool, int], Tile] = {}
    for tile in ranked.values():
        kinds.setdefault((tile.rows > 1, tile.vectors), tile)
    chosen = choose_tile(g, target)
    found = dict.fromkeys([*list(ranked.values())[:_NEXT_BEST], *kinds.values()])
    return tuple(tile for tile in sorted(found, key=lambda t: t.cycles) if tile != chosen and tile.cycles < _WORST * chosen.cycles)


@lru_cache(maxsize=4096)
def best_by_tile(g: Geometry, target: Target) -> dict[tuple[int, ...], Tile]:
    """The least estimated cycles of each register tile and tail, over the grids of pixels that have it."""
    found: dict[tuple[int, ...], Tile] = {}
    for cycles, shape in _tiles(g, target):
        if shape[:4] not in found or cycles < found[shape[:4]].cycles:
            found[shape[:4]] = Tile(*shape, cycles)
    return found


def tile_of(spec: KernelSpec) -> tuple[int, ...]:
    """Rows, columns, vectors and tail of the register tile of a kernel, a key of :func:`best_by_tile`."""
    return tuple(spec.constant(name) for name in ("TR", "TC", "TV", "TAIL_COLS"))


def rows_in_place(tile: Tile, rows: int, bytes_per_tile: int, target: Target) -> int:
    """Rows of a task that reads in place: as many as keep its input within a third of the private cache."""
    tiles_per_row = max(1, tile.grid_cols // max(1, tile.cols))
    row_bytes = max(1, bytes_per_tile // tile.rows * tiles_per_row)
    return even_blocks(rows, tile.rows, target.l2 // 3 // row_bytes)


def rows_in_scratch(tile: Tile, reach: int, stride: int, row_bytes: int, target: Target) -> int:
    """Output rows of a task whose packed input stays within a third of the private cache."""
    best = tile.rows
    for rows in range(tile.rows, ceil_div(tile.grid_rows, tile.rows) * tile.rows + 1, tile.rows):
        if ((rows - 1) * stride + reach) * row_bytes <= target.l2 // 3:
            best = rows
    return even_blocks(tile.grid_rows, tile.rows, best)


def even_blocks(rows: int, step: int, fit: int) -> int:
    """Rows of a task: a multiple of ``step``, at most ``fit`` if that is no less, the tasks equal and one or an even number of them."""
    count = ceil_div(rows, max(step, fit // step * step))
    if count > 1:
        count += count % 2
    return round_up(ceil_div(rows, count), step)


def halved(block_rows: int, tile: Tile, tiles: int) -> int:
    """Half of all rows where one block has a small odd number of channel tiles, of which two threads would get unequal shares."""
    even = tile.grid_rows % (2 * tile.rows) == 0
    return block_rows // 2 if block_rows >= tile.grid_rows and even and tiles % 2 and tiles < _MANY_TILES else block_rows


def tiles_per_group_of(tiles: int, row_blocks: int) -> int:
    """Channel tiles of a task: small enough that there are tasks for many threads, evenly divided where possible."""
    for groups in range(1, tiles + 1):
        if row_blocks * groups >= 16 and (row_blocks * groups % 4 == 0 or row_blocks * groups >= 48):
            return ceil_div(tiles, groups)
    return 1
