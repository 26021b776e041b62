"""FoldConstants."""

from __future__ import annotations

import numpy as np

from cnngraph.ops import Expand
from cnngraph.passes.base import PassContext
from cnngraph.passes.fold_constants import FoldConstants
from tests.passes.support import Net, apply


def test_constant_arithmetic_is_computed_once() -> None:
    net = Net(4, 5, 5)
    scale = net.elementwise("mul", net.weights(4, 1, 1), net.weights(4, 1, 1))
    changes, _ = apply(net, FoldConstants(), outputs=[net.elementwise("mul", net.x, scale)])
    assert changes == 1 and net.names() == ["Elementwise"]


def test_large_results_are_left_to_run_time() -> None:
    net = Net(4)
    big = net.node(Expand((1000, 4)), net.weights(1, 4))
    net.add_output("y", big)
    assert FoldConstants().run(net, PassContext(max_fold_bytes=100)) == 0
    assert FoldConstants().run(net, PassContext()) == 1
    assert np.shape(net.outputs[0][1].data) == (1000, 4)
