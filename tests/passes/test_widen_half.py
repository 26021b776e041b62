"""WidenHalf: what computes in half precision computes in float32, with casts at the edges only."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import Cast, Conv, Elementwise, Expression, Reshape
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.remove_dead import RemoveDead
from cnngraph.passes.widen_half import WidenHalf
from cnngraph.pipeline import compile_graph, optimize


def _network(dtype: DType) -> Graph:
    rng, graph = np.random.default_rng(0), Graph("half")
    x = graph.add_input("x", TensorType(dtype, (BATCH, 4, 8, 8)))
    for _ in range(2):
        w = graph.constant(rng.standard_normal((4, 4, 3, 3)).astype(dtype.numpy))
        (x,) = graph.add(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), [x, w, None], origin=("conv",))
        (x,) = graph.add(Elementwise(Expression.of("relu")), [x], origin=("relu",))
    graph.add_output("y", x)
    return graph


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_casts_stay_at_the_edges(dtype: DType) -> None:
    graph = _network(dtype)
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 8)).astype(dtype.numpy)
    before = interpret(graph, {"x": x})["y"]
    WidenHalf().run(graph, PassContext())
    RemoveDead().run(graph, PassContext())
    verify(graph, "widen_half")
    assert Counter(n.op.name for n in graph.nodes) == {"Cast": 2, "Conv": 2, "Elementwise": 2}
    assert all(n.output.type.dtype is DType.F32 for n in graph.nodes[:-1])
    after = interpret(graph, {"x": x})["y"]
    assert after.dtype == dtype.numpy
    scale = np.abs(before.astype(np.float32)).max()
    np.testing.assert_allclose(
        after.astype(np.float32), before.astype(np.float32), atol=4 * scale * 2.0 ** -(10 if dtype is DType.F16 else 7)
    )


def test_float16_networks_run_by_kernels_alone() -> None:
    """A blocked result becomes plain and float16 in one pass, and it is the float32 result rounded once."""
    rng = np.random.default_rng(2)
    w, x = (rng.standard_normal(shape).astype(np.float16) for shape in ((32, 16, 3, 3), (3, 16, 9, 11)))
    results = {}
    for dtype in (DType.F16, DType.F32):
        graph = Graph("half")
        value = graph.add_input("x", TensorType(dtype, (BATCH, *x.shape[1:])))
        (y,) = graph.add(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), [value, graph.constant(w.astype(dtype.numpy)), None], origin=("conv",))
        graph.add_output("y", y)
        program = compile_graph(graph, CompileOptions(isa="sse4"))
        assert program.report["reference_steps"] == []
        assert [kernel.name.split("_")[0] for kernel in program.data.kernels] == ["reorder", "winograd", "reorder"]
        results[dtype] = program.run({"x": x.astype(dtype.numpy)})["y"]
    assert results[DType.F16].tobytes() == results[DType.F32].astype(np.float16).tobytes()


def test_exact_arithmetic_keeps_every_rounding() -> None:
    graph = _network(DType.F16)
    optimize(graph, CompileOptions(math="exact"), PassContext())
    assert all(n.output.type.dtype is DType.F16 for n in graph.nodes)


def test_graphs_that_only_move_half_floats_are_left_alone() -> None:
    graph = Graph("moves")
    x = graph.add_input("x", TensorType(DType.F16, (BATCH, 4)))
    (y,) = graph.add(Reshape((BATCH, 2, 2)), [x], origin=("reshape",))
    graph.add_output("y", y)
    assert WidenHalf().run(graph, PassContext()) == 0


def test_a_cast_between_the_precisions_vanishes() -> None:
    graph = Graph("mixed")
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 4)))
    (half,) = graph.add(Cast(DType.F16), [x], origin=("down",))
    (y,) = graph.add(Elementwise(Expression.of("relu")), [half], origin=("relu",))
    (z,) = graph.add(Cast(DType.F32), [y], origin=("up",))
    graph.add_output("z", z)
    optimize(graph, CompileOptions(), PassContext())
    assert [n.op.name for n in graph.nodes] == ["Elementwise"]
