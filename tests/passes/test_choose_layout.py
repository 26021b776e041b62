"""choose_layout and select_kernels: structure of the lowered classic networks."""

from __future__ import annotations

from collections import Counter

import pytest

import cnngraph_models
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph
from cnngraph.ir.verify import verify
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import LayoutChoice, choose_layout
from cnngraph.passes.select_kernels import select_kernels
from cnngraph.pipeline import optimize
from cnngraph_cpu import backend


def lowered(name: str, isa: str) -> tuple[Graph, LayoutChoice]:
    graph = import_model(cnngraph_models.build(name, fill="zeros" if name != "lenet5" else "random"))
    optimize(graph, CompileOptions(), PassContext())
    choice = choose_layout(graph, backend.templates(), backend.target(isa))
    verify(graph, "choose_layout")
    calls = select_kernels(graph, choice, backend.target(isa))
    assert all(call is not None or node.op.name == "Reshape" for node, call in calls.items())
    return graph, choice


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse4"])
@pytest.mark.parametrize("name", ["lenet5", "resnet18", "resnet50", "squeezenet1_1"])
def test_no_reorder_between_blocked_kernels(name: str, isa: str) -> None:
    graph, choice = lowered(name, isa)
    assert choice.reorders <= 1, Counter(n.op.name for n in graph.nodes)


def test_resnet50_is_one_kernel_a_convolution() -> None:
    graph, _ = lowered("resnet50", "avx512")
    counts = Counter(node.op.name for node in graph.nodes)
    assert counts["Conv"] == 53 and counts["Dense"] == 1 and counts["Elementwise"] == 0


def test_winograd_takes_the_wide_3x3_layers() -> None:
    _, choice = lowered("resnet18", "avx512")
    chosen = Counter(s.chosen for s in choice.selections)
    assert chosen["winograd"] >= 10
    assert all(s.refused for s in choice.selections if s.chosen == "conv_direct" or s.chosen == "winograd")
