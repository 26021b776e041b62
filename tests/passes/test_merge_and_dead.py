"""MergeCommon, MergeReshapes and RemoveDead."""

from __future__ import annotations

from cnngraph.ir.types import BATCH
from cnngraph.ops import Reshape, Transpose
from cnngraph.passes.merge_common import MergeCommon
from cnngraph.passes.merge_reshapes import MergeReshapes
from cnngraph.passes.remove_dead import RemoveDead
from tests.passes.support import Net, apply


def test_equal_nodes_become_one() -> None:
    net = Net(4, 5)
    a, b = net.relu(net.x), net.relu(net.x)
    changes, _ = apply(net, MergeCommon(), RemoveDead(), outputs=[net.elementwise("add", a, b)])
    assert changes >= 1 and net.names() == ["Elementwise", "Elementwise"]


def test_chains_of_reshapes_and_transposes_become_one() -> None:
    net = Net(4, 6)
    value = net.node(Reshape((BATCH, 24)), net.x)
    value = net.node(Reshape((BATCH, 2, 12)), value)
    value = net.node(Transpose((0, 2, 1)), value)
    value = net.node(Transpose((0, 2, 1)), value)
    apply(net, MergeReshapes(), RemoveDead(), outputs=[net.relu(value)])
    assert net.names().count("Reshape") == 1 and net.names().count("Transpose") <= 1


def test_unread_nodes_go() -> None:
    net = Net(4, 6)
    net.relu(net.x)
    changes, _ = apply(net, RemoveDead(), outputs=[net.elementwise("tanh", net.x)])
    assert changes == 1 and len(net) == 1


def test_equal_chains_merge_entirely_and_keep_both_origins() -> None:
    net = Net(4, 6, 6)
    ends = [net.elementwise("neg", net.relu(net.x, f"relu{i}"), name=f"neg{i}") for i in (0, 1)]
    changes, _ = apply(net, MergeCommon(), outputs=[net.elementwise("add", *ends, name="sum")])
    assert changes == 2
    assert [node.origin for node in net.nodes] == [("relu0", "relu1"), ("neg0", "neg1"), ("sum",)]
