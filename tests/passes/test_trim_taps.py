"""TrimTaps: taps that only meet padding go away; what is computed stays."""

from __future__ import annotations

import pytest

from cnngraph.ops import Conv
from cnngraph.passes.trim_taps import TrimTaps
from tests.passes.support import Net, apply


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "dilation", "left"),
    [
        (12, 3, 1, (24, 24), 24, 1),
        (12, 3, 1, (12, 12), 12, 1),
        (12, 3, 1, (11, 11), 11, 3),
        (13, 5, 2, (8, 8), 4, 5),
        (6, 5, 1, (12, 12), 6, 1),
        (7, 5, 1, (12, 12), 6, 3),
        (4, 3, 1, (8, 0), 4, 1),
        (5, 3, 2, (6, 7), 6, 1),
    ],
)
def test_outer_taps(size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, left: int) -> None:
    net = Net(3, size, 9)
    w = net.weights(4, 3, kernel, 3)
    op = Conv((kernel, 3), (stride, 1), (pads[0], 1, pads[1], 1), (dilation, 1))
    y = net.node(op, net.x, w, net.weights(4))
    shape = y.type.shape
    changes, _ = apply(net, TrimTaps(), outputs=[y])
    (node,) = net.nodes
    assert isinstance(node.op, Conv) and node.op.kernel == (left, 3) and node.output.type.shape == shape
    assert changes == (left != kernel)


def test_weights_computed_at_run_time_stay() -> None:
    net = Net(3, 4, 4)
    w = net.relu(net.weights(4, 3, 3, 3))
    changes, _ = apply(net, TrimTaps(), outputs=[net.node(Conv((3, 3), (1, 1), (9,) * 4, (9, 9)), net.x, w, None)])
    assert changes == 0
