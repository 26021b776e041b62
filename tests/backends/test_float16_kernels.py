"""Casts between float32 and float16: every number of float16, ties of float32, and the pass between layouts that they share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN, DType, Layout
from cnngraph.kernels import emulate
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Cast, Reorder
from cnngraph_cpu import backend
from cnngraph_cpu.target import available
from tests.backends.template_cases import Case, Compiled, plan, requests, run_compiled, run_emulated

ISAS = ("avx512", "avx2", "sse4")
SHAPES: tuple[tuple[Any, ...], ...] = ((BATCH, 35, 5, 7), (BATCH, 16, 9, 9), (BATCH, 40), (17,), (BATCH, 3, 4, 5))


def _case(shape: tuple[Any, ...], to: DType) -> Case:
    narrow = to is DType.F32
    return Case("cast", Cast(to), (shape,), half=narrow, half_type=DType.F16, tolerance=0 if narrow else 2.0**-11)


def _offers(case: Case, isa: str) -> list[LayoutRequest]:
    lanes, offers = Layout(backend.target(isa).width), requests(case, isa)
    shape = case.inputs[0]
    assert shape is not None
    return offers + [LayoutRequest((lanes,), (PLAIN,)), LayoutRequest((lanes,), (lanes,))] if len(shape) > 2 else offers


def _cast(isa: str, numbers: np.ndarray, to: DType) -> np.ndarray:
    """``numbers`` (1-D) through the compiled kernel for ``isa``, whose tail is shorter than a vector."""
    case = Case("cast", Cast(to), ((numbers.size,),), half=to is DType.F32, half_type=DType.F16)
    call = plan(case, isa, requests(case, isa)[0])[1]
    got = np.zeros(numbers.size, to.numpy)
    given = {"x": numbers, "y": got, "images": 1, "x_batch": 0, "y_batch": 0, "count": numbers.size, "chunk": 4096}
    assert list(call.arguments) == list(given)
    Compiled([call], isa).call(call, list(given.values()), 2)
    return got


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("to", [DType.F32, DType.F16])
@pytest.mark.parametrize("isa", ["avx512", "sse4"])
def test_casts_reorder_on_the_way(shape: tuple[Any, ...], to: DType, isa: str) -> None:
    case = _case(shape, to)
    for request in _offers(case, isa):
        run_emulated(case, isa, request)


def test_emulated_pointers_round_as_numpy() -> None:
    numbers = np.array([1 + 2.0**-11, 65519.996, 65520.0, 2.0**-25, 6e-8, -0.0, np.inf, np.nan], np.float32)
    with np.errstate(over="ignore"):
        want = numbers.astype(np.float16)
        table, memory = emulate.primitives(8), np.zeros(8, np.float16)
        table["store"](emulate.EmulatedPointer(memory), 0, numbers)
    assert memory.tobytes() == want.tobytes()
    assert table["load"](emulate.EmulatedPointer(memory), 0).dtype == np.float32


@pytest.mark.parametrize("isa", ISAS)
def test_every_float16_widens_exactly(isa: str) -> None:
    """All 65536 of them, in bits; a signalling NaN becomes quiet, as IEEE 754 asks, where NumPy's code may keep it."""
    if isa not in available():
        pytest.skip(f"this machine has no {isa}")
    bits = np.concatenate([np.arange(65536), [1, 0x3C00, 0xFE01]]).astype(np.uint16)
    got = _cast(isa, bits.view(np.float16), DType.F32).view(np.uint32)
    signalling = ((bits & 0x7C00) == 0x7C00) & ((bits & 0x3FF) != 0) & ((bits & 0x200) == 0)
    quiet = np.where(signalling, bits | 0x200, bits).astype(np.uint16).view(np.float16)
    np.testing.assert_array_equal(got, quiet.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("isa", ISAS)
def test_narrowing_rounds_to_nearest_even(isa: str) -> None:
    """Bits as NumPy's: every float16, its ties with the next and what lies just beside them, subnormal ones, overflow, quiet NaN."""
    if isa not in available():
        pytest.skip(f"this machine has no {isa}")
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    ties = ((halves.astype(np.float64) + np.append(halves[1:], 65536.0)) / 2).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(0))]
    special = np.array([0x7F800000, 0x7FC00000, 0x7FC02000, 0x7FFFFFFF, 0x7FC00001, 1, 0x7F7FFFFF, 0x33000000, 0x33000001], np.uint32)
    any_bits = np.random.default_rng(3).integers(0, 0x7F800000, 20001, np.uint32)
    positive = np.concatenate([halves, ties, *beside, special.view(np.float32), any_bits.view(np.float32)])
    numbers = np.concatenate([positive, -positive])
    with np.errstate(all="ignore"):
        want = numbers.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(_cast(isa, numbers, DType.F16).view(np.uint16), want)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_compiled(isa: str) -> None:
    if isa not in available():
        pytest.skip(f"this machine has no {isa}")
    lanes = Layout(backend.target(isa).width)
    cases = [_case(shape, to) for shape in SHAPES for to in (DType.F32, DType.F16)]
    runs = [(case, offer) for case in cases for offer in _offers(case, isa)]
    moved = Case("reorder", Reorder(lanes), ((BATCH, 35, 5, 7),), half=True, half_type=DType.F16, tolerance=0)
    runs += [(moved, offer) for offer in requests(moved, isa)]
    kernels = Compiled([plan(case, isa, offer)[1] for case, offer in runs], isa)
    for case, offer in runs:
        three = run_compiled(case, offer, isa, kernels)
        assert np.array_equal(three, run_compiled(case, offer, isa, kernels, threads=1))
