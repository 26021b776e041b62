"""Convolutions with few output channels, columns in the lanes: where they are chosen, what the bits depend on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN, Layout
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Conv, Expression, Instr
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS
from tests.backends.template_cases import Case, build, plan, requests, run_emulated

_RNG = np.random.default_rng(11)


def _case(channels: int, size: tuple[int, ...], outputs: int, kernel: int, stride: int = 1, pad: int = 0, batch: int = 2) -> Case:
    n = len(size)
    op = Conv((kernel,) * n, (stride,) * n, (pad,) * (2 * n), (1,) * n, 1, None)
    weights = _RNG.standard_normal((outputs, channels, *(kernel,) * n)).astype(np.float32)
    return Case("conv_rows", op, ((BATCH, channels, *size), weights, None), batch=batch)


_BOTH = ("avx512", "avx2")


@pytest.mark.parametrize("isa", _BOTH)
@pytest.mark.parametrize(
    ("shape", "where"),
    [
        ((1, (32, 32), 6, 5), _BOTH),  # LeNet-5
        ((64, (128, 128), 3, 3, 1, 1), _BOTH),  # the end of a super-resolution network
        ((256, (64, 64), 1, 1), _BOTH),
        ((3, (224, 224), 64, 7, 2, 3), ()),
        ((64, (56, 56), 64, 3, 1, 1), ()),
        ((64, (7, 7), 16, 1), ()),
        ((1, (28, 28), 8, 5, 1, 2), ("avx512",)),  # 8 outputs fill a vector of 8
        ((16, (24, 20), 12, 5, 1, 2), ("avx2",)),  # a tenth of the products is with padding, over which the other passes
    ],
)
def test_cheaper_than_direct_for_few_outputs_only(shape: tuple[Any, ...], where: tuple[str, ...], isa: str) -> None:
    node, target = build(_case(*shape)), ISAS[isa].target
    chosen = TEMPLATES["conv_rows"].accepts(node, target) is None and TEMPLATES["conv_rows"].cost(node, target) < TEMPLATES[
        "conv_direct"
    ].cost(node, target)
    assert chosen is (isa in where)


@pytest.mark.parametrize("shape", [(3, (13, 21), 5, 3, 1, 1), (16, (9, 24), 3, 3), (5, (12, 16), 2, 1), (2, (14, 22), 3, 3, 2)])
def test_bits_depend_on_the_image_alone(shape: tuple[Any, ...]) -> None:
    three = _case(*shape, batch=3)
    for request in requests(three, "avx2"):
        whole = run_emulated(three, "avx2", request, threads=1)
        assert np.array_equal(run_emulated(three, "avx2", request, threads=5), whole)
        one = dataclasses.replace(three, batch=1)
        assert np.array_equal(run_emulated(one, "avx2", request, threads=2), whole[:1])


def test_pointwise_convolution_of_a_plain_image_is_read_in_place() -> None:
    _, call = plan(_case(8, (8, 14), 2, 1), "avx512", LayoutRequest((PLAIN, None, None), (PLAIN,)))
    assert call.spec.constant("SOURCE") == 0  # 112 pixels are 7 whole vectors
    assert call.spec.constant("PARTIAL") == 0


def test_blocked_input_is_offered_where_its_channels_fill_vectors() -> None:
    inputs = [request.inputs[0] for request in requests(_case(16, (9, 9), 2, 3), "avx512")]
    assert inputs == [PLAIN, Layout(16)]
    assert [request.inputs[0] for request in requests(_case(15, (9, 9), 2, 3), "avx512")] == [PLAIN]
    assert [request.inputs[0] for request in requests(_case(16, (9, 9), 2, 3, 2), "avx512")] == [PLAIN]


@pytest.mark.parametrize(("function", "told"), [("tanh", True), ("elu", True), ("relu", False), ("sigmoid", False)])
def test_long_epilogues_are_computed_one_after_another(function: str, told: bool) -> None:
    """Otherwise the compiler computes those of a whole register tile side by side, out of memory."""
    case = _case(3, (20, 20), 4, 3)
    assert isinstance(case.op, Conv)
    op = dataclasses.replace(case.op, epilogue=Expression(1, (Instr(function, (0,), (1.0,) if function == "elu" else ()),)))
    _, call = plan(dataclasses.replace(case, op=op), "avx512", LayoutRequest((PLAIN, None, None), (PLAIN,)))
    text = backend.source(call.spec).text
    rows, tail, outputs = (call.spec.constant(name) for name in ("TR", "TAIL_ROWS", "OT"))
    assert text.count("in_order(") == (told and (rows + tail) * outputs)
