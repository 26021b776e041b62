"""The optimised graph as ONNX: onnxruntime and cnngraph compute from it what they compute from the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cnngraph
import cnngraph_models
from cnngraph.emit.onnx_model import model_of, optimized_model
from cnngraph.errors import UnsupportedError, UsageError
from cnngraph.ir.graph import Graph
from cnngraph.ir.types import DType, TensorType
from cnngraph.ops import Elementwise, Expression
from cnngraph.ops.scalar import FUNCTIONS
from cnngraph.options import CompileOptions
from tests.cli.conftest import Call, call  # noqa: F401  a fixture
from tests.conformance import quantized_net
from tests.runtime.test_weights import X, model

ort = pytest.importorskip("onnxruntime")
ort.set_default_logger_severity(3)


def judge(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    results: list[np.ndarray] = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    return results


def compare(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Both engines on both models; returns the emitted one."""
    emitted = optimized_model(proto, CompileOptions())
    assert [i.name for i in emitted.graph.input] == [i.name for i in proto.graph.input]
    assert [o.name for o in emitted.graph.output] == [o.name for o in proto.graph.output]
    for wanted, got in zip(judge(proto, feeds), judge(emitted, feeds), strict=True):
        assert wanted.dtype == got.dtype
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6 * max(1.0, float(np.abs(wanted).max(initial=0))))
    return emitted


def one(nodes: list[Any], shape: list[Any], stored: dict[str, Any] | None = None, opset: int = 21, **outputs: int) -> onnx.ModelProto:
    """A model with input x."""
    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()]
    results = [helper.make_tensor_value_info(name, type_, None) for name, type_ in (outputs or {"y": 1}).items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, shape)], results, initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("name", ["lenet5", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2"])
def test_networks(name: str) -> None:
    proto = cnngraph_models.build(name, seed=1)
    dims = [d.dim_value or 1 for d in proto.graph.input[0].type.tensor_type.shape.dim]
    emitted = compare(proto, {proto.graph.input[0].name: np.random.default_rng(0).standard_normal(dims).astype(np.float32)})
    assert "BatchNormalization" not in {node.op_type for node in emitted.graph.node}


def test_folded_and_batch_kept() -> None:
    for batch in (1, 2):
        emitted = compare(model(1), {"x": X[:batch]})
    assert [node.op_type for node in emitted.graph.node] == ["Conv", "Relu", "ReduceMean", "Reshape", "Gemm"]
    assert emitted.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    exact = cnngraph.compile(model(1), math="exact").run({"x": X})["y"]
    np.testing.assert_array_equal(cnngraph.compile(emitted, math="exact").run({"x": X})["y"], exact)


IMAGE = [2, 6, 9, 8]
RNG = np.random.default_rng(5)
W = RNG.standard_normal((6, 6, 3, 3)).astype(np.float32)
I64 = TensorProto.INT64


@pytest.mark.parametrize(
    ("nodes", "stored", "outputs"),
    [
        ([("MaxPool", ["x"], ["y", "i"], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1})], {}, {"y": 1, "i": I64}),
        ([("AveragePool", ["x"], ["y"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1})], {}, {}),
        (
            [("ConvTranspose", ["x", "w"], ["y"], {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]})],
            {"w": W}, {},
        ),
        ([("ConvTranspose", ["x", "w"], ["c"], {}), ("LeakyRelu", ["c"], ["y"], {"alpha": 0.2})], {"w": W}, {}),
        ([("LRN", ["x"], ["y"], {"size": 3})], {}, {}),
        ([("InstanceNormalization", ["x", "s", "b"], ["y"], {})], {"s": W[:, 0, 0, 0], "b": W[0, :, 0, 0]}, {}),
        ([("GroupNormalization", ["x", "s", "b"], ["y"], {"num_groups": 3})], {"s": W[:, 0, 0, 0], "b": W[0, :, 0, 0]}, {}),
        ([("Slice", ["x", "a", "b", "c", "d"], ["y"], {})], {"a": [7, 1], "b": [-99, 5], "c": [2, 3], "d": [-2, 1]}, {}),
        ([("Pad", ["x", "p", "v"], ["y"], {})], {"p": [0, 0, 1, 2, 0, 0, 0, 3], "v": np.float32(2)}, {}),
        ([("Pad", ["x", "p"], ["y"], {"mode": "reflect"})], {"p": [0, 0, 1, 2, 0, 0, 0, 3]}, {}),
        ([("Transpose", ["x"], ["t"], {"perm": [0, 2, 3, 1]}), ("Softmax", ["t"], ["y"], {"axis": -1})], {}, {}),
        ([("LogSoftmax", ["x"], ["y"], {"axis": 1})], {}, {}),
        ([("ReduceMax", ["x", "a"], ["y"], {"keepdims": 0})], {"a": [1, 3]}, {}),
        ([("ReduceL2", ["x", "a"], ["y"], {})], {"a": [2]}, {}),
        ([("ArgMax", ["x"], ["y"], {"axis": 1, "select_last_index": 1})], {}, {"y": I64}),
        ([("Cast", ["x"], ["y"], {"to": I64})], {}, {"y": I64}),
        ([("Resize", ["x", "", "", "s"], ["y"], {"mode": "linear"})], {"s": [2, 6, 18, 12]}, {}),
        ([("Resize", ["x", "", "s"], ["y"], {"mode": "nearest"})], {"s": np.array([1, 1, 1.3, 2], np.float32)}, {}),
        (
            [("GridSample", ["x", "g"], ["y"], {"mode": "linear", "padding_mode": "border", "align_corners": 1})],
            {"g": np.linspace(-1.2, 1.1, 24, dtype=np.float32).reshape(2, 3, 2, 2)}, {},
        ),
        ([("Greater", ["x", "t"], ["g"], {}), ("Not", ["g"], ["y"], {})], {"t": np.float32(0.1)}, {"y": 9}),
        ([("LessOrEqual", ["x", "t"], ["y"], {}), ("IsNaN", ["x"], ["z"], {})], {"t": np.float32(0.1)}, {"y": 9, "z": 9}),
        ([("Expand", ["x", "s"], ["y"], {})], {"s": [2, 1, 9, 1]}, {}),
        ([("Gather", ["x", "k"], ["y"], {"axis": 3})], {"k": [[0, 2], [-1, 3]]}, {}),
        ([("Concat", ["x", "x"], ["c"], {"axis": 1}), ("Gather", ["c", "k"], ["y"], {"axis": 1})], {"k": [0, 7, 3]}, {}),
        ([("MatMul", ["x", "m"], ["y"], {})], {"m": RNG.standard_normal((8, 5)).astype(np.float32)}, {}),
        ([("Add", ["x", "b"], ["a"], {}), ("Clip", ["a", "", "h"], ["y"], {})], {"b": W[:, :1, 0, :1], "h": np.float32(0.3)}, {}),
        ([("PRelu", ["x", "s"], ["y"], {})], {"s": W[:, 0, :1, :1]}, {}),
        ([("Identity", ["x"], ["y"], {}), ("Identity", ["x"], ["z"], {})], {}, {"y": 1, "z": 1}),
        ([("Relu", ["x"], ["y"], {}), ("Identity", ["y"], ["z"], {}), ("Identity", ["c"], ["k"], {})], {"c": W}, {"y": 1, "z": 1, "k": 1}),
        ([("Reshape", ["x", "s"], ["r"], {}), ("GatherElements", ["r", "k"], ["y"], {})], {"s": [-1], "k": [3, 1]}, {}),
    ],
)  # fmt: skip
def test_operators(nodes: list[Any], stored: dict[str, Any], outputs: dict[str, int]) -> None:
    made = [helper.make_node(op, inputs, results, **attributes) for op, inputs, results, attributes in nodes]
    proto = one(made, IMAGE, stored, **outputs)
    compare(proto, {"x": RNG.standard_normal(IMAGE).astype(np.float32)})


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_every_scalar_function_has_a_form(function: str) -> None:
    facts = FUNCTIONS[function]
    expression = Expression.of(function, facts.arity, (0.25, 0.75)[: facts.params])
    graph = Graph("g")
    names = [f"in{i}" for i in range(facts.arity)]
    inputs = [graph.add_input(name, TensorType(DType.F32, (40,))) for name in names]
    graph.add_output("y", graph.add(Elementwise(expression), inputs)[0])
    feeds = {n: (RNG.random(40) * 0.9 + (1.05 if function == "acosh" else 0.05)).astype(np.float32) for n in names}
    got = judge(model_of(graph), feeds)[0]
    np.testing.assert_allclose(got, expression.evaluate(list(feeds.values())), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_quantised_network(dtype: type[np.integer], per_channel: bool) -> None:
    """Fused quantisation rounds once where the original rounds twice: results differ by one step of the output at most."""
    proto = onnx.load_from_string(quantized_net.model(dtype, per_channel))
    emitted = optimized_model(proto, CompileOptions())
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 18)).astype(np.float32)
    (wanted,), (got,) = judge(proto, {"input": x}), judge(emitted, {"input": x})
    step = np.unique(np.abs(wanted[wanted != 0])).min()
    assert len(emitted.graph.node) < len(proto.graph.node) // 2
    assert np.abs(wanted - got).max() <= 1.01 * max(step, 0.03)
    assert "QLinearConv" in {node.op_type for node in emitted.graph.node}


DYNAMIC = ("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], {})
CONVERTED = [("ConvInteger", ["q", "w", "z"], ["c"], {}), ("Cast", ["c"], ["f"], {"to": 1}), ("Mul", ["f", "s"], ["y"], {})]
PER_CHANNEL = {"s": np.linspace(0.1, 0.2, 6, dtype=np.float32), "z": np.arange(6, dtype=np.uint8)}


@pytest.mark.parametrize(
    ("nodes", "stored", "outputs"),
    [
        ([("Greater", ["x", "h"], ["p"], {}), ("Where", ["p", "x", "h"], ["y"], {})], {"h": np.float32(0.2)}, {}),
        ([("TopK", ["x", "k"], ["y", "i"], {"axis": 3, "largest": 0})], {"k": [3]}, {"y": 1, "i": I64}),
        ([("QuantizeLinear", ["x", "s", "z"], ["y"], {"axis": 1})], PER_CHANNEL, {"y": TensorProto.UINT8}),
        ([DYNAMIC, *CONVERTED], {"w": np.sign(W).astype(np.int8)}, {}),
        (
            [DYNAMIC, ("MatMulInteger", ["q", "w", "z"], ["y"], {})],
            {"w": np.arange(24, dtype=np.int8).reshape(8, 3)},
            {"y": TensorProto.INT32},
        ),
    ],
)
def test_integers_and_searches(nodes: list[Any], stored: dict[str, Any], outputs: dict[str, int]) -> None:
    made = [helper.make_node(op, inputs, results, **attributes) for op, inputs, results, attributes in nodes]
    compare(one(made, IMAGE, stored, **outputs), {"x": RNG.standard_normal(IMAGE).astype(np.float32)})


def test_what_has_no_form_is_listed() -> None:
    proto = one(
        [helper.make_node("Det", ["x"], ["y"], name="first"), helper.make_node("Det", ["x"], ["z"], name="second")], [2, 3, 3], y=1, z=1
    )
    with pytest.raises(UnsupportedError, match="first") as caught:
        optimized_model(proto, CompileOptions(disabled_passes=("merge_common",)))
    assert [problem.node for problem in caught.value.problems] == ["first", "second"]
    with pytest.raises(UnsupportedError, match="depend on data"):
        optimized_model(one([helper.make_node("NonZero", ["x"], ["y"])], [2, 3], y=I64), CompileOptions())
    free = one([helper.make_node("Conv", ["x", "w"], ["y"])], ["N", 6, "H", "W"], {"w": W})
    with pytest.raises(UsageError, match="fixed"):
        optimized_model(free, CompileOptions())
    assert optimized_model(free, CompileOptions(), shapes={"x": ["N", 6, 9, 9]}).graph.node[0].op_type == "Conv"


def test_on_the_command_line(call: Call, tmp_path: Path) -> None:  # noqa: F811
    onnx.save(model(1), tmp_path / "m.onnx")
    outcome = call("compile", tmp_path / "m.onnx", "--emit", "onnx", "-o", tmp_path / "o.onnx", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["files"] == {"onnx": str(tmp_path / "o.onnx")}
    np.testing.assert_allclose(judge(onnx.load(tmp_path / "o.onnx"), {"x": X})[0], judge(model(1), {"x": X})[0], rtol=1e-5, atol=1e-5)
    assert call("compile", tmp_path / "m.onnx", "--emit", "onnx,cnng", "-o", tmp_path / "n.cnng").code == 0
    assert (tmp_path / "n.optimized.onnx").exists()
