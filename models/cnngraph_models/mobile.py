"""Compact networks: SqueezeNet 1.1 (torchvision) and MobileNetV2 (Keras)."""

from __future__ import annotations

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, network
from cnngraph_models.small import KERAS_EPSILON


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
    x = b.relu(b.conv(x, 64, 3, stride=2, name="conv1"), name="relu1")
    stages = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
    fire = 1
    for stage, modules in enumerate(stages, 1):
        x = b.max_pool(x, 3, stride=2, ceil_mode=True, name=f"pool{stage}")
        for squeeze, expand in modules:
            fire += 1
            name = f"fire{fire}"
            x = b.relu(b.conv(x, squeeze, 1, name=f"{name}_squeeze"), name=f"{name}_squeeze_relu")
            left = b.relu(b.conv(x, expand, 1, name=f"{name}_expand1"), name=f"{name}_expand1_relu")
            right = b.relu(b.conv(x, expand, 3, pad=1, name=f"{name}_expand3"), name=f"{name}_expand3_relu")
            x = b.concat((left, right), name=f"{name}_concat")
    x = b.dropout(x, name="dropout")
    x = b.relu(b.conv(x, 1000, 1, name="classifier"), name="classifier_relu")
    return b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")


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
