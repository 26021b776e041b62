"""Recurrent layers give an image the same bits alone and among others."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph


@pytest.mark.parametrize(
    ("op", "gates", "attributes"), [("LSTM", 4, {}), ("GRU", 3, {}), ("GRU", 3, {"linear_before_reset": 1}), ("RNN", 1, {})]
)
def test_a_sequence_alone_and_in_a_batch(op: str, gates: int, attributes: dict[str, int]) -> None:
    rng = np.random.default_rng(7)
    hidden, features, time, batch = 33, 47, 6, 5
    weights = {
        "w": rng.standard_normal((2, gates * hidden, features)),
        "r": rng.standard_normal((2, gates * hidden, hidden)) / 8,
        "b": rng.standard_normal((2, 2 * gates * hidden)),
    }
    node = helper.make_node(op, ["x", *weights], ["y"], hidden_size=hidden, direction="bidirectional", **attributes)
    x_type = helper.make_tensor_value_info("x", TensorProto.FLOAT, [time, "N", features])
    y_type = helper.make_tensor_value_info("y", TensorProto.FLOAT, [time, 2, "N", hidden])
    constants = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = helper.make_graph([node], "g", [x_type], [y_type], constants)
    program = cnngraph.compile(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    x = rng.standard_normal((time, batch, features)).astype(np.float32)
    together = program.run({"x": x})["y"]
    for i in range(batch):
        np.testing.assert_array_equal(together[:, :, i : i + 1], program.run({"x": x[:, i : i + 1]})["y"])


@pytest.mark.parametrize("by_column", [False, True])
def test_the_lstm_of_dynamic_quantisation(by_column: bool) -> None:
    """Within the noise of the 8-bit inputs and states of onnxruntime; the weights, without noise, are the same."""
    rng = np.random.default_rng(7)
    hidden, features, time, batch = 24, 31, 5, 3
    scales = (2, 4 * hidden) if by_column else (2,)
    constants = {
        "w": rng.integers(-127, 128, (2, features, 4 * hidden)).astype(np.int8),
        "r": rng.integers(-127, 128, (2, hidden, 4 * hidden)).astype(np.int8),
        "b": rng.standard_normal((2, 8 * hidden)).astype(np.float32),
        "ws": rng.uniform(0.002, 0.004, scales).astype(np.float32), "wz": np.zeros(scales, np.int8),
        "rs": rng.uniform(0.002, 0.004, scales).astype(np.float32), "rz": np.zeros(scales, np.int8),
    }  # fmt: skip
    inputs = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], hidden_size=hidden, direction="bidirectional", domain="com.microsoft")
    x_type = helper.make_tensor_value_info("x", TensorProto.FLOAT, [time, "N", features])
    y_type = helper.make_tensor_value_info("y", TensorProto.FLOAT, [time, 2, "N", hidden])
    graph = helper.make_graph([node], "g", [x_type], [y_type], [numpy_helper.from_array(a, name) for name, a in constants.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    x = rng.standard_normal((time, batch, features)).astype(np.float32)
    program = cnngraph.compile(model)
    got = program.run({"x": x})["y"]
    assert not program.report["reference_steps"]
    (want,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    assert np.abs(got - want).max() < 0.02 < np.ptp(want)
