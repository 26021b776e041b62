"""Chains of moves that come to a choice of whole channels, and those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Concat, Gather, Reshape, Slice, Transpose
from cnngraph.ops.channels import TakeChannels
from cnngraph.passes.base import PassContext
from cnngraph.passes.remove_dead import RemoveDead
from cnngraph.passes.take_channels import TakeWholeChannels
from tests.passes.support import Net, apply


def shuffle(net: Net, x: object, groups: int, channels: int, size: tuple[int, ...] = (6, 5)) -> object:
    x = net.node(Reshape((BATCH, groups, channels // groups, *size)), x)  # type: ignore[arg-type]
    x = net.node(Transpose((0, 2, 1, *range(3, 3 + len(size)))), x)
    return net.node(Reshape((BATCH, channels, *size)), x)


def test_a_shuffle_between_convolutions() -> None:
    net = Net(4, 6, 5)
    out = net.conv(shuffle(net, net.conv(net.x, 12), 3, 12), 4)  # type: ignore[arg-type]
    changes, _ = apply(net, TakeWholeChannels(), RemoveDead(), outputs=[out])
    assert changes and net.names() == ["Conv", "TakeChannels", "Conv"]
    (op,) = [n.op for n in net.nodes if isinstance(n.op, TakeChannels)]
    assert isinstance(op, TakeChannels) and op.channels == (0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11)


def test_a_shuffle_of_bytes() -> None:
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.I8, (BATCH, 12, 6, 5)))
    (y,) = graph.add(Reshape((BATCH, 3, 4, 6, 5)), [x], origin=("split",))
    (y,) = graph.add(Transpose((0, 2, 1, 3, 4)), [y], origin=("shuffle",))
    (y,) = graph.add(Reshape((BATCH, 12, 6, 5)), [y], origin=("join",))
    graph.add_output("y", y)
    assert TakeWholeChannels().run(graph, PassContext()) and [node.op.name for node in graph.nodes] == ["TakeChannels"]


def test_units_of_a_network_that_splits_shuffles_and_joins() -> None:
    net = Net(4, 6, 5)
    left, right = net.conv(net.x, 10), net.conv(net.x, 10)
    for _ in range(2):
        x = shuffle(net, net.node(Concat(1), left, right), 2, 20)
        left = net.node(Slice((0, 0, 0, 0), (1,) * 4, (BATCH, 10, 6, 5)), x)  # type: ignore[arg-type]
        right = net.conv(net.node(Slice((0, 10, 0, 0), (1,) * 4, (BATCH, 10, 6, 5)), x), 10)  # type: ignore[arg-type]
    out = net.conv(net.node(Concat(1), left, right), 3)
    apply(net, TakeWholeChannels(), RemoveDead(), outputs=[out])
    assert sorted(net.names()) == ["Conv"] * 5 + ["TakeChannels"] * 5
    assert all(len(n.inputs) == 2 for n in net.nodes if isinstance(n.op, TakeChannels))


def test_channels_picked_by_a_gather() -> None:
    net = Net(4, 6, 5)
    picked = net.node(Gather(1), net.conv(net.x, 8), net.constant(np.array([7, -7, 0, 0])))
    changes, _ = apply(net, TakeWholeChannels(), RemoveDead(), outputs=[net.conv(picked, 4)])
    assert changes and net.names() == ["Conv", "TakeChannels", "Conv"]


def test_a_chain_that_comes_to_nothing_disappears() -> None:
    net = Net(4, 6, 5)
    back = shuffle(net, shuffle(net, net.conv(net.x, 12), 3, 12), 4, 12)
    changes, _ = apply(net, TakeWholeChannels(), RemoveDead(), outputs=[net.conv(back, 4)])  # type: ignore[arg-type]
    assert changes and net.names() == ["Conv", "Conv"]


@pytest.mark.parametrize("kind", ["pixels", "blocks", "images"])
def test_other_chains_stay(kind: str) -> None:
    net = Net(4, 6, 6)
    x = net.conv(net.x, 32)
    if kind == "pixels":
        moved = net.node(Transpose((0, 1, 3, 2)), x)
    elif kind == "blocks":  # whole blocks are written and read in place
        moved = net.node(Concat(1), net.node(Slice((0, 16, 0, 0), (1,) * 4, (BATCH, 16, 6, 6)), x), net.conv(net.x, 16))
    else:
        split = net.node(Reshape((BATCH, 2, 2, 4, 12, 6)), x)
        moved = net.node(Reshape((BATCH, 32, 6, 6)), net.node(Transpose((0, 1, 4, 3, 2, 5)), split))
    names = net.names()
    changes, _ = apply(net, TakeWholeChannels(), outputs=[net.conv(moved, 4)])
    assert changes == 0 and net.names() == [*names, "Conv"]


def test_images_that_change_places_are_no_channels() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2, 4, 3, 3)))
    (y,) = graph.add(Reshape((4, 2, 3, 3)), [x], origin=("a",))
    (y,) = graph.add(Transpose((1, 0, 2, 3)), [y], origin=("b",))
    graph.add_output("y", y)
    from cnngraph.passes.base import PassContext

    assert TakeWholeChannels().run(graph, PassContext()) == 0
