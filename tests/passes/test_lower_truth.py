"""LowerTruth: truth values of floats become numbers in element-wise functions; others stay."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import DType
from cnngraph.ops import Cast, Predicate, Where
from cnngraph.passes.fuse_elementwise import FuseElementwise
from cnngraph.passes.lower_truth import LowerTruth
from cnngraph.passes.remove_dead import RemoveDead
from tests.passes.support import Net, apply

PASSES = (LowerTruth(), FuseElementwise(), RemoveDead())


@pytest.mark.parametrize("function", ["less", "greater", "less_equal", "greater_equal", "equal"])
def test_a_comparison_as_a_factor(function: str) -> None:
    net = Net(4, 5)
    other = net.elementwise("relu", net.x)  # equal where positive
    c = net.node(Cast(DType.F32), net.node(Predicate(function), net.x, other))
    apply(net, *PASSES, outputs=[net.elementwise("mul", net.x, c)])
    assert set(net.names()) == {"Elementwise"}


@pytest.mark.parametrize("function", ["and", "or", "xor"])
def test_truth_values_of_truth_values_select(function: str) -> None:
    net = Net(4, 5)
    low = net.node(Predicate("less"), net.x, net.constant(np.float32(-0.3)))
    high = net.node(Predicate("greater_equal"), net.x, net.constant(np.linspace(-1, 1, 5, dtype=np.float32)))
    mask = net.constant(np.arange(20).reshape(4, 5) % 3 == 0)
    both = net.node(
        Predicate(function), net.node(Cast(DType.BOOL), net.node(Predicate("not"), low)), net.node(Predicate(function), high, mask)
    )
    apply(net, *PASSES, outputs=[net.node(Where(), both, net.elementwise("neg", net.x), net.constant(np.float32(7)))])
    assert net.names() == ["Elementwise"] * len(net.names())


def test_nan_compares_false_and_an_unselected_infinity_does_no_harm() -> None:
    net = Net(3)
    root = net.elementwise("sqrt", net.x)  # NaN below zero
    c = net.node(Predicate("greater_equal"), root, net.constant(np.float32(0)))
    y = net.node(Where(), net.node(Predicate("or"), c, c), root, net.constant(np.float32(np.inf)))
    apply(net, *PASSES, outputs=[y])
    assert set(net.names()) == {"Elementwise"}


def test_a_constant_mask() -> None:
    net = Net(4, 4)
    mask = net.constant(np.tril(np.ones((4, 4), bool)))
    apply(net, *PASSES, outputs=[net.node(Where(), mask, net.x, net.constant(np.float32(-np.inf)))])
    assert net.names() == ["Elementwise"]


def test_what_leaves_or_compares_other_types_stays() -> None:
    net = Net(4, 5)
    shown = net.node(Predicate("less"), net.x, net.constant(np.float32(0)))
    hidden = net.node(Predicate("greater"), net.x, net.constant(np.float32(1)))
    joined = net.node(Predicate("and"), shown, hidden)
    integers = net.node(Cast(DType.I64), net.x)
    odd = net.node(Predicate("equal"), integers, net.constant(np.int64(1)))
    y = net.node(Where(), net.node(Predicate("or"), joined, odd), net.x, net.constant(np.float32(2)))
    z = net.node(Cast(DType.I64), net.node(Predicate("less"), net.x, net.constant(np.float32(0.5))))
    changes, _ = apply(net, LowerTruth(), outputs=[y, shown, z])
    assert changes == 0
