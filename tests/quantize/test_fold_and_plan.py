"""Rewrites before quantisation keep the function; the plan quantises what it should."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from cnngraph.errors import UnsupportedError, UsageError
from cnngraph.quantize import Quantizer
from cnngraph.quantize.fold import fold
from cnngraph.quantize.network import Network
from cnngraph.quantize.plan import make_plan

from . import support

node = helper.make_node


def folded(model: object) -> Network:
    network = Network.read(model)  # type: ignore[arg-type]
    fold(network)
    return network


def test_folding_keeps_the_function() -> None:
    model = support.mixed()
    network = folded(model)
    kinds = [n.op_type for n in network.nodes]
    assert "BatchNormalization" not in kinds and "MatMul" not in kinds and kinds.count("Add") == 1 and kinds.count("Gemm") == 1
    (feeds,) = support.samples(1)
    np.testing.assert_allclose(support.onnxruntime(network.model(), feeds)[0], support.onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-6)


def test_factors_biases_and_moved_constants_fold() -> None:
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((6, 3, 3, 3)).astype(np.float32), "b": rng.standard_normal((6, 1, 1)).astype(np.float32),
        "m": rng.standard_normal((96, 5)).astype(np.float32), "c": rng.standard_normal((1, 5)).astype(np.float32),
        "shape": np.array([-1, 96], np.int64),
    }  # fmt: skip
    model = support.build(
        [
            node("Conv", ["x", "w"], ["y0"], "conv"), node("Add", ["b", "y0"], ["y1"]), node("Dropout", ["y1"], ["y2"]),
            node("Reshape", ["y2", "shape"], ["y3"]), node("Transpose", ["m"], ["t"], perm=[1, 0]),
            node("Gemm", ["y3", "t", "c"], ["y"], "fc", transB=1, alpha=0.5, beta=2.0),
        ],
        constants, ["N", 3, 6, 6], {"y": ["N", 5]},
    )  # fmt: skip
    network = folded(model)
    assert [n.op_type for n in network.nodes] == ["Conv", "Reshape", "Gemm"]
    assert len({n.name for n in network.nodes}) == 3
    feeds = {"x": rng.standard_normal((2, 3, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(support.onnxruntime(network.model(), feeds)[0], support.onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_weights_that_two_layers_share_fold_apart() -> None:
    rng = np.random.default_rng(0)
    vector = {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in ("g", "b", "m", "v")}
    model = support.build(
        [
            node("Conv", ["x", "w"], ["c1"], "one"), node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"]),
            node("Conv", ["n1", "w"], ["y"], "two"),
        ],
        {"w": rng.standard_normal((4, 4, 1, 1)).astype(np.float32), **vector}, ["N", 4, 3, 3], {"y": ["N", 4, 3, 3]},
    )  # fmt: skip
    feeds = {"x": rng.standard_normal((2, 4, 3, 3)).astype(np.float32)}
    got = support.onnxruntime(folded(model).model(), feeds)[0]
    np.testing.assert_allclose(got, support.onnxruntime(model, feeds)[0], rtol=1e-4, atol=1e-5)


def test_a_normalisation_of_a_result_that_others_read_stays() -> None:
    vector = {name: np.ones(4, np.float32) for name in ("g", "b", "m", "v")}
    model = support.build(
        [
            node("Conv", ["x", "w"], ["c"], "conv"), node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
            node("Add", ["n", "c"], ["y"]),
        ],
        {"w": np.ones((4, 4, 1, 1), np.float32), **vector}, ["N", 4, 3, 3], {"y": ["N", 4, 3, 3]},
    )  # fmt: skip
    assert [n.op_type for n in folded(model).nodes] == ["Conv", "BatchNormalization", "Add"]


def test_the_plan_fuses_bounds_and_leaves_the_end_float() -> None:
    plan = make_plan(folded(support.mixed()))
    kinds = {unit.name: unit.kind for unit in plan.units}
    assert kinds["conv1"] == "Conv+Clip" and kinds["add1"] == "Add+Relu" and kinds["conv2"] == "Conv"
    assert set(kinds) >= {
        "depthwise",
        "sigmoid3",
        "silu3",
        "squeeze",
        "gate",
        "scaled",
        "concat",
        "pool1",
        "pool2",
        "pool3",
        "flatten",
        "fc",
    }
    assert "softmax" not in kinds
    assert "c1" not in plan.tensors and "r1" in plan.tensors and "x" in plan.tensors
    assert ("r2", "p1") in plan.groups and plan.joined == [("cat", "m4", "c5")]


def test_excluded_nodes_take_what_depends_on_them_along() -> None:
    plan = make_plan(folded(support.mixed()), ["conv2"])
    assert plan.left["conv2"] == "excluded" and plan.left["add1"] == "its operand c2 is float"
    assert "c2" not in plan.tensors and "p1" in plan.tensors
    with pytest.raises(UsageError, match="no node is called nothing"):
        make_plan(folded(support.mixed()), ["nothing"])


def test_movement_that_nothing_integer_reads_stays_float() -> None:
    model = support.build(
        [node("Conv", ["x", "w"], ["c"], "conv"), node("Flatten", ["c"], ["f"], "flat"), node("Softmax", ["f"], ["y"], "soft")],
        {"w": np.ones((4, 4, 3, 3), np.float32)}, ["N", 4, 3, 3], {"y": ["N", 4]},
    )  # fmt: skip
    plan = make_plan(folded(model))
    assert [unit.name for unit in plan.units] == ["conv"] and plan.left["flat"] == "no integer node reads its result"


def test_models_that_cannot_be_quantised() -> None:
    with pytest.raises(UsageError, match="no convolution or matrix product"):
        Quantizer(support.build([node("Relu", ["x"], ["y"])], {}, ["N", 4], {"y": ["N", 4]}))
    quantizer = Quantizer(support.mixed())
    quantizer.calibrate(support.samples(1))
    with pytest.raises(UsageError, match="quantised already"):
        Quantizer(quantizer.quantize().model)
    computed = support.build([node("MatMul", ["x", "x"], ["y"], "product")], {}, [4, 4], {"y": [4, 4]})
    with pytest.raises(UsageError, match="product: its weights are computed at run time"):
        Quantizer(computed)


def test_old_operator_sets_are_converted_or_refused() -> None:
    old = support.build(
        [node("Conv", ["x", "w"], ["y"], "conv")], {"w": np.ones((4, 4, 1, 1), np.float32)}, ["N", 4, 3, 3], {"y": ["N", 4, 3, 3]}
    )
    old.opset_import[0].version = 9
    assert Network.read(old).model().opset_import[0].version == 13
    old.graph.node[0].op_type = "Nonsense"
    with pytest.raises(UnsupportedError, match="operator set 13"):
        Network.read(old)
