"""Exact Winograd of 8-bit tensors: the reference's bits, whatever wraps around on the way, and refusal where a sum might not come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, DType
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS, available
from cnngraph_cpu.templates import qwinograd_plan, winograd_blocking
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.quantized import layer_of
from cnngraph_cpu.templates.qwinograd_plan import G, largest_sum, transform_weights
from cnngraph_cpu.templates.winograd_blocking import SHORTS, choose_blocking
from tests.backends.int8_cases import Computed, IntCase, build, plan, requests, run_compiled, run_emulated
from tests.backends.int8_table import qconv
from tests.backends.template_cases import Compiled

SAME = (1, 1, 1, 1)
BEST, *OTHERS = available(special=True)


def winograd(x: tuple[int, ...], m: int, pads: tuple[int, ...] = SAME, **rest: object) -> IntCase:
    return qconv(x, m, (3, 3), pads=pads, template="qwinograd", **rest)  # type: ignore[arg-type]


def extreme(channels: int, top: int = 255) -> IntCase:
    """Every weight and every pixel as large as may be: 9 * channels * top * 255 is the sum of a pixel in the middle."""
    w = np.full((3, channels, 3, 3), top, np.uint8)
    w[1] = 0
    pixels = np.full((2, channels, 6, 6), 255, np.uint8)
    pixels[1] = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), pixels[1].shape)
    op = ConvInteger((3, 3), (1, 1), SAME, (1, 1))
    return IntCase("qwinograd", op, (Computed(DType.U8, (BATCH, channels, 6, 6), pixels), w, None, None))


def run_time_zero(dtype: DType) -> IntCase:
    """Dynamic quantisation: the zero point is computed, the result float32 with a scale and an epilogue."""
    w = np.random.default_rng(5).integers(-128, 128, (19, 18, 3, 3)).astype(np.int8)
    scale_relu = Expression(2, (Instr("mul", (0, 1)), Instr("relu", (2,))))
    op = ConvInteger((3, 3), (1, 1), (0, 1, 2, 0), (1, 1), 1, DType.F32, scale_relu)
    zero = Computed(dtype, (), np.array(-77 if dtype is DType.I8 else 201, dtype.numpy))
    return IntCase(
        "qwinograd", op, (Computed(dtype, (BATCH, 18, 9, 7)), w, zero, None, np.full((1, 1, 1, 1), 0.01, np.float32)), tolerance=1e-6
    )


CASES = [
    winograd((19, 6, 7), 21),
    winograd((16, 8, 9), 40, (2, 0, 1, 2), types="sss", zeros=(-5, 0, -7)),
    winograd((33, 9, 4), 17, (0, 0, 0, 0), types="uuu", zeros=(100, 77, 30)),
    winograd((48, 4, 12), 66, types="suu", zeros=(-128, 255, 0), bounds=(9, 60)),
    winograd((20, 1, 5), 8, types="usu", zeros=(0, 0, 128), bias=False, batch=3),
    run_time_zero(DType.U8),
    run_time_zero(DType.I8),
    extreme(57),
]


@pytest.fixture(params=[False, True], ids=["weights transformed by the plan", "by the kernel"])
def raw(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the plan choose among blockings of one kind; those that transform weights take a block of channels at a time."""
    arithmetic = replace(SHORTS, any_raw=False, most_bytes=0 if request.param else float("inf"))
    monkeypatch.setattr(qwinograd_plan.QWinograd, "arithmetic", arithmetic)
    monkeypatch.setattr(winograd_blocking, "blocks_at_once", lambda choice, *_: int(choice.raw))
    return bool(request.param)


RUNS = [(isa, number) for number in range(len(CASES)) for isa in ("avx512vnni", "avx2" if number % 2 else "sse4")]


@pytest.mark.parametrize(("isa", "number"), RUNS)
def test_emulated_kernel_equals_reference(isa: str, number: int, raw: bool) -> None:
    (request,) = requests(CASES[number], isa)
    assert dict(plan(CASES[number], isa, request)[1].spec.constants).get("RAW", 0) == raw
    outputs = [run_emulated(CASES[number], isa, request, threads=threads) for threads in ((1, 3) if number == 0 else (3,))]
    assert np.array_equal(outputs[0], outputs[-1])


@pytest.mark.parametrize("isa", [BEST, *(pytest.param(isa, marks=pytest.mark.slow) for isa in OTHERS)])
def test_compiled_kernel_equals_reference(isa: str, raw: bool) -> None:
    cases = CASES[:: 2 if isa == BEST else 4]
    kernels = Compiled([plan(c, isa, requests(c, isa)[0])[1] for c in cases], isa)
    for c in cases:
        run_compiled(c, requests(c, isa)[0], isa, kernels)


def test_sums_that_may_not_come_back_are_refused() -> None:
    target = ISAS["avx512vnni"].target
    assert largest_sum(layer_of(build(extreme(57)))) == 9 * 57 * 255 * 255 < 1 << 25
    assert TEMPLATES["qwinograd"].accepts(build(extreme(58)), target) == "sums may reach 2**25"
    assert TEMPLATES["qconv"].accepts(build(replace(extreme(58), template="qconv")), target) is None


def test_largest_sum_knows_zero_points_signs_and_bias() -> None:
    w = np.zeros((1, 1, 3, 3), np.int8)
    w[0, 0, 0, 0], w[0, 0, 1, 1] = 10, -3
    one = np.ones((), np.float32)
    for zero, bias, expected in ((0, 0, 2550), (255, 0, 2550), (0, 100, 2650), (100, -2000, 10 * 100 + 3 * 155 + 2000)):
        inputs = (
            Computed(DType.U8, (BATCH, 1, 4, 4)),
            one,
            np.array(zero, np.uint8),
            w,
            one,
            None,
            one,
            np.array(0, np.uint8),
            np.array([bias], np.int32),
        )
        layer = layer_of(build(IntCase("qwinograd", QLinearConv((3, 3), (1, 1), SAME, (1, 1), 1, DType.U8, 0, 255), inputs)))
        assert largest_sum(layer) == expected


def test_transformed_weights_fit_16_bits() -> None:
    """The largest that 9-bit weights (a byte less its zero point) can become."""
    assert max(sum(abs(a) for a in line) for line in G) ** 2 * 255 < 1 << 15
    case = winograd((16, 4, 4), 16, types="uuu", zeros=(0, 255, 0))
    node = build(case)
    w = np.full((16, 16, 3, 3), -255, np.int32)
    assert transform_weights(w, geometry(node), 1, 16).view(np.int16).min() == -49 * 255


def test_deep_layers_on_small_maps_stay_direct() -> None:
    """Their 36 weights of 16 bits for 9 of 8 would be read for four tiles only; larger maps take a quarter of the multiplications."""
    target = backend.target("avx512vnni")
    chosen = []
    for channels, size in ((64, 56), (128, 28), (512, 7)):
        node = build(winograd((channels, size, size), channels))
        names = ("qwinograd", "qconv")
        chosen.append(min(names, key=lambda name: TEMPLATES[name].cost(node, target)))
    assert chosen == ["qwinograd", "qwinograd", "qconv"]
    assert choose_blocking(geometry(build(winograd((64, 56, 56), 64))), target, SHORTS).vectors > 1
