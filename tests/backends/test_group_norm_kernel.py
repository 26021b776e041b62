"""The normalisation kernel: groups within, over and across channel blocks, large means, epilogues."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, Dim, DType, TensorType
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Conv, Elementwise
from cnngraph.ops.base import Op
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.group_norm import GroupNorm
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from cnngraph.pipeline import compile_graph
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated

_RNG = np.random.default_rng(5)
RELU = Expression.of("relu")
RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))
SCALED = Expression(1, (Instr("scale", (0,), (0.5,)), Instr("shift", (1,), (0.25,))))


def array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def case(shape: tuple[Dim, ...], groups: int, *, affine: bool = True, epilogue: Expression | None = None, operands: tuple = ()) -> Case:  # type: ignore[type-arg]
    channels = shape[1]
    assert isinstance(channels, int)
    parameters = (array(channels), array(channels)) if affine else (None, None)
    return Case("group_norm", GroupNorm(groups, 1e-5, epilogue), (shape, *parameters, *operands))


CASES = [
    case((BATCH, 19, 5, 7), 19, epilogue=RELU),
    case((BATCH, 32, 3, 3), 8),
    case((BATCH, 36, 3, 5), 6, epilogue=SCALED),  # groups of 6 straddle the blocks
    case((BATCH, 48, 2, 5), 1),
    case((BATCH, 64, 4, 3), 2, affine=False),
    case((BATCH, 40, 3, 3), 4, epilogue=RESIDUAL, operands=((BATCH, 40, 3, 3),)),
    case((BATCH, 20, 3, 3), 20, epilogue=RESIDUAL, operands=((BATCH, 20, 1, 1),)),
    case((BATCH, 5, 300), 5),
    case((BATCH, 6, 2, 3, 4), 3),
    case((3, 7, 1, 2), 7),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_emulated_kernel_meets_reference(number: int) -> None:
    for isa in ("avx512", "avx2", "sse4"):
        for request in requests(CASES[number], isa):
            run_emulated(CASES[number], isa, request)


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_compiled_kernels_meet_references(isa: str) -> None:
    runs: list[tuple[Case, LayoutRequest]] = [(c, r) for c in (*CASES, case((BATCH, 16, 67, 61), 4)) for r in requests(c, isa)]
    kernels = Compiled([plan(c, isa, request)[1] for c, request in runs], isa)
    for c, request in runs:
        run_compiled(c, request, isa, kernels)


def test_threads_do_not_change_a_bit() -> None:
    for number in (1, 2, 7):
        (request,) = requests(CASES[number], "avx2")
        one, four = (run_emulated(CASES[number], "avx2", request, threads=t) for t in (1, 4))
        assert np.array_equal(one, four)


@pytest.mark.slow
def test_a_mean_far_from_zero_does_not_cancel() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (1, 16, 40, 40)))
    (y,) = graph.add(GroupNorm(16), [x, None, None], origin=("norm",))
    graph.add_output("y", y)
    feeds = {"x": array(1, 16, 40, 40) + np.float32(1000)}
    want = interpret(graph, feeds, np.float64)["y"]
    (got,) = compile_graph(graph, CompileOptions()).run(feeds).values()
    assert np.abs(got - want).max() < 2e-3  # the inputs themselves are rounded to 6e-5


def test_a_computed_scale_is_refused() -> None:
    refusal = TEMPLATES["group_norm"].accepts(
        build(Case("group_norm", GroupNorm(3), ((BATCH, 3, 4, 4), (3,), None))), backend.target("avx2")
    )
    assert refusal == "the scale or the bias is computed at run time"


def test_the_activation_joins_the_normalisation() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 6, 4, 5)))
    (y,) = graph.add(GroupNorm(6), [x, graph.constant(array(6)), graph.constant(array(6))], origin=("norm",))
    (z,) = graph.add(Elementwise(RELU), [y], origin=("relu",))
    graph.add_output("z", z)
    feeds = {"x": array(2, 6, 4, 5)}
    before = interpret(graph, feeds)["z"]
    assert FuseEpilogue().run(graph, PassContext(max_fold_bytes=1 << 20)) == 1
    assert [type(n.op) for n in graph.nodes] == [GroupNorm]
    np.testing.assert_array_equal(interpret(graph, feeds)["z"], before)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [GroupNorm(20), Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 20), Elementwise(RELU)])
def test_a_computed_vector_without_the_image_axis(layer: Op) -> None:
    """[C,1,1] against one image [1,C,H,W]: its blocks would be those of its second axis."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (1, 20, 3, 4)))
    s = graph.add_input("s", TensorType(DType.F32, (20, 1, 1)))
    inputs = [x] if isinstance(layer, Elementwise) else [x, graph.constant(array(20, 1, 1, 1)) if isinstance(layer, Conv) else None, None]
    (y,) = graph.add(layer, inputs, origin=("layer",))
    (z,) = graph.add(Elementwise(Expression.of("mul", 2)), [y, s], origin=("scale",))
    graph.add_output("z", z)
    feeds = {"x": array(1, 20, 3, 4), "s": array(20, 1, 1)}
    want = interpret(graph, feeds)["z"]
    np.testing.assert_allclose(compile_graph(graph, CompileOptions()).run(feeds)["z"], want, rtol=1e-4, atol=1e-4)
