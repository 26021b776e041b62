"""LowerDeformConv: sampling and a convolution of single pixels, with the results of the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import cnngraph

F = onnx.TensorProto.FLOAT
CASES: dict[str, dict[str, Any]] = {
    "modulated": {"pads": [1, 1, 1, 1]},
    "strided, dilated": {"strides": [2, 1], "dilations": [1, 2], "pads": [0, 2, 1, 1]},
    "offset groups": {"offset_group": 2, "group": 2, "pads": [1, 1, 1, 1]},
    "one tap": {"kernel_shape": [1, 1]},
    "rectangle": {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]},
}


Shapes = dict[str, tuple[int, ...]]


def model(attributes: dict[str, Any], mask: bool, bias: bool, size: tuple[int, int] = (11, 9)) -> tuple[onnx.ModelProto, Shapes]:
    """relu(deform_conv(x)), and the shapes of one image of its inputs."""
    rng = np.random.default_rng(0)
    kernel, groups = attributes.get("kernel_shape", [3, 3]), attributes.get("group", 1)
    strides, dilations, pads = (attributes.get(n, d) for n, d in (("strides", [1, 1]), ("dilations", [1, 1]), ("pads", [0] * 4)))
    out = tuple((size[i] + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in (0, 1))
    taps = kernel[0] * kernel[1] * attributes.get("offset_group", 1)
    shapes: Shapes = {"x": (20, *size), "o": (2 * taps, *out)}
    if mask:
        shapes["m"] = (taps, *out)
    numbers = {"w": rng.standard_normal((24, 20 // groups, *kernel)).astype(np.float32), "b": rng.standard_normal(24).astype(np.float32)}
    inputs = ["x", "w", "o", "b" if bias else "", "m" if mask else ""]
    while not inputs[-1]:
        inputs.pop()
    nodes = [helper.make_node("DeformConv", inputs, ["d"], **attributes), helper.make_node("Relu", ["d"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, F, ["N", *shape]) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", F, None)], [numpy_helper.from_array(array, name) for name, array in numbers.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), shapes


@pytest.mark.parametrize(("mask", "bias"), [(True, True), (False, False), (True, False), (False, True)])
@pytest.mark.parametrize("name", CASES)
def test_the_same_as_onnxruntime(name: str, mask: bool, bias: bool) -> None:
    proto, shapes = model(CASES[name], mask, bias)
    program = cnngraph.compile(proto)
    assert not program.report["reference_steps"]
    assert "DeformConv" not in [row["op"] for row in program.report["selection"]]
    rng = np.random.default_rng(1)
    feeds = {n: (2 * rng.standard_normal((3, *shape))).astype(np.float32) for n, shape in shapes.items()}
    (wanted,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    got = program.run(feeds)["y"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    one = {n: array[1:2] for n, array in feeds.items()}
    np.testing.assert_array_equal(program.run(one)["y"], got[1:2])


def test_a_row_of_pixels_stays_with_the_definition() -> None:
    proto, shapes = model({"kernel_shape": [1, 3]}, True, True, (1, 9))
    program = cnngraph.compile(proto)
    assert program.report["reference_steps"]
    assert any("one pixel" in row["reason"] for row in program.report["rejections"])
    feeds = {n: np.random.default_rng(1).standard_normal((2, *shape)).astype(np.float32) for n, shape in shapes.items()}
    (wanted,) = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    np.testing.assert_allclose(program.run(feeds)["y"], wanted, rtol=1e-4, atol=1e-4)
