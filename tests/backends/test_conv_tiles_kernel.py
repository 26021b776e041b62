"""Convolutions on the tile unit: emulated with checked tiles, compiled with tiles in memory, and the instructions of the real ones."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from typing import Any

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.ir.types import BATCH
from cnngraph.kernels.template import Extent
from cnngraph.ops import Conv
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS, available, host_features
from cnngraph_cpu.templates import conv_tiles_plan
from tests.backends.int8_cases import build as build_integers
from tests.backends.int8_cases import plan as plan_integers
from tests.backends.int8_cases import requests as integer_requests
from tests.backends.int8_cases import run_compiled as run_integers_compiled
from tests.backends.int8_cases import run_emulated as run_integers
from tests.backends.int8_table import conv_cases, integer_cases, qconv
from tests.backends.template_cases import Case, Compiled, build, expected, feeds_of, plan, requests, run_compiled, run_emulated

_RNG = np.random.default_rng(11)
RELU = Expression.of("relu")
RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


@pytest.fixture(autouse=True)
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems: the kernels compute float32 of any number of channels, which the plan leaves to others for their precision."""
    if "refusals" not in request.node.name:
        monkeypatch.setattr(conv_tiles_plan, "LEAST_SPLIT_CHANNELS", 0)


def _array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _conv(
    size: tuple[int, ...], channels: int, outputs: int, kernel: tuple[int, ...], stride: int = 1, pads: tuple[int, ...] | None = None,
    dilation: int = 1, group: int = 1, epilogue: Expression | None = None, batch: int = 1, bias: bool = True, images: Any = BATCH,
    template: str = "conv_tiles",
) -> Case:  # fmt: skip
    rank = len(size)
    op = Conv(kernel, (stride,) * rank, pads or (0,) * 2 * rank, (dilation,) * rank, group, epilogue)
    weights = _array(outputs, channels // group, *kernel) * np.float32((channels // group * np.prod(kernel)) ** -0.5)
    inputs: list[Any] = [(images, channels, *size), weights, _array(outputs) if bias else None]
    if epilogue is RESIDUAL:
        plain = Conv(kernel, (stride,) * rank, pads or (0,) * 2 * rank, (dilation,) * rank, group, None)
        inputs.append((images, *plain.reference(np.zeros((1, channels, *size)), weights, None)[0].shape[1:]))
    return Case(template, op, tuple(inputs), batch=batch, tolerance=1e-4)


def _within_bound(case: Case, got: np.ndarray) -> None:
    """The promise of ``math="f32"``: 2e-5 of the layer's output scale, against float64."""
    node = build(case)
    want = expected(case, node, feeds_of(case, node))
    assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


CASES = {
    "1x1": _conv((5, 7), 32, 32, (1, 1)),
    "1x1 ragged, three images": _conv((7, 7), 40, 48, (1, 1), batch=3, epilogue=RELU),
    "1x1 stride 2": _conv((9, 11), 32, 16, (1, 1), 2, batch=2),
    "3x3 padded": _conv((6, 9), 32, 33, (3, 3), pads=(1,) * 4, epilogue=RELU),
    "3x3 residual, three images": _conv((7, 7), 48, 32, (3, 3), pads=(1,) * 4, epilogue=RESIDUAL, batch=3),
    "3x3 stride 2": _conv((9, 13), 20, 40, (3, 3), 2, (1,) * 4, batch=2),
    "3x3 dilated": _conv((9, 8), 32, 32, (3, 3), pads=(2,) * 4, dilation=2, bias=False),
    "5x2 stride 3 dilated 2, uneven pads": _conv((12, 17), 17, 20, (5, 2), 3, (3, 0, 1, 4), 2),
    "groups of 16": _conv((5, 6), 48, 64, (3, 3), pads=(1,) * 4, group=2 + 1 - 1, batch=2),
    "groups of 16 to 24": _conv((4, 5), 48, 72, (3, 3), pads=(1,) * 4, group=3),
    "one dimension": _conv((41,), 32, 32, (5,), 2, (2, 2)),
    "fixed batch": _conv((4, 4), 32, 16, (3, 3), pads=(1,) * 4, images=2, batch=2),
    "an image, 7x7 stride 2": _conv((19, 23), 3, 40, (7, 7), 2, (3,) * 4, epilogue=RELU, batch=3, template="conv_tiles_plain"),
    "an image, 11x11 stride 4, two blocks": _conv((31, 30), 3, 16, (11, 11), 4, (2, 0, 1, 5), template="conv_tiles_plain"),
    "an image, wide enough for whole vectors": _conv((13, 41), 3, 32, (3, 3), 2, (1, 2, 1, 0), batch=2, template="conv_tiles_plain"),
    "four channels": _conv((7, 37), 4, 16, (3, 3), pads=(1,) * 4, template="conv_tiles_plain"),
    "an image, rows dilated": _conv((14, 9), 4, 32, (3, 1), pads=(2, 0, 2, 0), dilation=2, batch=2, template="conv_tiles_plain"),
    "an image, one pixel": _conv((5, 6), 3, 20, (1, 1), bias=False, template="conv_tiles_plain"),
    "a sound": _conv((90,), 2, 20, (17,), 3, (30, 4), epilogue=RESIDUAL, batch=3, template="conv_tiles_plain"),
    "padding all around": _conv((2, 2), 16, 16, (3, 3), pads=(4, 3, 2, 5)),
}


HALVES = {name: dataclasses.replace(case, half=True) for name, case in CASES.items()}
SAME = (1, 1, 1, 1)
INTEGER_CASES = [
    qconv((40, 6, 7), 37, (3, 3), pads=SAME, template="qconv_tiles"),
    qconv((16, 6, 7), 48, (3, 3), pads=SAME, types="sss", zeros=(-5, 0, -7), template="qconv_tiles"),
    qconv((96, 7, 7), 48, (1, 1), types="ssu", zeros=(-128, 0, 0), bounds=(0, 255), batch=3, template="qconv_tiles"),
    qconv((33, 7, 8), 17, (1, 1), (2, 2), types="ssu", zeros=(11, 0, 128), template="qconv_tiles"),
    qconv((70, 15), 24, (3,), (2,), (1, 2), (2,), template="qconv_tiles"),
    qconv((64, 5, 5), 64, (3, 3), pads=SAME, group=2, types="uus", zeros=(3, 128, 0), bias=False, template="qconv_tiles"),
    qconv((16, 7, 9), 20, (5, 5), (2, 1), (3, 2, 1, 2), types="sss", zeros=(-5, 0, 7), template="qconv_tiles"),
    qconv((32, 8, 7), 32, (3, 3), (2, 2), SAME, batch=3, template="qconv_tiles"),
    qconv((16, 10, 8), 16, (3, 1), types="ssu", zeros=(-7, 0, 5), bounds=(0, 255), template="qconv_tiles"),
    qconv((20, 14, 6), 24, (3, 3), pads=(2, 1, 3, 1), dilations=(2, 1), template="qconv_tiles"),
    qconv((3, 19, 43), 40, (7, 7), (2, 2), (3,) * 4, batch=3, template="qconv_tiles_plain"),
    qconv((3, 9, 38), 20, (3, 3), (1, 2), (2, 1, 0, 1), types="ssu", zeros=(-7, 0, 5), bounds=(0, 255), template="qconv_tiles_plain"),
    qconv((3, 12, 21), 17, (17, 17), pads=(9, 9, 9, 9), template="qconv_tiles_plain"),
    qconv((3, 21, 27), 24, (5, 3), (2, 1), (7, 1, 6, 0), (2, 1), types="sss", zeros=(-5, 0, 7), template="qconv_tiles_plain"),
    qconv((3, 9, 20), 16, (3, 3), pads=(1, 1, 1, 1), template="qconv_tiles_plain"),
    qconv((4, 8, 35), 16, (3, 3), pads=SAME, template="qconv_tiles_plain"),
    qconv((4, 8, 35), 16, (3, 3), pads=SAME, types="sss", zeros=(-9, 0, 1), template="qconv_tiles_plain"),
    qconv((5, 70), 24, (15,), (3,), (4, 2), (1,), types="uss", zeros=(200, 0, 1), template="qconv_tiles_plain"),
    *(
        dataclasses.replace(case, template=name)
        for name, cases in (("qconv_tiles", integer_cases()), ("qconv_tiles_plain", [*conv_cases(), *integer_cases()]))
        for case in cases
        if TEMPLATES[name].accepts(build_integers(case), ISAS["avx512amx"].target) is None
    ),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(INTEGER_CASES)))
def test_emulated_integers_equal_reference(number: int) -> None:
    case = INTEGER_CASES[number]
    for request in integer_requests(case, "avx512amx"):
        run_integers(case, "avx512amx", request)


@pytest.mark.parametrize("name", CASES)
def test_emulated_kernel_meets_reference(name: str) -> None:
    for request in requests(CASES[name], "avx512amx"):
        _within_bound(CASES[name], run_emulated(CASES[name], "avx512amx", request))
        run_emulated(HALVES[name], "avx512amx", request)


@pytest.mark.parametrize("name", ["3x3 residual, three images", "3x3 stride 2", "one dimension"])
def test_threads_do_not_change_a_bit(name: str) -> None:
    for request in requests(CASES[name], "avx512amx"):
        one, four = (run_emulated(CASES[name], "avx512amx", request, threads=t) for t in (1, 4))
        assert np.array_equal(one, four)


@pytest.mark.parametrize("size", [(7, 7), (3, 3)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_an_image_does_not_depend_on_the_batch(size: tuple[int, int], kernel: int) -> None:
    """Images share tiles where no tap looks beyond its pixel, and parts in any case."""
    pads = (kernel // 2,) * 4
    three = _conv(size, 32, 32, (kernel, kernel), pads=pads, batch=3, bias=False)
    one = dataclasses.replace(three, batch=1)
    (request,) = requests(three, "avx512amx")
    whole, single = (run_emulated(case, "avx512amx", request) for case in (three, one))
    assert np.array_equal(whole[:1], single)
    call = plan(three, "avx512amx", request)[1]
    together = call.arguments["together"]
    assert isinstance(together, Extent) and int(together.value) > 1  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 17, 20])
def test_more_images_than_a_part_holds(batch: int) -> None:
    case = _conv((2, 2), 16, 16, (1, 1), batch=batch, bias=False)
    (request,) = requests(case, "avx512amx")
    assert plan(case, "avx512amx", request)[1].arguments["together"] == Extent(16)
    _within_bound(case, run_emulated(case, "avx512amx", request, threads=2))


def test_channel_blocks_of_a_pixel_do_not_share_their_place_in_the_first_cache() -> None:
    for pixels in (16, 32, 33, 49, 64, 196, 784):
        case = dataclasses.replace(_conv((pixels,), 96, 64, (1,)), half=True)
        (request,) = requests(case, "avx512amx")
        plane = plan(case, "avx512amx", request)[1].arguments["plane_bytes"]
        assert isinstance(plane, Extent) and int(plane.value) % 4096 == 2048  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pads", "stride", "pitch"), [((1, 1, 1, 1), 1, 10), ((0, 1, 0, 0), 1, 10), ((0, 3, 0, 3), 1, 13), ((1,) * 4, 2, 6)]
)
def test_padding_behind_a_row_is_that_before_the_next(pads: tuple[int, ...], stride: int, pitch: int) -> None:
    """Columns of a line, of 9 pixels a row: more where a row begins or ends without padding, and never fewer than those of the output."""
    case = _conv((5, 9), 32, 32, (3, 3), stride, pads)
    (request,) = requests(case, "avx512amx")
    assert plan(case, "avx512amx", request)[1].arguments["pitch"] == Extent(pitch)
    _within_bound(case, run_emulated(case, "avx512amx", request))


def test_rows_of_taps_share_a_row_of_a_tile() -> None:
    """Of 7x7 taps and three channels 28 bytes are used a row: two rows fit, and a pixel meets four products for seven."""
    image = {"template": "qconv_tiles_plain"}
    for case, rows, taps in (
        (qconv((3, 40, 40), 32, (7, 7), (2, 2), (3,) * 4, **image), 2, 4),
        (qconv((3, 40, 40), 32, (3, 3), pads=SAME, **image), 3, 1),
        (qconv((16, 40, 40), 32, (3, 3), pads=SAME, template="qconv_tiles"), 3, 3),
        (qconv((32, 40, 40), 32, (3, 3), pads=SAME, template="qconv_tiles"), 2, 6),
    ):
        (request,) = integer_requests(case, "avx512amx")
        call = plan_integers(case, "avx512amx", request)[1]
        assert dict(call.spec.constants)["ROWS"] == rows and call.arguments["taps"] == Extent(taps)


def _bytes_of_product(opcode: int, prefix: int, c: int, a: int, b: int) -> bytes:
    """VEX.128.prefix.0F38.W0 opcode: the result in ModRM.reg, the pixels in ModRM.rm, the weights in VEX.vvvv."""
    return bytes([0xC4, 0xE2, (~b & 15) << 3 | prefix, opcode, 0xC0 | c << 3 | a])


@pytest.mark.slow
def test_products_are_instructions_of_the_unit() -> None:
    """The code is made on every machine; it runs only on those that have the unit."""
    (floats,), (integers,) = requests(CASES["3x3 padded"], "avx512amx"), integer_requests(INTEGER_CASES[0], "avx512amx")
    calls = [plan(CASES["3x3 padded"], "avx512amx", floats)[1], plan_integers(INTEGER_CASES[0], "avx512amx", integers)[1]]
    kernels = backend.compile([call.spec for call in calls], ISAS["avx512amx"].target)
    for call, (opcode, prefix) in zip(calls, ((0x5C, 2), (0x5E, 1)), strict=True):
        code = kernels[call.spec].code
        for c, a, b in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
            assert _bytes_of_product(opcode, prefix, c, a, b) in code, f"no product of tiles {a} and {b}"
        if shutil.which("objdump"):
            _check_loops(code, "tdpbf16ps" if opcode == 0x5C else "tdpbusd", 12 if opcode == 0x5C else 4)


def _check_loops(code: bytes, product: str, count: int) -> None:
    """From the first load of a step to its last product nothing is spilled, and all products of 2x2 tiles are there."""
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(code)
        file.flush()
        text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", file.name], check=True, capture_output=True, text=True).stdout
    lines = [line.partition("\t")[2] for line in text.splitlines()]
    assert any("ldtilecfg" in line for line in lines) and any("tilerelease" in line for line in lines)
    steps: list[list[str]] = [[]]
    for line in lines:
        done = sum(product in earlier for earlier in steps[-1])
        if line.startswith("tileloadd") and line.endswith("%tmm4") and done in (0, count // 2, count):
            steps.append([])  # the first tile of pixels: of a new step, or after half of the products, where there is no second one
            done = 0
        if done < count:
            steps[-1].append(line)
    whole = [step for step in steps if sum(product in line for line in step) == count]
    assert whole
    for step in whole:
        # %rbp may be any number; the frame is what lies at a distance from it alone. An address may be read from there.
        stack = [line for line in step if "%rsp" in line or "(%rbp)" in line]
        assert all(line.startswith("mov ") and not line.endswith(")") for line in stack) and len(stack) <= 1, (
            "a spill between tile products"
        )


@pytest.mark.slow
@pytest.mark.skipif(not set(ISAS["tiles_in_memory"].required) <= host_features(), reason="needs AVX512-BF16 and VNNI")
def test_compiled_with_tiles_in_memory() -> None:
    """The same kernels compiled, tiles kept in memory: the emulated bits, and integers the reference's."""
    isa = "tiles_in_memory"
    floats = [(case, request) for case in (*CASES.values(), *HALVES.values()) for request in requests(case, isa)]
    integers = [(case, request) for case in INTEGER_CASES for request in integer_requests(case, isa)]
    calls = [plan(case, isa, request)[1] for case, request in floats] + [plan_integers(case, isa, request)[1] for case, request in integers]
    kernels = Compiled(calls, isa)
    for number, (case, request) in enumerate(floats):
        got = run_compiled(case, request, isa, kernels)
        if not case.half:
            _within_bound(case, got)
        if number % 4 == 0:
            assert np.array_equal(got, run_emulated(case, "avx512amx", request))
    for integer_case, request in integers:
        run_integers_compiled(integer_case, request, isa, kernels)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (_conv((5, 5), 32, 32, (3, 3), group=4), "fewer than 16 input channels"),
        (_conv((3, 5, 5), 16, 16, (3, 3, 3)), "three spatial axes"),
        (_conv((5, 5), 63, 64, (3, 3)), "keeps its precision"),
        (_conv((5, 5), 3, 64, (3, 3), template="conv_tiles_plain"), "keeps its precision"),
    ],
)
def test_refusals(case: Case, reason: str) -> None:
    refusal = TEMPLATES[case.template].accepts(build(case), ISAS["avx512amx"].target)
    assert refusal is not None and reason in refusal
    assert TEMPLATES[case.template].accepts(build(case), ISAS["avx512"].target) == "the instruction set has no tiles"


def test_the_isa_for_tests_is_not_offered() -> None:
    assert "tiles_in_memory" not in available(special=True)
    with pytest.raises(UsageError, match="choose one of avx512amx, "):
        backend.target("tiles_in_memory")
