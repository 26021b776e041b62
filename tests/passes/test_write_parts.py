"""WriteParts: scatters to a box of known indices are concatenations; others stay."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import BATCH
from cnngraph.ops import ScatterND, Slice, Transpose
from cnngraph.passes.write_parts import WriteParts
from tests.passes.support import Net, apply


def box(*ranges: range) -> np.ndarray:
    return np.stack(np.meshgrid(*(np.array(r, np.int64) for r in ranges), indexing="ij"), -1)


@pytest.mark.parametrize(
    ("indices", "names"),
    [
        (box(range(6), range(2, 4)), ["Slice", "Concat", "Slice"]),
        (box(range(6), range(-5, -3)), ["Concat", "Slice"]),
        (box(range(2, 6)), ["Slice", "Concat"]),
        (box(range(6)), ["Concat"]),
        (box(range(1, 3), range(5)), ["Slice", "Concat", "Slice"]),
    ],
)
def test_boxes_become_concatenations(indices: np.ndarray, names: list[str]) -> None:
    net = Net(5, 6)
    x = net.node(Transpose((2, 1, 0)), net.x)  # [6, 5, N]
    shape = tuple(indices.shape[:-1])
    full = net.node(Transpose((2, 1, 0)), net.elementwise("neg", net.x))
    updates = net.node(Slice((0, 0, 0), (1, 1, 1), (shape[0], shape[1] if len(shape) > 1 else 5, BATCH)), full)
    y = net.node(ScatterND("none"), x, net.constant(indices), updates)
    assert apply(net, WriteParts(), outputs=[y])[0] == 1
    assert sorted(n for n in net.names()[4:]) == sorted(names)


@pytest.mark.parametrize(
    "indices",
    [
        box(range(1, 4), range(2, 4)),  # part of two axes
        box(range(6), range(0, 4, 2)),
        box(range(5, -1, -1)),
        np.zeros((3, 1), np.int64),
        np.array([[-1], [0]], np.int64),
    ],
)
def test_what_is_no_box_stays(indices: np.ndarray) -> None:
    net = Net(5, 6)
    x = net.node(Transpose((2, 1, 0)), net.x)
    shape = tuple(indices.shape[:-1])
    updates = net.node(Slice((0, 0, 0), (1, 1, 1), (shape[0], shape[1] if len(shape) > 1 else 5, BATCH)), x)
    assert apply(net, WriteParts(), outputs=[net.node(ScatterND("none"), x, net.constant(indices), updates)])[0] == 0


def test_sums_stay() -> None:
    net = Net(5, 6)
    x = net.node(Transpose((2, 1, 0)), net.x)
    updates = net.node(Slice((0, 0, 0), (1, 1, 1), (2, 5, BATCH)), x)
    assert apply(net, WriteParts(), outputs=[net.node(ScatterND("add"), x, net.constant(box(range(2))), updates)])[0] == 0
