"""Networks as TensorFlow writes them: transposes, padding, bounds and normalisation of their own become part of the layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import cnngraph
from cnngraph.quantize import Quantizer
from cnngraph.quantize.fold import fold
from cnngraph.quantize.network import Network

from . import support

node = helper.make_node
LAST, FIRST = {"perm": [0, 2, 3, 1]}, {"perm": [0, 3, 1, 2]}


def folded(model: onnx.ModelProto) -> list[str]:
    """Operators after folding, which must keep the function."""
    network = Network.read(model)
    fold(network)
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    for got, want in zip(support.onnxruntime(network.model(), feeds), support.onnxruntime(model, feeds), strict=True):
        assert np.ptp(want) > 0.1
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return [n.op_type for n in network.nodes]


def constants(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "w1": rng.standard_normal((16, 3, 3, 3)).astype(np.float32) * np.float32(0.3),
        "w2": rng.standard_normal((16, 16, 1, 1)).astype(np.float32) * np.float32(0.3),
        "w3": rng.standard_normal((16, 16, 1, 1)).astype(np.float32) * np.float32(0.3), "scale": rng.uniform(0.5, 2, 16).astype(np.float32),
        "shift": rng.standard_normal(16).astype(np.float32), "six": np.array(6, np.float32), "zero": np.array(0, np.float32),
        "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0], np.int64), "axes": np.array([1, 2], np.int64),
        "starts": np.array([1, 0], np.int64), "ends": np.array([7, 6], np.int64), "steps": np.array([2, 1], np.int64),
        "halves": np.array([8, 8], np.int64), "one": np.array([-1], np.int64),
    }  # fmt: skip


def residual() -> onnx.ModelProto:
    """Pad, convolution, normalisation in two steps, Relu6 as a minimum, residual sum, squeeze and excitation, an average."""
    nodes = [
        node("Pad", ["x", "pads"], ["p"], "pad"), node("Transpose", ["p"], ["t1"], **FIRST), node("Conv", ["t1", "w1"], ["c1"], "conv1"),
        node("Transpose", ["c1"], ["l1"], **LAST), node("Mul", ["l1", "scale"], ["m1"]), node("Sub", ["m1", "shift"], ["a1"]),
        node("Relu", ["a1"], ["r1"]), node("Min", ["r1", "six"], ["k1"]),
        node("Transpose", ["k1"], ["t2"], **FIRST), node("Conv", ["t2", "w2"], ["c2"], "conv2"), node("Transpose", ["c2"], ["l2"], **LAST),
        node("Div", ["l2", "scale"], ["a2"]), node("Add", ["k1", "a2"], ["s2"], "sum"),
        node("ReduceMean", ["s2"], ["g"], axes=[1, 2], keepdims=1), node("Transpose", ["g"], ["t3"], **FIRST),
        node("Conv", ["t3", "w3", "shift"], ["c3"], "gate"), node("Transpose", ["c3"], ["l3"], **LAST), node("Sigmoid", ["l3"], ["e"]),
        node("Mul", ["s2", "e"], ["y0"]), node("ReduceMean", ["y0"], ["y"], axes=[1, 2], keepdims=0),
    ]  # fmt: skip
    return support.build(nodes, constants(), ["N", 8, 8, 3], {"y": ["N", 16]})


def test_a_residual_network_has_one_transpose_left() -> None:
    expected = ["Transpose", "Conv", "Clip", "Conv", "Add", "ReduceMean", "Conv", "Sigmoid", "Mul", "ReduceMean"]
    assert folded(residual()) == expected


def test_padding_between_the_transposes_joins_the_convolution() -> None:
    """After the first layer the padding moves in front of the transpose, where it meets the convolution."""
    nodes = [
        node("Transpose", ["x"], ["t1"], **FIRST), node("Conv", ["t1", "w1"], ["c1"], "conv1"), node("Transpose", ["c1"], ["l1"], **LAST),
        node("Relu", ["l1"], ["r"]), node("Pad", ["r", "pads"], ["p"], "pad"), node("Transpose", ["p"], ["t2"], **FIRST),
        node("Conv", ["t2", "w2"], ["c2"], "conv2", pads=[1, 0, 0, 2]), node("Transpose", ["c2"], ["y"], **LAST),
    ]  # fmt: skip
    model = support.build(nodes, constants(), ["N", 8, 8, 3], {"y": ["N", None, None, 16]})
    assert folded(model) == ["Transpose", "Conv", "Relu", "Conv", "Transpose"]


@pytest.mark.parametrize(
    ("body", "left", "rank"),
    [
        ([node("Concat", ["l", "l"], ["y"], axis=3)], ["Concat", "Transpose"], 4),
        ([node("Split", ["l", "halves"], ["a", "b"], axis=-1), node("Add", ["b", "a"], ["y"])], ["Split", "Add", "Transpose"], 4),
        ([node("Slice", ["l", "starts", "ends", "axes", "steps"], ["y"])], ["Slice", "Transpose"], 4),
        ([node("Softmax", ["l"], ["y"])], ["Softmax", "Transpose"], 4),
        ([node("ReduceMax", ["l"], ["y"], axes=[3])], ["ReduceMax", "Transpose"], 4),
        ([node("ReduceMax", ["l"], ["y"], axes=[1], keepdims=0)], ["Transpose", "ReduceMax"], 3),  # channels would change places
        ([node("Max", ["l", "zero"], ["y"])], ["Clip", "Transpose"], 4),
        ([node("Reshape", ["l", "one"], ["y"])], ["Transpose", "Reshape"], 1),
    ],
)
def test_operators_that_transposes_pass(body: list[onnx.NodeProto], left: list[str], rank: int) -> None:
    nodes = [node("Transpose", ["x"], ["t"], **FIRST), node("Conv", ["t", "w1"], ["c"]), node("Transpose", ["c"], ["l"], **LAST), *body]
    assert folded(support.build(nodes, constants(), ["N", 8, 8, 3], {"y": [None] * rank})) == ["Transpose", "Conv", *left]


def test_what_reads_pixels_in_their_order_keeps_the_transpose_of_all() -> None:
    nodes = [
        node("Transpose", ["x"], ["t1"], **FIRST), node("Conv", ["t1", "w1"], ["c1"]), node("Transpose", ["c1"], ["l1"], **LAST),
        node("Relu", ["l1"], ["r"]), node("Flatten", ["l1"], ["y"]), node("Flatten", ["r"], ["z"]),
    ]  # fmt: skip
    model = support.build(nodes, constants(), ["N", 8, 8, 3], {"y": [None] * 2, "z": [None] * 2})
    assert folded(model) == ["Transpose", "Conv", "Transpose", "Relu", "Flatten", "Flatten"]


def test_the_whole_becomes_integer() -> None:
    quantizer = Quantizer(residual())
    rng = np.random.default_rng(2)
    samples = [{"x": rng.standard_normal((4, 8, 8, 3)).astype(np.float32)} for _ in range(3)]
    quantizer.calibrate(samples)
    found = quantizer.quantize()
    assert [unit.kind for unit in found.plan.units if unit.has_weights] == ["Conv+Clip", "Conv", "Conv"]
    assert {unit.kind for unit in found.plan.units} >= {"Add", "Mul", "Sigmoid", "ReduceMean"}
    program = cnngraph.compile(found.model)
    assert not program.report["reference_steps"] and not program.report["rejections"]
    (want,) = support.onnxruntime(residual(), samples[0])
    (got,) = program.run(samples[0]).values()
    assert np.sqrt(((got - want) ** 2).mean()) < 0.03 * want.std()


def test_float_operands_are_quantised_where_the_result_is_anyway() -> None:
    """An interpolated tensor joined with integers in front of a layer; neighbours and reflections are integers themselves."""
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], "conv1", pads=[1] * 4), node("Conv", ["c1", "w2"], ["c2"], "conv2", strides=[2, 2]),
        node("Resize", ["c2", "", "twice"], ["u"], "near", mode="nearest"),
        node("Resize", ["c2", "", "twice"], ["v"], "linear", mode="linear"),
        node("Concat", ["u", "v"], ["j"], "join", axis=1), node("Pad", ["j", "pads4"], ["p"], "reflect", mode="reflect"),
        node("Conv", ["p", "w4"], ["y"], "conv3"),
    ]  # fmt: skip
    more = {
        "twice": np.array([1, 1, 2, 2], np.float32), "pads4": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "w4": np.random.default_rng(4).standard_normal((4, 32, 3, 3)).astype(np.float32),
    }  # fmt: skip
    quantizer = Quantizer(support.build(nodes, {**constants(), **more}, ["N", 3, 8, 8], {"y": [None] * 4}))
    assert [unit.name for unit in quantizer.plan.units] == ["conv1", "conv2", "near", "join", "reflect", "conv3"]
    assert quantizer.plan.left == {"linear": "it interpolates"}
    quantizer.calibrate([{"x": np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype(np.float32)}])
    program = cnngraph.compile(quantizer.quantize().model)
    assert not program.report["reference_steps"]
    assert [r["reason"] for r in program.report["rejections"] if r["pass"] == "fuse_qdq"] == ["interpolation has no form on integers"]
