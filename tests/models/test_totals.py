"""Parameter totals, multiply-adds and depths of the classic networks, as published or recomputed from their wiring."""

from __future__ import annotations

import math

import pytest

import cnngraph_models
from cnngraph.analysis.summary import Row, summarize

KERAS = {
    "lenet5": 61_706, "keras_cnn_small": 1_199_882, "keras_cnn_same": 421_642, "alexnet": 60_965_224,
    "alexnet_slide_groups": 61_186_408, "alexnet_bn": 25_683_688, "flowers17_alexnet": 21_883_153, "flowers17_vgg": 33_672_785,
    "vgg16": 138_357_544, "vgg19": 143_667_240, "residual_block": 21_504, "mini_xception": 721_857, "cifar_resnet29": 849_002,
    "resnet18": 11_703_912, "resnet34": 21_823_208, "resnet50": 25_636_712, "resnet101": 44_707_176, "resnet152": 60_419_944,
    "mobilenet_v2": 3_538_984, "squeezenet1_1": 1_235_496, "alexnet_bn_same": 62_383_848,
    "resnet50_v2": 25_613_800, "resnet101_v2": 44_675_560, "resnet152_v2": 60_380_648, "xception": 22_910_480, "mobilenet": 4_253_864,
    "inception_v3": 23_851_784, "inception_resnet_v2": 55_873_736,
    "densenet121": 8_062_504, "densenet169": 14_307_880, "densenet201": 20_242_984, "nasnet_mobile": 5_326_716, "nasnet_large": 88_949_818,
    "efficientnet_b0": 5_330_571, "efficientnet_b1": 7_856_239, "efficientnet_b2": 9_177_569, "efficientnet_b3": 12_320_535,
    "efficientnet_b4": 19_466_823, "efficientnet_b5": 30_562_527, "efficientnet_b6": 43_265_143, "efficientnet_b7": 66_658_687,
    "logistic_regression": 7_850, "squeezenet1_0": 1_248_424, "yolo_v1": 271_703_550, "yolo_v3": 62_001_757, "retinanet": 38_048_372,
    "unet": 31_031_810, "unet_valid": 31_030_658, "capsnet": 6_804_224, "jpeg_dct": 4_096,
}  # fmt: skip
TRAINABLE = {
    "alexnet_bn": 25_680_936, "alexnet_bn_same": 62_381_096, "flowers17_alexnet": 21_881_681, "flowers17_vgg": 33_669_841,
    "mini_xception": 718_849, "inception_v3": 23_817_352, "mobilenet_v3_large": 5_483_032, "mobilenet_v3_small": 2_542_856,
    "shufflenet_v2": 2_278_604, "audio_m5": 26_915, "pix2pix": 54_413_955,
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
    "resnet152_v1_5": 11.514e9, "mobilenet_v2": 0.301e9, "mobilenet": 0.569e9, "xception": 8.36e9, "inception_v3": 5.71e9,
    "inception_resnet_v2": 13.16e9, "resnet50_v2": 3.48e9, "resnet101_v2": 7.19e9, "resnet152_v2": 10.91e9,
    "densenet121": 2.83e9, "densenet169": 3.36e9, "densenet201": 4.29e9, "nasnet_mobile": 0.564e9, "nasnet_large": 23.78e9,
    "efficientnet_b0": 0.386e9, "efficientnet_b1": 0.687e9, "efficientnet_b2": 0.994e9, "efficientnet_b3": 1.827e9,
    "efficientnet_b4": 4.394e9, "efficientnet_b5": 10.27e9, "efficientnet_b6": 19.07e9, "efficientnet_b7": 37.75e9, "yolo_v1": 20.29e9,
}  # fmt: skip
DEPTH = {"vgg16": 16, "vgg19": 19, "resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152, "cifar_resnet29": 29,
         "cifar_resnet1001": 1001, "densenet121": 121, "densenet169": 169, "densenet201": 201, "googlenet": 22}  # fmt: skip


@pytest.mark.parametrize("name", sorted({*KERAS, *TRAINABLE, *FOLDED, *MACS, *DEPTH}))
def test_totals(name: str) -> None:
    model = cnngraph_models.build(name, fill="none")
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
    rows = summarize(cnngraph_models.build(name, fill="none")).rows
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


def rows_of(name: str) -> dict[str, Row]:
    return {row.name: row for row in summarize(cnngraph_models.build(name, fill="none"), "keras").rows}


def test_details_of_inception() -> None:
    rows = rows_of("inception_v3")
    assert rows["predictions"].params == 2_049_000
    assert rows["mixed10"].output_shape == (None, 2048, 8, 8)
    # Each factorised 7x7 is a row and a column.
    assert rows["mixed4_branch1_2_conv"].params == 128 * 128 * 7


def test_googlenet_without_its_side_outputs() -> None:
    rows = rows_of("googlenet")
    assert sum(row.params for row in rows.values() if not row.name.startswith("side")) == 6_998_552
    assert [name for name, row in rows.items() if row.type == "Softmax"] == ["side1_softmax", "side2_softmax", "softmax"]


def test_separable_convolution() -> None:
    rows = rows_of("mini_xception")
    assert rows["block128_sep2_depthwise"].params + rows["block128_sep2_pointwise"].params == 17_536
    sizes = [rows[f"block{filters}_add"].output_shape for filters in (32, 64, 128, 256, 512)]
    assert [rows["conv1"].output_shape, *sizes] == [
        (None, f, s, s) for f, s in ((32, 176), (32, 88), (64, 44), (128, 22), (256, 11), (512, 6))
    ]


def test_capsules() -> None:
    rows = rows_of("capsnet")
    assert rows["capsules"].output_shape == (None, 1152, 1, 1, 8)
    assert rows["digits"].output_shape == (None, 10, 16)
    assert sum(row.name.endswith("_softmax") for row in rows.values()) == 2, "the first of three rounds couples evenly"


def test_retinanet_heads() -> None:
    rows = rows_of("retinanet")
    assert [rows[f"class_out_p{level}"].output_shape for level in range(3, 8)] == [(None, 720, s, s) for s in (64, 32, 16, 8, 4)]
    assert rows["box_out_p7"].output_shape == (None, 36, 4, 4)
    assert rows["class1_p3"].params == 256 * 256 * 9 + 256
    assert rows["class1_p4"].params == 0, "the levels share their weights"
