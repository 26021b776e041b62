"""ArgMax, ArgMin, TopK and Gather in the emulator, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.interpret import interpret
from cnngraph.ops import Gather
from cnngraph.ops.indexing import ArgReduce, TopK

from .support import ORDERS, Net, build, emulate

OPS = {
    "argmax": ArgReduce("max", 1),
    "argmax_last_of_equal": ArgReduce("max", 2, keepdims=False, last=True),
    "argmin": ArgReduce("min", 3),
    "top": TopK(3, 1),
    "bottom": TopK(3, 2, largest=False),
    "sort": TopK(4, 3),
}


def feed(kind):
    """Numbers with many equal ones, infinities, zeros of both signs and NaN."""
    rng = np.random.default_rng(5)
    x = rng.integers(-4, 5, (2, 5, 3, 4)).astype(np.float32) / 2
    if kind == "special":
        values = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0], np.float32)
        chosen = rng.random(x.shape) < 0.3
        x[chosen] = rng.choice(values, int(chosen.sum()))
    return x


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("kind", ["equal", "special"])
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
def test_search(op, kind, precision):
    net = Net(5, 3, 4)
    for i, value in enumerate(net.add(op, [net.x], origin=("search",))):
        net.add_output(f"y{i}", value)
    x = feed(kind)
    expected = interpret(net, {"x": x})
    program, choice = build(net, isa=f"sm_90:{precision}")
    assert "search" in [s.chosen for s in choice.selections]
    for order in ("lockstep", "backward") if kind == "special" and isinstance(op, TopK) else ("lockstep",):
        got, _ = emulate(program, {"x": x}, ORDERS[order])
        for name, want in expected.items():
            assert got[name].dtype == want.dtype
            np.testing.assert_array_equal(got[name], want)


def test_search_in_a_long_row():
    net = Net(1000)
    net.add_output("y", net.node(ArgReduce("max", 1), net.x))
    x = np.random.default_rng(0).standard_normal((3, 1000)).astype(np.float32)
    program, _ = build(net)
    got, _ = emulate(program, {"x": x}, ORDERS["shuffled"])
    np.testing.assert_array_equal(got["y"], x.argmax(1)[:, None])


@pytest.mark.parametrize("axis", [1, 2])
def test_gather(axis):
    net = Net(4, 6)
    indices = net.constant(np.array([[3, 0], [-1, 1], [2, 2]], np.int64))
    net.add_output("y", net.node(Gather(axis), net.x, indices))
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    program, choice = build(net)
    assert "gather" in [s.chosen for s in choice.selections]
    got, _ = emulate(program, {"x": x})
    np.testing.assert_array_equal(got["y"], np.take(x, [[3, 0], [-1, 1], [2, 2]], axis))
