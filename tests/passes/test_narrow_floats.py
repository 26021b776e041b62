"""Which values become bfloat16, which stay float32, and that every value is cast at most once."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import Cast, Concat, Conv, Elementwise, Expression, GridSample, Pool, Slice, Softmax, Transpose
from cnngraph.passes.narrow_floats import narrow_floats

_RNG = np.random.default_rng(5)
CONV = Conv((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))


def _constant(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _graph() -> Graph:
    """scale -> conv -> (pool, softmax) -> concat -> add a constant -> conv -> relu."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 16, 4, 4)))
    (scaled,) = graph.add(Elementwise(Expression.of("mul", 2)), [x, graph.constant(_constant(1))], origin=("scale",))
    (a,) = graph.add(CONV, [scaled, graph.constant(_constant(16, 16, 1, 1)), graph.constant(_constant(16))], origin=("first",))
    (b,) = graph.add(Pool("max", (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), [a], origin=("pool",))
    (c,) = graph.add(Softmax(1), [a], origin=("softmax",))
    (d,) = graph.add(Concat(1), [b, c], origin=("concat",))
    (e,) = graph.add(Elementwise(Expression.of("add", 2)), [d, graph.constant(_constant(32, 1, 1))], origin=("add",))
    (f,) = graph.add(CONV, [e, graph.constant(_constant(8, 32, 1, 1)), None], origin=("last",))
    (g,) = graph.add(Elementwise(Expression.of("relu")), [f], origin=("relu",))
    graph.add_output("y", g)
    return graph


def test_values_between_the_layers_are_narrow() -> None:
    graph, x = _graph(), _RNG.standard_normal((2, 16, 4, 4)).astype(np.float32)
    want = interpret(graph, {"x": x})["y"]
    found = narrow_floats(graph)
    verify(graph, "narrow_floats")
    types = {node.label: node.output.type.dtype for node in graph.nodes if not isinstance(node.op, Cast)}
    wide = {name for name, dtype in types.items() if dtype is DType.F32}
    assert wide == {"scale", "softmax", "last", "relu"}
    assert {node.label: reason for node, reason in found.kept} == {
        "scale": "before the first layer", "softmax": "Softmax computes in float32", "last": "no layer follows: its result stays float32",
        "relu": "after the last layer",
    }  # fmt: skip
    assert found.nodes == 4
    casts = [node for node in graph.nodes if isinstance(node.op, Cast)]
    assert found.casts == len(casts) == 3  # into the first layer, into and out of Softmax
    for node in graph.nodes:
        if isinstance(node.op, Conv):
            assert node.input(1).type.dtype is DType.BF16
            assert node.inputs[2] is None or node.inputs[2].type.dtype is DType.F32
    got = interpret(graph, {"x": x})["y"]
    assert got.dtype == np.float32
    assert 0 < np.abs(got - want).max() <= 0.02 * np.abs(want).max()


def test_nodes_that_are_named_stay_wide() -> None:
    graph = _graph()
    found = narrow_floats(graph, ["poo?", "concat"])
    verify(graph, "narrow_floats")
    assert {node.label for node, reason in found.kept if reason == "asked for"} == {"pool", "concat"}
    assert next(node for node in graph.nodes if node.label == "concat").output.type.dtype is DType.F32
    with pytest.raises(UsageError, match="no node is called 'pol\\*'"):
        narrow_floats(_graph(), ["pol*"])


def test_an_image_is_rounded_by_the_convolution_itself() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 3, 4, 4)))
    (a,) = graph.add(CONV, [x, graph.constant(_constant(16, 3, 1, 1)), None], origin=("first",))
    (b,) = graph.add(CONV, [a, graph.constant(_constant(16, 16, 1, 1)), None], origin=("last",))
    graph.add_output("y", b)
    found = narrow_floats(graph)
    verify(graph, "narrow_floats")
    assert found.casts == 0
    assert [node.output.type.dtype for node in graph.nodes] == [DType.BF16, DType.F32]


def test_positions_of_samples_stay_wide_two_layers_deep() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 16, 4, 4)))
    value = x
    for name in ("first", "second", "third"):
        (value,) = graph.add(CONV, [value, graph.constant(_constant(16, 16, 1, 1)), None], origin=(name,))
        (value,) = graph.add(Elementwise(Expression.of("relu")), [value], origin=(name + " relu",))
    (last,) = graph.add(Transpose((0, 2, 3, 1)), [value], origin=("last",))
    (grid,) = graph.add(Slice((0, 0, 0, 3), (1,) * 4, (BATCH, 4, 4, 2)), [last], origin=("grid",))
    (image,) = graph.add(CONV, [x, graph.constant(_constant(16, 16, 1, 1)), None], origin=("image",))
    (sample,) = graph.add(GridSample("linear", "zeros", False), [image, grid], origin=("sample",))
    (y,) = graph.add(CONV, [sample, graph.constant(_constant(8, 16, 1, 1)), None], origin=("y",))
    graph.add_output("y", y)
    found = narrow_floats(graph)
    verify(graph, "narrow_floats")
    positions = {node.label for node, reason in found.kept if reason == "positions of samples"}
    assert positions == {"second", "second relu", "third", "third relu", "last", "grid"}
    assert {n.label for n in graph.nodes if n.output.type.dtype is DType.BF16 and not isinstance(n.op, Cast)} >= {"first", "image"}
    assert next(n for n in graph.nodes if n.label == "second" and isinstance(n.op, Conv)).input(1).type.dtype is DType.F32
