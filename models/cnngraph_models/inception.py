"""Networks of parallel branches: GoogLeNet (Caffe), InceptionV3, Inception-ResNet-v2 and Xception (Keras)."""

from __future__ import annotations

from collections.abc import Mapping

from cnngraph_models.builder import Builder, Padding, Size, Tensor
from cnngraph_models.catalog import ModelInfo, network
from cnngraph_models.layers import classifier, conv_bn, separable
from cnngraph_models.small import KERAS_EPSILON

_IMAGE = (3, 299, 299)
Step = tuple[int, Size] | tuple[int, Size, int, Padding]


def _keras(b: Builder, x: Tensor, filters: int, kernel: Size, *, name: str, stride: int = 1, pad: Padding = "same") -> Tensor:
    """Keras' ``conv2d_bn``: the normalisation has no scale."""
    return conv_bn(b, x, filters, kernel, stride=stride, pad=pad, scale=False, name=name)


def _tower(b: Builder, x: Tensor, steps: list[Step], name: str) -> Tensor:
    """Normalised convolutions in a row; a step is filters and kernel, or also stride and padding."""
    for index, (filters, kernel, *rest) in enumerate(steps, 1):
        stride, pad = rest if rest else (1, "same")
        x = _keras(b, x, filters, kernel, stride=stride, pad=pad, name=f"{name}_{index}")  # type: ignore[arg-type]
    return x


def _pooled(b: Builder, x: Tensor, filters: int, name: str) -> Tensor:
    y = b.average_pool(x, 3, stride=1, pad="same", name=f"{name}_pool")
    return _keras(b, y, filters, 1, name=name)


def _stem(b: Builder, x: Tensor) -> Tensor:
    """299 x 299 x 3 to 35 x 35 x 192."""
    x = _tower(b, x, [(32, 3, 2, "valid"), (32, 3, 1, "valid"), (64, 3)], "stem_a")
    x = b.max_pool(x, 3, stride=2, name="stem_pool1")
    x = _tower(b, x, [(80, 1, 1, "valid"), (192, 3, 1, "valid")], "stem_b")
    return b.max_pool(x, 3, stride=2, name="stem_pool2")


def _mixed(b: Builder, x: Tensor, branches: list[list[Step]], name: str, *, pooled: int = 0, max_pooled: bool = False) -> Tensor:
    parts = [_tower(b, x, steps, f"{name}_branch{index}") for index, steps in enumerate(branches)]
    if pooled:
        parts.append(_pooled(b, x, pooled, f"{name}_pooled"))
    if max_pooled:
        parts.append(b.max_pool(x, 3, stride=2, name=f"{name}_max"))
    return b.concat(parts, name=name)


@network(
    ModelInfo("inception_v3", "InceptionV3, Keras wiring: factorised 7x7 convolutions, concatenation (Szegedy et al. 2015)", _IMAGE),
    epsilon=KERAS_EPSILON,
)
def inception_v3(b: Builder, x: Tensor) -> Tensor:
    """Eleven mixed blocks; the last map is 8 x 8 x 2048."""
    x = _stem(b, x)
    for index, filters in enumerate((32, 64, 64)):
        x = _mixed(b, x, [[(64, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)]], f"mixed{index}", pooled=filters)
    x = _mixed(b, x, [[(384, 3, 2, "valid")], [(64, 1), (96, 3), (96, 3, 2, "valid")]], "mixed3", max_pooled=True)
    for index, c in enumerate((128, 160, 160, 192), 4):
        double: list[Step] = [(c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))]
        x = _mixed(b, x, [[(192, 1)], [(c, 1), (c, (1, 7)), (192, (7, 1))], double], f"mixed{index}", pooled=192)
    long: list[Step] = [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2, "valid")]
    x = _mixed(b, x, [[(192, 1), (320, 3, 2, "valid")], long], "mixed8", max_pooled=True)
    for index in (9, 10):
        name = f"mixed{index}"
        first = _keras(b, x, 320, 1, name=f"{name}_branch0")
        forks = []
        for branch, steps in ((1, [(384, 1)]), (2, [(448, 1), (384, 3)])):
            y = _tower(b, x, list(steps), f"{name}_branch{branch}")
            sides = [_keras(b, y, 384, kernel, name=f"{name}_branch{branch}_{kernel[0]}x{kernel[1]}") for kernel in ((1, 3), (3, 1))]
            forks.append(b.concat(sides, name=f"{name}_branch{branch}_concat"))
        x = b.concat([first, *forks, _pooled(b, x, 192, f"{name}_pooled")], name=name)
    return classifier(b, x)


def _inception_resnet(b: Builder, x: Tensor, branches: list[list[Step]], scale: float, name: str, *, relu: bool = True) -> Tensor:
    """``x`` plus ``scale`` times a 1x1 convolution of the concatenated branches."""
    y = b.conv(_mixed(b, x, branches, f"{name}_mixed"), x.shape[0], 1, bias=True, name=f"{name}_up")
    x = b.add(x, b.scale(y, scale, name=f"{name}_scale"), name=f"{name}_add")
    return b.relu(x, name=f"{name}_relu") if relu else x


@network(
    ModelInfo("inception_resnet_v2", "Inception-ResNet-v2, Keras wiring: scaled residual sums (Szegedy et al. 2016)", _IMAGE),
    epsilon=KERAS_EPSILON,
)
def inception_resnet_v2(b: Builder, x: Tensor) -> Tensor:
    """10, 20 and 10 residual blocks of Inception branches."""
    x = _stem(b, x)
    x = _mixed(b, x, [[(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)]], "mixed5", pooled=64)
    for index in range(1, 11):
        x = _inception_resnet(b, x, [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]], 0.17, f"block35_{index}")
    x = _mixed(b, x, [[(384, 3, 2, "valid")], [(256, 1), (256, 3), (384, 3, 2, "valid")]], "mixed6", max_pooled=True)
    for index in range(1, 21):
        x = _inception_resnet(b, x, [[(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))]], 0.1, f"block17_{index}")
    ends: list[list[Step]] = [
        [(256, 1), (384, 3, 2, "valid")],
        [(256, 1), (288, 3, 2, "valid")],
        [(256, 1), (288, 3), (320, 3, 2, "valid")],
    ]
    x = _mixed(b, x, ends, "mixed7", max_pooled=True)
    for index in range(1, 11):
        last = index == 10
        branches: list[list[Step]] = [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]]
        x = _inception_resnet(b, x, branches, 1.0 if last else 0.2, f"block8_{index}", relu=not last)
    return classifier(b, _keras(b, x, 1536, 1, name="conv_7b"))


@network(
    ModelInfo("xception", "Xception, Keras wiring: separable convolutions with residual sums (Chollet 2016)", _IMAGE),
    conv_bias=False,
    epsilon=KERAS_EPSILON,
)
def xception(b: Builder, x: Tensor) -> Tensor:
    """Fourteen blocks; the activation stands before the separable convolutions, except in the first and the last."""
    x = conv_bn(b, x, 32, 3, stride=2, pad="valid", name="block1_conv1")
    x = conv_bn(b, x, 64, 3, pad="valid", name="block1_conv2")

    def normalised(y: Tensor, filters: int, name: str, *, before: bool = True, residual: bool = False) -> Tensor:
        if before:
            y = b.relu(y, name=f"{name}_relu")
        return b.batch_norm(separable(b, y, filters, 3, name=name), residual=residual, name=f"{name}_bn")

    def strided(y: Tensor, first: int, second: int, name: str, *, before: bool = True) -> Tensor:
        shortcut = conv_bn(b, y, second, 1, stride=2, act="", name=f"{name}_shortcut")
        y = normalised(y, first, f"{name}_sep1", before=before)
        y = normalised(y, second, f"{name}_sep2", residual=True)
        return b.add(b.max_pool(y, 3, stride=2, pad="same", name=f"{name}_pool"), shortcut, name=f"{name}_add")

    for block, filters in enumerate((128, 256, 728), 2):
        x = strided(x, filters, filters, f"block{block}", before=block > 2)
    for block in range(5, 13):
        y = x
        for index in (1, 2, 3):
            y = normalised(y, 728, f"block{block}_sep{index}", residual=index == 3)
        x = b.add(x, y, name=f"block{block}_add")
    x = strided(x, 728, 1024, "block13")
    for index, filters in enumerate((1536, 2048), 1):
        x = normalised(x, filters, f"block14_sep{index}", before=False)
        x = b.relu(x, name=f"block14_sep{index}_act")
    return classifier(b, x)


_GOOGLENET = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip


@network(
    ModelInfo(
        "googlenet",
        "GoogLeNet, Caffe wiring: nine Inception modules, LRN, two side outputs (Szegedy et al. 2014)",
        (3, 224, 224),
        more_outputs=(("side1", (1000,)), ("side2", (1000,))),
    ),
)
def googlenet(b: Builder, x: Tensor) -> Mapping[str, Tensor]:
    """Twenty-two layers deep; the side outputs, used in training, leave after modules 4a and 4d."""

    def conv(y: Tensor, filters: int, kernel: int, name: str, stride: int = 1, pad: Padding = "same") -> Tensor:
        return b.relu(b.conv(y, filters, kernel, stride=stride, pad=pad, name=name), name=f"{name}_relu")

    def side(y: Tensor, name: str) -> Tensor:
        y = b.average_pool(y, 5, stride=3, name=f"{name}_pool")
        y = b.flatten(conv(y, 128, 1, f"{name}_conv"), name=f"{name}_flatten")
        y = b.dropout(b.relu(b.dense(y, 1024, name=f"{name}_fc"), name=f"{name}_fc_relu"), name=f"{name}_dropout")
        return b.softmax(b.dense(y, 1000, name=f"{name}_classifier"), name=f"{name}_softmax")

    x = conv(x, 64, 7, "conv1", 2, 3)
    x = b.lrn(b.max_pool(x, 3, stride=2, ceil_mode=True, name="pool1"), bias=1.0, alpha=2e-5, name="norm1")
    x = conv(conv(x, 64, 1, "conv2_reduce"), 192, 3, "conv2")
    x = b.max_pool(b.lrn(x, bias=1.0, alpha=2e-5, name="norm2"), 3, stride=2, ceil_mode=True, name="pool2")
    sides = {}
    for module, (one, reduce3, three, reduce5, five, pooled) in _GOOGLENET.items():
        name = f"inception_{module}"
        if module in ("4a", "5a"):
            x = b.max_pool(x, 3, stride=2, ceil_mode=True, name=f"pool{int(module[0]) - 1}")
        parts = [
            conv(x, one, 1, f"{name}_1x1"),
            conv(conv(x, reduce3, 1, f"{name}_3x3_reduce"), three, 3, f"{name}_3x3"),
            conv(conv(x, reduce5, 1, f"{name}_5x5_reduce"), five, 5, f"{name}_5x5"),
            conv(b.max_pool(x, 3, stride=1, pad=1, name=f"{name}_pool"), pooled, 1, f"{name}_pool_proj"),
        ]
        x = b.concat(parts, name=name)
        if module in ("4a", "4d"):
            label = "side1" if module == "4a" else "side2"
            sides[label] = side(x, label)
    x = b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")
    x = b.softmax(b.dense(b.dropout(x, name="dropout"), 1000, name="classifier"), name="softmax")
    return {"probabilities": x, **sides}
