"""8-bit operators on CUDA, in the emulator: every number is that of the operators' definitions."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Concat, Elementwise, Pool, Resize, Transpose
from cnngraph.ops.expression import Expression
from cnngraph.ops.quantized import DequantizeLinear, MatMulInteger, QGemm, QLinearMatMul, QuantizeLinear
from cnngraph.ops.quantized_conv import ConvInteger, QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary
from cnngraph.ops.quantized_range import RangeOfParts, RangeParameters
from cnngraph_cuda.jit import missing_packages
from cnngraph_cuda.quantised import lower_quantised

from .support import ORDERS, build, emulate

EIGHT = (DType.I8, DType.U8)


class Q(Graph):
    """A graph of 8-bit tensors."""

    def __init__(self, dtype, *shape):
        super().__init__("test")
        self.rng = np.random.default_rng(7)
        self.dtype = dtype
        self.x = self.add_input("x", TensorType(dtype, (BATCH, *shape)))

    def integers(self, dtype, *shape):
        low, high = dtype.range
        return self.constant(self.rng.integers(low, high, shape, dtype.numpy, endpoint=True))

    def scale(self, number, *shape):
        return self.constant(np.asarray(number * self.rng.uniform(0.5, 1, shape), np.float32))

    def zero(self, number, dtype=None):
        return self.constant(np.array(number, (dtype or self.dtype).numpy))

    def node(self, op, *inputs):
        return self.add(op, inputs, origin=(op.name,))[0]

    def run(self, isa="sm_90", batch=2, exact=True):
        """Results of the emulator and of the definitions, and the templates used."""
        (_, x), *rest = self.inputs
        assert not rest
        shape = [batch if d is BATCH else d for d in x.type.shape]
        if x.type.dtype.is_float:
            feed = (self.rng.standard_normal(shape) * 3).astype(x.type.dtype.numpy)
        else:
            feed = self.rng.integers(*x.type.dtype.range, shape, x.type.dtype.numpy, endpoint=True)
        expected = interpret(self, {"x": feed})
        program, choice = build(self, isa=isa)
        got, _ = emulate(program, {"x": feed})
        for name, want in expected.items():
            assert got[name].dtype == want.dtype
            if exact:
                np.testing.assert_array_equal(got[name], want)
            else:
                np.testing.assert_allclose(got[name].astype(np.float64), want.astype(np.float64), rtol=1e-3, atol=1e-3)
            assert len(np.unique(want)) > 8
        return {s.chosen for s in choice.selections}


def conv_op(dtype, group=1):
    return QLinearConv((3, 3), (1, 1), (1,) * 4, (1, 1), group, dtype)


def add_conv(net, x, outputs, group=1, per_channel=True):
    channels = x.type.shape[1] // group
    w_zero = net.zero(0, DType.I8) if per_channel else net.zero(3, DType.I8)
    scales = net.scale(0.02, outputs) if per_channel else net.scale(0.01)
    return net.node(
        conv_op(net.dtype, group), x, net.scale(0.05), net.zero(20), net.integers(DType.I8, outputs, channels, 3, 3), scales, w_zero,
        net.scale(0.6), net.zero(7), net.constant(net.rng.integers(-999, 999, outputs).astype(np.int32)),
    )  # fmt: skip


@pytest.mark.parametrize("isa", ["sm_90", "sm_90:tf32", "sm_90a:tf32"])
@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize(("channels", "outputs", "group", "per_channel"), [(5, 19, 1, True), (24, 16, 1, False), (8, 8, 8, True)])
def test_convolutions(channels, outputs, group, per_channel, dtype, isa):
    net = Q(dtype, channels, 7, 6)
    net.add_output("y", add_conv(net, net.x, outputs, group, per_channel))
    used = net.run(isa)
    assert used & {"conv_gemm", "depthwise"}


@pytest.mark.parametrize("dtype", EIGHT)
def test_a_network_of_bytes(dtype):
    """What moves stays in floats between the layers; a sum goes through bytes and back."""
    net = Q(dtype, 8, 6, 6)
    a, b = add_conv(net, net.x, 16), add_conv(net, net.x, 16)
    joined = net.node(
        Concat(1), net.node(Pool("max", (2, 2), (1, 1), (0,) * 4, (1, 1)), a), net.node(Pool("max", (2, 2), (1, 1), (0,) * 4, (1, 1)), b)
    )
    y = net.node(
        QLinearBinary("add"), joined, net.scale(0.6), net.zero(7), joined, net.scale(0.3), net.zero(7), net.scale(0.9), net.zero(9)
    )
    y = net.node(Resize((2, 3), (10, 12), (10.0, 12.0), "nearest"), y)
    net.add_output("q", add_conv(net, net.node(Transpose((0, 1, 3, 2)), y), 12))
    net.add_output("f", net.node(DequantizeLinear(DType.F32), y, net.scale(0.9), net.zero(9)))
    assert {"conv_gemm", "pool", "qbinary", "convert"} <= net.run()


@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize("kind", ["add", "mul"])
def test_sums_and_products(kind, dtype):
    net = Q(dtype, 40, 5, 3)
    other = net.integers(dtype, 40, 1, 1)
    parameters = net.scale(0.02), net.zero(11), other, net.scale(0.03), net.zero(5), net.scale(0.03), net.zero(60)
    net.add_output("y", net.node(QLinearBinary(kind), net.x, *parameters))
    assert "qbinary" in net.run(batch=20)


@pytest.mark.parametrize("isa", ["sm_90", "sm_90:f16", "sm_90:bf16"])
@pytest.mark.parametrize("to", [*EIGHT, DType.I16, DType.U16])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantize_and_back(axis, to, isa):
    net = Q(DType.F32, 5, 9)
    sizes = () if axis is None else (5,)
    scale, zero = net.scale(0.02, *sizes), net.constant(net.rng.integers(0, 100, sizes).astype(to.numpy))
    q = net.node(QuantizeLinear(to), net.x, scale, zero)
    net.add_output("q", q)
    net.add_output("y", net.node(DequantizeLinear(DType.F32), q, scale, zero))
    if isa != "sm_90":  # the input is rounded before, so only the scale can be compared
        net.outputs = net.outputs[1:]
        program, _ = build(net, isa=isa)
        x = np.ldexp(net.rng.integers(-60, 60, (2, 5, 9)), -4).astype(np.float32)
        with np.errstate(all="ignore"):
            want = interpret(net, {"x": x})["y"]
        np.testing.assert_allclose(emulate(program, {"x": x})[0]["y"], want, rtol=1e-2 if isa.endswith("bf16") else 1e-3)
    else:
        net.run()


def test_quantize_what_is_not_finite():
    for saturates in (True, False):
        graph = Graph("test")
        x = graph.add_input("x", TensorType(DType.F32, (BATCH, 8)))
        zero = graph.constant(np.array([3] * 8, np.int16)) if saturates else None
        scale = graph.constant(np.full(8, 0.5, np.float32))
        graph.add_output("y", graph.add(QuantizeLinear(DType.I16), [x, scale, zero], origin=("q",))[0])
        feed = np.array([[np.nan, np.inf, -np.inf, 1e30, -1e30, 0.25, 0.75, -0.75]], np.float32)
        with np.errstate(all="ignore"):
            want = interpret(graph, {"x": feed})["y"]
        np.testing.assert_array_equal(emulate(build(graph)[0], {"x": feed})[0]["y"], want)


@pytest.mark.parametrize("dtype", EIGHT)
def test_products(dtype):
    net = Q(dtype, 33)
    b = net.integers(DType.I8, 33, 24)
    y_scale = net.scale(0.9)
    zero = net.zero(2, DType.I8)
    net.add_output("integer", net.node(MatMulInteger(), net.x, b, net.zero(9), zero))
    parts = net.x, net.scale(0.03), net.zero(9), b, net.scale(0.04, 24), net.constant(np.zeros(24, np.int8))
    net.add_output("linear", net.node(QLinearMatMul(dtype), *parts, y_scale, net.zero(12)))
    offset = net.constant(net.rng.integers(-4000, 4000, 24).astype(np.int32))
    net.add_output("gemm", net.node(QGemm(dtype), *parts, offset, y_scale, net.zero(12)))
    net.add_output("float", net.node(QGemm(DType.F32), *parts, offset, None, None))
    assert "conv_gemm" in net.run()


@pytest.mark.parametrize("dtype", EIGHT)
def test_averages_and_functions(dtype):
    net = Q(dtype, 12, 6, 5)
    parameters = net.scale(0.06), net.zero(4), net.scale(0.03), net.zero(9)
    net.add_output("average", net.node(QLinearAveragePool((3, 2), (1, 2), (1, 0, 1, 1)), net.x, *parameters))
    net.add_output("global", net.node(QLinearGlobalAveragePool(), net.x, *parameters))
    net.add_output("sigmoid", net.node(QLinearUnary("sigmoid"), net.x, *parameters))
    net.run(batch=5)


def test_integer_convolutions_with_a_computed_zero_point():
    net = Q(DType.U8, 6, 5, 5)
    zero = net.add_input("zero", TensorType(DType.U8, ()))
    op = ConvInteger((3, 3), (1, 1), (1,) * 4, (1, 1))
    net.add_output("y", net.node(op, net.x, net.integers(DType.I8, 10, 6, 3, 3), zero, None))
    feeds = {"x": net.rng.integers(0, 256, (2, 6, 5, 5)).astype(np.uint8), "zero": np.array(77, np.uint8)}
    want = interpret(net, feeds)["y"]
    got = emulate(build(net)[0], feeds)[0]["y"]
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_sums_that_float32_does_not_hold_are_left_alone():
    net = Q(DType.U8, 600, 3, 3)
    weights = net.constant(np.full((4, 600, 3, 3), 127, np.int8))
    y = net.node(
        conv_op(DType.U8),
        net.x,
        net.scale(0.05),
        net.zero(0),
        weights,
        net.scale(0.01),
        net.zero(0, DType.I8),
        net.scale(9.0),
        net.zero(0),
        None,
    )
    net.add_output("y", y)
    assert lower_quantised(net) == 0
    assert [node.op.name for node in net.nodes] == ["QLinearConv"]


@pytest.mark.parametrize("offset", [0.0, 5.0, -5.0, None])
@pytest.mark.parametrize("shape", [(BATCH, 5, 7, 6), (BATCH, 700), (9,)])
def test_dynamic_quantisation(shape, offset):
    """Ranges of tensors in both layouts, on one side of 0 and on both, and of zeros."""
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.F32, shape))
    value = graph.add(Elementwise(Expression.of("neg")), [x], origin=("neg",))[0]
    (parts,) = graph.add(RangeOfParts(), [value], origin=("range",))
    scale, zero = graph.add(RangeParameters(), [parts], origin=("parameters",))
    graph.add_output("y", graph.add(QuantizeLinear(DType.U8), [value, scale, zero], origin=("q",))[0])
    graph.add_output("scale", scale)
    graph.add_output("zero", zero)
    rng = np.random.default_rng(0)
    feed = np.zeros([3 if d is BATCH else d for d in shape], np.float32)
    if offset is not None:
        feed = (rng.standard_normal(feed.shape) + offset).astype(np.float32)
    want = interpret(graph, {"x": feed})
    got, _ = emulate(build(graph)[0], {"x": feed}, ORDERS["shuffled"])
    for name, expected in want.items():
        np.testing.assert_array_equal(got[name], expected)


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "sm_120"))])
def test_compiled(arch):
    from .test_compiled import assemble

    net = Q(DType.U8, 16, 5, 3)
    parameters = net.scale(0.02), net.zero(11), net.x, net.scale(0.03), net.zero(5), net.scale(0.03), net.zero(60)
    for kind in ("add", "mul"):
        net.add_output(kind, net.node(QLinearBinary(kind), net.x, *parameters))
    f = net.add_input("f", TensorType(DType.F32, (BATCH, 9)))
    q = net.node(QuantizeLinear(DType.I16), f, net.scale(0.02), net.zero(1, DType.I16))
    net.add_output("y", net.node(DequantizeLinear(DType.F32), q, net.scale(0.02), net.zero(1, DType.I16)))
    (parts,) = net.add(RangeOfParts(), [f], origin=("range",))
    for i, value in enumerate(net.add(RangeParameters(), [parts], origin=("parameters",))):
        net.add_output(f"parameter{i}", value)
    for name, _, report in assemble(net, arch):
        assert report.spill_stores == report.spill_loads == report.stack == 0, name
        assert report.registers <= 48, name
