"""Arithmetic in front of a rounding step keeps its order: integerised networks must give equal integers."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.analysis.rounding import keeps_order, rounded_later
from cnngraph.ir.types import DType
from cnngraph.ops import Cast, Pool
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.passes.fold_batchnorm import FoldBatchNorm
from cnngraph_cpu import backend
from tests.passes.support import Net, apply

POOL = Pool("max", (2, 2), (2, 2), (0,) * 4, (1, 1), False, False, False, 0)


def _scaled(net: Net) -> tuple:  # type: ignore[type-arg]
    convolved = net.conv(net.x, 32, bias=False, name="conv")
    return convolved, net.elementwise("mul", convolved, net.constant(np.full((1, 32, 1, 1), 0.3, np.float32)))


@pytest.mark.parametrize("step", ["floor", "round", "ceil"])
def test_scales_in_front_of_a_step_are_not_folded(step: str) -> None:
    net = Net(16, 16, 16)
    _, scaled = _scaled(net)
    changes, context = apply(net, FoldBatchNorm(), outputs=[net.elementwise(step, net.node(POOL, scaled), name="step")])
    assert changes == 0
    assert any("step rounds the result" in r.reason for r in context.rejections)


def test_without_a_step_they_are() -> None:
    net = Net(16, 16, 16)
    _, scaled = _scaled(net)
    changes, _ = apply(net, FoldBatchNorm(), outputs=[net.node(POOL, scaled)])
    assert changes == 1


@pytest.mark.parametrize("rounded", [True, False])
def test_no_winograd_in_front_of_a_step(rounded: bool) -> None:
    net = Net(32, 28, 28)
    convolved = net.conv(net.x, 32, name="conv")
    net.add_output("y", net.node(Cast(DType.I32), net.relu(convolved)) if rounded else net.relu(convolved))
    choice = choose_layout(net, backend.templates(), backend.target("avx2"))
    chosen = next(s for s in choice.selections if s.node.op.name == "Conv")
    assert (chosen.chosen == "winograd") is not rounded
    assert ("rounds the result" in chosen.refused.get("winograd", "")) is rounded


def test_the_search_ends_at_the_next_convolution() -> None:
    net = Net(4, 8, 8)
    first = net.conv(net.x, 4, name="first")
    second = net.conv(net.relu(first), 4, name="second")
    step = net.elementwise("floor", second, name="step")
    net.add_output("y", step)
    assert rounded_later(first) is None
    assert rounded_later(second) is step.producer
    assert second.producer is not None and keeps_order(second.producer) is step.producer
