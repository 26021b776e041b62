"""LowerComputedFilters: convolutions with computed weights become products of matrices or correlations, with the same results."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import cnngraph
from cnngraph.emit.onnx_model import optimized_model
from cnngraph.options import CompileOptions
from cnngraph_cpu.target import available

F = onnx.TensorProto.FLOAT

CASES: dict[str, tuple[list[int | str], list[int], dict[str, Any], str]] = {
    "pointwise": (["N", 24, 7, 5], [40, 24, 1, 1], {}, "MatMul"),
    "padded": (["N", 5, 9, 11], [7, 5, 3, 3], {"pads": [1, 1, 1, 1]}, "MatMul"),
    "strided": (["N", 18, 12, 9], [20, 18, 3, 3], {"strides": [2, 2], "pads": [1, 0, 0, 1]}, "MatMul"),
    "pointwise, strided": (["N", 16, 8, 8], [4, 16, 1, 1], {"strides": [2, 2]}, "MatMul"),
    "dilated, one axis": (["N", 6, 20], [8, 6, 3], {"dilations": [2]}, "MatMul"),
    "groups": (["N", 12, 6, 6], [8, 6, 3, 3], {"group": 2, "pads": [1, 1, 1, 1]}, "MatMul"),
    "several filters a channel": ([1, 6, 6, 6], [12, 1, 3, 3], {"group": 6}, "MatMul"),
    "volumes": (["N", 4, 5, 6, 4], [6, 4, 2, 3, 2], {}, "MatMul"),
    "channel by channel, volumes": (["N", 4, 5, 6, 4], [4, 1, 2, 3, 2], {"group": 4}, "MatMul"),
    "channel by channel": (["N", 35, 13, 21], [35, 1, 3, 3], {"group": 35, "pads": [1, 1, 1, 1]}, "Correlate"),
    "channel by channel, strided": (["N", 32, 14, 14], [32, 1, 5, 5], {"group": 32, "strides": [2, 2], "pads": [2, 2, 2, 2]}, "Correlate"),
    "template": ([1, 48, 25, 25], [48, 1, 7, 7], {"group": 48}, "Correlate"),
    "channel by channel, one axis": (["N", 20, 30], [20, 1, 4], {"group": 20, "dilations": [3]}, "Correlate"),
}


def model(shape: list[int | str], weights: list[int], attributes: dict[str, Any], bias: bool = False) -> onnx.ModelProto:
    """relu(conv(x, 2 * w)), so that the filters are computed and something can be fused behind."""
    inputs = [helper.make_tensor_value_info("x", F, shape), helper.make_tensor_value_info("w", F, weights)]
    operands = ["x", "filters"]
    if bias:
        inputs.append(helper.make_tensor_value_info("b", F, weights[:1]))
        operands.append("b")
    nodes = [
        helper.make_node("Add", ["w", "w"], ["filters"]),
        helper.make_node("Conv", operands, ["sums"], **attributes),
        helper.make_node("Relu", ["sums"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", F, [None] * len(shape))])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds_of(proto: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {v.name: [d.dim_value or batch for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def onnxruntime_result(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    (result,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    return np.asarray(result)


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_as_onnxruntime(name: str, bias: bool) -> None:
    shape, weights, attributes, becomes = CASES[name]
    proto = model(shape, weights, attributes, bias)
    program = cnngraph.compile(proto)
    assert not program.report["reference_steps"]
    operators = [row["op"] for row in program.report["selection"]]
    assert becomes in operators
    assert "Conv" not in operators
    for batch in (1, 3) if shape[0] == "N" else (1,):
        feeds = feeds_of(proto, batch)
        wanted = onnxruntime_result(proto, feeds)
        got = program.run(feeds)["y"]
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
        alone = program.run({**feeds, "x": feeds["x"][:1]})["y"]
        np.testing.assert_array_equal(got[:1], alone)


@pytest.mark.parametrize("isa", available())
def test_every_instruction_set(isa: str) -> None:
    for name in ("channel by channel", "padded"):
        proto = model(*CASES[name][:3])
        feeds = feeds_of(proto, 2)
        wanted = onnxruntime_result(proto, feeds)
        np.testing.assert_allclose(cnngraph.compile(proto, isa=isa).run(feeds)["y"], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["channel by channel", "groups"])
def test_optimised_onnx(name: str) -> None:
    proto = model(*CASES[name][:3])
    feeds = feeds_of(proto, 2)
    np.testing.assert_allclose(
        onnxruntime_result(optimized_model(proto, CompileOptions()), feeds), onnxruntime_result(proto, feeds), rtol=1e-4, atol=1e-4
    )


def test_bfloat16() -> None:
    proto = model(*CASES["channel by channel"][:3])
    feeds = feeds_of(proto, 2)
    wanted = onnxruntime_result(proto, feeds)
    assert np.abs(cnngraph.compile(proto, precision="bf16").run(feeds)["y"] - wanted).max() < 0.02 * np.abs(wanted).max()


def test_constant_weights_stay_a_convolution() -> None:
    proto = model([1, 4, 6, 6], [4, 4, 3, 3], {})
    filters = np.ones((4, 4, 3, 3), np.float32)
    program = cnngraph.compile(proto, constants={"w": filters})
    assert "Conv" in [row["op"] for row in program.report["selection"]]
