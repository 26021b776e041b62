"""FoldPad."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import DType
from cnngraph.ops import Pad, Pool, QLinearConv
from cnngraph.ops.quantized import QuantizeLinear
from cnngraph.passes.fold_pad import FoldPad
from tests.passes.support import Net, apply

PADS = (0, 0, 1, 2, 0, 0, 1, 0)


def pool(kind: str, count_include_pad: bool) -> Pool:
    return Pool(kind, (3, 3), (2, 2), (0,) * 4, (1, 1), False, count_include_pad, False, 0)


def test_into_a_convolution() -> None:
    net = Net(3, 7, 7)
    changes, _ = apply(net, FoldPad(), outputs=[net.conv(net.node(Pad(PADS, "constant", 0.0), net.x), 4, pad=0)])
    assert changes == 1 and net.names() == ["Conv"]


@pytest.mark.parametrize(("pad", "why"), [(Pad(PADS, "reflect", 0.0), "reflect"), (Pad(PADS, "constant", 1.0), "1.0")])
def test_other_padding_is_refused(pad: Pad, why: str) -> None:
    net = Net(3, 7, 7)
    changes, context = apply(net, FoldPad(), outputs=[net.conv(net.node(pad, net.x), 4, pad=0)])
    assert changes == 0 and why in context.rejections[0].reason


def test_max_pooling_of_values_that_may_be_negative_is_refused() -> None:
    net = Net(3, 7, 7)
    changes, context = apply(net, FoldPad(), outputs=[net.node(pool("max", False), net.node(Pad(PADS, "constant", 0.0), net.x))])
    assert changes == 0 and "negative" in context.rejections[0].reason


@pytest.mark.parametrize(("reader", "folds"), [("max", True), ("average", False)])
def test_minus_infinity_is_what_max_pooling_pads_with(reader: str, folds: bool) -> None:
    net = Net(3, 7, 7)
    changes, context = apply(net, FoldPad(), outputs=[net.node(pool(reader, True), net.node(Pad(PADS, "constant", -np.inf), net.x))])
    assert changes == folds and (folds or "minus infinity" in context.rejections[0].reason)


def test_max_pooling_behind_a_relu_and_average_pooling() -> None:
    net = Net(3, 7, 7)
    padded = net.node(Pad(PADS, "constant", 0.0), net.relu(net.x))
    changes, _ = apply(net, FoldPad(), outputs=[net.node(pool("max", False), padded)])
    assert changes == 1
    for counts, expected in ((True, 1), (False, 0)):
        net = Net(3, 7, 7)
        padded = net.node(Pad(PADS, "constant", 0.0), net.x)
        changes, _ = apply(net, FoldPad(), outputs=[net.node(pool("average", counts), padded)])
        assert changes == expected


def test_a_window_that_would_lie_in_the_padding_alone_keeps_the_pad() -> None:
    net = Net(3, 7, 7)
    padded = net.node(Pad((0, 0, 3, 0, 0, 0, 0, 0), "constant", 0.0), net.x)
    changes, context = apply(net, FoldPad(), outputs=[net.node(pool("average", True), padded)])
    assert changes == 0 and "padding alone" in context.rejections[0].reason


@pytest.mark.parametrize(("value", "folds"), [(7.0, True), (0.0, False)])
def test_integers_are_padded_with_the_zero_point(value: float, folds: bool) -> None:
    net = Net(3, 7, 7)
    scale, zero = net.constant(np.float32(0.5)), net.constant(np.uint8(7))
    w, ones = net.constant(np.ones((4, 3, 3, 3), np.int8)), net.constant(np.zeros((), np.int8))
    padded = net.node(Pad(PADS, "constant", value), net.node(QuantizeLinear(DType.U8), net.x, scale, zero))
    conv = QLinearConv((3, 3), (1, 1), (0,) * 4, (1, 1), 1)
    changes, _ = apply(net, FoldPad(), outputs=[net.node(conv, padded, scale, zero, w, scale, ones, scale, zero, None)])
    assert changes == folds and ("Pad" in net.names()) != folds
