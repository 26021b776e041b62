"""Kernels that move, join, cut and resample, in the emulator against float64."""

from __future__ import annotations

import pytest

from cnngraph.ir.types import BATCH, Sym
from cnngraph.ops import Concat, ConvTranspose, Expand, Pad, Pool, Reshape, Slice, Transpose
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.expression import Expression
from cnngraph.ops.resize import Resize

from .support import Net, compare

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
    [((2, 2), 2, (0, 0), (6, 8), 1, 6, 5), ((3, 3), 2, (1, 1), (6, 8), 1, 4, 9), ((3, 3), 1, (0, 1), (5, 4), 2, 6, 16)],
)
def test_conv_transpose(kernel, stride, begins, out, group, channels, outputs, precision):
    net = Net(channels, 3, 4)
    op = ConvTranspose(kernel, (stride,) * 2, begins, (1, 1), out, group, Expression.of("relu"))
    weights = net.weights(channels, outputs // group, *kernel, scale=0.4)
    finish(net, net.node(op, net.x, weights, net.weights(outputs)), "conv_transpose", precision)
