"""Kernels that move, join, cut and resample, in the emulator against float64."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, Sym
from cnngraph.ops import Concat, Conv, ConvTranspose, Elementwise, Expand, Pad, Pool, Reshape, Slice, Transpose
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.resize import Resize

from .support import TOLERANCE, Net, build, compare, emulate

PRECISIONS = ("f32", "f16")
SAME = Pool("max", (1, 1), (1, 1), (0,) * 4, (1, 1))


def finish(net, value, expect, precision):
    net.add_output("y", value)
    assert expect in compare(net, isa=f"sm_90:{precision}")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("counts", [(8, 16, 8), (3, 5), (8, 3, 8)])
def test_concat(counts, precision):
    net = Net(sum(counts), 3, 4)
    parts, first = [], 0
    for count in counts:
        part = net.node(Slice((0, first, 0, 0), (1, 1, 1, 1), (BATCH, count, 3, 4)), net.x)
        parts.append(net.node(SAME, part))
        first += count
    finish(net, net.node(SAME, net.node(Concat(1), *parts[::-1])), "channels", precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("order", [(5, 4, 3, 2, 1, 0, 0), tuple(range(8, 16)) + tuple(range(8))])
def test_take_channels(order, precision):
    net = Net(9, 2, 3)
    other = net.node(SAME, net.x)
    finish(net, net.node(TakeChannels(order), net.x, other), "channels", precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Transpose((0, 2, 3, 1)), (5, 3, 4)),
        (Transpose((1, 0, 2)), (3, 4)),
        (Slice((0, 2, 1, 3), (1, -1, 2, -1), (BATCH, 3, 2, 4)), (5, 4, 4)),
        (Expand((BATCH, 4, 3, 2)), (4, 1, 2)),
        (Pad((0, 1, 0, 2, 0, 0, 1, 1), "constant", 0.5), (3, 2, 4)),
        (Pad((0, 0, 1, 2, 0, 0, 1, 3), "reflect"), (3, 4, 5)),
        (Pad((0, 1, 2, 3, 0, 0, -1, 1), "edge"), (3, 4, 5)),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_copies(op, shape, last, precision):
    net = Net(*shape)
    x = net.node(SAME, net.x) if last and len(shape) == 3 else net.x
    finish(net, net.node(op, x), "copy_nd", precision)


def test_shuffle_of_the_batch():
    net = Net(6, 4)
    x = net.node(Reshape((BATCH, 2, 3, 4)), net.x)
    x = net.node(Transpose((2, 0, 1, 3)), x)
    net.add_output("y", net.node(Reshape((3, Sym(8))), x))
    compare(net)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "op",
    [
        Resize((2, 3), (6, 8), (6.0, 8.0), "nearest", "asymmetric", "floor"),
        Resize((2, 3), (5, 9), (5.0, 9.0), "linear"),
        Resize((3,), (7,), (7.0,), "cubic"),
    ],
)
def test_resize(op, precision):
    net = Net(5, 3, 4)
    finish(net, net.node(op, net.x), "resize", precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("kernel", "stride", "begins", "out", "group", "channels", "outputs"),
    [((2, 2), 2, (0, 0), (7, 9), 1, 6, 5), ((3, 3), 1, (0, 1), (5, 4), 2, 6, 16)],
)
def test_conv_transpose(kernel, stride, begins, out, group, channels, outputs, precision):
    """Dilation, and groups that are no whole vectors."""
    net = Net(channels, 3, 4)
    op = ConvTranspose(kernel, (stride,) * 2, begins, (1 if group > 1 else 2,) * 2, out, group, Expression.of("relu"))
    weights = net.weights(channels, outputs // group, *kernel, scale=0.4)
    finish(net, net.node(op, net.x, weights, net.weights(outputs)), "conv_transpose", precision)


@pytest.mark.parametrize("isa", ["sm_90:f32", "sm_90:f16", "sm_90a:tf32", "sm_90a:f16"])
@pytest.mark.parametrize(
    ("kernel", "strides", "begins", "extra", "channels", "outputs", "group"),
    [
        ((2, 2), (2, 2), (0, 0), 0, 12, 20, 1),
        ((4, 4), (2, 2), (1, 1), 0, 16, 9, 1),
        ((3, 3), (2, 2), (1, 1), 0, 8, 8, 1),
        ((3, 3), (1, 1), (1, 1), 0, 24, 8, 1),
        ((5, 3), (3, 2), (2, 0), 1, 16, 16, 2),
        ((1, 1), (2, 2), (0, 0), 0, 16, 16, 1),
        ((3, 3), (1, 2), (0, 2), 0, 8, 8, 1),
    ],
)
def test_conv_transpose_by_phases(kernel, strides, begins, extra, channels, outputs, group, isa):
    """Pads, output padding, phases without a tap, results that the strides do not divide, and a residual."""
    net = Net(channels, 4, 5)
    out = tuple(s * (n - 1) + k - 2 * b + extra for s, n, k, b in zip(strides, (4, 5), kernel, begins, strict=True))
    residual = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))
    first = net.node(
        ConvTranspose(kernel, strides, begins, (1, 1), out, group), net.x, net.weights(channels, outputs // group, *kernel, scale=0.3), None
    )
    weights, bias = net.weights(channels, outputs // group, *kernel, scale=0.3), net.weights(outputs)
    net.add_output("y", net.node(ConvTranspose(kernel, strides, begins, (1, 1), out, group, residual), net.x, weights, bias, first))
    assert set(compare(net, isa=isa)) == {"conv_transpose_gemm", "relayout"}


def test_conv_transpose_of_a_sequence():
    net = Net(9, 6)
    net.add_output("y", net.node(ConvTranspose((4,), (3,), (2,), (1,), (16,)), net.x, net.weights(9, 5, 4), net.weights(5)))
    assert "conv_transpose_gemm" in compare(net, isa="sm_90:tf32")


def kernels_run(net, precision="f16", batch=2):
    """The input, the results, and the kernel families launched."""
    program, _ = build(net, isa=f"sm_90:{precision}")
    x = np.random.default_rng(1).standard_normal((batch, *net.x.type.shape[1:])).astype(np.float32)
    got, device = emulate(program, {"x": x})
    return x, got, [program.data.kernels[launch.kernel].name.partition("_sm_")[0] for launch in device.launches]


def dense_block(seed=0, ragged=False):
    """Four layers that each read everything before them, as in DenseNet."""
    net = Net(16, 6, 5, seed=seed)
    features = net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), net.x, net.weights(16, 16, 3, 3, scale=0.2), None)
    for i in range(4):
        short = net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), features, net.weights(24, features.type.shape[1], 1, 1, scale=0.2), None)
        new = net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), short, net.weights(5 if ragged and i == 2 else 8, 24, 3, 3, scale=0.1), None)
        features = net.node(Concat(1), features, new)
    net.add_output("y", net.node(SAME, features))
    return net


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("ragged", [False, True])
def test_nested_concatenations_need_no_copy(ragged, precision):
    net = dense_block(ragged=ragged)
    x = np.random.default_rng(1).standard_normal((2, 16, 6, 5)).astype(np.float32)
    expected = interpret(net, {"x": x}, np.float64)["y"]
    _, got, families = kernels_run(net, precision)
    assert np.abs(got["y"] - expected).max() <= 2 * TOLERANCE[precision] * np.abs(expected).max()
    assert families.count("channels") == (2 if ragged else 0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_concatenations_of_everything_need_no_copy(precision):
    net = Net(8, 4, 5)
    parts = [net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), net.x, net.weights(8, 8, 1, 1, scale=0.3), None)]
    for _ in range(3):
        joined = net.node(Concat(1), *parts) if len(parts) > 1 else parts[0]
        parts.append(net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), joined, net.weights(8, 8 * len(parts), 3, 3, scale=0.2), None))
    net.add_output("y", net.node(SAME, net.node(Concat(1), *parts)))
    x = np.random.default_rng(1).standard_normal((2, 8, 4, 5)).astype(np.float32)
    expected = interpret(net, {"x": x}, np.float64)["y"]
    _, got, families = kernels_run(net, precision)
    assert np.abs(got["y"] - expected).max() <= 2 * TOLERANCE[precision] * np.abs(expected).max()
    assert "channels" not in families


def test_slices_of_channels_are_views():
    net = Net(24, 4, 5)
    x = net.node(SAME, net.x)
    halves = [net.node(Slice((0, first, 0, 0), (1,) * 4, (BATCH, count, 4, 5)), x) for first, count in ((0, 8), (8, 16), (16, 5))]
    outputs = [net.node(Elementwise(Expression.of("relu")), half) for half in halves]
    for i, value in enumerate(outputs):
        net.add_output(f"y{i}", value)
    feed = np.random.default_rng(1).standard_normal((2, 24, 4, 5)).astype(np.float32)
    expected = interpret(net, {"x": feed}, np.float64)
    _, got, families = kernels_run(net, "f32")
    for name, want in expected.items():
        np.testing.assert_allclose(got[name], want, atol=1e-6)
    assert "channels" not in families


def test_many_parts():
    net = Net(8, 3, 3)
    parts = [net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), net.x, net.weights(8, 8, 1, 1, scale=0.3), None) for _ in range(11)]
    net.add_output("y", net.node(SAME, net.node(Concat(1), *parts)))
    compare(net, isa="sm_90:f16")


@pytest.mark.parametrize("dtype", [DType.BOOL, DType.I8, DType.U16, DType.I32, DType.I64, DType.F64])
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Transpose((0, 2, 1)), (3, 4)),
        (Slice((0, 2, 1), (1, -1, 2), (BATCH, 3, 2)), (5, 4)),
        (Expand((BATCH, 4, 3)), (1, 3)),
        (Pad((0, 1, -1, 0, 2, 1), "constant", 1.0), (3, 4)),
        (Pad((0, 2, 7, 0, 1, -1), "wrap"), (3, 4)),
        (Pad((0, -1, 2, 0, 1, -1), "reflect"), (4, 5)),
    ],
)
def test_copies_of_any_type(op, shape, dtype):
    assert_exact([op], shape, dtype, "copy_nd")


@pytest.mark.parametrize("dtype", [DType.BOOL, DType.I64, DType.F32, DType.F16])
@pytest.mark.parametrize(("axis", "parts"), [(1, 3), (2, 2), (3, 11)])
def test_join_of_any_type(axis, parts, dtype):
    net = Net(3, 4, 5, dtype=dtype)
    pieces = [net.node(Expand((BATCH, 3, 4, 5)), net.x) for _ in range(parts)]
    net.add_output("y", net.node(Concat(axis), *pieces))
    run_exact(net, dtype, "join" if axis > 1 or dtype is not DType.F32 else "channels")


def assert_exact(ops, shape, dtype, template):
    """A chain of operators on one tensor moves its elements as the reference does."""
    net = Net(*shape, dtype=dtype)
    value = net.x
    for op in ops:
        value = net.node(op, value)
    net.add_output("y", value)
    run_exact(net, dtype, template)


def run_exact(net, dtype, template):
    x = np.random.default_rng(3).integers(-100, 100, (2, *net.x.type.shape[1:])).astype(dtype.numpy)
    expected = interpret(net, {"x": x})["y"]
    program, choice = build(net)
    assert template in [s.chosen for s in choice.selections]
    got = emulate(program, {"x": x})[0]["y"]
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
