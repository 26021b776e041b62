"""LowerRecurrent: one dense layer for both directions, and the steps; what stays whole says why."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Value
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Dense, Expand, Recurrent, Reshape, Transpose
from cnngraph.ops.recurrent import GATES
from cnngraph.passes.base import PassContext
from cnngraph.passes.lower_recurrent import LowerRecurrent
from cnngraph.passes.merge_reshapes import MergeReshapes
from tests.passes.support import Net, apply

ACTIVATIONS = {"rnn": ("softsign",), "gru": ("sigmoid", "tanh"), "lstm": ("sigmoid", "tanh", "tanh")}


def layer(net: Net, cell: str, directions: str, hidden: int = 5, **operands: Value | None) -> tuple[Value, ...]:
    """A layer of the rows of net.x, [N, 4, 3], as sequences of 4; ``operands`` replace what it reads."""
    d, g = len(directions), GATES[cell] * hidden
    names = ACTIVATIONS[cell] * d
    op = Recurrent(cell, hidden, directions, names, ((),) * len(names), linear_before_reset=cell == "gru" and d == 2)
    x = net.node(Transpose((1, 0, 2)), net.x)
    given = {"x": x, "w": net.weights(d, g, 3), "r": net.weights(d, g, hidden), "b": net.weights(d, 2 * g)} | operands
    values = [given.get(name) for name in ("x", "w", "r", "b", "lengths", "h0", "c0", "p")]
    return net.add(op, values, origin=("layer",))


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("directions", ["f", "r", "fr"])
@pytest.mark.parametrize("biased", [True, False])
def test_results_stay(cell: str, directions: str, biased: bool) -> None:
    net = Net(4, 3)
    outputs = layer(net, cell, directions, **({} if biased else {"b": None}))
    assert apply(net, LowerRecurrent(), outputs=outputs)[0] == 1
    movement = ["Transpose"] if directions == "fr" else []
    assert net.names() == ["Transpose", "Reshape", "Dense", "Reshape", "RecurrentSteps", "Reshape", *movement]
    (dense,) = (node for node in net.nodes if isinstance(node.op, Dense))
    assert dense.output.type.shape[1] == len(directions) * GATES[cell] * 5 and (dense.inputs[2] is not None) is biased
    assert all(node.origin == ("layer",) for node in list(net.nodes)[1:])


def test_lengths_states_and_peepholes_are_taken_over_and_zeros_are_not() -> None:
    net = Net(4, 3)
    start = net.node(Reshape((1, BATCH, 5)), net.node(Expand((BATCH, 5)), net.weights(5)))
    zeros = net.node(Expand((1, BATCH, 5)), net.constant(np.zeros((1, 1, 5), np.float32)))
    lengths = net.constant(np.array([3, 1, 4], np.int32))
    outputs = [
        *layer(net, "lstm", "f", h0=start, c0=zeros, p=net.weights(1, 15)),
        *layer(net, "gru", "fr", lengths=lengths, x=net.weights(4, 3, 3)),
    ]
    apply(net, LowerRecurrent(), outputs=outputs)
    lstm, gru = (node for node in net.nodes if node.op.name == "RecurrentSteps")
    assert [value is not None for value in lstm.inputs] == [True, True, False, False, True, False, True]
    assert [value is not None for value in gru.inputs] == [True, True, True, True, False, False, False]


def test_the_transposition_of_directions_meets_its_inverse() -> None:
    net = Net(4, 3)
    y = layer(net, "lstm", "fr")[0]
    joined = net.node(Reshape((4, BATCH, 10)), net.node(Transpose((0, 2, 1, 3)), y))
    apply(net, LowerRecurrent(), MergeReshapes(), outputs=[joined])
    assert [name for name in net.names() if name == "Transpose"] == ["Transpose"]


def test_refusals() -> None:
    net = Net(4, 3)
    seen = {
        "the weights are computed at run time": {"r": net.add_input("r", TensorType(DType.F32, (1, 20, 5)))},
        "an empty tensor": {"x": net.weights(0, 3, 3)},
    }
    for operands in seen.values():
        layer(net, "lstm", "f", **operands)
    (half,) = (net.constant(np.zeros((4, 2, 3), np.float16)),)
    weights = {name: net.constant(np.zeros(shape, np.float16)) for name, shape in (("w", (1, 20, 3)), ("r", (1, 20, 5)), ("b", (1, 40)))}
    layer(net, "lstm", "f", x=half, **weights)
    context = PassContext()
    assert LowerRecurrent().run(net, context) == 0
    assert [r.reason for r in context.rejections] == [*seen, "float16 layers run by the reference; kernels are float32"]
