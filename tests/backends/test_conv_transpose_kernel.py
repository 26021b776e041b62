"""The transposed convolution kernel: borders, phases without taps, groups, ranks, epilogues, and its place in a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import BatchNorm, ConvTranspose, Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph.passes.base import PassContext
from cnngraph.passes.fold_batchnorm import FoldBatchNorm
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated

_RNG = np.random.default_rng(11)
RELU = Expression.of("relu")
RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))
ISAS = ("avx512", "avx2", "sse4")


def array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def case(
    channels: int, outputs: int, size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], begins: tuple[int, ...],
    out: tuple[int, ...], group: int = 1, dilations: tuple[int, ...] = (), epilogue: Expression | None = None, bias: bool = True,
    operands: tuple[Any, ...] = (), images: Any = BATCH, batch: int = 2,
) -> Case:  # fmt: skip
    op = ConvTranspose(kernel, strides, begins, dilations or (1,) * len(kernel), out, group, epilogue)
    weights = array(channels, outputs // group, *kernel)
    inputs = ((images, channels, *size), weights, array(outputs) if bias else None, *operands)
    return Case("conv_transpose", op, inputs, batch=batch)


CASES = [
    case(19, 21, (4, 5), (2, 2), (2, 2), (0, 0), (8, 10), epilogue=RELU),  # in place: kernel and stride equal
    case(16, 35, (5, 7), (4, 4), (2, 2), (1, 1), (10, 14)),  # the usual up-sampling of generators
    case(17, 18, (5, 7), (3, 3), (2, 2), (1, 1), (10, 14), bias=False),  # output_padding 1
    case(5, 3, (6, 4), (3, 3), (2, 2), (1, 1), (11, 7)),  # phases of unequal sizes
    case(3, 20, (6, 5), (5, 3), (1, 1), (2, 1), (6, 5)),  # stride 1
    case(6, 4, (3, 4), (2, 1), (3, 4), (0, 0), (10, 16), epilogue=RELU),  # phases without taps hold the bias
    case(6, 4, (5, 6), (3, 3), (2, 3), (2, 1), (13, 22), dilations=(2, 3)),
    case(6, 4, (5, 6), (3, 2), (3, 2), (0, 1), (17, 15), dilations=(2, 4)),
    case(24, 24, (5, 6), (4, 4), (2, 2), (1, 1), (10, 12), group=24, epilogue=RELU),  # a filter for each channel
    case(5, 5, (3, 9), (3, 5), (1, 2), (1, 2), (3, 18), group=5),
    case(1, 1, (3, 9), (3, 5), (1, 2), (1, 2), (3, 18)),
    case(24, 36, (5, 6), (3, 3), (2, 2), (1, 1), (9, 11), group=3),
    case(64, 64, (3, 3), (2, 2), (2, 2), (0, 0), (6, 6), group=2),
    case(4, 8, (3, 3), (2, 2), (2, 2), (0, 0), (6, 6), group=4),
    case(9, 7, (11,), (4,), (2,), (1,), (22,)),
    case(9, 7, (11,), (5,), (3,), (7,), (20,)),  # whole input pixels cut off
    case(6, 17, (2, 3, 4), (2, 3, 3), (2, 2, 1), (0, 1, 1), (4, 5, 4), epilogue=RELU),
    case(6, 5, (3, 2, 4), (3, 1, 2), (1, 1, 2), (1, 0, 0), (3, 2, 8)),
    case(5, 6, (3, 4, 5), (2, 2, 2), (2, 2, 2), (0, 0, 0), (6, 8, 10)),
    case(7, 7, (2, 3, 4), (3, 3, 3), (2, 2, 2), (1, 1, 1), (3, 5, 7), group=7),
    case(1, 1, (1, 3, 4), (4, 4, 1), (3, 1, 3), (1, 2, 0), (3, 1, 11)),  # planes of the kernel around the only one of the image
    case(5, 6, (1, 3, 4), (4, 2, 2), (3, 2, 2), (3, 0, 0), (1, 6, 8)),
    case(4, 4, (1, 1), (4, 4), (1, 1), (0, 0), (4, 4)),  # the first layer of a generator
    case(4, 4, (3, 3), (3, 3), (2, 2), (5, 0), (1, 2)),
    case(18, 20, (4, 5), (2, 2), (2, 2), (0, 0), (8, 10), epilogue=RESIDUAL, operands=((BATCH, 20, 8, 10),)),
    case(18, 20, (4, 5), (3, 3), (2, 2), (1, 1), (7, 9), epilogue=RESIDUAL, operands=((BATCH, 20, 1, 1),)),
    case(18, 20, (4, 5), (3, 3), (2, 2), (1, 1), (7, 9), epilogue=RESIDUAL, operands=(array(20, 1, 1),)),
    case(8, 8, (9, 26), (4, 4), (2, 2), (1, 1), (18, 52), images=1, batch=1),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_emulated_kernel_meets_reference(number: int) -> None:
    for isa in ISAS:
        for request in requests(CASES[number], isa):
            run_emulated(CASES[number], isa, request)


def test_threads_do_not_change_a_bit() -> None:
    for number in (1, 8, 16):
        (request,) = requests(CASES[number], "avx2")
        one, four = (run_emulated(CASES[number], "avx2", request, threads=t) for t in (1, 4))
        assert np.array_equal(one, four)


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_compiled_kernels_meet_references(isa: str) -> None:
    wide = [
        case(64, 48, (24, 30), (4, 4), (2, 2), (1, 1), (48, 60), epilogue=RELU),  # large enough for its own register tile
        case(96, 96, (20, 20), (2, 2), (2, 2), (0, 0), (40, 40)),
        case(160, 160, (20, 21), (3, 3), (2, 2), (1, 1), (39, 41), group=160),
        case(48, 20, (4, 9, 10), (3, 3, 3), (2, 2, 2), (1, 1, 1), (7, 17, 19)),
    ]
    long_sums = [replace(c, tolerance=1e-4) for c in wide]  # some 500 terms
    chosen = (*CASES, *long_sums)[:: 1 if isa == backend.isas()[0] else 3]
    runs: list[tuple[Case, LayoutRequest]] = [(c, request) for c in chosen for request in requests(c, isa)]
    kernels = Compiled([plan(c, isa, request)[1] for c, request in runs], isa)
    for c, request in runs:
        run_compiled(c, request, isa, kernels)


def test_small_problems_share_one_kernel() -> None:
    specs = {plan(CASES[i], "avx2", requests(CASES[i], "avx2")[0])[1].spec for i in (3, 7, 11)}
    assert len(specs) < 3


def test_runtime_weights_are_refused() -> None:
    graph = Graph()
    values = [graph.add_input(n, TensorType(DType.F32, s)) for n, s in (("x", (1, 4, 3, 3)), ("w", (4, 4, 2, 2)))]
    (y,) = graph.add(ConvTranspose((2, 2), (2, 2), (0, 0), (1, 1), (6, 6)), [*values, None], origin=("node",))
    template = next(t for t in backend.templates() if t.name == "conv_transpose")
    assert y.producer is not None
    assert template.accepts(y.producer, backend.target("avx2")) == "the weights are computed at run time"


@pytest.mark.parametrize("group", [1, 2])
def test_normalisation_and_activation_join_the_layer(group: int) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 6, 4, 5)))
    layer = ConvTranspose((3, 3), (2, 2), (1, 1), (1, 1), (7, 9), group)
    weights, bias = graph.constant(array(6, 8 // group, 3, 3)), graph.constant(array(8))
    (y,) = graph.add(layer, [x, weights, bias], origin=("deconv",))
    parameters = [graph.constant(p) for p in (array(8), array(8), array(8), np.abs(array(8)) + 1)]
    (z,) = graph.add(BatchNorm(1e-5), [y, *parameters], origin=("norm",))
    (out,) = graph.add(Elementwise(RELU), [z], origin=("relu",))
    graph.outputs.append(("out", out))
    feeds = {"x": array(2, 6, 4, 5)}
    before = interpret(graph, feeds)["out"]
    context = PassContext(max_fold_bytes=1 << 20)
    assert FoldBatchNorm().run(graph, context) == 1 and FuseEpilogue().run(graph, context) == 1
    assert [type(n.op) for n in graph.nodes] == [ConvTranspose]
    np.testing.assert_allclose(interpret(graph, feeds)["out"], before, rtol=2e-5, atol=2e-5)


def test_taps_far_apart_are_refused() -> None:
    far = case(8, 8, (5, 6), (2, 2), (1, 1), (0, 10_000_000), (6, 6), dilations=(1, 10_000_000))
    refusal = TEMPLATES["conv_transpose"].accepts(build(far), backend.target("avx2"))
    assert refusal == "its taps reach over too many source rows"
