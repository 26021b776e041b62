"""Attribute- and input-style variants of one operator mean the same, in every operator set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from cnngraph.errors import InvalidModelError, UnsupportedError
from cnngraph.frontend import import_model, supported_ops
from cnngraph.frontend.operators import imported_ops
from cnngraph.ops import Conv, Dense, Pool
from tests.frontend.support import floats, ints, model, node, op_names, run, run_model

X = floats(2, 3, 4, 5)


def unary(op: str, opset: int, weights: dict[str, np.ndarray] | None = None, x: np.ndarray = X, **attributes: Any) -> np.ndarray:
    names = " ".join(["x", *(weights or {})])
    return run_model(model([node(op, names, "y", **attributes)], {"x": list(x.shape)}, weights=weights, opset=opset), x=x)


@pytest.mark.parametrize(("opset", "inputs"), [(7, False), (10, False), (11, True), (13, True), (28, True)])
def test_clip(opset: int, inputs: bool) -> None:
    if inputs:
        got = unary("Clip", opset, {"lo": np.array(-0.5, np.float32), "hi": np.array(0.25, np.float32)})
    else:
        got = unary("Clip", opset, min=-0.5, max=0.25)
    np.testing.assert_array_equal(got, np.clip(X, -0.5, np.float32(0.25)))


def test_clip_with_absent_lower_bound() -> None:
    proto = model([node("Clip", "x _ hi", "y")], {"x": [2, 3, 4, 5]}, weights={"hi": np.array(0.0, np.float32)})
    np.testing.assert_array_equal(run_model(proto, x=X), np.minimum(X, 0))


@pytest.mark.parametrize(("opset", "inputs"), [(7, False), (10, False), (11, True), (18, True), (28, True)])
def test_pad(opset: int, inputs: bool) -> None:
    pads = [0, 0, 1, 2, 0, 0, 0, 1]
    got = unary("Pad", opset, {"p": ints(*pads), "v": np.array(7, np.float32)}) if inputs else unary("Pad", opset, pads=pads, value=7.0)
    np.testing.assert_array_equal(got, np.pad(X, [(0, 0), (0, 0), (1, 0), (2, 1)], constant_values=7))


def test_pad_with_axes_and_negative_pads() -> None:
    proto = model([node("Pad", "x p _ a", "y", mode="edge")], {"x": [2, 3, 4, 5]}, weights={"p": ints(-1, 1), "a": ints(-1)}, opset=18)
    np.testing.assert_array_equal(run_model(proto, x=X), np.pad(X[..., 1:], [(0, 0)] * 3 + [(0, 1)], mode="edge"))


@pytest.mark.parametrize("opset", [7, 9, 10, 13])
def test_slice(opset: int) -> None:
    if opset < 10:
        got = unary("Slice", opset, axes=[1, 3], starts=[-2, 1], ends=[1000, -1])
    else:
        got = unary("Slice", opset, {"s": ints(-2, 1), "e": ints(2**63 - 1, -1), "a": ints(1, 3), "t": ints(1, 2)})[..., :]
        np.testing.assert_array_equal(got, X[:, -2:, :, 1:-1:2])
        return
    np.testing.assert_array_equal(got, X[:, -2:, :, 1:-1])


@pytest.mark.parametrize(
    ("start", "end", "step"), [(-1, -(2**63), -1), (3, 0, -2), (100, -100, -3), (0, 0, 1), (-100, 2, 1), (2, 1, 1), (-100, -200, -1)]
)
def test_slice_bounds_are_clamped(start: int, end: int, step: int) -> None:
    got = unary("Slice", 13, {"s": ints(start), "e": ints(end), "a": ints(3), "t": ints(step)})
    first = min(max(start + 5 if start < 0 else start, 0), 5 if step > 0 else 4)  # unlike NumPy's, also for steps backwards
    last = min(max(end + 5 if end < 0 else end, 0 if step > 0 else -1), 5)
    np.testing.assert_array_equal(got, X[..., list(range(first, last, step))])


@pytest.mark.parametrize("opset", [7, 11, 13, 28])
def test_squeeze_and_unsqueeze(opset: int) -> None:
    x = floats(2, 1, 3, 1)
    style: dict[str, Any] = {"axes": [1]} if opset < 13 else {"weights": {"a": ints(1)}}
    assert unary("Squeeze", opset, x=x, **style).shape == (2, 3, 1)
    assert unary("Unsqueeze", opset, x=x, **style).shape == (2, 1, 1, 3, 1)
    assert unary("Squeeze", opset, x=x).shape == (2, 3)


@pytest.mark.parametrize(("opset", "inputs"), [(7, False), (13, False), (17, False), (18, True), (28, True)])
@pytest.mark.parametrize(("op", "function"), [("ReduceMean", np.mean), ("ReduceMax", np.max)])
def test_reduce(op: str, function: Any, opset: int, inputs: bool) -> None:
    got = unary(op, opset, {"a": ints(-1, 1)}, keepdims=0) if inputs else unary(op, opset, axes=[1, 3], keepdims=0)
    np.testing.assert_allclose(got, function(X, axis=(1, 3)), rtol=1e-6)


def test_reduce_sum_takes_axes_as_input_since_13_and_all_by_default() -> None:
    np.testing.assert_allclose(unary("ReduceSum", 13, {"a": ints(2)}), X.sum(axis=2, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(unary("ReduceSum", 12), X.sum(keepdims=True).reshape(1, 1, 1, 1), rtol=1e-5)
    np.testing.assert_array_equal(unary("ReduceSum", 13, {"a": ints()}, noop_with_empty_axes=1), X)


@pytest.mark.parametrize("opset", [7, 10, 12, 13, 28])
def test_dropout_is_the_identity_with_a_full_mask(opset: int) -> None:
    ratio = {"weights": {"r": np.array(0.5, np.float32)}} if opset >= 12 else {}
    graph = import_model(
        model([node("Dropout", " ".join(["x", *(["r"] if ratio else [])]), "y m")], {"x": ["n", 4]}, "y", opset=opset, **ratio)
    )
    assert "Identity" in op_names(graph)
    proto = model(
        [node("Dropout", "x", "y m")], {"x": ["n", 4]}, "m", opset=opset, output_type=TensorProto.BOOL if opset >= 10 else TensorProto.FLOAT
    )
    mask = run_model(proto, x=X.reshape(-1, 4))
    assert mask.shape == (30, 4)
    assert mask.all()


def test_dropout_in_training_mode_is_refused() -> None:
    proto = model([node("Dropout", "x _ t", "y", "drop")], {"x": [2]}, weights={"t": np.array(True)}, opset=13)
    with pytest.raises(UnsupportedError, match="drop: Dropout: training mode"):
        import_model(proto)


@pytest.mark.parametrize(("opset", "style"), [(7, "attribute"), (13, "input"), (18, "input"), (18, "num_outputs"), (11, "equal")])
def test_split(opset: int, style: str) -> None:
    x = floats(2, 6)
    attributes: dict[str, Any] = {"axis": 1}
    weights, names = {}, "x"
    if style == "attribute":
        attributes["split"] = [4, 2]
    elif style == "input":
        weights, names = {"s": ints(4, 2)}, "x s"
    elif style == "num_outputs":
        attributes["num_outputs"] = 2
    proto = model([node("Split", names, "a b", **attributes)], {"x": [2, 6]}, "a b", weights, opset)
    results = run(import_model(proto), {"x": x})
    cut = 4 if style in ("attribute", "input") else 3
    np.testing.assert_array_equal(results["a"], x[:, :cut])
    np.testing.assert_array_equal(results["b"], x[:, cut:])


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("opset", [7, 11, 12])
def test_softmax_flattened_before_13(opset: int, axis: int, log: bool) -> None:
    if axis < 0 and opset < 11:
        axis = 3
    x = X.reshape(2, 3, 20, 1)
    got = unary("LogSoftmax" if log else "Softmax", opset, x=x, axis=axis)
    flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
    expected = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, (np.log(expected) if log else expected).reshape(x.shape), rtol=1e-4, atol=1e-6)


def test_softmax_since_13_is_along_the_last_axis() -> None:
    np.testing.assert_allclose(unary("Softmax", 13).sum(axis=-1), np.ones((2, 3, 4)), rtol=1e-6)


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", (0, 1, 1, 1)), ("SAME_LOWER", (1, 1, 0, 1)), ("VALID", (0, 0, 0, 0))])
def test_auto_pad(auto_pad: str, pads: tuple[int, ...]) -> None:
    weights = {"w": floats(2, 3, 3, 3)}
    proto = model([node("Conv", "x w", "y", auto_pad=auto_pad, strides=[2, 1])], {"x": ["n", 3, 4, 5]}, weights=weights)
    (item,) = import_model(proto).nodes
    assert item.op == Conv((3, 3), (2, 1), pads, (1, 1))
    proto = model([node("MaxPool", "x", "y", auto_pad=auto_pad, strides=[2, 1], kernel_shape=[3, 3])], {"x": ["n", 3, 4, 5]})
    (item,) = import_model(proto).nodes
    assert item.op == Pool("max", (3, 3), (2, 1), pads, (1, 1))


@pytest.mark.parametrize("constant_c", [True, False])
@pytest.mark.parametrize("c_shape", [(), (1,), (5,), (1, 5), (4, 1), (4, 5)])
def test_gemm(c_shape: tuple[int, ...], constant_c: bool) -> None:
    a, b, c = floats(3, 4, seed=1), floats(5, 3, seed=2), floats(*c_shape, seed=3)
    inputs: dict[str, Any] = {"a": [3, 4]} | ({} if constant_c else {"c": list(c_shape)})
    weights = {"b": b} | ({"c": c} if constant_c else {})
    proto = model([node("Gemm", "a b c", "y", transA=1, transB=1, alpha=0.5, beta=2.0)], inputs, weights=weights)
    graph = import_model(proto)
    assert "Dense" in op_names(graph)
    dense = next(n for n in graph.nodes if isinstance(n.op, Dense))
    assert (dense.inputs[2] is not None) == (constant_c and c_shape in ((), (1,), (5,), (1, 5)))
    np.testing.assert_allclose(run(graph, {"a": a} | ({} if constant_c else {"c": c}))["y"], 0.5 * a.T @ b.T + 2 * c, rtol=1e-5, atol=1e-6)


def test_gemm_of_two_inputs() -> None:
    a, b = floats(3, 4), floats(4, 5)
    proto = model([node("Gemm", "a b", "y", alpha=2.0)], {"a": [3, 4], "b": [4, 5]})
    np.testing.assert_allclose(run_model(proto, a=a, b=b), 2 * (a @ b), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (2, 5, 3, 4)])
def test_matmul_with_constant_matrix_is_dense(shape: tuple[int, ...]) -> None:
    x, w = floats(*shape), floats(4, 6, seed=1)
    dims = list(shape) if len(shape) == 1 else ["n", *shape[1:]]
    graph = import_model(model([node("MatMul", "x w", "y")], {"x": dims}, weights={"w": w}))
    assert "Dense" in op_names(graph)
    np.testing.assert_allclose(run(graph, {"x": x})["y"], x @ w, rtol=1e-5, atol=1e-6)


def test_batch_normalization_spatial_and_training_of_old_operator_sets() -> None:
    weights = {n: np.abs(floats(3, seed=i)) + 0.1 for i, n in enumerate("sbmv")}
    expected = (X - weights["m"].reshape(3, 1, 1)) / np.sqrt(weights["v"].reshape(3, 1, 1) + 1e-5) * weights["s"].reshape(3, 1, 1)
    expected += weights["b"].reshape(3, 1, 1)
    for opset in (7, 8, 9, 14, 15, 28):
        np.testing.assert_allclose(unary("BatchNormalization", opset, weights), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UnsupportedError, match="spatial=0"):
        unary("BatchNormalization", 7, weights, spatial=0)
    proto = model([node("BatchNormalization", "x s b m v", "y mean")], {"x": [2, 3, 4, 5]}, weights=weights, opset=9)
    with pytest.raises(UnsupportedError, match="training mode"):
        import_model(proto)


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("value", numpy_helper.from_array(np.array([1, 2], np.float32))),
        ("value_float", 1.5),
        ("value_floats", [1.0, 2.0]),
        ("value_int", 3),
        ("value_ints", [1, 2]),
    ],
)
def test_constant_forms(form: str, value: Any) -> None:
    nodes = [node("Constant", "", "c", **{form: value}), node("Cast", "c", "f", to=TensorProto.FLOAT), node("Add", "x f", "y")]
    expected = np.float32(1) + (numpy_helper.to_array(value) if form == "value" else np.array(value, np.float32))
    np.testing.assert_array_equal(run_model(model(nodes, {"x": [1]}), x=np.ones(1, np.float32)).reshape(-1), np.atleast_1d(expected))


def test_initializer_that_is_also_an_input_is_a_constant() -> None:
    proto = model([node("Conv", "x w", "y")], {"x": ["n", 3, 4, 4], "w": [2, 3, 1, 1]}, weights={"w": floats(2, 3, 1, 1)}, opset=9)
    graph = import_model(proto)
    assert [name for name, _ in graph.inputs] == ["x"]
    assert graph.nodes[0].input(1).is_constant


def test_names_and_provenance_are_the_models() -> None:
    proto = model([node("Relu", "x", "a", "first"), node("Sigmoid", "a", "y")], {"x": ["n", 3]})
    graph = import_model(proto)
    assert [n.origin for n in graph.nodes] == [("first",), ("Sigmoid_1",)]
    assert [n.output.names for n in graph.nodes] == [("a",), ("y",)]


def test_nodes_may_come_in_any_order() -> None:
    proto = model([node("Sigmoid", "a", "y"), node("Relu", "x", "a")], {"x": ["n", 3]})
    assert [n.label for n in import_model(proto).nodes] == ["Relu_1", "Sigmoid_0"]


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_both_names_of_the_standard_domain(domain: str) -> None:
    proto = model([node("Relu", "x", "y", domain=domain)], {"x": ["n", 3]})
    proto.opset_import[0].domain = domain
    assert op_names(import_model(proto)) == ["Elementwise"]


def test_operator_sets_out_of_range() -> None:
    with pytest.raises(UnsupportedError, match="operator set 9999; supported are 1 to"):
        import_model(model([node("Relu", "x", "y")], {"x": [2]}, opset=9999))


def test_old_operator_sets_are_converted() -> None:
    proto = model(
        [node("Add", "x b", "s", broadcast=1, axis=1), node("PRelu", "s b", "y")],
        {"x": [1, 2, 3, 3]},
        opset=6,
        weights={"b": np.float32([1, -2])},
    )
    x = np.linspace(-3, 3, 18, dtype=np.float32).reshape(1, 2, 3, 3)
    b = np.float32([1, -2]).reshape(1, 2, 1, 1)
    expected = np.where(x + b < 0, (x + b) * b, x + b)
    np.testing.assert_allclose(run_model(proto, x=x), expected, rtol=1e-6)


def test_an_invalid_old_model_is_refused() -> None:
    with pytest.raises(InvalidModelError, match="operator set 6 is invalid"):
        import_model(model([node("Relu", "x", "y", alpha=3.0)], {"x": [2]}, opset=6))


def test_wrong_types_for_the_operator_set() -> None:
    proto = model([node("Relu", "x", "y", "r")], {"x": (TensorProto.INT32, [2])}, opset=13, output_type=TensorProto.INT32)
    with pytest.raises(InvalidModelError, match=r"int32.*\[node r\]"):
        import_model(proto)
    proto.opset_import[0].version = 14
    assert len(import_model(proto)) == 1


def test_unequal_types_are_invalid() -> None:
    proto = model([node("Add", "x z", "y", "sum")], {"x": [2], "z": (TensorProto.DOUBLE, [2])})
    with pytest.raises(InvalidModelError, match=r"float64.*float32.*\[node sum\]"):
        import_model(proto)


def test_tables_of_operators() -> None:
    rows = {row.op: (row.since, row.until) for row in supported_ops()}
    assert rows["HardSwish"][0] == 14
    assert rows["Conv"][0] == 7
    assert len([r for r in supported_ops() if r.op == "Clip"]) == 2


def test_operators_without_importers_are_listed_too() -> None:
    how = {row.op: row.how for row in imported_ops()}
    assert {row.op for row in supported_ops()} == {op for op, kind in how.items() if kind == "importer"}
    assert {op for op, kind in how.items() if kind == "control flow"} == {"If", "Loop", "Scan"}
    assert how["NonZero"] == how["NonMaxSuppression"] == how["SequenceAt"] == "tail"
    assert how["Attention"] == how["ai.onnx.preview::FlexAttention"] == "function body"
    assert "StringSplit" not in how


def test_element_types_of_all_supported_kinds_pass_through() -> None:
    for element in (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT64, TensorProto.BOOL):
        proto = model([node("Identity", "x", "y")], {"x": (element, ["n", 2])}, output_type=element)
        assert len(import_model(proto)) == 1


def test_strings_are_the_tails() -> None:
    proto = model([node("Identity", "x", "y", "i")], {"x": (TensorProto.STRING, [2])}, output_type=TensorProto.STRING)
    graph = import_model(proto)
    assert len(graph) == 0
    assert graph.tail is not None
    assert run_model(proto, x=np.array(["a", "b"], object)).tolist() == ["a", "b"]


def test_typed_fields_of_tensors() -> None:
    for element, numbers, expected in (
        (TensorProto.FLOAT16, [0x3C00, 0xC000], np.array([1, -2], np.float16)),
        (TensorProto.INT8, [-128, 127], np.array([-128, 127], np.int8)),
        (TensorProto.UINT8, [0, 255], np.array([0, 255], np.uint8)),
    ):
        tensor = TensorProto(name="w", data_type=element, dims=[2])
        tensor.int32_data.extend(numbers)
        proto = model([node("Identity", "w", "y")], {"x": [1]}, output_type=element)
        proto.graph.initializer.append(tensor)
        np.testing.assert_array_equal(run_model(proto, x=X), expected)
