"""RemoveIdentity."""

from __future__ import annotations

from cnngraph.ir.types import BATCH
from cnngraph.ops import Identity, Reshape, Transpose
from cnngraph.passes.remove_identity import RemoveIdentity
from tests.passes.support import Net, apply


def test_operators_that_do_nothing_go() -> None:
    net = Net(4, 5)
    value = net.node(Identity(), net.x)
    value = net.node(Reshape((BATCH, 4, 5)), value)
    value = net.node(Transpose((0, 1, 2)), value)
    changes, _ = apply(net, RemoveIdentity(), outputs=[net.relu(value)])
    assert changes == 3 and net.names() == ["Elementwise"]


def test_a_real_transpose_stays() -> None:
    net = Net(4, 5)
    changes, _ = apply(net, RemoveIdentity(), outputs=[net.node(Transpose((0, 2, 1)), net.x)])
    assert changes == 0 and net.names() == ["Transpose"]
