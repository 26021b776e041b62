"""Small networks: LeNet-5, the two Keras digit networks, the residual block, the CIFAR-10 residual network and mini-Xception."""

from __future__ import annotations

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, add_network, network

KERAS_EPSILON = 1e-3


@network(
    ModelInfo("lenet5", "LeNet-5: tanh and average pooling, 10 classes (LeCun et al. 1998, dense C3)", (1, 32, 32), (10,), "logits"),
    transposed_dense=True,
)
def lenet5(b: Builder, x: Tensor) -> Tensor:
    """Two 5x5 convolutions and three dense layers."""
    for index, filters in enumerate((6, 16), 1):
        x = b.conv(x, filters, 5, name=f"conv{index}")
        x = b.tanh(x, name=f"tanh{index}")
        x = b.average_pool(x, 2, stride=2, name=f"pool{index}")
    x = b.flatten(x, name="flatten")
    for index, units in enumerate((120, 84), 3):
        x = b.dense(x, units, name=f"fc{index}")
        x = b.tanh(x, name=f"tanh{index}")
    return b.dense(x, 10, name="fc5")


@network(ModelInfo("logistic_regression", "One dense layer and a softmax for 28x28 digits", (1, 28, 28), (10,)))
def logistic_regression(b: Builder, x: Tensor) -> Tensor:
    """A template of 28 x 28 weights a class."""
    return b.softmax(b.dense(b.flatten(x, name="flatten"), 10, name="dense"), name="softmax")


@network(
    ModelInfo("keras_cnn_small", "LeNet-inspired Keras CNN for 28x28 digits: valid convolutions, dropout", (1, 28, 28), (10,)),
)
def keras_cnn_small(b: Builder, x: Tensor) -> Tensor:
    """conv32, conv64, max pool, dense128, dense10."""
    for index, filters in enumerate((32, 64), 1):
        x = b.conv(x, filters, 3, name=f"conv{index}")
        x = b.relu(x, name=f"relu{index}")
    x = b.max_pool(x, 2, stride=2, name="pool")
    x = b.dropout(x, name="dropout1")
    x = b.flatten(x, name="flatten")
    x = b.relu(b.dense(x, 128, name="dense1"), name="relu3")
    x = b.dropout(x, name="dropout2")
    return b.softmax(b.dense(x, 10, name="dense2"), name="softmax")


@network(
    ModelInfo("keras_cnn_same", "Typical Keras CNN for 28x28 digits: same padding, a pool after each convolution", (1, 28, 28), (10,)),
)
def keras_cnn_same(b: Builder, x: Tensor) -> Tensor:
    """conv32, pool, conv64, pool, dense128, dense10."""
    for index, filters in enumerate((32, 64), 1):
        x = b.conv(x, filters, 3, pad="same", name=f"conv{index}")
        x = b.relu(x, name=f"relu{index}")
        x = b.max_pool(x, 2, stride=2, name=f"pool{index}")
    x = b.flatten(x, name="flatten")
    x = b.relu(b.dense(x, 128, name="dense1"), name="relu3")
    return b.softmax(b.dense(x, 10, name="dense2"), name="softmax")


@network(
    ModelInfo("residual_block", "One residual block with a 1x1 projection on the shortcut", (3, 32, 32), (64, 30, 30), "features"),
)
def residual_block(b: Builder, x: Tensor) -> Tensor:
    """conv32 valid, then conv64 same beside conv64 1x1, added."""
    x = b.relu(b.conv(x, 32, 3, name="conv1"), name="relu1")
    branch = b.relu(b.conv(x, 64, 3, pad="same", name="conv2"), name="relu2")
    shortcut = b.conv(x, 64, 1, name="shortcut")
    return b.add(branch, shortcut, name="add")


def _cifar_resnet(depth: int) -> None:
    """Pre-activation bottlenecks, ``depth`` = 9n + 2: three stages of n blocks with 64, 128 and 256 filters out."""
    blocks = (depth - 2) // 9

    def body(b: Builder, x: Tensor) -> Tensor:
        x = b.conv(x, 16, 3, pad=1, name="conv1")
        x = b.relu(b.batch_norm(x, name="bn1"), name="relu1")
        inner = 16
        for stage in range(3):
            outer = inner * 4 if stage == 0 else inner * 2
            for block in range(blocks):
                name = f"stage{stage + 1}_block{block + 1}"
                stride = 2 if stage > 0 and block == 0 else 1
                y = x
                if stage > 0 or block > 0:
                    y = b.relu(b.batch_norm(y, name=f"{name}_bn1"), name=f"{name}_relu1")
                y = b.conv(y, inner, 1, stride=stride, name=f"{name}_conv1")
                y = b.relu(b.batch_norm(y, name=f"{name}_bn2"), name=f"{name}_relu2")
                y = b.conv(y, inner, 3, pad=1, name=f"{name}_conv2")
                y = b.relu(b.batch_norm(y, name=f"{name}_bn3"), name=f"{name}_relu3")
                y = b.conv(y, outer, 1, name=f"{name}_conv3")
                if block == 0:
                    x = b.conv(x, outer, 1, stride=stride, name=f"{name}_shortcut")
                x = b.add(x, y, name=f"{name}_add")
            inner = outer
        x = b.relu(b.batch_norm(x, name="bn_last"), name="relu_last")
        x = b.average_pool(x, 8, stride=8, name="pool")
        return b.softmax(b.dense(b.flatten(x, name="flatten"), 10, name="dense"), name="softmax")

    text = f"CIFAR-10 residual network of depth {depth}, pre-activation (Keras example, version 2, n={blocks})"
    add_network(ModelInfo(f"cifar_resnet{depth}", text, (3, 32, 32), (10,)), body, epsilon=KERAS_EPSILON)


_cifar_resnet(29)
_cifar_resnet(1001)


@network(
    ModelInfo(
        "mini_xception", "Mini-Xception, separable convolutions on 0..255 images, 1 class", (3, 180, 180), (1,), input_range=(0.0, 255.0)
    ),
    conv_bias=False,
    epsilon=KERAS_EPSILON,
)
def mini_xception(b: Builder, x: Tensor) -> Tensor:
    """Five pre-activation blocks of two separable convolutions, with strided 1x1 shortcuts."""
    x = b.scale(x, 1 / 255, name="rescaling")
    x = b.conv(x, 32, 5, name="conv1")
    for filters in (32, 64, 128, 256, 512):
        shortcut = b.conv(x, filters, 1, stride=2, pad="same", name=f"block{filters}_shortcut")
        for index in (1, 2):
            name = f"block{filters}_sep{index}"
            x = b.relu(b.batch_norm(x, name=f"{name}_bn"), name=f"{name}_relu")
            x = b.conv(x, x.shape[0], 3, pad="same", group=x.shape[0], name=f"{name}_depthwise")
            x = b.conv(x, filters, 1, name=f"{name}_pointwise")
        x = b.max_pool(x, 3, stride=2, pad="same", name=f"block{filters}_pool")
        x = b.add(x, shortcut, name=f"block{filters}_add")
    x = b.flatten(b.global_average_pool(x, name="pool"), name="flatten")
    x = b.dense(b.dropout(x, name="dropout"), 1, name="dense")
    return b.sigmoid(x, name="sigmoid")
