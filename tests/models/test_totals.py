"""Parameter totals, multiply-adds and depths of the classic networks, as published or recomputed from their wiring."""

from __future__ import annotations

import onnx
import pytest

import cnngraph_models
from cnngraph.analysis.summary import format_text, summarize
from cnngraph.errors import UsageError

KERAS = {
    "lenet5": 61_706, "keras_cnn_small": 1_199_882, "keras_cnn_same": 421_642, "alexnet": 60_965_224,
    "alexnet_slide_groups": 61_186_408, "alexnet_bn": 25_683_688, "flowers17_alexnet": 21_883_153, "flowers17_vgg": 33_672_785,
    "vgg16": 138_357_544, "vgg19": 143_667_240, "residual_block": 21_504, "mini_xception": 721_857, "cifar_resnet29": 849_002,
    "resnet18": 11_703_912, "resnet34": 21_823_208, "resnet50": 25_636_712, "resnet101": 44_707_176, "resnet152": 60_419_944,
    "mobilenet_v2": 3_538_984,
}  # fmt: skip
TRAINABLE = {
    "alexnet_bn": 25_680_936, "flowers17_alexnet": 21_881_681, "flowers17_vgg": 33_669_841, "mini_xception": 718_849,
    "resnet18_v1_5": 11_689_512, "resnet34_v1_5": 21_797_672, "resnet50_v1_5": 25_557_032, "resnet101_v1_5": 44_549_160,
    "resnet152_v1_5": 60_192_808,
}  # fmt: skip
FOLDED = {
    "resnet18": 11_684_712, "resnet34": 21_789_160, "resnet50": 25_530_472, "resnet101": 44_496_488, "resnet152": 60_117_096,
    "resnet50_v1_5": 25_530_472,
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


def test_shapes_and_text() -> None:
    summary = summarize(cnngraph_models.build("lenet5"))
    assert [r.shape for r in summary.rows if r.type in ("Conv", "AveragePool")] == [
        (None, 6, 28, 28), (None, 6, 14, 14), (None, 16, 10, 10), (None, 16, 5, 5),
    ]  # fmt: skip
    text = format_text(summary)
    assert "(None, 6, 28, 28)" in text and "61,706" in text and "onnx count" in text


def test_unknown_convention() -> None:
    with pytest.raises(UsageError, match="keras"):
        summarize(cnngraph_models.build("lenet5"), "torch")


@pytest.mark.parametrize("info", cnngraph_models.list_models(), ids=lambda info: info.name)
def test_models_pass_the_checker(info: cnngraph_models.ModelInfo) -> None:
    model = cnngraph_models.build(info.name, fill="zeros")
    onnx.checker.check_model(model, full_check=model.ByteSize() < 2**30)
    (output,) = model.graph.output
    assert output.name == info.output


def test_the_same_seed_gives_the_same_bytes() -> None:
    first = cnngraph_models.build("lenet5", seed=5).SerializeToString()
    assert first == cnngraph_models.build("lenet5", seed=5).SerializeToString()
    assert first != cnngraph_models.build("lenet5", seed=6).SerializeToString()
