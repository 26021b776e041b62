"""What fuses in the zoo and what must not: batch normalisations, padding, concatenations."""

from __future__ import annotations

import pytest

import cnngraph_models
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph
from cnngraph.ops import Concat, Pad, Pool
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.passes.plan_memory import MemoryPlan, plan_memory
from cnngraph.passes.select_kernels import select_kernels
from cnngraph.pipeline import optimize
from cnngraph_cpu import backend


def optimized(name: str) -> tuple[Graph, dict[str, int], PassContext]:
    """The fused graph, changes by pass, and what was refused."""
    graph = import_model(cnngraph_models.build(name))  # zeros would make layers of one shape equal, and merge them
    context = PassContext()
    changes: dict[str, int] = {}
    for record in optimize(graph, CompileOptions(), context):
        changes[record.name] = changes.get(record.name, 0) + record.changes
    return graph, changes, context


def planned(graph: Graph, isa: str, math: str) -> MemoryPlan:
    target = backend.target(isa)
    templates = [template for template in backend.templates() if math == "f32" or not template.reorders_arithmetic]
    return plan_memory(graph, select_kernels(graph, choose_layout(graph, templates, target), target))


@pytest.mark.parametrize(
    ("name", "folded", "kept"),
    [
        ("mini_xception", 5, 5),  # the first of each block reads a tensor that the shortcut reads too
        ("resnet50_v2", 32, 17),  # 16 pre-activations and the last one
        ("densenet121", 59, 62),  # 58 layers, 3 transitions and the last one, all behind a concatenation
        ("cifar_resnet29", 19, 9),
        ("resnet50", 53, 0),
        ("inception_v3", 94, 0),
        ("inception_resnet_v2", 204 + 40, 0),  # the factors of the residual sums fold, too
        ("xception", 40, 0),
        ("mobilenet", 27, 0),
        ("mobilenet_v3_large", 46, 0),
        ("googlenet", 0, 0),
    ],
)
def test_batch_normalisations_that_cannot_fold_stay(name: str, folded: int, kept: int) -> None:
    graph, changes, context = optimized(name)
    assert (changes["fold_batchnorm"], changes["lower_batchnorm"]) == (folded, kept)
    assert len([r for r in context.rejections if r.pass_name == "fold_batchnorm"]) == kept
    assert "BatchNorm" not in [node.op.name for node in graph.nodes]


def test_what_stays_is_one_kernel_with_its_activation() -> None:
    for name, count in (("mini_xception", 6), ("densenet121", 62)):  # mini-Xception also divides its pixels by 255
        graph, _, _ = optimized(name)
        chains = [node for node in graph.nodes if node.op.name == "Elementwise"]
        assert len(chains) == count
        assert sum("relu" in str(node.op).lower() for node in chains) == count - (name == "mini_xception")


def test_zeros_before_max_pooling_stay_where_values_may_be_negative() -> None:
    graph, changes, context = optimized("resnet50_v2")
    (pad,) = (node for node in graph.nodes if isinstance(node.op, Pad))
    (pool,) = pad.output.users
    assert isinstance(pool.op, Pool) and pool.op.kind == "max" and not any(pool.op.pads)
    assert changes["fold_pad"] == 0
    assert [r.node for r in context.rejections if r.pass_name == "fold_pad"] == ["pool1_pad"]


def test_zeros_before_max_pooling_of_rectified_values_are_merged() -> None:
    graph, changes, _ = optimized("densenet121")
    assert changes["fold_pad"] == 1
    assert not [node for node in graph.nodes if isinstance(node.op, Pad)]
    assert [node.op.pads for node in graph.nodes if isinstance(node.op, Pool) and node.op.kind == "max"] == [(1, 1, 1, 1)]


# Winograd's weights of U-Net take long to transform, and whether a concatenation is copied does not depend on them.
@pytest.mark.parametrize(
    ("name", "count", "math"),
    [("densenet121", 58, "f32"), ("inception_v3", 15, "f32"), ("googlenet", 9, "f32"), ("squeezenet1_1", 8, "f32"), ("unet", 4, "exact"),
     ("unet_resize", 4, "exact"), ("pix2pix", 7, "exact")],
)  # fmt: skip
def test_concatenations_cost_no_copies(name: str, count: int, math: str) -> None:
    graph, _, _ = optimized(name)
    plan = planned(graph, "avx2", math)
    concats = [node for node in graph.nodes if isinstance(node.op, Concat)]
    assert len(concats) == count
    assert plan.absorbed.issuperset(concats)
    assert plan.arena <= 1.1 * plan.bound


def test_a_network_of_1001_layers_is_planned() -> None:
    graph, changes, _ = optimized("cifar_resnet1001")
    plan = planned(graph, "avx2", "exact")
    assert changes["fold_batchnorm"] + changes["lower_batchnorm"] == 1000
    assert plan.arena <= 1.1 * plan.bound
