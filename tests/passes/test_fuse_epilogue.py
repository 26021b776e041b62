"""FuseEpilogue."""

from __future__ import annotations

from cnngraph.passes.fuse_elementwise import FuseElementwise
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from tests.passes.support import Net, apply


def test_residual_and_activation() -> None:
    net = Net(4, 5, 5)
    y = net.conv(net.x, 4, name="a")
    z = net.conv(net.relu(y, name="r"), 4, name="b")
    changes, _ = apply(net, FuseElementwise(), FuseEpilogue(), outputs=[net.relu(net.elementwise("add", z, net.x, name="add"), name="out")])
    assert net.names() == ["Conv", "Conv"] and changes >= 3
    assert net.nodes[1].origin == ("b", "add", "out")


def test_of_two_convolutions_the_later_takes_the_addition() -> None:
    net = Net(4, 5, 5)
    a, b = net.conv(net.x, 4, name="first"), net.conv(net.x, 4, kernel=1, pad=0, name="second")
    apply(net, FuseEpilogue(), outputs=[net.elementwise("add", a, b)])
    assert net.names() == ["Conv", "Conv"]
    assert net.nodes[0].op.epilogue is None and net.nodes[1].op.epilogue is not None


def test_several_steps_in_a_row_and_operand_order() -> None:
    net = Net(4, 5, 5)
    y = net.elementwise("sub", net.x, net.conv(net.x, 4))
    y = net.elementwise("div", net.weights(4, 1, 1), net.elementwise("exp", y))
    apply(net, FuseEpilogue(), outputs=[y])
    assert net.names() == ["Conv"]


def test_refusals() -> None:
    net = Net(4, 5, 5)
    y = net.conv(net.x, 4, name="c")
    _, context = apply(net, FuseEpilogue(), outputs=[net.relu(y), y])
    assert "graph output" in context.rejections[0].reason
    net = Net(4, 5, 5)
    _, context = apply(net, FuseEpilogue(), outputs=[net.elementwise("add", net.conv(net.x, 4), net.weights(1, 5))])
    assert "no kernel loads" in context.rejections[0].reason


def test_dense() -> None:
    net = Net(12)
    apply(net, FuseEpilogue(), outputs=[net.elementwise("tanh", net.dense(net.x, 7))])
    assert net.names() == ["Dense"]


def test_sums_in_either_order_are_one_epilogue() -> None:
    net = Net(4, 5, 5)
    first = net.elementwise("add", net.x, net.conv(net.x, 4, name="a"))
    apply(net, FuseEpilogue(), outputs=[net.elementwise("add", net.conv(first, 4, name="b"), net.x)])
    assert net.names() == ["Conv", "Conv"] and net.nodes[0].op.epilogue == net.nodes[1].op.epilogue
