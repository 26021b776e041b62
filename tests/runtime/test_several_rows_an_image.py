"""Tensors whose first axis is a multiple of the batch size."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.types import BATCH, DType, Sym, TensorType
from cnngraph.ops import Dense, Reshape
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph


@pytest.mark.parametrize("batch", [1, 4])
def test_dense_layer_on_several_rows_of_each_image(batch: int) -> None:
    weights = np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    graph = Graph("rows")
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 3, 20)))
    (rows,) = graph.add(Reshape((Sym(3), 20)), [x], origin=("flatten",))
    (y,) = graph.add(Dense(), [rows, graph.constant(weights), None], origin=("gemm",))
    graph.add_output("y", y)
    feed = np.random.default_rng(1).standard_normal((batch, 3, 20)).astype(np.float32)
    got = compile_graph(graph, CompileOptions()).run({"x": feed})["y"]
    np.testing.assert_allclose(got, feed.reshape(-1, 20) @ weights, atol=1e-4)
