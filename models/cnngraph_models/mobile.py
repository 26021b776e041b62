"""Compact networks: SqueezeNet (torchvision), MobileNet and MobileNetV2 (Keras), MobileNetV3 (torchvision), ShuffleNet 1 and 2."""

from __future__ import annotations

from cnngraph_models.builder import Builder, Padding, Tensor
from cnngraph_models.catalog import ModelInfo, add_network, network
from cnngraph_models.efficientnet import round_filters
from cnngraph_models.layers import activation, channel_shuffle, channels, classifier, conv_bn, squeeze_excite
from cnngraph_models.small import KERAS_EPSILON


def _fire(b: Builder, x: Tensor, squeeze: int, expand: int, name: str) -> Tensor:
    x = b.relu(b.conv(x, squeeze, 1, name=f"{name}_squeeze"), name=f"{name}_squeeze_relu")
    left = b.relu(b.conv(x, expand, 1, name=f"{name}_expand1"), name=f"{name}_expand1_relu")
    right = b.relu(b.conv(x, expand, 3, pad=1, name=f"{name}_expand3"), name=f"{name}_expand3_relu")
    return b.concat((left, right), name=f"{name}_concat")


def _squeezenet(b: Builder, x: Tensor, filters: int, kernel: int, stages: tuple[tuple[tuple[int, int], ...], ...]) -> Tensor:
    x = b.relu(b.conv(x, filters, kernel, stride=2, name="conv1"), name="relu1")
    fire = 1
    for stage, modules in enumerate(stages, 1):
        x = b.max_pool(x, 3, stride=2, ceil_mode=True, name=f"pool{stage}")
        for squeeze, expand in modules:
            fire += 1
            x = _fire(b, x, squeeze, expand, f"fire{fire}")
    x = b.dropout(x, name="dropout")
    x = b.relu(b.conv(x, 1000, 1, name="classifier"), name="classifier_relu")
    return b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")


@network(
    ModelInfo("squeezenet1_0", "SqueezeNet 1.0: a 7x7 first layer, later pooling (Iandola et al. 2016)", (3, 224, 224), output="logits"),
)
def squeezenet1_0(b: Builder, x: Tensor) -> Tensor:
    """The form of the paper."""
    stages = (((16, 64), (16, 64), (32, 128)), ((32, 128), (48, 192), (48, 192), (64, 256)), ((64, 256),))
    return _squeezenet(b, x, 96, 7, stages)


@network(
    ModelInfo(
        "squeezenet1_1",
        "SqueezeNet 1.1: fire modules, concatenation, ceil-mode pooling (Iandola et al. 2016)",
        (3, 224, 224),
        output="logits",
    ),
)
def squeezenet1_1(b: Builder, x: Tensor) -> Tensor:
    """A strided convolution, eight fire modules, and a 1x1 convolution as the classifier."""
    stages = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
    return _squeezenet(b, x, 64, 3, stages)


@network(
    ModelInfo("mobilenet", "MobileNet, width 1.0, Keras wiring: depthwise convolutions, ReLU6 (Howard et al. 2017)", (3, 224, 224)),
    conv_bias=False,
    epsilon=KERAS_EPSILON,
)
def mobilenet(b: Builder, x: Tensor) -> Tensor:
    """Thirteen depthwise and pointwise pairs, and a 1x1 convolution as the classifier."""
    x = conv_bn(b, x, 32, 3, stride=2, pad=(0, 0, 1, 1), act="relu6", name="conv1")
    filters = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for index, count in enumerate(filters, 1):
        stride = 2 if index in (2, 4, 6, 12) else 1
        pad: Padding = 1 if stride == 1 else (0, 0, 1, 1)
        x = conv_bn(b, x, x.shape[0], 3, stride=stride, pad=pad, group=x.shape[0], act="relu6", name=f"depthwise{index}")
        x = conv_bn(b, x, count, 1, act="relu6", name=f"pointwise{index}")
    x = b.dropout(b.global_average_pool(x, name="avg_pool"), name="dropout")
    x = b.conv(x, 1000, 1, bias=True, name="predictions")
    return b.softmax(b.flatten(x, name="flatten"), name="softmax")


@network(
    ModelInfo("mobilenet_v2", "MobileNetV2, width 1.0, Keras wiring: inverted residuals, ReLU6 (Sandler et al. 2018)", (3, 224, 224)),
    conv_bias=False,
    epsilon=KERAS_EPSILON,
)
def mobilenet_v2(b: Builder, x: Tensor) -> Tensor:
    """Seventeen inverted residual blocks; strided layers pad below and to the right, as Keras does for even sizes."""
    x = b.conv(x, 32, 3, stride=2, pad=(0, 0, 1, 1), name="conv1")
    x = b.relu6(b.batch_norm(x, name="bn1"), name="relu1")
    block = 0
    for factor, filters, count, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(count):
            block += 1
            name = f"block{block}"
            stride = first_stride if index == 0 else 1
            y = x
            if factor != 1:
                y = b.conv(y, factor * x.shape[0], 1, name=f"{name}_expand")
                y = b.relu6(b.batch_norm(y, name=f"{name}_expand_bn"), name=f"{name}_expand_relu")
            pad = 1 if stride == 1 else (0, 0, 1, 1)
            y = b.conv(y, y.shape[0], 3, stride=stride, pad=pad, group=y.shape[0], name=f"{name}_depthwise")
            y = b.relu6(b.batch_norm(y, name=f"{name}_depthwise_bn"), name=f"{name}_depthwise_relu")
            y = b.conv(y, filters, 1, name=f"{name}_project")
            residual = x.shape == y.shape
            y = b.batch_norm(y, name=f"{name}_project_bn", residual=residual)
            x = b.add(x, y, name=f"{name}_add") if residual else y
    x = b.conv(x, 1280, 1, name="conv_last")
    x = b.relu6(b.batch_norm(x, name="conv_last_bn"), name="relu_last")
    x = b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")
    return b.softmax(b.dense(x, 1000, name="predictions"), name="softmax")


# kernel, expanded, filters, squeeze-and-excitation, activation, stride
_V3 = {
    "large": (
        (3, 16, 16, False, "relu", 1), (3, 64, 24, False, "relu", 2), (3, 72, 24, False, "relu", 1), (5, 72, 40, True, "relu", 2),
        (5, 120, 40, True, "relu", 1), (5, 120, 40, True, "relu", 1), (3, 240, 80, False, "hard_swish", 2),
        (3, 200, 80, False, "hard_swish", 1), (3, 184, 80, False, "hard_swish", 1), (3, 184, 80, False, "hard_swish", 1),
        (3, 480, 112, True, "hard_swish", 1), (3, 672, 112, True, "hard_swish", 1), (5, 672, 160, True, "hard_swish", 2),
        (5, 960, 160, True, "hard_swish", 1), (5, 960, 160, True, "hard_swish", 1),
    ),
    "small": (
        (3, 16, 16, True, "relu", 2), (3, 72, 24, False, "relu", 2), (3, 88, 24, False, "relu", 1), (5, 96, 40, True, "hard_swish", 2),
        (5, 240, 40, True, "hard_swish", 1), (5, 240, 40, True, "hard_swish", 1), (5, 120, 48, True, "hard_swish", 1),
        (5, 144, 48, True, "hard_swish", 1), (5, 288, 96, True, "hard_swish", 2), (5, 576, 96, True, "hard_swish", 1),
        (5, 576, 96, True, "hard_swish", 1),
    ),
}  # fmt: skip


def _mobilenet_v3(size: str, last: int) -> None:
    def body(b: Builder, x: Tensor) -> Tensor:
        x = conv_bn(b, x, 16, 3, stride=2, pad=1, act="hard_swish", name="conv1")
        for index, (kernel, expanded, filters, gated, act, stride) in enumerate(_V3[size], 1):
            name = f"block{index}"
            y = conv_bn(b, x, expanded, 1, act=act, name=f"{name}_expand") if expanded != x.shape[0] else x
            y = conv_bn(b, y, expanded, kernel, stride=stride, pad=kernel // 2, group=expanded, act=act, name=f"{name}_depthwise")
            if gated:
                y = squeeze_excite(b, y, round_filters(expanded / 4), gate="HardSigmoid", name=f"{name}_se")
            joins = stride == 1 and filters == x.shape[0]
            y = conv_bn(b, y, filters, 1, act="", residual=joins, name=f"{name}_project")
            x = b.add(x, y, name=f"{name}_add") if joins else y
        x = conv_bn(b, x, 6 * x.shape[0], 1, act="hard_swish", name="conv_last")
        x = b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")
        x = activation(b, b.dense(x, last, name="dense1"), "hard_swish", name="dense1_act")
        return b.dense(b.dropout(x, name="dropout"), 1000, name="dense2")

    text = f"MobileNetV3-{size.capitalize()}, torchvision wiring: hard swish, squeeze-and-excitation (Howard et al. 2019)"
    info = ModelInfo(f"mobilenet_v3_{size}", text, (3, 224, 224), output="logits")
    add_network(info, body, conv_bias=False, transposed_dense=True, epsilon=1e-3)


_mobilenet_v3("large", 1280)
_mobilenet_v3("small", 1024)


@network(
    ModelInfo("shufflenet_v1_g3", "ShuffleNet, width 1.0, three groups: grouped 1x1 convolutions (Zhang et al. 2017)", (3, 224, 224)),
    conv_bias=False,
)
def shufflenet_v1_g3(b: Builder, x: Tensor) -> Tensor:
    """Three stages of 240, 480 and 960 channels; the first unit of a stage concatenates with the pooled input."""
    groups = 3
    x = b.max_pool(conv_bn(b, x, 24, 3, stride=2, pad=1, name="conv1"), 3, stride=2, pad=1, name="pool1")
    for stage, (filters, units) in enumerate(((240, 4), (480, 8), (960, 4)), 2):
        for unit in range(1, units + 1):
            name = f"stage{stage}_unit{unit}"
            first = unit == 1
            inner, outer = filters // 4, filters - x.shape[0] if first else filters
            # The very first grouped convolution is not grouped: its input has only 24 channels.
            y = conv_bn(b, x, inner, 1, group=1 if stage == 2 and first else groups, name=f"{name}_reduce")
            y = channel_shuffle(b, y, groups, name=f"{name}_shuffle")
            y = conv_bn(b, y, inner, 3, stride=2 if first else 1, pad=1, group=inner, act="", name=f"{name}_depthwise")
            y = conv_bn(b, y, outer, 1, group=groups, act="", residual=not first, name=f"{name}_expand")
            if first:
                x = b.concat((b.average_pool(x, 3, stride=2, pad=1, name=f"{name}_pool"), y), name=f"{name}_concat")
            else:
                x = b.add(x, y, name=f"{name}_add")
            x = b.relu(x, name=f"{name}_out")
    return classifier(b, x)


@network(
    ModelInfo("shufflenet_v2", "ShuffleNetV2, width 1.0, torchvision wiring: channel split and shuffle (Ma et al. 2018)", (3, 224, 224),
              output="logits"),
    conv_bias=False, transposed_dense=True,
)  # fmt: skip
def shufflenet_v2(b: Builder, x: Tensor) -> Tensor:
    """Three stages of 116, 232 and 464 channels; half of the channels pass each unit unchanged."""
    x = b.max_pool(conv_bn(b, x, 24, 3, stride=2, pad=1, name="conv1"), 3, stride=2, pad=1, name="pool1")

    def branch(y: Tensor, half: int, stride: int, name: str) -> Tensor:
        y = conv_bn(b, y, half, 1, name=f"{name}_1")
        y = conv_bn(b, y, half, 3, stride=stride, pad=1, group=half, act="", name=f"{name}_2")
        return conv_bn(b, y, half, 1, name=f"{name}_3")

    for stage, (filters, units) in enumerate(((116, 4), (232, 8), (464, 4)), 2):
        half = filters // 2
        for unit in range(1, units + 1):
            name = f"stage{stage}_unit{unit}"
            if unit == 1:
                left = conv_bn(b, x, x.shape[0], 3, stride=2, pad=1, group=x.shape[0], act="", name=f"{name}_left1")
                left = conv_bn(b, left, half, 1, name=f"{name}_left2")
                right = branch(x, half, 2, f"{name}_right")
            else:
                left = channels(b, x, 0, half, name=f"{name}_left")
                right = branch(channels(b, x, half, filters, name=f"{name}_split"), half, 1, f"{name}_right")
            x = channel_shuffle(b, b.concat((left, right), name=f"{name}_concat"), 2, name=f"{name}_shuffle")
    x = conv_bn(b, x, 1024, 1, name="conv5")
    return classifier(b, x, softmax=False)
