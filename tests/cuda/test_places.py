"""Triangles, classes, running sums, losses and reductions over axes apart, in the emulator against the operators' definitions."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import InvalidInputError
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Reduce
from cnngraph.ops.indexing import OneHot, Trilu
from cnngraph.ops.losses import NLLLoss
from cnngraph.ops.math import Cumulative
from cnngraph_cuda.jit import missing_packages

from .support import ORDERS, Net, build, compare, emulate


def graph_of(op, *types):
    graph = Graph("test")
    values = [None if t is None else graph.add_input(f"x{i}", TensorType(*t)) for i, t in enumerate(types)]
    graph.add_output("y", graph.add(op, values, origin=("node",))[0])
    return graph


def check(graph, feeds, template, order="lockstep"):
    expected = interpret(graph, feeds)["y"]
    program, choice = build(graph)
    assert [s.chosen for s in choice.selections] == [template]
    got = emulate(program, feeds, ORDERS[order])[0]["y"]
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=2e-6 if got.dtype != np.float16 else 2e-3)


def integers(shape, dtype, low=-9, high=10):
    return np.random.default_rng(0).integers(low, high, shape).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.I64, DType.BOOL])
@pytest.mark.parametrize("k", [-7, -2, 0, 1, 9])
@pytest.mark.parametrize("upper", [False, True])
def test_triangles(upper, k, dtype):
    check(graph_of(Trilu(upper, k), (dtype, (BATCH, 4, 6))), {"x0": integers((2, 4, 6), dtype)}, "trilu")


@pytest.mark.parametrize("index_type", [DType.I64, DType.U8, DType.F32])
@pytest.mark.parametrize("dtype", [DType.F32, DType.I32])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_classes(axis, dtype, index_type):
    """Indices on both sides of the classes, too."""
    graph = graph_of(OneHot(6, axis), (index_type, (3, 4)), (dtype, (2,)))
    low = 0 if index_type is DType.U8 else -8
    check(graph, {"x0": integers((3, 4), index_type, low, 9), "x1": np.array([-2, 5], dtype.numpy)}, "one_hot")


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.I32, DType.U8])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("kind", "axis"), [("sum", 1), ("sum", 2), ("prod", 1)])
def test_running_results(kind, axis, reverse, exclusive, dtype):
    graph = graph_of(Cumulative(kind, axis, exclusive, reverse), (dtype, (BATCH, 4, 5)))
    check(graph, {"x0": integers((2, 4, 5), dtype, 0, 5)}, "cumulative")


LOSSES = [("none", None), ("sum", None), ("mean", None), ("none", 3), ("sum", -1), ("mean", 20)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("reduction", "ignored"), LOSSES)
@pytest.mark.parametrize("spatial", [(), (3, 7)])
def test_losses(spatial, reduction, ignored, weighted):
    classes, images = 5, 40
    weights = (DType.F32, (classes,)) if weighted else None
    graph = graph_of(NLLLoss(reduction, ignored), (DType.F32, (images, classes, *spatial)), (DType.I64, (images, *spatial)), weights)
    rng = np.random.default_rng(0)
    targets = rng.integers(0, classes, (images, *spatial))
    if ignored is not None:
        targets[rng.random(targets.shape) < 0.3] = ignored
    feeds = {"x0": -rng.exponential(1, (images, classes, *spatial)).astype(np.float32), "x1": targets}
    if weighted:
        feeds["x2"] = rng.uniform(0.5, 2, classes).astype(np.float32)
    check(graph, feeds, "nll_loss", "shuffled")
    targets[(-1,) * targets.ndim] = classes
    with pytest.raises(InvalidInputError, match="loss target 5 is not one of 5 classes"):
        emulate(build(graph)[0], feeds)


@pytest.mark.parametrize("isa", ["sm_90", "sm_90:f16"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("kind", ["sum", "mean", "max", "min"])
def test_reductions_over_axes_apart(kind, keepdims, isa):
    net = Net(4, 1, 3, 5, 2)
    net.add_output("y", net.node(Reduce(kind, (1, 2, 4), keepdims), net.x))
    net.add_output("z", net.node(Reduce(kind, (1, 3, 5), keepdims), net.x))
    assert "reduce_plain" in compare(net, isa=isa)


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "sm_120"))])
def test_compiled(arch):
    from .test_compiled import assemble

    graphs = [
        graph_of(Trilu(False, -2), (DType.I64, (BATCH, 4, 6))), graph_of(Trilu(True, 1), (DType.F16, (BATCH, 4, 6))),
        graph_of(OneHot(6, 1), (DType.F32, (3, 4)), (DType.F32, (2,))), graph_of(OneHot(6, 1), (DType.I32, (3, 4)), (DType.I8, (2,))),
        graph_of(Cumulative("prod", 1, True), (DType.I32, (BATCH, 4))), graph_of(Cumulative("sum", 1), (DType.F32, (BATCH, 4))),
        *(graph_of(NLLLoss(r, 2), (DType.F32, (4, 5, 3)), (DType.I64, (4, 3)), (DType.F32, (5,))) for r in ("none", "mean")),
    ]  # fmt: skip
    for graph in graphs:
        for name, _, report in assemble(graph, arch):
            assert report.spill_stores == report.spill_loads == report.stack == 0, name
            assert report.registers <= 48, name
