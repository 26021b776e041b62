"""MatchDense: products with constant matrices become dense layers; others stay."""

from __future__ import annotations

from cnngraph.ir.types import BATCH
from cnngraph.ops import Dense, Expand, MatMul, Transpose
from cnngraph.passes.fold_constants import FoldConstants
from cnngraph.passes.match_dense import MatchDense
from cnngraph.passes.merge_reshapes import MergeReshapes
from tests.passes.support import Net, apply


def test_weights_that_fold() -> None:
    net = Net(6)
    w = net.node(Transpose((1, 0)), net.node(Expand((5, 6)), net.weights(5, 1)))
    apply(net, FoldConstants(), MatchDense(), outputs=[net.node(MatMul(), net.x, w)])
    assert net.names() == ["Dense"]


def test_more_axes() -> None:
    net = Net(3, 4, 6)
    changes, _ = apply(net, MatchDense(), outputs=[net.node(MatMul(), net.x, net.weights(6, 5))])
    assert changes == 1 and net.names() == ["Reshape", "Dense", "Reshape"]
    assert net.outputs[0][1].type.shape == (BATCH, 3, 4, 5)


def test_images_in_columns() -> None:
    net = Net(6)
    product = net.node(MatMul(), net.weights(5, 6), net.node(Transpose((1, 0)), net.x))
    changes, _ = apply(net, MatchDense(), MergeReshapes(), outputs=[product])
    assert changes > 0 and net.names() == ["Dense", "Transpose"]
    assert net.outputs[0][1].type.shape == (5, BATCH)


def test_products_that_stay() -> None:
    net = Net(4, 6)
    computed = net.node(MatMul(), net.x, net.relu(net.weights(6, 5)))
    stacked = net.node(MatMul(), net.x, net.weights(1, 6, 5))
    constant_left = net.node(MatMul(), net.weights(3, 4), net.x)
    changes, _ = apply(net, MatchDense(), outputs=[computed, stacked, constant_left])
    assert changes == 0 and not any(isinstance(node.op, Dense) for node in net.nodes)
