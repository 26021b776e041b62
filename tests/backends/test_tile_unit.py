"""The plain-Python tile unit: its arithmetic against exact fractions, and what it refuses."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from cnngraph.kernels.emulate import EmulatedPointer, run
from cnngraph.kernels.emulate_tile import (
    TileError,
    TileUnit,
    flushed,
    fma_exact,
    from_bf16,
    full_configuration,
    packing_primitives,
    to_bf16,
)
from cnngraph.runtime.execute import aligned

_RNG = np.random.default_rng(21)


def pointer(array: np.ndarray) -> EmulatedPointer:
    """At a multiple of 64 bytes."""
    memory = aligned(array.nbytes)
    memory[:] = array.reshape(-1).view(np.uint8)
    return EmulatedPointer(memory)


def configured(config: np.ndarray | None = None) -> TileUnit:
    unit = TileUnit()
    unit.configure(pointer(full_configuration() if config is None else config), 0)
    return unit


def stored(unit: TileUnit, tile: int) -> np.ndarray:
    out = pointer(np.zeros(1024, np.uint8))
    unit.store(tile, out, 0, 64)
    return out.array


def nearest_float32(value: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even; float64 is nearly it, so only neighbours compete."""
    guess = np.float32(float(value))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(around, key=lambda f: (abs(Fraction(float(f)) - value), int(np.float32(f).view(np.uint32)) & 1))


def test_a_product_and_sum_is_rounded_once() -> None:
    a, b = (from_bf16(to_bf16(_RNG.standard_normal(300).astype(np.float32))) for _ in range(2))
    scales = np.float32(2.0) ** _RNG.integers(-40, 40, 300).astype(np.float32)
    c = (_RNG.standard_normal(300).astype(np.float32) * scales).astype(np.float32)
    c[:3], a[:3], b[:3] = (1.0, 1.0, -1.0), (2.0**-24, -(2.0**-25), 2.0**-24), 1.0  # ties and near ties
    got = fma_exact(a, b, c)
    for i in range(300):
        exact = Fraction(float(a[i])) * Fraction(float(b[i])) + Fraction(float(c[i]))
        assert got[i] == nearest_float32(exact), i


def test_bfloat16_is_that_of_ml_dtypes() -> None:
    x = (_RNG.standard_normal(5000) * 10.0 ** _RNG.integers(-30, 30, 5000)).astype(np.float32)
    x[:6] = (0.0, -0.0, np.inf, -np.inf, 3.4e38, 1.00390625)
    assert np.array_equal(to_bf16(x), x.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert np.isnan(from_bf16(to_bf16(np.array([np.nan], np.float32))))[0]
    assert to_bf16(np.array([1e-39, -1e-39], np.float32)).tolist() == [0, 0x8000]
    assert flushed(np.array([1e-39, 1e-37], np.float32)).tolist() == [0.0, np.float32(1e-37)]


def test_products_of_bfloat16_follow_the_manual() -> None:
    a, b = (to_bf16(_RNG.standard_normal((16, 32)).astype(np.float32)) for _ in range(2))
    start = _RNG.standard_normal((16, 16)).astype(np.float32)
    unit = configured()
    for tile, content in ((0, start), (1, a), (2, b)):
        unit.load(tile, pointer(content), 0, 64)
    unit.dot_bf16(0, 1, 2)
    got = stored(unit, 0).view(np.float32).reshape(16, 16)
    left, right = from_bf16(a), from_bf16(b)
    for m, n in ((0, 0), (3, 7), (15, 15)):
        chains = [np.float32(0), np.float32(0)]
        for k in range(16):
            for odd in (0, 1):
                product = Fraction(float(left[m, 2 * k + odd])) * Fraction(float(right[k, 2 * n + odd]))
                chains[odd] = nearest_float32(product + Fraction(float(chains[odd])))
        assert got[m, n] == start[m, n] + (chains[0] + chains[1])


def test_products_of_bytes_wrap_around() -> None:
    a = _RNG.integers(0, 256, (16, 64)).astype(np.uint8)
    b = _RNG.integers(-128, 128, (16, 64)).astype(np.int8)
    start = np.full((16, 16), 2**31 - 5, np.int32)
    unit = configured()
    for tile, content in ((3, start), (1, a), (2, b)):
        unit.load(tile, pointer(content), 0, 64)
    unit.dot_bytes(3, 1, 2)
    weights = b.reshape(16, 16, 4).transpose(0, 2, 1).reshape(64, 16).astype(np.int64)
    want = (start.astype(np.int64) + a.astype(np.int64) @ weights) & 0xFFFFFFFF
    assert np.array_equal(stored(unit, 3).view(np.uint32).reshape(16, 16), want)
    assert want.max() > 2**31  # some have wrapped


def test_a_smaller_tile_reads_and_writes_its_own_bytes_only() -> None:
    config = full_configuration()
    config[16:18].view(np.uint16)[:], config[48] = 8, 3
    unit = configured(config)
    unit.load(0, pointer(np.arange(256, dtype=np.uint8)), 0, 64)
    out = pointer(np.full(256, 0xEE, np.uint8))
    unit.store(0, out, 0, 64)
    rows = out.array.reshape(4, 64)
    assert rows[:3, :8].tolist() == [[64 * r + c for c in range(8)] for r in range(3)]
    assert (rows[:3, 8:] == 0xEE).all() and (rows[3] == 0xEE).all()


@pytest.mark.parametrize(("place", "value"), [(0, 2), (1, 1), (33, 1), (48, 17), (60, 4), (16, 65), (49, 0)])
def test_impossible_configurations(place: int, value: int) -> None:
    config = full_configuration()
    config[place] = value
    with pytest.raises(TileError):
        configured(config)


def test_use_without_a_configuration() -> None:
    memory = pointer(np.zeros(1024, np.uint8))
    for use in (lambda u: u.zero(0), lambda u: u.load(0, memory, 0, 64), lambda u: u.dot_bf16(0, 1, 2)):
        with pytest.raises(TileError, match="before they are configured"):
            use(TileUnit())
    unit = configured()
    unit.release()
    with pytest.raises(TileError, match="before they are configured"):
        unit.store(0, memory, 0, 64)


def test_rows_are_aligned_and_within_memory() -> None:
    unit, memory = configured(), pointer(np.zeros(2048, np.uint8))
    for offset, pitch in ((32, 64), (0, 96), (1, 64)):
        with pytest.raises(TileError, match="not aligned"):
            unit.load(0, memory, offset, pitch)
    for offset in (1088, -64):
        with pytest.raises(IndexError):
            unit.store(0, memory, offset, 64)
    with pytest.raises(TileError, match="three different tiles"):
        unit.dot_bytes(0, 0, 1)
    with pytest.raises(TileError, match="not aligned"):
        packing_primitives(16)["fill_row"](memory, 8, 0)


def test_a_kernel_releases_its_tiles() -> None:
    text = "def kernel(args, tid, threads):\n    tile_configure(byte_pointer_argument(args, 0), 0)\n"
    config = pointer(full_configuration())
    with pytest.raises(TileError, match="ends with its tiles configured"):
        run(text, "kernel", [config], 16)
    run(text + "    tile_release()\n", "kernel", [config], 16)


def test_a_pair_of_bfloat16_keeps_sixteen_bits() -> None:
    x = _RNG.standard_normal((2, 16)).astype(np.float32)
    memory = pointer(np.zeros(128, np.uint8))
    packing_primitives(16)["store_split"](memory, 0, x[0], x[1])
    high, low = from_bf16(memory.array.view(np.uint16)).reshape(2, 32)
    assert np.abs((high.astype(np.float64) + low) - x.reshape(-1)).max() <= 2.0**-16 * np.abs(x).max()
    assert np.array_equal(high, x.reshape(-1).astype(ml_dtypes.bfloat16).astype(np.float32))
