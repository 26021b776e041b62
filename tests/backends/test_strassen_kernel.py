"""1x1 convolutions by Strassen's seven products against the reference: whole pairs of tiles, tails, odd pixels, strides, padded vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnngraph.ir.types import BATCH
from cnngraph.kernels.template import Packed
from cnngraph.ops import Conv
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import available
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.strassen_plan import choose_blocking
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated

RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))
_RNG = np.random.default_rng(31)


def case(
    channels: int, filters: int, size: tuple[int, ...], stride: int = 1, *, residual: bool = False, pairs: bool = False, bias: bool = True
) -> Case:
    weights = (_RNG.standard_normal((filters, channels)) / np.sqrt(channels)).astype(np.float32)
    rank = len(size)
    op = Conv((1,) * rank, (stride,) * rank, (0,) * 2 * rank, (1,) * rank, 1, RESIDUAL if residual else Expression.of("relu"))
    shift = _RNG.standard_normal(filters).astype(np.float32) if bias else None
    inputs: list[Any] = [(BATCH, channels, *size), weights.reshape(filters, channels, *(1,) * rank), shift]
    if residual:
        inputs.append((BATCH, filters, *((n - 1) // stride + 1 for n in size)))
    # sums of pixels and weights are rounded to bfloat16: a hundredth of the results' standard deviation, and more at times
    tolerance = 0.06 if pairs else 2e-5
    return Case("strassen_pairs" if pairs else "strassen", op, tuple(inputs), half=pairs, tolerance=tolerance)


def cases(pairs: bool) -> list[Case]:
    return [
        case(32, 64, (8, 7), pairs=pairs),
        case(64, 48, (5, 9), residual=True, pairs=pairs),
        case(32, 33, (13, 11), 2, residual=True, pairs=pairs),
        case(96, 64, (7, 7), pairs=pairs, bias=False),
        case(32, 40, (3, 4, 5), pairs=pairs),
        case(32, 64, (61,), 3, pairs=pairs),
        case(32, 96, (1, 2), pairs=pairs),
    ]


FLOATS, PAIRS = cases(False), cases(True)


@pytest.mark.parametrize("number", range(len(FLOATS)))
@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse4"])
def test_emulated_kernel_meets_reference(number: int, isa: str) -> None:
    (request,) = requests(FLOATS[number], isa)
    one, three = (run_emulated(FLOATS[number], isa, request, threads=threads) for threads in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_emulated_pairs_meet_reference(number: int) -> None:
    (request,) = requests(PAIRS[number], "avx512bf16")
    one, two = (run_emulated(PAIRS[number], "avx512bf16", request, threads=threads) for threads in (1, 2))
    assert np.array_equal(one, two)


def test_the_cases_have_tails_odd_pixels_and_padding() -> None:
    constants = [dict(plan(c, "avx512", requests(c, "avx512")[0])[1].spec.constants) for c in FLOATS]
    for name in ("TAIL", "SKIP", "GUARD", "IN_PLACE"):
        assert {bool(c[name]) for c in constants} == {False, True}, name


@pytest.mark.parametrize("isa", [isa for isa in ("avx512", "avx2", "avx512bf16") if isa in available(special=True)])
def test_compiled_kernel_meets_reference(isa: str) -> None:
    chosen = PAIRS[:3] if isa == "avx512bf16" else FLOATS[:3]
    kernels = Compiled([plan(c, isa, requests(c, isa)[0])[1] for c in chosen], isa)
    for c in chosen:
        one, three = (run_compiled(c, requests(c, isa)[0], isa, kernels, threads=threads) for threads in (1, 3))
        assert np.array_equal(one, three)


def test_weights_are_three_quarters_more() -> None:
    c = case(64, 64, (14, 14))
    call = plan(c, "avx512", requests(c, "avx512")[0])[1]
    packed = call.arguments["w"]
    assert isinstance(packed, Packed) and packed.data.size * 4 == 64 * 64 * 7


@pytest.mark.parametrize(("given", "why"), [
    (case(48, 64, (7, 7)), "two halves of whole vectors"),
    (case(32, 16, (7, 7)), "no two vectors"),
    (case(32, 64, (1, 1)), "no two pixels"),
])  # fmt: skip
def test_refusals(given: Case, why: str) -> None:
    refusal = TEMPLATES["strassen"].accepts(build(given), backend.target("avx512"))
    assert refusal is not None and why in refusal


def test_maps_of_an_even_number_of_tiles_have_no_tail() -> None:
    for size in (56, 28, 14):
        choice = choose_blocking(geometry(build(case(64, 64, (size, size)))), backend.target("avx512"), 1)
        assert (choice.tail, choice.tile * choice.vectors) == (0, 28)
