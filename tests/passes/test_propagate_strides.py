"""PropagateStrides: pixels that no reader looks at are not computed; what is read stays."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType
from cnngraph.ops import Conv, Elementwise, Pool, QLinearBinary, QLinearConv, QTable, QuantizeLinear, Slice
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from cnngraph.passes.propagate_strides import PropagateStrides
from tests.passes.support import Net, apply


def strided(net: Net, x: Value, filters: int, strides: tuple[int, int], kernel: int = 1) -> Value:
    """A convolution without padding."""
    channels = x.type.shape[1]
    assert isinstance(channels, int)
    return net.node(Conv((kernel, kernel), strides, (0,) * 4, (1, 1)), x, net.weights(filters, channels, kernel, kernel), None)


def strides(net: Net) -> list[tuple[int, ...]]:
    return [node.op.strides for node in net.nodes if isinstance(node.op, (Conv, Pool))]


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 5)])
@pytest.mark.parametrize("steps", [(2, 2), (1, 3), (4, 1)])
def test_chain_of_convolutions(size: tuple[int, int], steps: tuple[int, int]) -> None:
    net = Net(3, *size)
    y = strided(net, net.conv(net.relu(net.conv(net.x, 4)), 4, kernel=1, pad=0), 5, steps)
    changes, _ = apply(net, PropagateStrides(), outputs=[y])
    assert changes == 3  # two convolutions and the activation between them
    assert strides(net) == [steps, (1, 1), (1, 1)]


def test_last_block_of_a_stage() -> None:
    """The residual sum is read by two strided convolutions; its other operand is still needed whole and is sampled."""
    net = Net(4, 10, 10)
    whole = net.relu(net.conv(net.x, 8, kernel=1, pad=0))
    inner = net.conv(net.relu(net.conv(whole, 4, kernel=1, pad=0)), 4)
    joined = net.relu(net.elementwise("add", net.conv(inner, 8, kernel=1, pad=0), whole))
    outputs = [strided(net, joined, 3, (2, 2)), strided(net, joined, 6, (2, 2))]
    apply(net, FuseEpilogue(), outputs=outputs)
    changes, _ = apply(net, PropagateStrides(), outputs=[value for _, value in net.outputs])
    assert changes == 2
    assert strides(net) == [(1, 1), (1, 1), (2, 2), (1, 1), (1, 1), (1, 1)]
    (sampled,) = (node for node in net.nodes if isinstance(node.op, Slice))
    assert sampled.output.type.shape[1:] == (8, 5, 5)


def test_pooling_slices_and_broadcast_operands() -> None:
    net = Net(3, 9, 9)
    pooled = net.node(Pool("max", (3, 3), (1, 1), (1,) * 4, (1, 1)), net.conv(net.x, 3))
    scaled = net.elementwise("mul", net.elementwise("mul", pooled, net.weights(3, 1, 1)), net.weights(1, 1, 1, 9))
    alone = net.node(Pool("max", (1, 1), (3, 3), (0,) * 4, (1, 1)), scaled)
    batch = net.x.type.shape[0]
    cut = net.node(Slice((0, 0, 0, 0), (1, 1, 3, 3), (batch, 3, 3, 3)), scaled)
    changes, _ = apply(net, PropagateStrides(), outputs=[net.elementwise("add", alone, cut)])
    assert changes == 3  # the products and the 3x3 pooling, which reads more than every third pixel
    assert [type(node.op) for node in net.nodes] == [Conv, Pool, Elementwise, Slice, Elementwise, Elementwise]
    assert strides(net) == [(1, 1), (3, 3)]


def test_readers_that_disagree() -> None:
    net = Net(3, 8, 8)
    shared = net.conv(net.x, 4)
    other = net.conv(shared, 4)
    third = net.conv(net.x, 4)
    outputs = [strided(net, shared, 2, (2, 2)), other, strided(net, third, 2, (2, 2)), strided(net, third, 2, (1, 2))]
    kept = net.conv(net.x, 4)
    outputs += [kept, strided(net, kept, 2, (2, 2)), strided(net, net.conv(net.x, 2), 2, (2, 2), kernel=3)]
    changes, _ = apply(net, PropagateStrides(), outputs=outputs)
    assert changes == 0


def test_operand_that_would_have_to_be_reshaped() -> None:
    net = Net(3, 8, 8)
    y = strided(net, net.elementwise("mul", net.x, net.weights(8)), 2, (2, 2))
    changes, _ = apply(net, PropagateStrides(), outputs=[y])
    assert changes == 0


def test_quantized_convolutions() -> None:
    """Two 8-bit convolutions, a sum and a table between the strided reader and the input."""
    net = Net(3, 7, 6)
    scale, zero = net.constant(np.array(0.1, np.float32)), net.constant(np.array(3, np.int8))
    x = net.node(QuantizeLinear(DType.I8), net.x, scale, zero)

    def conv(value: Value, kernel: int, stride: int) -> Value:
        w = net.constant(net.rng.integers(-9, 9, (3, 3, kernel, kernel)).astype(np.int8))
        op = QLinearConv((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 4, (1, 1), to=DType.I8)
        return net.node(op, value, scale, zero, w, scale, zero, scale, zero, None)

    summed = net.node(QLinearBinary("add"), conv(x, 3, 1), scale, zero, x, scale, zero, scale, zero)
    table = net.constant(net.rng.integers(-128, 128, 256).astype(np.int8))
    y = conv(net.node(QTable(), summed, table), 1, 2)
    changes, _ = apply(net, PropagateStrides(), outputs=[y])
    assert changes == 3
    assert [node.op.strides for node in net.nodes if isinstance(node.op, QLinearConv)] == [(2, 2), (1, 1)]
