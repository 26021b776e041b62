"""MergeCommon, MergeReshapes and RemoveDead."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Value
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


def chain(net: Net, value: Value, *moves: Transpose | Reshape) -> Value:
    for move in moves:
        value = net.node(move, value)
    return value


UNFOLD = (
    Reshape((BATCH * 32, 2, 4, 2)), Transpose((0, 2, 1, 3)), Reshape((BATCH, 8, 16, 4)), Transpose((0, 3, 2, 1)),
    Reshape((BATCH * 4, 16, 8)),
)  # fmt: skip
FOLD = (
    Reshape((BATCH, 4, 16, 8)), Transpose((0, 3, 2, 1)), Reshape((BATCH * 32, 4, 2, 2)), Transpose((0, 2, 1, 3)), Reshape((BATCH, 8, 8, 8)),
)  # fmt: skip
WINDOWS = Reshape((BATCH, 2, 4, 4, 2, 8)), Transpose((0, 1, 3, 2, 4, 5)), Reshape((BATCH * 8, 8, 8))
FROM_WINDOWS = Reshape((BATCH, 2, 4, 4, 2, 8)), Transpose((0, 1, 3, 2, 4, 5)), Reshape((BATCH, 8, 8, 8))
OTHER_WINDOWS = Reshape((BATCH, 4, 2, 2, 4, 8)), Transpose((0, 1, 3, 2, 4, 5)), Reshape((BATCH, 8, 8, 8))
SHUFFLE = Reshape((BATCH, 2, 4, 64)), Transpose((0, 2, 1, 3)), Reshape((BATCH, 8, 8, 8))
UNSHUFFLE = Reshape((BATCH, 4, 2, 8, 8)), Transpose((0, 2, 1, 3, 4)), Reshape((BATCH, 8, 8, 8))
TO_DEPTH = Reshape((BATCH, 8, 4, 2, 4, 2)), Transpose((0, 1, 3, 5, 2, 4)), Reshape((BATCH, 32, 4, 4))
TO_SPACE = Reshape((BATCH, 8, 2, 2, 4, 4)), Transpose((0, 1, 4, 2, 5, 3)), Reshape((BATCH, 8, 8, 8))
LAST, FIRST = Transpose((0, 2, 3, 1)), Transpose((0, 3, 1, 2))


@pytest.mark.parametrize(
    ("moves", "left"),
    [
        ((*UNFOLD, *FOLD), []),
        ((*TO_DEPTH, *TO_SPACE), []),
        ((*SHUFFLE, *UNSHUFFLE), []),
        ((*SHUFFLE, LAST, FIRST, *UNSHUFFLE), []),
        ((LAST, *WINDOWS, *FROM_WINDOWS, FIRST), []),
        ((LAST, *WINDOWS, *OTHER_WINDOWS, FIRST), ["Reshape", "Transpose", "Reshape"]),
        ((LAST, Reshape((BATCH, 64, 8)), Transpose((0, 2, 1)), Reshape((BATCH, 8, 8, 8))), []),
        ((LAST, Reshape((BATCH, 64, 8)), Transpose((2, 0, 1))), ["Reshape", "Transpose"]),
        ((Transpose((0, 2, 1, 3)), Reshape((BATCH, 8, 8, 1, 8)), Transpose((0, 1, 4, 3, 2))), ["Reshape", "Transpose", "Reshape"]),
        ((*SHUFFLE, LAST), ["Reshape", "Transpose", "Reshape"]),
    ],
)  # fmt: skip
def test_chains_whose_axes_split_cleanly_are_one_copy_or_none(moves: tuple[Transpose | Reshape, ...], left: list[str]) -> None:
    net = Net(8, 8, 8)
    apply(net, MergeReshapes(max_axes=6), RemoveDead(), outputs=[net.relu(chain(net, net.relu(net.x), *moves))])
    assert net.names() == ["Elementwise", *left, "Elementwise"]


def test_transposes_of_transposes_keep_their_axes() -> None:
    """So that what looks for a transpose of channels finds it."""
    net = Net(4, 5, 6, 1)
    end = chain(net, net.relu(net.x), Transpose((0, 2, 4, 3, 1)), Reshape((BATCH, 5, 6, 4, 1)), Transpose((0, 3, 2, 4, 1)))
    apply(net, MergeReshapes(), RemoveDead(), outputs=[net.relu(end)])
    assert [node.op for node in net.nodes if isinstance(node.op, Transpose)] == [Transpose((0, 1, 3, 4, 2))]
    assert "Reshape" not in net.names()


def test_axes_that_do_not_split_cleanly_keep_both_copies() -> None:
    net = Net(6, 4)
    end = chain(net, net.relu(net.x), Transpose((0, 2, 1)), Reshape((BATCH, 3, 8)), Transpose((0, 2, 1)))
    changes, _ = apply(net, MergeReshapes(), outputs=[net.relu(end)])
    assert changes == 0


def test_a_chain_that_others_read_is_not_copied_twice() -> None:
    net = Net(8, 8, 8)
    inner = chain(net, net.relu(net.x), LAST, Reshape((BATCH, 64, 8)))
    outer = chain(net, inner, Reshape((BATCH, 8, 8, 8)), Transpose((0, 2, 1, 3)), Reshape((BATCH * 64, 8)))
    back = chain(net, inner, Transpose((0, 2, 1)), Reshape((BATCH, 8, 8, 8)))
    apply(net, MergeReshapes(), RemoveDead(), outputs=[net.relu(inner), net.relu(outer), net.relu(back)])
    assert net.names().count("Transpose") == 2  # the way back is none, the others are no longer than before


def test_random_chains_compute_the_same() -> None:
    rng = np.random.default_rng(5)
    saved = 0
    for seed in range(60):
        net = Net(12, 4, 6, seed=seed)
        value, moves = net.relu(net.x), 0
        for _ in range(6):
            if rng.random() < 0.5:
                moves += 1
                value = net.node(Transpose((0, *(1 + rng.permutation(value.type.rank - 1)).tolist())), value)
            else:
                shape, left = [], 288
                while left > 1 and len(shape) < 4:
                    shape.append(int(rng.choice([d for d in range(1, left + 1) if left % d == 0 and d <= 12])))
                    left //= shape[-1]
                value = net.node(Reshape((BATCH, *shape, left)), value)
        apply(net, MergeReshapes(max_axes=6), RemoveDead(), outputs=[net.relu(value)], tolerance=0)
        saved += moves - net.names().count("Transpose")
    assert saved > 40


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
