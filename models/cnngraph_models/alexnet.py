"""AlexNet of 2012 and its relatives: the batch-normalised torch form and the two 17-class flower networks."""

from __future__ import annotations

from cnngraph_models.builder import Builder, Padding, Tensor
from cnngraph_models.catalog import ModelInfo, add_network, network
from cnngraph_models.small import KERAS_EPSILON


def _alexnet(b: Builder, x: Tensor, groups: tuple[int, int, int, int, int]) -> Tensor:
    """Five convolutions with ReLU, LRN and overlapping pooling, then three dense layers (Krizhevsky et al. 2012)."""
    layers: tuple[tuple[int, int, int, Padding], ...] = (
        (96, 11, 4, (1, 1, 2, 2)),
        (256, 5, 1, 2),
        (384, 3, 1, 1),
        (384, 3, 1, 1),
        (256, 3, 1, 1),
    )
    for index, ((filters, kernel, stride, pad), group) in enumerate(zip(layers, groups, strict=True), 1):
        x = b.conv(x, filters, kernel, stride=stride, pad=pad, group=group, name=f"conv{index}")
        x = b.relu(x, name=f"relu{index}")
        if index <= 2:
            x = b.lrn(x, name=f"norm{index}")
        if index in (1, 2, 5):
            x = b.max_pool(x, 3, stride=2, name=f"pool{index}")
    x = b.flatten(x, name="flatten")
    for index in (6, 7):
        x = b.relu(b.dense(x, 4096, name=f"fc{index}"), name=f"relu{index}")
        x = b.dropout(x, name=f"dropout{index}")
    return b.softmax(b.dense(x, 1000, name="fc8"), name="softmax")


@network(ModelInfo("alexnet", "AlexNet 2012: two-GPU groups on conv2, conv4 and conv5, LRN, overlapping pools", (3, 224, 224)))
def alexnet(b: Builder, x: Tensor) -> Tensor:
    """The grouping of the paper: the third convolution sees both halves."""
    return _alexnet(b, x, (1, 2, 1, 2, 2))


@network(ModelInfo("alexnet_slide_groups", "AlexNet 2012 with conv3 grouped and conv4 not, as some lecture tables have it", (3, 224, 224)))
def alexnet_slide_groups(b: Builder, x: Tensor) -> Tensor:
    """The grouping of the lecture's table: the fourth convolution sees both halves."""
    return _alexnet(b, x, (1, 2, 2, 1, 2))


def _alexnet_bn(b: Builder, x: Tensor, pads: tuple[int, int, int, int, int]) -> Tensor:
    layers = ((96, 11, 4), (256, 5, 1), (384, 3, 1), (384, 3, 1), (256, 3, 1))
    for index, ((filters, kernel, stride), pad) in enumerate(zip(layers, pads, strict=True), 1):
        x = b.conv(x, filters, kernel, stride=stride, pad=pad, name=f"conv{index}")
        x = b.relu(b.batch_norm(x, name=f"bn{index}"), name=f"relu{index}")
        if index in (1, 2, 5):
            x = b.max_pool(x, 3, stride=2, name=f"pool{index}")
    x = b.flatten(x, name="flatten")
    for index in (6, 7):
        x = b.dropout(x, name=f"dropout{index}")
        x = b.relu(b.dense(x, 4096, name=f"fc{index}"), name=f"relu{index}")
    return b.dense(x, 1000, name="fc8")


@network(
    ModelInfo(
        "alexnet_bn",
        "AlexNet with batch normalisation, torch form, no padding (1x1x256 before the dense layers)",
        (3, 224, 224),
        output="logits",
    ),
    transposed_dense=True,
)
def alexnet_bn(b: Builder, x: Tensor) -> Tensor:
    """Maps of 54, 26, 22, 10, 8, 6, 4 and 1."""
    return _alexnet_bn(b, x, (0, 0, 0, 0, 0))


@network(
    ModelInfo(
        "alexnet_bn_same",
        "AlexNet with batch normalisation, torch form, pads 2, 2, 1, 1, 1 (6x6x256 before the dense layers)",
        (3, 224, 224),
        output="logits",
    ),
    transposed_dense=True,
)
def alexnet_bn_same(b: Builder, x: Tensor) -> Tensor:
    """Maps of 55, 27, 27, 13, 13, 13, 13 and 6."""
    return _alexnet_bn(b, x, (2, 2, 1, 1, 1))


@network(
    ModelInfo(
        "flowers17_alexnet", "AlexNet-inspired Keras net, 17 flower classes, batch normalisation after pooling", (3, 224, 224), (17,)
    ),
    epsilon=KERAS_EPSILON,
)
def flowers17_alexnet(b: Builder, x: Tensor) -> Tensor:
    """Valid convolutions; every batch normalisation follows a pool, so it cannot be folded backward."""
    stages = (((96, 11, 4),), ((256, 5, 1),), ((256, 3, 1), (384, 3, 1), (384, 3, 1)))
    for stage, convs in enumerate(stages, 1):
        for index, (filters, kernel, stride) in enumerate(convs, 1):
            name = f"conv{stage}_{index}"
            x = b.relu(b.conv(x, filters, kernel, stride=stride, name=name), name=f"{name}_relu")
        x = b.max_pool(x, 3, stride=2, name=f"pool{stage}")
        x = b.batch_norm(x, name=f"bn{stage}")
    x = b.flatten(x, name="flatten")
    for index in (1, 2):
        x = b.tanh(b.dense(x, 4096, name=f"dense{index}"), name=f"tanh{index}")
        x = b.dropout(x, name=f"dropout{index}")
    return b.softmax(b.dense(x, 17, name="dense3"), name="softmax")


@network(
    ModelInfo("flowers17_vgg", "VGG-inspired Keras net, 17 flower classes, batch normalisation after pooling", (3, 224, 224), (17,)),
    epsilon=KERAS_EPSILON,
)
def flowers17_vgg(b: Builder, x: Tensor) -> Tensor:
    """Valid 3x3 convolutions: maps of 110, 53, 23, 8 and 1 after the pools."""
    for block, (filters, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1):
        for index in range(1, count + 1):
            name = f"block{block}_conv{index}"
            x = b.relu(b.conv(x, filters, 3, name=name), name=f"{name}_relu")
        x = b.max_pool(x, 2, stride=2, name=f"block{block}_pool")
        x = b.batch_norm(x, name=f"block{block}_bn")
    x = b.flatten(x, name="flatten")
    for index in (1, 2):
        x = b.relu(b.dense(x, 4096, name=f"dense{index}"), name=f"dense{index}_relu")
        x = b.dropout(x, name=f"dropout{index}")
    return b.softmax(b.dense(x, 17, name="dense3"), name="softmax")


def _vgg(counts: tuple[int, ...]) -> None:
    depth = sum(counts) + 3

    def body(b: Builder, x: Tensor) -> Tensor:
        for block, (filters, count) in enumerate(zip((64, 128, 256, 512, 512), counts, strict=True), 1):
            for index in range(1, count + 1):
                name = f"block{block}_conv{index}"
                x = b.relu(b.conv(x, filters, 3, pad=1, name=name), name=f"{name}_relu")
            x = b.max_pool(x, 2, stride=2, name=f"block{block}_pool")
        x = b.flatten(x, name="flatten")
        for name in ("fc1", "fc2"):
            x = b.relu(b.dense(x, 4096, name=name), name=f"{name}_relu")
        return b.softmax(b.dense(x, 1000, name="predictions"), name="softmax")

    add_network(ModelInfo(f"vgg{depth}", f"VGG-{depth} (Simonyan and Zisserman 2014)", (3, 224, 224)), body)


_vgg((2, 2, 3, 3, 3))
_vgg((2, 2, 4, 4, 4))
