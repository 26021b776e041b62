"""Pooling with indices and unpooling, as SegNet uses them: whole programs against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.kernels import emulate
from cnngraph.kernels.template import Extent, Pointer
from cnngraph.ops import Pool
from cnngraph.ops.geometry import MaxUnpool
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES

POOLS = {
    "plain": Pool("max", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), indices=True),
    "overlapping": Pool("max", (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), indices=True),
    "dilated": Pool("max", (2, 3), (1, 2), (0, 1, 1, 0), (2, 1), True, indices=True),
    "columns": Pool("max", (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), indices=True, storage_order=1),
}


def contents(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    x = rng.integers(-3, 4, shape).astype(np.float32)
    x[rng.random(shape) < 0.05] = np.nan
    x[rng.random(shape) < 0.1] = -np.inf
    return x


def run_emulated(node: Node, feeds: dict[Value, np.ndarray]) -> list[np.ndarray]:
    """The outputs of the kernel chosen by its name on one image size."""
    name = "pool_indices" if isinstance(node.op, Pool) else "max_unpool"
    target = backend.target("avx2")
    assert TEMPLATES[name].accepts(node, target) is None and TEMPLATES[name].cost(node, target) > 0
    call = TEMPLATES[name].plan(node, target)
    outputs = {v: np.full(v.type.shape, -9, v.type.dtype.numpy) for v in node.outputs}
    given: list[np.ndarray | int] = []
    for argument in call.arguments.values():
        if isinstance(argument, Pointer):
            given.append(feeds[argument.value] if argument.value in feeds else outputs[argument.value])
        else:
            assert isinstance(argument, Extent) and isinstance(argument.value, int)
            given.append(argument.value)
    source = backend.source(call.spec)
    emulate.run(source.text, source.name, given, target.width, threads=2)
    return list(outputs.values())


@pytest.mark.parametrize("name", POOLS)
def test_emulated_pooling_meets_the_reference(name: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2, 3, 7, 9)))
    graph.add(POOLS[name], [x], origin=("pool",))
    (node,) = graph.nodes
    data = contents(2, 3, 7, 9)
    for got, want in zip(run_emulated(node, {x: data}), node.op.reference(data), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["plain", "overlapping"])
def test_emulated_unpooling_meets_the_reference(name: str) -> None:
    graph, pool = Graph(), POOLS[name]
    x = graph.add_input("x", TensorType(DType.F32, (2, 3, 8, 6)))
    values, places = graph.add(pool, [x], origin=("pool",))
    graph.add(MaxUnpool((8, 6), (8, 6), pool.kernel, pool.strides, pool.pads[:2]), [values, places], origin=("unpool",))
    maxima, where = pool.reference(contents(2, 3, 8, 6))
    node = list(graph.nodes)[1]
    (got,) = run_emulated(node, {values: maxima, places: where})
    np.testing.assert_array_equal(got, node.op.reference(maxima, where)[0])


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_programs_meet_the_reference(isa: str) -> None:
    graph, pool = Graph(), POOLS["plain"]
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 5, 8, 6)))
    values, places = graph.add(pool, [x], origin=("pool",))
    (y,) = graph.add(MaxUnpool((8, 6), (8, 6), pool.kernel, pool.strides, (0, 0)), [values, places], origin=("unpool",))
    for label, value in (("values", values), ("places", places), ("y", y)):
        graph.add_output(label, value)
    feeds = {"x": contents(3, 5, 8, 6)}
    want = interpret(graph, feeds)
    program = compile_graph(graph, CompileOptions(isa=isa))
    assert not program.report["reference_steps"]
    for label, got in program.run(feeds).items():
        np.testing.assert_array_equal(got, want[label])


def test_indices_from_elsewhere_are_refused() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (1, 2, 3, 3)))
    places = graph.add_input("i", TensorType(DType.I64, (1, 2, 3, 3)))
    graph.add(MaxUnpool((6, 6), (6, 6), (2, 2), (2, 2), (0, 0)), [x, places], origin=("unpool",))
    (node,) = graph.nodes
    assert TEMPLATES["max_unpool"].accepts(node, backend.target("avx2")) == "the indices do not come straight from a pooling"
