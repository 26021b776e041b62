"""Layers as programs of their own, and the timer."""

from __future__ import annotations

import numpy as np
import pytest

import cnngraph_models
from cnngraph.emit.onnx_model import model_of
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ops import Conv
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import LayoutChoice, choose_layout, forget_layouts
from cnngraph.pipeline import optimize
from cnngraph.tuning.keys import key_of
from cnngraph.tuning.layers import EDGE, LAYER, alone, layers_of, lower_layer, random_feeds
from cnngraph.tuning.measure import LayerTimer
from cnngraph.tuning.search import Variant
from cnngraph_cpu import backend
from tests.passes.support import Net

TARGET = backend.target("avx2")
TEMPLATES = {t.name: t for t in backend.templates()}


def laid_out(name: str) -> tuple[Graph, LayoutChoice]:
    graph = import_model(cnngraph_models.build(name))
    optimize(graph, CompileOptions(), PassContext())
    return graph, choose_layout(graph, list(TEMPLATES.values()), TARGET)


def test_keys_do_not_depend_on_layouts_or_weights() -> None:
    graph, _ = laid_out("residual_block")
    before = [key_of(node) for node in graph.nodes if node.op.name != "Reorder"]
    forget_layouts(graph)
    assert [key_of(node) for node in graph.nodes] == before
    other = import_model(cnngraph_models.build("residual_block", seed=3))
    optimize(other, CompileOptions(), PassContext())
    assert [key_of(node) for node in other.nodes] == before


def test_alike_layers_are_one() -> None:
    graph, choice = laid_out("cifar_resnet29")
    layers = layers_of(graph, choice)
    assert len({layer.key for layer in layers}) == len(layers)
    assert sum(layer.count for layer in layers) == sum(t is not None and n.op.name != "Reorder" for n, t in choice.templates.items())
    assert max(layer.count for layer in layers) >= 3


@pytest.mark.parametrize("network", ["lenet5", "residual_block"])
def test_a_layer_alone_computes_the_same(network: str) -> None:
    graph, choice = laid_out(network)
    for layer in layers_of(graph, choice):
        program = lower_layer(layer, TEMPLATES[layer.template], list(TEMPLATES.values()), TARGET).program(backend, TARGET, CompileOptions())
        assert {step["nodes"] for step in program.profile(random_feeds(program), 1)} <= {LAYER, EDGE}
        feeds = random_feeds(program, 2)
        single = alone(layer.node)
        expected = interpret(single, feeds, np.float64)
        for name, array in program.run(feeds).items():
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=3e-5 * max(1.0, float(np.abs(expected[name]).max())))
        assert [value.name for value in model_of(single).graph.input] == list(feeds)


def test_reorders_that_a_template_asks_for_count_as_its_own() -> None:
    graph = Net(16, 8, 8)
    graph.add_output("y", graph.relu(graph.conv(graph.x, 16, name="conv"), name="relu"))
    graph.stage = "fused"
    choice = choose_layout(graph, list(TEMPLATES.values()), TARGET)
    conv, relu = layers_of(graph, choice)
    labels = {}
    for layer, template in ((conv, "conv_direct"), (relu, "eltwise_blocked"), (relu, "eltwise_plain")):
        program = lower_layer(layer, TEMPLATES[template], list(TEMPLATES.values()), TARGET).program(backend, TARGET, CompileOptions())
        labels[template] = [step.label for step in program.data.steps]
    assert labels["conv_direct"] == [LAYER, LAYER, EDGE]  # the plain input of the network is reordered for it
    assert labels["eltwise_blocked"] == [EDGE, LAYER, EDGE]
    assert labels["eltwise_plain"] == [EDGE, LAYER, LAYER, LAYER, EDGE]  # to plain and back, where the default stays blocked


def test_the_timer() -> None:
    graph, choice = laid_out("lenet5")
    layer = next(layer for layer in layers_of(graph, choice) if isinstance(layer.node.op, Conv))
    timer = LayerTimer(list(TEMPLATES.values()), backend, TARGET, CompileOptions(), 1)
    default, band = (Variant(TEMPLATES["conv_direct"]), Variant(TEMPLATES["conv_direct"], "half the rows a block"))
    timer.prepare([(layer, default), (layer, band)])
    assert timer.single(layer, default) > 0
    assert min(timer.pair(layer, default, band)) > 0
