"""FoldBatchNorm and LowerBatchNorm."""

from __future__ import annotations

import pytest

import cnngraph_models
from cnngraph.frontend import import_model
from cnngraph.ir.types import BATCH
from cnngraph.ops import Pool, Reshape
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.fold_batchnorm import FoldBatchNorm
from cnngraph.passes.lower_batchnorm import LowerBatchNorm
from cnngraph.pipeline import optimize
from tests.passes.support import Net, apply

POOL = Pool("max", (2, 2), (2, 2), (0,) * 4, (1, 1), False, False, False, 0)


@pytest.mark.parametrize(("bias", "group"), [(True, 1), (False, 1), (True, 2)])
def test_backward_into_a_convolution(bias: bool, group: int) -> None:
    net = Net(4, 6, 6)
    changes, _ = apply(net, FoldBatchNorm(), outputs=[net.batchnorm(net.conv(net.x, 8, bias=bias, group=group))])
    assert changes == 1 and net.names() == ["Conv"]


def test_forward_through_pooling_into_an_unpadded_convolution() -> None:
    net = Net(4, 8, 8)
    pooled = net.node(POOL, net.relu(net.conv(net.x, 6)))
    changes, _ = apply(net, FoldBatchNorm(), outputs=[net.conv(net.batchnorm(pooled), 5, pad=0, group=1)])
    assert changes == 1 and "BatchNorm" not in net.names()


def test_forward_through_flatten_into_a_dense_layer() -> None:
    net = Net(4, 4, 4)
    pooled = net.node(POOL, net.x)
    flat = net.node(Reshape((BATCH, 16)), net.batchnorm(pooled))
    changes, _ = apply(net, FoldBatchNorm(), outputs=[net.dense(flat, 7)])
    assert changes == 1 and "BatchNorm" not in net.names()


def test_padding_behind_the_normalisation_is_refused_and_becomes_one_affine() -> None:
    net = Net(4, 6, 6)
    out = net.conv(net.batchnorm(net.node(POOL, net.x), name="bn"), 5, pad=1)
    changes, context = apply(net, FoldBatchNorm(), LowerBatchNorm(), outputs=[out])
    assert changes == 1 and net.names() == ["Pool", "Elementwise", "Conv"]
    assert any(r.node == "bn" and "pads" in r.reason for r in context.rejections)


def test_a_convolution_with_a_second_reader_is_refused() -> None:
    net = Net(4, 6, 6)
    y = net.conv(net.x, 4, name="shared")
    changes, context = apply(net, FoldBatchNorm(), outputs=[net.elementwise("add", net.batchnorm(y), y)])
    assert changes == 0 and any("shared" in r.reason for r in context.rejections)


@pytest.mark.parametrize(("name", "kept"), [("resnet18", 0), ("alexnet_bn", 0), ("flowers17_alexnet", 0), ("mini_xception", 5)])
def test_facts_of_the_classic_networks(name: str, kept: int) -> None:
    graph = import_model(cnngraph_models.build(name))
    records = optimize(graph, CompileOptions(), PassContext())
    assert sum(r.changes for r in records if r.name == "lower_batchnorm") == kept
    assert all(node.op.name != "BatchNorm" for node in graph.nodes)


def test_the_name_of_the_tensor_before_the_normalisation_vanishes() -> None:
    net = Net(4, 6, 6)
    y = net.conv(net.x, 4)
    z = net.batchnorm(y)
    y.names, z.names = ("before",), ("after",)
    apply(net, FoldBatchNorm(), outputs=[net.relu(z)])
    assert [node.output.names for node in net.nodes] == [("after",), ()]
