"""Counting conventions, shapes and multiply-adds on graphs that are not the classic ones."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph_models
from cnngraph.analysis.summary import CONVENTIONS, format_text, summarize
from cnngraph.errors import InvalidModelError, UsageError


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, np.float32), name)


def norm(x: str, y: str, channels: int) -> tuple[onnx.NodeProto, list[TensorProto]]:
    names = [f"{y}_{part}" for part in ("scale", "bias", "mean", "variance")]
    return helper.make_node("BatchNormalization", [x, *names], [y], name=y), [weight(name, channels) for name in names]


def model(
    nodes: list[onnx.NodeProto], weights: list[TensorProto], shape: tuple[int | str, ...], outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)], results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv_norm(outputs: tuple[str, ...]) -> onnx.ModelProto:
    bn, stored = norm("c", "y", 8)
    conv = helper.make_node("Conv", ["x", "w"], ["c"], name="conv")
    return model([conv, bn], [weight("w", 8, 3, 3, 3), *stored], ("N", 3, 10, 10), outputs)


def test_a_folded_batch_norm_becomes_a_bias() -> None:
    found = conv_norm(("y",))
    assert summarize(found, "onnx").params == 216 + 32
    keras = summarize(found, "keras")
    assert (keras.params, keras.trainable, keras.non_trainable) == (216 + 32, 216 + 16, 16)
    folded = summarize(found, "folded")
    assert [row.params for row in folded.rows] == [0, 216 + 8, 0]


def test_a_batch_norm_of_a_tensor_that_leaves_the_graph_stays() -> None:
    assert [row.params for row in summarize(conv_norm(("y", "c")), "folded").rows] == [0, 216, 16]


def test_a_batch_norm_before_the_convolution_stays() -> None:
    bn, stored = norm("x", "n", 3)
    found = model([bn, helper.make_node("Conv", ["n", "w"], ["y"])], [weight("w", 8, 3, 1, 1), *stored], ("N", 3, 10, 10))
    assert [row.params for row in summarize(found, "folded").rows] == [0, 6, 24]


def test_a_shared_weight_counts_once_and_works_twice() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4), helper.make_node("Conv", ["a", "w"], ["y"], pads=[1] * 4)]
    for count in CONVENTIONS:
        found = summarize(model(nodes, [weight("w", 4, 4, 3, 3)], ("N", 4, 5, 5)), count)
        assert [row.params for row in found.rows] == [0, 144, 0]
        assert [row.macs for row in found.rows] == [0, 3600, 3600]
        assert found.depth == 2


def test_matmul_and_its_bias_are_a_dense_layer_and_other_constants_are_not() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["a"]),
        helper.make_node("Add", ["a", "half"], ["y"]),
    ]
    found = model(nodes, [weight("half", 1), weight("w", 6, 4), weight("b", 4)], ("N", 6))
    assert summarize(found, "onnx").params == 29
    assert summarize(found, "keras").params == 28
    assert summarize(found).macs == 24


@pytest.mark.parametrize(
    ("node", "stored", "shape", "macs"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], group=4), (8, 2, 3, 3), ("N", 8, 7, 6), 8 * 5 * 4 * 2 * 9),
        (helper.make_node("Conv", ["x", "w"], ["y"], strides=[2]), (5, 3, 4), ("N", 3, 11), 5 * 4 * 3 * 4),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (2, 3, 2, 2, 2), ("N", 3, 4, 4, 4), 2 * 27 * 3 * 8),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), (4, 6, 2, 2), ("N", 4, 5, 5), 4 * 25 * 6 * 4),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (7, 6), ("N", 6), 42),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (6, 7), ("N", 5, 6), 5 * 42),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (6, 7), (4, 5, 6), 4 * 5 * 42),
    ],
)
def test_multiply_adds(node: onnx.NodeProto, stored: tuple[int, ...], shape: tuple[int | str, ...], macs: int) -> None:
    found = summarize(model([node], [weight("w", *stored)], shape), "keras")
    assert found.macs == macs
    assert found.params == np.prod(stored)
    assert found.weight_layers == 1


def test_a_transposed_left_operand() -> None:
    found = model([helper.make_node("Gemm", ["x", "w"], ["y"], transA=1)], [weight("w", 6, 7)], (6, 5))
    assert summarize(found).macs == 5 * 6 * 7


def test_weights_in_constant_nodes_and_behind_other_nodes() -> None:
    nodes = [
        helper.make_node("Constant", [], ["flat"], value=weight("flat", 54)),
        helper.make_node("Constant", [], ["shape"], value_ints=[2, 3, 3, 3]),
        helper.make_node("Reshape", ["flat", "shape"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("ConstantOfShape", ["size"], ["v"]),
        helper.make_node("Conv", ["c", "v"], ["y"]),
    ]
    found = model(nodes, [numpy_helper.from_array(np.array([5, 2, 1, 1], np.int64), "size")], ("N", 3, 8, 8))
    assert summarize(found, "onnx").params == 54 + 4 + 4
    keras = summarize(found, "keras")
    assert (keras.params, keras.weight_layers, keras.depth) == (54 + 10, 2, 2)
    assert keras.macs == 2 * 36 * 27 + 5 * 36 * 2
    assert "Constant" not in [row.type for row in keras.rows]


def test_a_batch_that_moves_is_shown_where_it_is() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), helper.make_node("Reshape", ["t", "shape"], ["y"])]
    stored = [numpy_helper.from_array(np.array([3, 4, -1], np.int64), "shape")]
    rows = summarize(model(nodes, stored, ("N", 3, 4))).rows
    assert [row.output_shape for row in rows] == [(None, 3, 4), (3, None, 4), (3, 4, None)]


def test_a_fixed_batch_is_shown() -> None:
    rows = summarize(cnngraph_models.build("lenet5", batch=3)).rows
    assert rows[0].output_shape == (3, 1, 32, 32)
    assert rows[-1].output_shape == (3, 10)


def test_unknown_extents_and_operators_are_admitted() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["c"])
    found = summarize(
        model([conv, helper.make_node("Thing", ["c"], ["y"], domain="elsewhere")], [weight("w", 2, 3, 1, 1)], ("N", 3, "H", 9))
    )
    assert [row.macs for row in found.rows] == [0, None, 0]
    assert (found.macs, found.unknown_macs) == (0, 1)
    assert found.rows[1].output_shape == (None, 2, None, 9)
    assert found.rows[2].output_shape is None
    text = format_text(found)
    assert "1 layers whose shapes are not known" in text


def test_stale_shapes_in_the_file_are_not_believed() -> None:
    found = model(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])], [weight("w", 2, 3, 1, 1)], ("N", 3, 4, 4)
    )
    found.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, (1, 2, 999, 999)))
    assert summarize(found).macs == 96


def test_inputs_that_are_initialisers_are_no_inputs() -> None:
    found = conv_norm(("y",))
    found.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, (8, 3, 3, 3)))
    assert [row.type for row in summarize(found).rows] == ["Input", "Conv", "BatchNormalization"]


def test_control_flow_owns_the_constants_of_its_bodies() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["x", "k"], ["out"])],
        "body",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [weight("k", 7)],
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    flag = numpy_helper.from_array(np.array(True), "flag")
    assert summarize(model([node], [flag], ("N", 7))).params == 15


def test_impossible_constants_are_refused() -> None:
    for dims in ((-1, 3), (1 << 40, 1 << 40)):
        found = conv_norm(("y",))
        found.graph.initializer[0].ClearField("dims")
        found.graph.initializer[0].dims.extend(dims)
        with pytest.raises(InvalidModelError, match="impossible shape"):
            summarize(found)


def test_names_from_the_file_are_printable() -> None:
    found = conv_norm(("y",))
    found.graph.node[0].name = "evil\x1b[2J\nname"
    text = format_text(summarize(found))
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3 + 3 + 1 + 4


def test_an_empty_graph() -> None:
    found = summarize(model([], [weight("w", 3)], ("N", 3), ("x",)))
    assert [row.type for row in found.rows] == ["Input"]
    assert found.depth == 0


def test_text_and_json() -> None:
    summary = summarize(cnngraph_models.build("lenet5"), "keras")
    text = format_text(summary)
    for part in ("(None, 6, 28, 28)", "61,706", "416,520", "Non-trainable: 0", CONVENTIONS["keras"]):
        assert part in text
    data = json.loads(json.dumps(summary.to_json()))
    assert (data["params"], data["depth"], data["layer_depth"]) == (61_706, 5, 9)
    assert sum(row["params"] for row in data["rows"]) == 61_706
    assert data["rows"][1] == {
        "name": "conv1", "type": "Conv", "output_shape": [None, 6, 28, 28], "params": 156, "trainable": 156, "macs": 117_600,
    }  # fmt: skip


def test_unknown_convention() -> None:
    with pytest.raises(UsageError, match="keras"):
        summarize(cnngraph_models.build("lenet5"), "torch")  # type: ignore[arg-type]


def test_a_scale_that_is_not_stored_and_numbers_that_nothing_reads() -> None:
    bn = helper.make_node("BatchNormalization", ["x", "ones", "b", "m", "v"], ["y"], name="y")
    ones = helper.make_node("ConstantOfShape", ["size"], ["ones"], value=helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]))
    stored = [weight(name, 3) for name in ("b", "m", "v")]
    found = model([ones, bn], [*stored, weight("seen"), numpy_helper.from_array(np.array([3], np.int64), "size")], ("N", 3, 4, 4))
    keras = summarize(found, "keras")
    assert (keras.params, keras.trainable) == (3 + 3 + 3 + 1, 3)
    assert summarize(found, "folded").params == 6
