"""FuseQDQ and LowerIntegers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import cnngraph
from cnngraph.analysis.rounding import rounded_later
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.verify import verify
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from cnngraph.ops.quantized_elementwise import QLinearBinary
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext, run_passes
from cnngraph.passes.fold_constants import FoldConstants
from cnngraph.passes.fuse_elementwise import FuseElementwise
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from cnngraph.passes.fuse_qdq import FuseQDQ
from cnngraph.passes.lower_integers import LowerIntegers
from cnngraph.pipeline import optimize
from tests.conformance import quantized_net
from tests.conformance.quantized_net import Qdq


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def fused(model: bytes) -> tuple[Graph, PassContext]:
    graph, context = import_model(model), PassContext()
    run_passes(graph, [FuseQDQ(), FoldConstants()], context, verify)
    return graph, context


def small(body: Callable[[Qdq, str], str], dtype: type[np.integer] = np.uint8, opset: int = 13) -> bytes:
    """A model of what ``body`` adds to a quantised input [1,4,6,6]."""
    g = Qdq(dtype, True)
    y = body(g, g.quantized("input", 0.02, 128))
    graph = helper.make_graph(
        g.nodes, "small", [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], g.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_whole_network_computes_integers(dtype: type[np.integer], per_channel: bool) -> None:
    model = quantized_net.model(dtype, per_channel)
    graph, context = fused(model)
    assert not context.rejections
    expected = [
        "QuantizeLinear", "QLinearConv", "QLinearConv", "QLinearConv", "QLinearBinary", "Pool", "QLinearUnary", "QLinearBinary",
        "QLinearUnary", "Concat", "QLinearAveragePool", "QLinearGlobalAveragePool", "Reshape", "QGemm", "DequantizeLinear",
    ]  # fmt: skip
    assert names(graph) == expected
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 18)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert np.ptp(floats) > 0.5  # the numbers are spread over many steps of 0.03
    assert np.abs(floats - integers).max() <= 0.03 * 1.01


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_activations_become_bounds(dtype: type[np.integer]) -> None:
    graph, _ = fused(quantized_net.model(dtype))
    convs = [node.op for node in graph.nodes if isinstance(node.op, QLinearConv)]
    least = 0 if dtype is np.uint8 else -128
    assert [op.bounds() for op in convs] == [(least, least + 255), (least + 3, least + 253), (least, least + 255)]
    (addition, product) = [node.op for node in graph.nodes if isinstance(node.op, QLinearBinary)]
    assert addition.bounds(convs[0].to) == convs[0].to.range == product.bounds(convs[0].to)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_what_is_exact_stays_so(dtype: type[np.integer]) -> None:
    def body(g: Qdq, x: str) -> str:
        x = g.quantized(g.add("HardSwish", x), 0.017, 100)
        x = g.quantized(g.add("Transpose", x, perm=[0, 2, 3, 1]), 0.013, 90)
        x = g.quantized(g.add("Relu", x), 0.013, 100)
        return g.quantized(x, 0.05, 3)

    model = small(body, dtype, opset=14)  # HardSwish came with opset 14
    graph, context = fused(model)
    assert not context.rejections and names(graph).count("DequantizeLinear") == 1
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert np.array_equal(floats, integers)


def _float_bias(g: Qdq, x: str) -> str:
    weights, _ = g.parameters(x, (5, 4, 1, 1), 5)
    return g.quantized(g.add("Conv", x, weights, g.constant("c", np.full(5, 0.3, np.float32))), 0.1, 128)


def _coarse_bias(g: Qdq, x: str) -> str:
    """Steps of the result as small as the units of the sums: to round the bias would be half a step."""
    weights, _ = g.parameters(x, (5, 4, 1, 1), 5)
    return g.quantized(g.add("Conv", x, weights, g.constant("c", np.full(5, 0.3, np.float32))), 1e-4, 128)


def _computed_bias(g: Qdq, x: str) -> str:
    weights, _ = g.parameters(x, (5, 4, 1, 1), 5)
    mean = g.add("ReduceMean", x, keepdims=0)
    return g.quantized(g.add("Conv", x, weights, g.add("Add", mean, g.constant("c", np.full(5, 0.3, np.float32)))), 0.1, 128)


def _two_readers(g: Qdq, x: str) -> str:
    y = g.conv(x, 4, 4, 3)
    return g.add("Add", g.quantized(y, 0.1, 128), y)


def _wrong_bias_scale(g: Qdq, x: str) -> str:
    g.scales[x] = 0.03
    return g.quantized(g.conv(x, 4, 5, 1), 0.1, 128)


def _broadcast(g: Qdq, x: str) -> str:
    mean = g.quantized(g.add("GlobalAveragePool", x), 0.01, 128)
    return g.quantized(g.add("Mul", x, mean), 0.01, 128)


def _weights_quantised_in_the_graph(g: Qdq, x: str) -> str:
    scale, zero = g.constant("s", np.array([0.01, 0.02, 0.03], np.float32)), g.constant("z", np.zeros(3, np.int8))
    w = g.constant("w", g.rng.standard_normal((3, 4, 3, 3)).astype(np.float32))
    w = g.add("DequantizeLinear", g.add("QuantizeLinear", w, scale, zero, axis=0), scale, zero, axis=0)
    return g.quantized(g.add("Conv", x, w), 0.1, 128)


def _product(g: Qdq, x: str) -> str:
    scale = g.constant("s", np.array([0.01, 0.02, 0.03], np.float32))
    w = g.constant("w", g.rng.integers(-127, 128, (6, 3)).astype(np.int8))
    return g.quantized(g.add("Relu", g.add("MatMul", x, g.add("DequantizeLinear", w, scale, axis=1))), 0.05, 128)


def _transposed_pair(g: Qdq, x: str) -> str:
    """A matrix of floats, quantised in the graph and transposed by Gemm."""
    scale, zero = g.constant("s", np.array(0.01, np.float32)), g.constant("z", np.array(0, np.int8))
    w = g.constant("w", g.rng.standard_normal((3, 144)).astype(np.float32))
    w = g.add("DequantizeLinear", g.add("QuantizeLinear", w, scale, zero), scale, zero)
    flat = g.quantized(g.add("Flatten", x), 0.02, 128)
    return g.quantized(g.add("Gemm", flat, w, g.constant("c", np.array([1.5, -2.0, 0.25], np.float32)), transB=1), 0.1, 128)


@pytest.mark.parametrize(
    ("body", "op"),
    [
        (_weights_quantised_in_the_graph, "QLinearConv"), (_product, "QLinearMatMul"), (_transposed_pair, "QGemm"),
        (_float_bias, "QLinearConv"), (_wrong_bias_scale, "QLinearConv"),
    ],
)  # fmt: skip
def test_other_forms_of_weights_and_biases(body: Callable[[Qdq, str], str], op: str) -> None:
    model = small(body)
    graph, context = fused(model)
    assert not context.rejections and [n for n in names(graph) if n != "Reshape"] == ["QuantizeLinear", op, "DequantizeLinear"]
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert np.ptp(floats) > 1 and np.abs(floats - integers).max() <= 0.1 * 1.01


def _greatest_bias(g: Qdq, x: str) -> str:
    """Quantizers bound a bias too great for its scale by the range of int32; the sums would wrap around."""
    weights, bias = g.parameters(x, (5, 4, 1, 1), 5)
    g.constants = [c for c in g.constants if c.name != f"b{len(g.nodes) - 2}"]
    g.constant(f"b{len(g.nodes) - 2}", np.full(5, 2**31 - 1, np.int32))
    return g.quantized(g.add("Conv", x, weights, bias), 0.1, 128)


def _softmax(g: Qdq, x: str) -> str:
    return g.quantized(g.add("Softmax", x), 1 / 256, 0)


@pytest.mark.parametrize(
    ("body", "reason", "left"),
    [
        (_coarse_bias, "the bias would be rounded", "Conv"),
        (_computed_bias, "the bias is computed", "Conv"),
        (_two_readers, "is also read by", "Conv"),
        (_greatest_bias, "may leave int32", "Conv"),
        (_softmax, "Softmax has no form on integers", "Softmax"),
    ],
)
def test_what_stays_float_and_why(body: Callable[[Qdq, str], str], reason: str, left: str) -> None:
    graph, context = fused(small(body))
    assert any(reason in r.reason for r in context.rejections), context.rejections
    assert left in names(graph)


def test_dynamic_quantisation_in_steps() -> None:
    model = quantized_net.dynamic()
    graph = import_model(model)
    run_passes(graph, [FoldConstants(), LowerIntegers(), FuseElementwise(), FuseEpilogue()], PassContext(), verify)
    assert "DynamicQuantizeLinear" not in names(graph) and names(graph).count("RangeOfParts") == 4
    convs = [node.op for node in graph.nodes if isinstance(node.op, ConvInteger)]
    assert len(convs) == 3 and all(op.epilogue is not None for op in convs)
    x = np.random.default_rng(0).standard_normal((2, 3, 20, 18)).astype(np.float32)
    (plain,), (steps,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    np.testing.assert_allclose(steps, plain, rtol=1e-5, atol=1e-5)


def _padded(value: float) -> Callable[[Qdq, str], str]:
    def body(g: Qdq, x: str) -> str:
        pads = g.constant("pads", np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64))
        number = g.add("DequantizeLinear", g.constant("v", np.array(1, np.uint8)), g.constant("vs", np.array(value, np.float32)))
        y = g.quantized(g.add("Pad", x, pads, number), 0.02, 128)
        g.scales[y] = 0.02
        return g.quantized(g.conv(y, 4, 5, 3), 0.1, 128)

    return body


def test_zero_padding_of_its_own_joins_the_convolution() -> None:
    """The padding value is dequantised too, and known all the same."""
    model = small(_padded(0.0))
    graph, context = fused(model)
    assert not context.rejections and names(graph) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert graph.nodes[1].op.pads == (2, 3, 1, 2)  # type: ignore[attr-defined]
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert np.ptp(floats) > 1 and np.abs(floats - integers).max() <= 0.1 * 1.01


def test_other_padding_is_of_integers() -> None:
    model = small(_padded(0.5))
    graph, context = fused(model)
    assert not context.rejections and names(graph) == ["QuantizeLinear", "Pad", "QLinearConv", "DequantizeLinear"]
    assert graph.nodes[1].op.value == 0.5 / 0.02 + 128  # type: ignore[attr-defined]
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert np.ptp(floats) > 1 and np.abs(floats - integers).max() <= 0.1 * 1.01


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_neighbours_and_reflections_are_of_integers(dtype: type[np.integer]) -> None:
    """In other parameters than their input's, so that a conversion stands before them."""

    def body(g: Qdq, x: str) -> str:
        x = g.quantized(g.add("Resize", x, "", g.constant("s", np.array([1, 1, 2, 3], np.float32)), mode="nearest"), 0.03, 100)
        return g.quantized(g.add("Pad", x, g.constant("p", np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)), mode="reflect"), 0.03, 100)

    model = small(body, dtype)
    graph, context = fused(model)
    assert not context.rejections and names(graph) == ["QuantizeLinear", "QLinearUnary", "Resize", "Pad", "DequantizeLinear"]
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert np.ptp(floats) > 1 and np.array_equal(floats, integers)


def test_interpolation_stays_float() -> None:
    def body(g: Qdq, x: str) -> str:
        return g.quantized(g.add("Resize", x, "", g.constant("s", np.array([1, 1, 2, 2], np.float32)), mode="linear"), 0.02, 128)

    graph, context = fused(small(body))
    assert [r.reason for r in context.rejections] == ["interpolation has no form on integers"] and "Resize" in names(graph)


def test_a_dequantised_number_is_a_parameter() -> None:
    """Relu6 as Minimum: one table of the input's integers."""

    def body(g: Qdq, x: str) -> str:
        six = g.add("DequantizeLinear", g.constant("c", np.array(100, np.uint8)), g.constant("cs", np.array(0.01, np.float32)))
        y = g.quantized(g.add("Min", g.add("Relu", x), six), 0.01, 0)
        return g.quantized(g.add("Concat", y, axis=1), 0.01, 0)

    model = small(body)
    graph, context = fused(model)
    assert not context.rejections and names(graph) == ["QuantizeLinear", "QLinearUnary", "Identity", "DequantizeLinear"]
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert floats.max() == 1 and np.array_equal(floats, integers)


@pytest.mark.parametrize(
    ("shape", "fuses"), [((4,), True), ((1, 4), True), ((1,), True), ((1, 1), True), ((24, 1), False), ((1, 1, 4), False)]
)
@pytest.mark.parametrize("pair", [True, False])
def test_biases_of_products(shape: tuple[int, ...], fuses: bool, pair: bool) -> None:
    """One number a column, or one for all; others are added to floats."""

    def body(g: Qdq, x: str) -> str:
        w = g.constant("w", g.rng.integers(-127, 128, (6, 4)).astype(np.int8))
        scale, numbers = np.float32(0.01), g.rng.integers(-3000, 3000, shape).astype(np.int32)
        rows = g.quantized(g.add("Reshape", x, g.constant("r", np.array([-1, 6]))), 0.02, 128)
        product = g.add("MatMul", rows, g.add("DequantizeLinear", w, g.constant("s", scale)))
        if pair:
            bias = g.add("DequantizeLinear", g.constant("b", numbers), g.constant("bs", np.float32(0.02) * scale))
        else:
            bias = g.constant("b", (numbers * np.float32(0.02 * 0.01)).astype(np.float32))
        return g.quantized(g.add("Add", product, bias), 0.05, 128)

    model = small(body)
    graph, _ = fused(model)
    assert ("QGemm" in names(graph)) == fuses
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    (floats,), (integers,) = (list(interpret(g, {"input": x}).values()) for g in (import_model(model), graph))
    assert floats.shape == integers.shape and np.abs(floats - integers).max() <= 0.05 * 1.01


def test_parameters_of_one_element() -> None:
    """Scales and zero points [1] instead of scalars, where a padding of its own asks for them."""

    def body(g: Qdq, x: str) -> str:
        scale, zero = g.constant("s", np.array([0.02], np.float32)), g.constant("z", np.array([128], np.uint8))
        padded = g.add("Pad", x, g.constant("pads", np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)))
        y = g.add("DequantizeLinear", g.add("QuantizeLinear", padded, scale, zero), scale, zero)
        g.scales[y] = 0.02
        return g.quantized(g.conv(y, 4, 5, 3), 0.1, 128)

    graph, context = fused(small(body))
    assert not context.rejections and names(graph) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]


def test_one_quantisation_for_each_reader() -> None:
    """Quantizers that give every reader a pair of its own."""

    def body(g: Qdq, x: str) -> str:
        y = g.conv(x, 4, 4, 3)
        scale, zero = (g.constant(name, number) for name, number in (("s", np.array(0.1, np.float32)), ("z", np.array(128, np.uint8))))
        a, b = (g.add("DequantizeLinear", g.add("QuantizeLinear", y, scale, zero), scale, zero) for _ in range(2))
        g.scales[a] = g.scales[b] = 0.1
        return g.quantized(g.add("Add", g.quantized(g.conv(a, 4, 4, 3), 0.1, 100), g.quantized(g.conv(b, 4, 4, 3), 0.1, 90)), 0.1, 100)

    graph, context = import_model(small(body)), PassContext()
    optimize(graph, CompileOptions(), context)
    assert names(graph).count("QLinearConv") == 3 and names(graph).count("QuantizeLinear") == 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_sixteen_bits_are_steps_of_floats(dtype: type[np.integer]) -> None:
    """The same bits; a reshape between the halves of a pair stays behind it, and Winograd's convolutions remain allowed."""

    def body(g: Qdq, x: str) -> str:
        scale, zero = g.constant("s", np.array(3e-4, np.float32)), g.constant("z", np.array(5000, dtype))
        x = g.add("Relu", g.add("DequantizeLinear", g.add("QuantizeLinear", g.add("Tanh", x), scale, zero), scale, zero))
        x = g.add("DequantizeLinear", g.add("QuantizeLinear", x, scale, zero), scale, g.constant("other", np.array(4900, dtype)))
        return g.add("Flatten", x)

    model = small(body, opset=21)
    graph, context = import_model(model), PassContext()
    before = import_model(model)
    optimize(graph, CompileOptions(), context)
    assert names(graph) == ["QuantizeLinear", "DequantizeLinear", "Elementwise", "Elementwise", "Reshape"]
    assert rounded_later(graph.nodes[1].output) is None
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32) * np.float32(0.5)
    (want,), (got,) = (list(interpret(g, {"input": x}).values()) for g in (before, graph))
    assert len(np.unique(want)) > 40 and np.array_equal(want, got)


def test_a_gate_by_channel_computes_integers() -> None:
    graph, context = fused(small(_broadcast))
    assert not context.rejections and "QLinearBinary" in names(graph)


def test_half_way_the_operator_on_integers_decides() -> None:
    """9060 times the factor is 37.4999988, in float32 37.5: onnxruntime's QLinearConv says 38, its float evaluation 37."""
    numbers = {
        "xs": np.float32(0.03538675), "ws": np.array([0.0074349153], np.float32), "ys": np.float32(0.06356435), "zero": np.int8(0),
        "w": np.full((1, 1, 1, 1), 90, np.int8), "wz": np.zeros(1, np.int8), "b": np.array([960], np.int32),
    }  # fmt: skip
    numbers["bs"] = numbers["xs"] * numbers["ws"]

    def model(*nodes: NodeProto) -> bytes:
        ends = [helper.make_tensor_value_info(name, TensorProto.INT8, shape) for name, shape in (("x", ["N", 1, 1, 1]), ("y", None))]
        constants = [numpy_helper.from_array(np.asarray(number), name) for name, number in numbers.items()]
        graph = helper.make_graph(nodes, "half", ends[:1], ends[1:], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()

    steps = model(
        helper.make_node("DequantizeLinear", ["x", "xs", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["yf"]),
        helper.make_node("QuantizeLinear", ["yf", "ys", "zero"], ["y"]),
    )
    whole = model(helper.make_node("QLinearConv", ["x", "xs", "zero", "w", "ws", "wz", "ys", "zero", "b"], ["y"]))
    feeds = {"x": np.full((1, 1, 1, 1), 90, np.int8)}
    unfused, onnxruntime = (
        ort.InferenceSession(m, _unfused(), providers=["CPUExecutionProvider"]).run(None, feeds)[0] for m in (steps, whole)
    )
    assert (unfused.item(), onnxruntime.item()) == (37, 38)
    assert [cnngraph.compile(m).run(feeds)["y"].item() for m in (steps, whole)] == [38, 38]


def _unfused() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options
