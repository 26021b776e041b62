"""ArgMax and ArgMin kernels: ties, NaN, both directions, ragged rows; whole programs."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import BATCH, Dim, DType, TensorType
from cnngraph.kernels import emulate
from cnngraph.kernels.template import Extent, Pointer, Scratch
from cnngraph.ops import ArgReduce
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES

SHAPES: list[tuple[tuple[Dim, ...], int]] = [((2, 5, 9, 11), 1), ((2, 21, 67), 1), ((3, 4, 2, 33), 2), ((7, 130), 0), ((2, 1, 20), 1)]


def graph_of(op: ArgReduce, shape: tuple[Dim, ...]) -> tuple[Graph, Node]:
    graph = Graph()
    (y,) = graph.add(op, [graph.add_input("x", TensorType(DType.F32, shape))], origin=("node",))
    graph.add_output("y", y)
    assert y.producer is not None
    return graph, y.producer


def contents(shape: tuple[int, ...]) -> np.ndarray:
    """Few different numbers, so that there are ties; some NaN, some infinities."""
    rng = np.random.default_rng(4)
    x = rng.integers(-3, 4, shape).astype(np.float32)
    x[rng.random(shape) < 0.03] = np.nan
    x[rng.random(shape) < 0.02] = np.inf
    x[rng.random(shape) < 0.02] = -np.inf
    return x


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("last", [False, True])
def test_emulated_kernel_meets_reference(shape: tuple[int, ...], axis: int, kind: str, last: bool) -> None:
    _, node = graph_of(ArgReduce(kind, axis, True, last), shape)
    x = contents(shape)
    (want,) = node.op.reference(x)
    for isa in ("avx512", "avx2", "sse4"):
        target, template = backend.target(isa), TEMPLATES["arg_reduce"]
        assert template.accepts(node, target) is None and template.cost(node, target) > 0
        call = template.plan(node, target)
        got = np.full(want.shape, -7, np.int64)
        given: list[np.ndarray | int] = []
        for argument in call.arguments.values():
            if isinstance(argument, Pointer):
                given.append(x if argument.value is node.input(0) else got)
            elif isinstance(argument, Scratch):
                given.append(np.full(argument.nbytes // 4, np.nan, np.float32))
            else:
                assert isinstance(argument, Extent) and isinstance(argument.value, int)
                given.append(argument.value)
        source = backend.source(call.spec)
        emulate.run(source.text, source.name, given, target.width, threads=3)
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_compiled_programs_meet_the_reference(isa: str) -> None:
    for kind, keepdims, last in (("max", True, False), ("max", False, True), ("min", True, True), ("min", False, False)):
        op = ArgReduce(kind, 1, keepdims, last)
        graph, _ = graph_of(op, (BATCH, 21, 9, 37))
        x = contents((3, 21, 9, 37))
        program = compile_graph(graph, CompileOptions(isa=isa))
        assert not program.report["reference_steps"]
        np.testing.assert_array_equal(program.run({"x": x})["y"], op.reference(x)[0])


def test_a_contiguous_search_is_left_to_numpy() -> None:
    _, node = graph_of(ArgReduce("max", 1), (BATCH, 1000))
    refusal = TEMPLATES["arg_reduce"].accepts(node, backend.target("avx2"))
    assert refusal is not None and "fewer neighbours" in refusal
