"""IntegerConvolutions: convolutions of dequantised tensors whose results are not quantised add integers all the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import cnngraph
from cnngraph.emit.onnx_model import optimized_model
from cnngraph.options import CompileOptions
from cnngraph_cpu.target import available
from tests.conformance.quantized_net import Qdq


def model(body: Callable[[Qdq, str], str], dtype: type[np.integer] = np.uint8, per_channel: bool = True) -> onnx.ModelProto:
    """What ``body`` adds to a quantised input [N,8,12,10]."""
    g = Qdq(dtype, per_channel)
    y = body(g, g.quantized("input", 0.02, 120))
    graph = helper.make_graph(
        g.nodes, "small", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 8, 12, 10])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], g.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def silu(g: Qdq, x: str) -> str:
    """An activation between the convolution and its quantisation, as PyTorch's quantisers leave it."""
    y = g.conv(x, 8, 20, 3)
    y = g.quantized(g.add("Mul", y, g.add("Sigmoid", y)), 0.05, 10)
    return g.conv(y, 20, 24, 1)


def residual(g: Qdq, x: str) -> str:
    """A sum of floats."""
    y = g.quantized(g.add("Relu", g.conv(x, 8, 16, 3)), 0.05, 0)
    return g.quantized(g.add("Relu", g.add("Add", g.conv(y, 16, 16, 3), y)), 0.1, 0)


def depthwise(g: Qdq, x: str) -> str:
    """One filter a channel, a stride, and a bias of floats."""
    weights, _ = g.parameters(x, (8, 1, 3, 3), 8)
    bias = g.constant("c", g.rng.standard_normal(8).astype(np.float32))
    return g.add("Tanh", g.add("Conv", x, weights, bias, group=8, strides=[2, 2], pads=[1] * 4))


def no_bias(g: Qdq, x: str) -> str:
    """Groups, and nothing to add."""
    weights, _ = g.parameters(x, (12, 4, 3, 3), 12)
    return g.add("Conv", x, weights, group=2)


BODIES = [silu, residual, depthwise, no_bias]


def reference(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Onnxruntime's, without optimisation."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("body", BODIES)
def test_the_same_as_onnxruntime(body: Callable[[Qdq, str], str], per_channel: bool, dtype: type[np.integer]) -> None:
    proto = model(body, dtype, per_channel)
    program = cnngraph.compile(proto)
    operators = [row["op"] for row in program.report["selection"]]
    assert "ConvInteger" in operators
    assert "Conv" not in operators
    x = np.random.default_rng(0).standard_normal((2, 8, 12, 10)).astype(np.float32)
    wanted = reference(proto, x)
    (got,) = program.run({"input": x}).values()
    assert np.ptp(wanted) > 1
    difference = np.abs(got - wanted)
    # where an intermediate number is quantised it may fall on the other side
    assert np.quantile(difference, 0.9) < 1e-4 * np.abs(wanted).max()
    assert difference.max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("isa", available())
def test_every_instruction_set(isa: str) -> None:
    proto = model(silu)
    x = np.random.default_rng(0).standard_normal((2, 8, 12, 10)).astype(np.float32)
    (wanted,) = cnngraph.compile(proto).run({"input": x}).values()
    (got,) = cnngraph.compile(proto, isa=isa).run({"input": x}).values()
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


def test_sums_that_may_leave_int32_stay_float() -> None:
    def deep(g: Qdq, x: str) -> str:
        wide = g.quantized(g.add("Tile", x, g.constant("t", np.array([1, 1000, 1, 1]))), 0.02, 0)
        w = g.constant("w", np.full((2, 8000, 3, 3), 127, np.int8))
        return g.add("Conv", wide, g.add("DequantizeLinear", w, g.constant("s", np.array(0.01, np.float32))))

    program = cnngraph.compile(model(deep))
    assert "ConvInteger" not in [row["op"] for row in program.report["selection"]]


def test_optimised_onnx_keeps_the_pairs() -> None:
    proto = model(silu)
    x = np.random.default_rng(0).standard_normal((2, 8, 12, 10)).astype(np.float32)
    optimized = optimized_model(proto, CompileOptions())
    assert "ConvInteger" not in [node.op_type for node in optimized.graph.node]
    wanted = reference(proto, x)
    assert np.abs(reference(optimized, x) - wanted).max() < 0.02 * np.abs(wanted).max()
