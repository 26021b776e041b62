"""FuseElementwise."""

from __future__ import annotations

import numpy as np

from cnngraph.passes.fuse_elementwise import FuseElementwise
from tests.passes.support import Net, apply


def test_silu_reads_its_input_once() -> None:
    net = Net(4, 5, 5)
    y = net.conv(net.x, 4)
    changes, _ = apply(net, FuseElementwise(), outputs=[net.elementwise("mul", y, net.elementwise("sigmoid", y))])
    assert changes >= 1 and net.names() == ["Conv", "Elementwise"]
    assert len(net.nodes[1].inputs) == 1


def test_scalar_constants_become_parameters() -> None:
    net = Net(4, 5, 5)
    two = net.constant(np.array(2.0, np.float32))
    y = net.elementwise("mul", net.elementwise("add", net.x, two), two)
    apply(net, FuseElementwise(), outputs=[y])
    (node,) = net.nodes
    assert [i.fn for i in node.op.expression.instrs] == ["shift", "scale"] and len(node.inputs) == 1


def test_a_broadcast_producer_is_not_computed_again() -> None:
    net = Net(4, 1, 1)
    other = net.add_input("z", net.x.type.__class__(net.x.type.dtype, (net.x.type.shape[0], 4, 5, 5)))
    changes, _ = apply(net, FuseElementwise(), outputs=[net.elementwise("add", other, net.relu(net.x))])
    assert changes == 0 and len(net) == 2


def test_limits_hold() -> None:
    net = Net(4, 5, 5)
    y = net.x
    for _ in range(60):
        y = net.elementwise("tanh", y)
    apply(net, FuseElementwise(max_instrs=24), outputs=[y])
    assert all(len(n.op.expression.instrs) <= 24 for n in net.nodes) and len(net) == 3
