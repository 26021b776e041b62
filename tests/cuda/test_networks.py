"""Whole networks, imported and optimised as usual, in the emulator against float64."""

from __future__ import annotations

import numpy as np
import pytest

import cnngraph_models
from cnngraph.errors import LimitExceededError, UnsupportedError
from cnngraph.frontend import import_model
from cnngraph.ir.interpret import interpret
from cnngraph.ops import Conv, Identity
from cnngraph.ops.geometry import Col2Im
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.pipeline import optimize
from cnngraph_cuda.executor import plan_launch

from .support import TOLERANCE, Net, build, compare, emulate

LARGE = {"squeezenet1_1": (3, 96, 96), "mobilenet_v2": (3, 96, 96), "cifar_resnet29": None, "capsnet": (1, 20, 20)}
"""Input shapes smaller than the networks' own, for the emulator's sake."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *((n, p) for n in ("lenet5", "residual_block") for p in ("f32", "tf32", "f16")),
        *(pytest.param(n, p, marks=pytest.mark.slow) for n in LARGE for p in ("f32", "tf32", "f16") if n != "capsnet" or p == "f32"),
    ],
)
def test_network(name, precision):
    graph = import_model(cnngraph_models.build(name, input_shape=LARGE.get(name)).SerializeToString())
    shape = graph.inputs[0][1].type.shape[1:]
    feeds = {graph.inputs[0][0]: np.random.default_rng(1).uniform(-1, 1, (1 if name in LARGE else 2, *shape)).astype(np.float32)}
    (expected,) = interpret(graph, feeds, np.float64).values()
    options = CompileOptions(backend="cuda", precision=precision)
    optimize(graph, options, PassContext())
    program, _ = build(graph, options=options)
    ((got,), device) = (lambda pair: (pair[0].values(), pair[1]))(emulate(program, feeds))
    assert np.abs(got - expected).max() <= 3 * TOLERANCE[precision] * np.abs(expected).max()
    assert len(device.launches) == len(program.data.steps)
    assert program.report["reference_steps"] == []


def test_several_batches_of_one_program():
    net = Net(3, 6, 6)
    net.add_output("y", net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), net.x, net.weights(5, 3, 3, 3), None))
    op = net.nodes[0].op
    weights = net.nodes[0].input(1).data
    program, _ = build(net, isa="sm_90:f32")
    for batch in (1, 3, 2):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 6, 6)).astype(np.float32)
        got, _ = emulate(program, {"x": x})
        np.testing.assert_allclose(got["y"], op.reference(x.astype(np.float64), weights.astype(np.float64), None)[0], atol=1e-4)


def test_operators_without_a_kernel_are_named():
    net = Net(8, 4)
    net.add_output("y", net.node(Col2Im((3, 3), (2, 2), (1, 1), (0,) * 4, (1, 1)), net.x))
    with pytest.raises(UnsupportedError, match=r"Col2Im \(Col2Im0\).*no kernel") as error:
        build(net)
    assert "--allow-cpu-ops" in str(error.value)


def test_cpu_operators_when_allowed():
    net = Net(8, 4)
    y = net.node(Col2Im((3, 3), (2, 2), (1, 1), (0,) * 4, (1, 1)), net.x)
    net.add_output("y", net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), y, net.weights(3, 2, 1, 1), None))
    x = np.random.default_rng(0).standard_normal((2, 8, 4)).astype(np.float32)
    expected = interpret(net, {"x": x}, np.float64)["y"]
    program, _ = build(net, options=CompileOptions(backend="cuda", allow_cpu_ops=True))
    got, _ = emulate(program, {"x": x})
    np.testing.assert_allclose(got["y"], expected, atol=1e-5)
    assert program.report["reference_steps"] == ["Col2Im0"]


def test_outputs_that_are_inputs_and_constants():
    net = Net(3)
    net.add_output("y", net.node(Identity(), net.x))
    net.add_output("z", net.weights(4))
    compare(net)
    compare(net, isa="sm_90:f16")


def test_too_many_elements_for_32_bits():
    net = Net(64, 64, 64)
    net.add_output("y", net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), net.x, net.weights(8, 64, 1, 1), None))
    program, _ = build(net)
    step = program.data.steps[-1]
    assert plan_launch(step, 8, [0] * 8).grid[0] > 0
    with pytest.raises(LimitExceededError, match="32 bits"):
        plan_launch(step, 1 << 16, [0] * 8)


def test_weights_too_large_for_f16():
    net = Net(4)
    from cnngraph.ops import Dense

    net.add_output("y", net.node(Dense(), net.x, net.weights(4, 4, scale=1e6), None))
    with pytest.raises(UnsupportedError, match="too large for float16"):
        build(net, isa="sm_90:f16")
