"""share_kernels: fewer kernels for little time, the same bits, the same decision every time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import cnngraph_models
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph, Node
from cnngraph.kernels.template import KernelSpec
from cnngraph.options import CompileOptions
from cnngraph.passes import share_kernels as module
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import LayoutChoice, choose_layout
from cnngraph.passes.narrow_floats import narrow_floats
from cnngraph.passes.share_kernels import MOST_OF_A_LAYER, MOST_OF_A_NETWORK, share_kernels
from cnngraph.pipeline import compile_graph, optimize
from cnngraph_cpu import backend

ISA = "avx512"


def laid_out(model: onnx.ModelProto) -> tuple[Graph, LayoutChoice]:
    graph = import_model(model)
    optimize(graph, CompileOptions(), PassContext())
    return graph, choose_layout(graph, backend.templates(), backend.target(ISA))


def costs_and_specs(choice: LayoutChoice) -> dict[Node, tuple[float, KernelSpec]]:
    target = backend.target(ISA)
    return {n: (t.cost(n, target), t.plan(n, target).typed().spec) for n, t in choice.templates.items() if t is not None}


def towers(channels: int = 16, sizes: tuple[int, ...] = (28, 14, 11, 7), kernel: int = 3) -> onnx.ModelProto:
    """One convolution with ReLU on each of some maps, which are inputs, so that every width has its best tile."""
    rng = np.random.default_rng(3)
    nodes, weights, inputs, outputs = [], [], [], []
    for i, size in enumerate(sizes):
        filters = channels * (1 + i % 2)
        weights.append(numpy_helper.from_array(rng.standard_normal((filters, channels, kernel, kernel)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"c{i}"], pads=[kernel // 2] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"y{i}"]))
        inputs.append(helper.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, ["N", channels, size, size]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, ["N", filters, size, size]))
    graph = helper.make_graph(nodes, "towers", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize(("network", "most", "fewer"), [("googlenet", 26, 5), ("resnet50", 17, 1), ("vgg16", 10, 0)])
def test_networks_take_fewer_kernels_for_little_time(network: str, most: int, fewer: int) -> None:
    graph, choice = laid_out(cnngraph_models.build(network, fill="zeros"))
    before = costs_and_specs(choice)
    given_up = share_kernels(graph, choice, backend.target(ISA))
    after = costs_and_specs(choice)
    kernels = len({spec for _, spec in after.values()})
    assert kernels <= most and kernels == len({spec for _, spec in before.values()}) - given_up and given_up >= fewer
    for node, (cost, _) in after.items():
        assert cost <= (1 + MOST_OF_A_LAYER) * before[node][0]
    totals = [sum(cost for cost, _ in costs.values()) for costs in (before, after)]
    assert totals[1] <= (1 + MOST_OF_A_NETWORK) * totals[0]


def test_the_decision_is_the_same_every_time() -> None:
    decided = []
    for _ in range(2):
        graph, choice = laid_out(cnngraph_models.build("googlenet", fill="zeros"))
        share_kernels(graph, choice, backend.target(ISA))
        decided.append([spec for _, spec in costs_and_specs(choice).values()])
    assert decided[0] == decided[1]


def test_nothing_is_shared_at_a_higher_price(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, choice = laid_out(cnngraph_models.build("googlenet", fill="zeros"))
    for name in ("MOST_OF_A_LAYER", "MOST_OF_A_NETWORK"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, -1.0)
            before = dict(choice.templates)
            assert share_kernels(graph, choice, backend.target(ISA)) == 0
            assert choice.templates == before


@pytest.mark.parametrize("math", ["exact", "f32"])
def test_shared_kernels_compute_the_same_bits(math: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tile a layer gets, with any number of threads: sums are in the same order."""
    isa = next(i for i in backend.isas() if i in ("avx512", "avx2", "sse4"))
    rng = np.random.default_rng(5)
    programs = []
    for price in (-1.0, 1e9):
        monkeypatch.setattr(module, "MOST_OF_A_LAYER", price)
        monkeypatch.setattr(module, "MOST_OF_A_NETWORK", price)
        programs.append(compile_graph(import_model(towers()), CompileOptions(isa=isa, math=math, threads=1)))
    own, shared = programs
    assert len(shared.data.kernels) < len(own.data.kernels)  # type: ignore[union-attr]
    feeds = {spec.name: rng.standard_normal((2, *map(int, spec.shape[1:]))).astype(np.float32) for spec in own.inputs}
    wanted = own.run(feeds)
    for threads in (1, 3):
        found = shared.run(feeds, threads=threads)
        for name, value in wanted.items():
            assert np.array_equal(found[name], value), name


@pytest.mark.parametrize(("isa", "math"), [("avx512bf16", "f32"), ("avx512bf16", "exact"), ("avx512", "f32"), ("avx2", "f32")])
@pytest.mark.parametrize("network", ["inception_v3", "shufflenet_v2"])
def test_layers_share_as_they_are_planned_in_bfloat16(network: str, isa: str, math: str) -> None:
    """Without dot products 1x1 convolutions copy and widen rows, so that their pixels are no longer one row."""
    graph, target = import_model(cnngraph_models.build(network, fill="zeros")), backend.target(isa)
    optimize(graph, CompileOptions(precision="bf16"), PassContext())
    narrow_floats(graph, ())
    choice = choose_layout(graph, [t for t in backend.templates() if math == "f32" or not t.reorders_arithmetic], target)
    assert share_kernels(graph, choice, target) > 0
    for node, template in choice.templates.items():
        if template is not None and hasattr(template, "like"):
            spec = template.plan(node, target).typed().spec
            variant = template.like(node, target, spec)
            assert variant is None or variant.plan(node, target).typed().spec == spec
