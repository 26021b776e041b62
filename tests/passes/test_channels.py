"""Which layers' results reach an output channel by channel, and what is refused there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph
from cnngraph.analysis.channels import reach_channels
from cnngraph.frontend import import_model
from cnngraph.ops import Conv


def net(*, depthwise: bool = False, dense: bool = False) -> onnx.ModelProto:
    """Two 1x1 convolutions, all weights of the second equal, then what the arguments say, and the mean over pixels."""
    rng = np.random.default_rng(4)
    tensors = {
        "a": rng.standard_normal((256, 256, 1, 1)).astype(np.float32), "b": np.full((128, 256, 1, 1), 1000 / 3, np.float32),
        "c": np.ones((128, 1, 3, 3), np.float32), "d": np.ones((128, 16), np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], name="first"), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["s"], name="second"),
    ]  # fmt: skip
    if depthwise:
        nodes.append(helper.make_node("Conv", ["s", "c"], ["t"], group=128, pads=[1] * 4, name="depthwise"))
    nodes.append(helper.make_node("ReduceMean", ["t" if depthwise else "s"], ["m"], axes=[2, 3], keepdims=0))
    if dense:
        nodes.append(helper.make_node("MatMul", ["m", "d"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 256, 14, 14])
    y = helper.make_tensor_value_info("y" if dense else "m", TensorProto.FLOAT, ["N", 16 if dense else 128])
    graph = helper.make_graph(nodes, "net", [x], [y], [numpy_helper.from_array(v, k) for k, v in tensors.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, {"second"}), ({"depthwise": True}, {"second", "depthwise"}), ({"dense": True}, set())],
    ids=["last", "depthwise", "dense"],
)
def test_layers_whose_channels_reach_an_output(given: dict[str, bool], expected: set[str]) -> None:
    graph = import_model(net(**given))
    assert {node.label for node in reach_channels(graph) if isinstance(node.op, Conv)} == expected


def test_channels_of_equal_weights_have_equal_results() -> None:
    program = cnngraph.compile(net(), isa="avx2")
    chosen = {row["node"].split("+")[0]: row for row in program.report["selection"] if row["op"] == "Conv"}
    assert chosen["first"]["chosen"] == "strassen" and "channels of the result reach" in chosen["second"]["refused"]["strassen"]
    x = np.random.default_rng(5).standard_normal((2, 256, 14, 14)).astype(np.float32)
    (scores,) = program.run({"x": x}).values()
    assert (scores == scores[:, :1]).all() and np.unique(scores).size == 2
