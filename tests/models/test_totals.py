"""Parameter totals, multiply-adds and depths of the classic networks, as published or recomputed from their wiring."""

from __future__ import annotations

import math

import pytest

import cnngraph_models
from cnngraph.analysis.summary import summarize

KERAS = {
    "lenet5": 61_706, "keras_cnn_small": 1_199_882, "keras_cnn_same": 421_642, "alexnet": 60_965_224,
    "alexnet_slide_groups": 61_186_408, "alexnet_bn": 25_683_688, "flowers17_alexnet": 21_883_153, "flowers17_vgg": 33_672_785,
    "vgg16": 138_357_544, "vgg19": 143_667_240, "residual_block": 21_504, "mini_xception": 721_857, "cifar_resnet29": 849_002,
    "resnet18": 11_703_912, "resnet34": 21_823_208, "resnet50": 25_636_712, "resnet101": 44_707_176, "resnet152": 60_419_944,
    "mobilenet_v2": 3_538_984, "squeezenet1_1": 1_235_496, "alexnet_bn_same": 62_383_848,
}  # fmt: skip
TRAINABLE = {
    "alexnet_bn": 25_680_936, "alexnet_bn_same": 62_381_096, "flowers17_alexnet": 21_881_681, "flowers17_vgg": 33_669_841,
    "mini_xception": 718_849,
    "resnet18_v1_5": 11_689_512, "resnet34_v1_5": 21_797_672, "resnet50_v1_5": 25_557_032, "resnet101_v1_5": 44_549_160,
    "resnet152_v1_5": 60_192_808,
}  # fmt: skip
FOLDED = {
    "resnet18": 11_684_712, "resnet34": 21_789_160, "resnet50": 25_530_472, "resnet101": 44_496_488, "resnet152": 60_117_096,
    "resnet18_v1_5": 11_684_712, "resnet34_v1_5": 21_789_160, "resnet50_v1_5": 25_530_472, "resnet101_v1_5": 44_496_488,
    "resnet152_v1_5": 60_117_096,
}  # fmt: skip
MACS = {
    "lenet5": 0.416e6, "keras_cnn_small": 12.0e6, "keras_cnn_same": 4.24e6, "alexnet": 0.724e9, "alexnet_bn": 0.540e9,
    "alexnet_bn_same": 1.135e9, "flowers17_alexnet": 0.508e9, "flowers17_vgg": 10.08e9, "vgg16": 15.47e9, "vgg19": 19.63e9,
    "residual_block": 19.2e6, "mini_xception": 0.383e9, "cifar_resnet29": 0.098e9, "resnet18": 1.814e9, "resnet34": 3.664e9,
    "resnet50": 3.858e9, "resnet101": 7.570e9, "resnet152": 11.282e9, "resnet50_v1_5": 4.089e9, "resnet101_v1_5": 7.801e9,
    "resnet152_v1_5": 11.514e9, "mobilenet_v2": 0.301e9,
}  # fmt: skip
DEPTH = {"vgg16": 16, "vgg19": 19, "resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152, "cifar_resnet29": 29}


@pytest.mark.parametrize("name", sorted({*KERAS, *TRAINABLE, *FOLDED, *MACS, *DEPTH}))
def test_totals(name: str) -> None:
    model = cnngraph_models.build(name, fill="zeros")
    keras = summarize(model, "keras")
    if name in KERAS:
        assert keras.params == KERAS[name]
    if name in TRAINABLE:
        assert keras.trainable == TRAINABLE[name]
    if name in FOLDED:
        assert summarize(model, "folded").params == FOLDED[name]
    if name in MACS:
        assert keras.macs == pytest.approx(MACS[name], rel=0.01)
    if name in DEPTH:
        assert keras.depth == DEPTH[name]


LADDERS = {
    "lenet5": [28, 14, 10, 5],
    "alexnet": [55, 27, 27, 13, 13, 13, 13, 6],
    "alexnet_bn": [54, 26, 22, 10, 8, 6, 4, 1],
    "alexnet_bn_same": [55, 27, 27, 13, 13, 13, 13, 6],
    "flowers17_alexnet": [54, 26, 22, 10, 8, 6, 4, 1],
    "flowers17_vgg": [222, 220, 110, 108, 106, 53, 51, 49, 47, 23, 21, 19, 17, 8, 6, 4, 2, 1],
    "keras_cnn_same": [28, 14, 14, 7],
}


@pytest.mark.parametrize("name", LADDERS)
def test_maps_of_convolutions_and_pools(name: str) -> None:
    rows = summarize(cnngraph_models.build(name, fill="zeros")).rows
    maps = [row.output_shape for row in rows if row.type in ("Conv", "MaxPool", "AveragePool")]
    assert all(shape is not None and shape[0] is None and shape[2] == shape[3] for shape in maps)
    assert [shape[2] for shape in maps if shape is not None] == LADDERS[name]


def test_layers_of_vgg19() -> None:
    summary = summarize(cnngraph_models.build("vgg19", fill="zeros"))
    assert [row.params for row in summary.rows if row.params] == [
        1_792, 36_928, 73_856, 147_584, 295_168, *[590_080] * 3, 1_180_160, *[2_359_808] * 7, 102_764_544, 16_781_312, 4_097_000,
    ]  # fmt: skip
    assert (summary.weight_layers, summary.depth, summary.layer_depth) == (19, 19, 26)


def test_activations_of_alexnet() -> None:
    summary = summarize(cnngraph_models.build("alexnet", fill="zeros"))
    assert [row.elements for row in summary.rows if row.type in ("Input", "Conv", "Gemm")] == [
        150_528, 290_400, 186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000,
    ]  # fmt: skip
    weights = [
        math.prod(tensor.dims) for tensor in cnngraph_models.build("alexnet", fill="zeros").graph.initializer if len(tensor.dims) > 1
    ]
    assert sum(weights) == 60_954_656
