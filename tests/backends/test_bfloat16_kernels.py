"""Kernels on bfloat16: dot products of pairs, float32 arithmetic on bfloat16 storage, casts, and what mixes both types."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN, DType, Layout
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Cast, Conv, Dense, Elementwise, Expression, Reorder
from cnngraph.ops.conv_transpose import ConvTranspose
from cnngraph_cpu import backend
from cnngraph_cpu.target import available
from tests.backends import template_cases
from tests.backends.template_cases import Case, Compiled, plan, requests, run_compiled, run_emulated
from tests.backends.template_table import RELU, RESIDUAL

_RNG = np.random.default_rng(11)


def _array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _conv(
    template: str, channels: int, outputs: int, size: tuple[int, ...], kernel: int, *, stride: int = 1, pad: int = 0, dilation: int = 1,
    group: int = 1, residual: bool = False, bias: bool = True, tolerance: float = 1e-4,
) -> Case:  # fmt: skip
    rank = len(size)
    op = Conv((kernel,) * rank, (stride,) * rank, (pad,) * (2 * rank), (dilation,) * rank, group, RESIDUAL if residual else RELU)
    weights = _array(outputs, channels // group, *(kernel,) * rank)
    inputs: list[Any] = [(BATCH, channels, *size), weights, _array(outputs) if bias else None]
    if residual:
        reach = (kernel - 1) * dilation + 1
        inputs.append((BATCH, outputs, *((s + 2 * pad - reach) // stride + 1 for s in size)))
    return Case(template, op, tuple(inputs), half=True, tolerance=tolerance)


PAIRS = [
    _conv("conv_pairs", 32, 40, (9, 13), 3, pad=1),
    _conv("conv_pairs", 32, 64, (9, 13), 1, residual=True),
    _conv("conv_pairs", 34, 17, (9, 13), 1, bias=False),
    _conv("conv_pairs", 34, 70, (12, 13), 3, stride=2, pad=1, residual=True),
    _conv("conv_pairs", 3, 64, (19, 23), 7, stride=2, pad=3),
    _conv("conv_pairs", 3, 17, (9, 37), 3, stride=2, pad=1),
    _conv("conv_pairs", 3, 40, (4, 5, 18), 3, pad=1),
    _conv("conv_pairs", 3, 40, (16, 20), 1),
    _conv("conv_pairs", 4, 40, (13, 12), 3, dilation=2, pad=2),
    _conv("conv_pairs", 16, 40, (13, 17), 3, dilation=5, pad=5),
    _conv("conv_pairs", 32, 32, (11, 14), 3, pad=1, group=2),
    _conv("conv_pairs", 6, 10, (7, 6), 3, pad=1),
    _conv("conv_pairs", 18, 33, (5, 6, 7), 3, pad=1, stride=2),
    _conv("conv_pairs", 20, 33, (50,), 5, pad=2),
    Case("dense_pairs", Dense(RESIDUAL), ((BATCH, 34), _array(34, 70), None, (BATCH, 70)), batch=5, half=True, tolerance=1e-4),
    Case("dense_pairs", Dense(RELU), ((BATCH, 128), _array(128, 33), _array(33)), batch=1, half=True, tolerance=1e-4),
]
WINOGRAD = [
    _conv("winograd_pairs", 32, 40, (9, 14), 3, pad=1, residual=True, tolerance=0),
    _conv("winograd_pairs", 18, 33, (7, 7), 3, pad=1, tolerance=0),
    _conv("winograd_pairs", 34, 70, (3, 2), 3, pad=1, bias=False, tolerance=0),
    _conv("winograd_pairs", 16, 5, (13, 1), 3, pad=2, tolerance=0),
]
STORAGE = [
    _conv("conv_direct", 20, 40, (9, 13), 3, pad=1, residual=True),
    _conv("conv_direct", 33, 40, (9, 13), 1),
    _conv("conv_direct", 3, 40, (9, 13), 3, stride=2, pad=1),
    _conv("winograd", 32, 40, (9, 14), 3, pad=1, residual=True, tolerance=2e-3),
    Case(
        "conv_transpose", ConvTranspose((3, 3), (2, 2), (1, 1), (1, 1), (11, 12), 1, RELU), ((BATCH, 20, 6, 6), _array(20, 18, 3, 3), None),
        half=True, tolerance=1e-4,
    ),
    Case("dense", Dense(RESIDUAL), ((BATCH, 34), _array(34, 70), None, (BATCH, 70)), batch=5, half=True, tolerance=1e-4),
    Case("dense", Dense(RELU), ((BATCH, 128), _array(128, 33), _array(33)), batch=1, half=True, tolerance=1e-4),
]  # fmt: skip


@pytest.mark.parametrize("case", PAIRS, ids=lambda c: f"{c.template}-{c.inputs[0]}")
def test_dot_products_of_pairs(case: Case) -> None:
    for request in requests(case, "avx512bf16"):
        one = run_emulated(case, "avx512bf16", request)
        assert np.array_equal(one, run_emulated(case, "avx512bf16", request, threads=1))


@pytest.mark.parametrize("case", STORAGE, ids=lambda c: f"{c.template}-{c.inputs[0]}")
@pytest.mark.parametrize("isa", ["avx512bf16", "avx512", "avx2", "sse4"])
def test_float32_arithmetic_on_bfloat16(case: Case, isa: str) -> None:
    for request in requests(case, isa):
        run_emulated(case, isa, request)


def test_sigmoid_for_results_in_bfloat16() -> None:
    """Within a little more than one rounding, from where it is the least number to where it is 1, and NaN stays."""
    if "avx512bf16" not in available(special=True):
        pytest.skip("this machine has no avx512bf16")
    numbers = np.concatenate([np.linspace(-90, 90, 3000), [0, -0.0, 1e-30, -np.inf, np.inf, np.nan]]).astype(DType.BF16.numpy)
    case = Case("eltwise_plain", Elementwise(Expression.of("sigmoid")), ((numbers.size,),), half=True)
    call = plan(case, "avx512bf16", requests(case, "avx512bf16")[0])[1]
    assert "sigmoid_half" in backend.source(call.spec).text
    assert "sigmoid_half" not in backend.source(plan(case, "avx512", requests(case, "avx512")[0])[1].spec).text
    got = np.zeros(numbers.size, DType.BF16.numpy)
    given = {"x": numbers, "y": got, "images": 1, "x_batch": 0, "y_batch": 0, "rows": 1, "columns": numbers.size, "chunk": 4096}
    assert list(call.arguments) == list(given)
    Compiled([call], "avx512bf16").call(call, list(given.values()), 1)
    want = Expression.of("sigmoid").evaluate([numbers.astype(np.float64)])
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=2.0**-8 + 2.0**-12, atol=2e-38)


def _whole_numbers(case: Case) -> Case:
    """With weights and biases from -3 to 3."""
    whole = (a if not isinstance(a, np.ndarray) else np.clip(np.rint(a), -3, 3) for a in case.inputs)
    return dataclasses.replace(case, inputs=tuple(whole))


@pytest.fixture
def whole_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs from -3 to 3: transformed they are at most 12 and filters at most 27, which bfloat16 holds, so that no bit is lost."""
    random = template_cases.feeds_of
    monkeypatch.setattr(template_cases, "feeds_of", lambda *a: {v: np.clip(np.rint(x), -3, 3) for v, x in random(*a).items()})


@pytest.mark.usefixtures("whole_inputs")
@pytest.mark.parametrize("case", WINOGRAD, ids=lambda c: str(c.inputs[0]))
def test_winograd_of_pairs_is_exact_on_small_whole_numbers(case: Case) -> None:
    case = _whole_numbers(case)
    (request,) = requests(case, "avx512bf16")
    one = run_emulated(case, "avx512bf16", request)
    assert np.array_equal(one, run_emulated(case, "avx512bf16", request, threads=1))


@pytest.mark.usefixtures("whole_inputs")
def test_compiled_winograd_of_pairs() -> None:
    if "avx512bf16" not in available(special=True):
        pytest.skip("this machine has no avx512bf16")
    cases = [_whole_numbers(case) for case in WINOGRAD]
    offers = [requests(case, "avx512bf16")[0] for case in cases]
    kernels = Compiled([plan(case, "avx512bf16", request)[1] for case, request in zip(cases, offers, strict=True)], "avx512bf16")
    for case, request in zip(cases, offers, strict=True):
        run_compiled(case, request, "avx512bf16", kernels)


def test_what_winograd_of_pairs_rounds_off() -> None:
    """Far below a percent of a layer's result; F(4x4, 3x3) would lose two."""
    case = _conv("winograd_pairs", 64, 64, (12, 12), 3, pad=1, bias=False, tolerance=np.inf)
    node, call = plan(case, "avx512bf16", requests(case, "avx512bf16")[0])
    assert call.spec.constant("M") == 2
    got = run_emulated(case, "avx512bf16", requests(case, "avx512bf16")[0])
    want = template_cases.expected(case, node, template_cases.feeds_of(case, node))
    assert 0 < (got - want).std() < 0.006 * want.std()
    assert np.abs(got - want).max() < 0.01 * np.abs(want).max()


def test_winograd_of_pairs_serves_convolutions_of_stride_1_with_an_even_number_of_channels() -> None:
    for case, reason in (
        (_conv("winograd_pairs", 33, 40, (9, 13), 3, pad=1), "an odd number of channels"),
        (_conv("winograd_pairs", 32, 40, (9, 13), 3, stride=2, pad=1), "needs a 3x3 kernel with stride"),
    ):
        with pytest.raises(AssertionError, match=reason):
            requests(case, "avx512bf16")


def test_pairs_are_refused_where_a_padding_lane_would_join_one() -> None:
    target = backend.target("avx512bf16")
    odd = _conv("conv_pairs", 33, 40, (9, 13), 1)
    with pytest.raises(AssertionError, match="padding lane"):
        requests(odd, target.isa)
    with pytest.raises(AssertionError, match="no dot products of bfloat16"):
        requests(PAIRS[0], "avx512")
    with pytest.raises(AssertionError, match="not a convolution in bfloat16"):
        requests(dataclasses.replace(PAIRS[0], half=False), target.isa)


@pytest.mark.parametrize("shape", [(BATCH, 35, 5, 7), (BATCH, 16, 9, 9), (BATCH, 40), (17,), (BATCH, 3, 4, 5)])
@pytest.mark.parametrize("to", [DType.F32, DType.BF16])
def test_casts_reorder_on_the_way(shape: tuple[Any, ...], to: DType) -> None:
    for isa in ("avx512bf16", "sse4"):
        lanes = Layout(backend.target(isa).width)
        case = Case("cast", Cast(to), (shape,), half=to is DType.F32, tolerance=0 if to is DType.F32 else 2.0**-8)
        offers = requests(case, isa)
        if len(shape) > 2:
            offers += [LayoutRequest((lanes,), (PLAIN,)), LayoutRequest((lanes,), (lanes,)), LayoutRequest((PLAIN,), (lanes,))]
        for request in offers:
            run_emulated(case, isa, request)


def test_rounding_is_to_nearest_even_and_keeps_nan() -> None:
    """Every compiled instruction set against ml_dtypes, on numbers around ties, the greatest ones, and NaN."""
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800000, 0x7FC00001, 0xFF800001, 0x80000000], np.uint32)
    numbers = np.resize(bits, 33).view(np.float32)
    with np.errstate(all="ignore"):
        want = numbers.astype(DType.BF16.numpy).astype(np.float32)
    case = Case("cast", Cast(DType.BF16), ((33,),))
    for isa in [isa for isa in ("avx512bf16", "avx512", "avx2", "sse4") if isa in available(special=True)]:
        call = plan(case, isa, requests(case, isa)[0])[1]
        got = np.zeros(33, DType.BF16.numpy)
        Compiled([call], isa).call(call, [numbers, got, 1, 0, 0, 33, 4096], 1)
        np.testing.assert_array_equal(got.astype(np.float32), want)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx512bf16", "avx2"])
def test_compiled(isa: str) -> None:
    if isa not in available(special=True):
        pytest.skip(f"this machine has no {isa}")
    cases = [*PAIRS, *STORAGE[::3]] if isa == "avx512bf16" else [*STORAGE]
    cases.append(Case("reorder", Reorder(Layout(backend.target(isa).width)), ((BATCH, 35, 5, 7),), half=True, tolerance=0))
    runs = [(case, offer) for case in cases for offer in requests(case, isa)]
    kernels = Compiled([plan(case, isa, offer)[1] for case, offer in runs], isa)
    for case, offer in runs:
        three = run_compiled(case, offer, isa, kernels)
        assert np.array_equal(three, run_compiled(case, offer, isa, kernels, threads=1))
