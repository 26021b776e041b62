"""The tile unit of the kernel language (Intel AMX) as plain Python; see :mod:`cnngraph.kernels.emulate`.

Semantics after Intel's Software Developer's Manual, volume 2: LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS, TDPBUSD. What the manual
makes a fault or what would halve the speed is an error here: a configuration that is none, tiles used without one or not released,
and rows that do not start at a multiple of 64 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TILES, ROWS, ROW_BYTES = 8, 16, 64
CONFIG_BYTES = 64
_SMALLEST_NORMAL = np.float32(2.0**-126)


class TileError(RuntimeError):
    """What the tile unit would not do, or not at speed."""


def full_configuration() -> np.ndarray:
    """The 64 bytes that configure eight tiles of 16 rows of 64 bytes (palette 1)."""
    config = np.zeros(CONFIG_BYTES, np.uint8)
    config[0] = 1
    config[16 : 16 + 2 * TILES].view(np.uint16)[:] = ROW_BYTES
    config[48 : 48 + TILES] = ROWS
    return config


def flushed(x: np.ndarray) -> np.ndarray:
    """float32 with numbers below the smallest normal one as zeros of their sign (FTZ, DAZ)."""
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(np.float32(0), x), x).astype(np.float32)


def fma_exact(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a*b + c of float32 whose products are exact in float64, rounded once to float32.

    The float64 sum is rounded to odd, after which rounding to float32 is the only one that shows (Boldo and Melquiond, 2008).
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    part = total - addend
    error = (product - part) + (addend - (total - part))
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    inexact = (error != 0) & even & np.isfinite(total)
    total = np.where(inexact, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total)
    return total.astype(np.float32)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16 as VCVTNEPS2BF16 does it: nearest even, small numbers to zero, NaN quiet."""
    bits = flushed(x).view(np.uint32)
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The float32 numbers of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class TileUnit:
    """The state of one thread's tiles."""

    def __init__(self) -> None:
        self._shapes: list[tuple[int, int]] | None = None
        self._tiles = np.zeros((TILES, ROWS, ROW_BYTES), np.uint8)

    def primitives(self) -> dict[str, Callable[..., Any]]:
        """The functions by their names in templates."""
        return {
            "tile_configure": self.configure, "tile_release": self.release, "tile_zero": self.zero, "tile_load": self.load,
            "tile_store": self.store, "tile_dot_bf16": self.dot_bf16, "tile_dot_bytes": self.dot_bytes,
        }  # fmt: skip

    def finish(self) -> None:
        """At the end of a kernel. Raises TileError where the tiles were not released."""
        if self._shapes is not None:
            raise TileError("a kernel ends with its tiles configured")

    def configure(self, p: Any, offset: int) -> None:
        """LDTILECFG."""
        config = p.array.view(np.uint8)[p.span(offset, CONFIG_BYTES)]
        widths, rows = config[16:48].view(np.uint16), config[48:64]
        if config[0] != 1 or config[1:16].any() or widths[TILES:].any() or rows[TILES:].any():
            raise TileError("no configuration of palette 1")
        shapes = [(int(r), int(c)) for r, c in zip(rows[:TILES], widths[:TILES], strict=True)]
        if any(r > ROWS or c > ROW_BYTES or (r == 0) != (c == 0) for r, c in shapes):
            raise TileError(f"impossible tiles {shapes}")
        self._shapes = shapes
        self._tiles[:] = 0

    def release(self) -> None:
        """TILERELEASE."""
        self._shapes = None

    def _shape(self, tile: int) -> tuple[int, int]:
        if self._shapes is None:
            raise TileError("tiles are used before they are configured")
        if not 0 <= tile < TILES or self._shapes[tile][0] == 0:
            raise TileError(f"tile {tile} is not configured")
        return self._shapes[tile]

    def zero(self, tile: int) -> None:
        """TILEZERO."""
        self._shape(tile)
        self._tiles[tile] = 0

    def _rows(self, p: Any, offset: int, pitch: int, shape: tuple[int, int]) -> list[slice]:
        """The checked bytes of each row in memory."""
        start, size = (p.offset + int(offset)) * p.array.itemsize, p.array.nbytes
        if (p.array.ctypes.data + start) % ROW_BYTES or pitch % ROW_BYTES:
            raise TileError(f"rows at {start} by {pitch} are not aligned to {ROW_BYTES} bytes")
        places = [start + row * int(pitch) for row in range(shape[0])]
        if min(places) < 0 or max(places) + shape[1] > size:
            raise IndexError(f"tile rows {places[0]}..{places[-1] + shape[1]} of {size} bytes")
        return [slice(at, at + shape[1]) for at in places]

    def load(self, tile: int, p: Any, offset: int, pitch: int) -> None:
        """TILELOADD: rows ``pitch`` bytes apart; what lies beyond the tile's shape becomes zero."""
        shape = self._shape(tile)
        memory = p.array.view(np.uint8)
        self._tiles[tile] = 0
        for row, place in enumerate(self._rows(p, offset, pitch, shape)):
            self._tiles[tile, row, : shape[1]] = memory[place]

    def store(self, tile: int, p: Any, offset: int, pitch: int) -> None:
        """TILESTORED."""
        shape = self._shape(tile)
        memory = p.array.view(np.uint8)
        for row, place in enumerate(self._rows(p, offset, pitch, shape)):
            memory[place] = self._tiles[tile, row, : shape[1]]

    def _operands(self, c: int, a: int, b: int) -> tuple[int, int, int]:
        """(rows of the result, its columns, groups of four bytes in a row of ``a``), checked."""
        (m, n_bytes), (a_rows, k_bytes), (b_rows, b_bytes) = self._shape(c), self._shape(a), self._shape(b)
        if len({c, a, b}) != 3:
            raise TileError("a product needs three different tiles")
        if a_rows != m or b_bytes != n_bytes or 4 * b_rows != k_bytes or n_bytes % 4:
            raise TileError("the tiles' shapes do not fit a product")
        return m, n_bytes // 4, b_rows

    def dot_bf16(self, c: int, a: int, b: int) -> None:
        """TDPBF16PS: even and odd products are added in two chains, both from zero, and their sum to the result; no subnormal numbers."""
        m, n, k = self._operands(c, a, b)
        left = flushed(from_bf16(self._tiles[a, :m, : 4 * k].view(np.uint16)))
        right = flushed(from_bf16(self._tiles[b, :k, : 4 * n].view(np.uint16)))
        chains = np.zeros((2, m, n), np.float32)
        with np.errstate(all="ignore"):
            for i in range(k):
                for odd in (0, 1):
                    chains[odd] = flushed(fma_exact(left[:, 2 * i + odd, None], right[i, odd::2][None], chains[odd]))
            sums = self._tiles[c, :m, : 4 * n].view(np.float32)
            sums[:] = flushed(flushed(sums) + flushed(chains[0] + chains[1]))

    def dot_bytes(self, c: int, a: int, b: int) -> None:
        """TDPBUSD: unsigned bytes of ``a`` times signed ones of ``b``, added to int32, which wraps around."""
        m, n, k = self._operands(c, a, b)
        left = self._tiles[a, :m, : 4 * k].astype(np.int64)
        right = self._tiles[b, :k, : 4 * n].view(np.int8).reshape(k, n, 4).transpose(0, 2, 1).reshape(4 * k, n).astype(np.int64)
        sums = self._tiles[c, :m, : 4 * n].view(np.int32)
        sums[:] = ((sums.astype(np.int64) + left @ right) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def _line(p: Any, offset: int) -> np.ndarray:
    """The 64 checked and aligned bytes at ``offset``."""
    assert p.array.itemsize == 1, "a pointer to bytes into other elements"
    place = p.span(offset, ROW_BYTES)
    if (p.array.ctypes.data + place.start) % ROW_BYTES:
        raise TileError(f"a row at {place.start} is not aligned to {ROW_BYTES} bytes")
    line: np.ndarray = p.array.view(np.uint8)[place]
    return line


def packing_primitives(width: int) -> dict[str, Callable[..., Any]]:
    """What puts rows of tiles together in memory, for vectors of ``width`` lanes."""

    def fill_row(p: Any, offset: int, value: Any) -> None:
        _line(p, offset)[:] = int(value) & 255

    def store_halves(p: Any, offset: int, a: np.ndarray, b: np.ndarray) -> None:
        _line(p, offset)[:] = to_bf16(np.concatenate([a, b]).astype(np.float32)).view(np.uint8)

    def store_half_blocks(p: Any, offset: int, x: Any, first: int, second: int) -> None:
        assert x.array.dtype.name == "bfloat16", "copies of other elements than bfloat16"
        _line(p, offset)[:] = np.concatenate([x.array[x.span(at, width)] for at in (first, second)]).view(np.uint8)

    def store_split(p: Any, offset: int, a: np.ndarray, b: np.ndarray) -> None:
        x = np.concatenate([a, b]).astype(np.float32)
        high = to_bf16(x)
        _line(p, offset)[:] = high.view(np.uint8)
        _line(p, offset + ROW_BYTES)[:] = to_bf16(x - from_bf16(high)).view(np.uint8)

    def store_byte_blocks(p: Any, offset: int, x: Any, at0: int, at1: int, at2: int, at3: int, flips: int) -> None:
        blocks = [x.array.view(np.uint8)[x.span(at, width)] for at in (at0, at1, at2, at3)]
        _line(p, offset)[:] = np.concatenate(blocks) ^ np.uint8(flips)

    def store_four_lanes(p: Any, offset: int, *vectors: np.ndarray) -> None:
        p.array[p.span(offset, 4 * width)] = np.stack(vectors, axis=1).reshape(-1)

    return {
        "fill_row": fill_row, "store_halves": store_halves, "store_half_blocks": store_half_blocks, "store_split": store_split,
        "store_byte_blocks": store_byte_blocks, "store_four_lanes": store_four_lanes, "prefetch_row": lambda p, offset: None,
    }  # fmt: skip


__all__ = [
    "CONFIG_BYTES",
    "TileError",
    "TileUnit",
    "fma_exact",
    "from_bf16",
    "full_configuration",
    "packing_primitives",
    "to_bf16",
]
