"""RaiseMovement: transposes of preprocessed images move to the graph's input, results stay."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ir.verify import verify
from cnngraph.ops import Cast, DequantizeLinear, Elementwise, Reduce, Transpose
from cnngraph.ops.expression import Expression
from cnngraph.passes.base import PassContext, run_passes
from cnngraph.passes.raise_movement import RaiseMovement
from tests.passes.support import Net, apply

FIRST = (0, 3, 1, 2)


def step(graph: Graph, fn: str, *inputs: Value) -> Value:
    return graph.add(Elementwise(Expression.of(fn, len(inputs))), inputs, origin=(fn,))[0]


@pytest.mark.parametrize("dequantized", [False, True])
def test_bytes_are_transposed_before_they_become_floats(dequantized: bool) -> None:
    graph = Graph("test")
    image = graph.add_input("image", TensorType(DType.U8, (BATCH, 5, 6, 3)))
    scale = graph.constant(np.float32(0.5))
    op, inputs = (DequantizeLinear(DType.F32), [image, scale, None]) if dequantized else (Cast(DType.F32), [image])
    (value,) = graph.add(op, inputs, origin=("floats",))
    value = step(graph, "sub", graph.constant(np.array([1, 2, 3], np.float32)), value)
    value = step(graph, "mul", value, graph.constant(np.full((1, 1, 1, 1), 0.25, np.float32)))
    value = step(graph, "add", value, graph.constant(np.arange(5, dtype=np.float32).reshape(5, 1, 1)))
    graph.add_output("y", graph.add(Transpose(FIRST), [value], origin=("first",))[0])
    feeds = {"image": np.random.default_rng(0).integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)}
    before = interpret(graph, feeds)["y"]
    assert run_passes(graph, [RaiseMovement()], PassContext(), verify)[0].changes == 1
    (moved,) = image.users
    assert isinstance(moved.op, Transpose) and sum(isinstance(node.op, Transpose) for node in graph.nodes) == 1
    np.testing.assert_array_equal(interpret(graph, feeds)["y"], before)


def test_what_has_another_reader_or_begins_elsewhere_stays() -> None:
    net = Net(5, 6, 3)
    shared = net.relu(net.x)
    computed = net.relu(net.node(Reduce("sum", (1,), True), net.x))
    both = net.elementwise("mul", net.x, net.elementwise("neg", net.x))
    narrowed = net.node(Cast(DType.F16), net.x)
    scaled = net.elementwise("mul", net.node(Reduce("sum", (3,), True), net.x), net.constant(np.ones((1, 1, 1, 3), np.float32)))
    plain = net.x
    values = [net.node(Transpose(FIRST), v) for v in (shared, computed, both, narrowed, scaled, plain)]
    assert apply(net, RaiseMovement(), outputs=[shared, *values])[0] == 0
