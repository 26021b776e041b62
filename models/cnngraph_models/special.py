"""Other kinds of networks: audio, face embedding, capsules, and the block transform of JPEG as a convolution."""

from __future__ import annotations

import numpy as np

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, add_network, network
from cnngraph_models.layers import conv_bn, l2_normalize, multiply, reshape, transpose
from cnngraph_models.weights import Moments


def _audio(name: str, text: str, tracks: int) -> None:
    def body(b: Builder, x: Tensor) -> Tensor:
        for index, (filters, kernel, stride) in enumerate(((32, 80, 16), (32, 3, 1), (64, 3, 1), (64, 3, 1)), 1):
            x = b.conv(x, filters, kernel, stride=stride, name=f"conv{index}")
            x = b.relu(b.batch_norm(x, name=f"bn{index}"), name=f"relu{index}")
            x = b.max_pool(x, 4, stride=4, name=f"pool{index}")
        x = b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")
        return b.dense(x, 35, name="fc")

    info = ModelInfo(
        name, f"M5, one-dimensional convolutions over {text} of sound, 35 words (Dai et al. 2016)", (tracks, 8000), (35,), "logits"
    )
    add_network(info, body, transposed_dense=True)


_audio("audio_m5", "one second at 8 kHz", 1)
_audio("audio_m5_stereo", "two tracks of one second at 8 kHz", 2)


@network(
    ModelInfo("mobile_facenet", "MobileFaceNet: faces to 128 numbers of length one (Chen et al. 2018)", (3, 112, 112), (128,), "embedding"),
    conv_bias=False,
)
def mobile_facenet(b: Builder, x: Tensor) -> Tensor:
    """Inverted residual blocks with PReLU, a depthwise convolution over the whole last map, and L2 normalisation."""
    x = conv_bn(b, x, 64, 3, stride=2, pad=1, act="prelu", name="conv1")
    x = conv_bn(b, x, 64, 3, pad=1, group=64, act="prelu", name="conv2")
    block = 0
    for factor, filters, count, first_stride in ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)):
        for index in range(count):
            block += 1
            name = f"block{block}"
            stride = first_stride if index == 0 else 1
            y = conv_bn(b, x, factor * x.shape[0], 1, act="prelu", name=f"{name}_expand")
            y = conv_bn(b, y, y.shape[0], 3, stride=stride, pad=1, group=y.shape[0], act="prelu", name=f"{name}_depthwise")
            joins = stride == 1 and x.shape[0] == filters
            y = conv_bn(b, y, filters, 1, act="", residual=joins, name=f"{name}_project")
            x = b.add(x, y, name=f"{name}_add") if joins else y
    x = conv_bn(b, x, 512, 1, act="prelu", name="conv3")
    x = conv_bn(b, x, 512, (x.shape[1], x.shape[2]), pad="valid", group=512, act="", name="global_depthwise")
    x = conv_bn(b, x, 128, 1, act="", name="embedding_conv")
    return l2_normalize(b, b.flatten(x, name="flatten"), name="normalize")


@network(
    ModelInfo(
        "capsnet",
        "Capsule network for 28x28 digits, three routing rounds unrolled (Sabour et al. 2017)",
        (1, 28, 28),
        (10,),
        "lengths",
        (0.0, 1.0),
    )
)
def capsnet(b: Builder, x: Tensor) -> Tensor:
    """1,152 capsules of 8 numbers vote for 10 capsules of 16; the length of each is the presence of its digit."""
    digits, inner, outer = 10, 8, 16
    x = b.relu(b.conv(x, 256, 9, name="conv1"), name="relu1")
    x = b.conv(x, 256, 9, stride=2, name="primary")
    groups, height, width = x.shape[0] // inner, *x.shape[1:]
    x = transpose(b, reshape(b, x, (groups, inner, height * width), name="primary_split"), (0, 1, 3, 2), name="primary_swap")
    count = groups * height * width
    x = _squash(b, reshape(b, x, (count, inner), name="primary_rows"), 2, "primary_squash")
    x = reshape(b, x, (count, 1, 1, inner), name="capsules")
    weights = b.weight("votes.weight", (count, digits, inner, outer), 0.1)
    votes = b.node("MatMul", [x, weights], (count, digits, 1, outer), name="votes", moments=Moments(0.0, 0.01))
    logits: Tensor | None = None
    v = votes
    for turn in range(1, 4):
        name = f"routing{turn}"
        if logits is None:
            coupled = b.scale(votes, 1 / digits, name=f"{name}_couple")
        else:
            couple = b.node("Softmax", [logits], logits.shape, name=f"{name}_softmax", axis=2)
            coupled = b.node("Mul", [votes, couple], votes.shape, name=f"{name}_couple")
        v = _squash(b, _sum(b, coupled, 1, f"{name}_sum"), 4, f"{name}_squash")
        if turn < 3:
            agreement = _sum(b, multiply(b, votes, v, name=f"{name}_match"), 4, f"{name}_agreement")
            logits = agreement if logits is None else b.add(logits, agreement, name=f"{name}_logits")
    v = reshape(b, v, (digits, outer), name="digits")
    return b.node("ReduceL2", [v], (digits,), name="length", moments=Moments(0.5, 0.1), axes=[2], keepdims=0)


def _sum(b: Builder, x: Tensor, axis: int, name: str) -> Tensor:
    axes = b.constant(f"{name}.axes", np.array([axis], np.int64))
    shape = [1 if position == axis else extent for position, extent in enumerate(x.shape, 1)]
    return b.node("ReduceSum", [x, axes], shape, name=name, keepdims=1)


def _squash(b: Builder, x: Tensor, axis: int, name: str) -> Tensor:
    """Keep the direction along ``axis`` and bring the length into (0, 1): x |x| / (1 + |x|^2)."""
    shape = [1 if position == axis else extent for position, extent in enumerate(x.shape, 1)]
    length = b.node("ReduceL2", [x], shape, name=f"{name}_length", axes=[axis], keepdims=1)
    one = b.constant(f"{name}.one", np.array(1, np.float32))
    below = b.node("Add", [b.node("Mul", [length, length], shape, name=f"{name}_square"), one], shape, name=f"{name}_below")
    return b.node("Mul", [x, b.node("Div", [length, below], shape, name=f"{name}_factor")], x.shape, name=name)


def dct_filters(size: int = 8) -> np.ndarray:
    """The orthonormal two-dimensional cosine transform of a block as filters, float64 (size^2, 1, size, size), row frequency first."""
    places = np.arange(size)
    basis = np.cos((2 * places[None, :] + 1) * places[:, None] * np.pi / (2 * size)) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return np.einsum("uy,vx->uvyx", basis, basis).reshape(size * size, 1, size, size)


@network(
    ModelInfo(
        "jpeg_dct",
        "The 8x8 block cosine transform of JPEG as one convolution",
        (1, 224, 224),
        (64, 28, 28),
        "coefficients",
        (-128.0, 127.0),
    )
)
def jpeg_dct(b: Builder, x: Tensor) -> Tensor:
    """64 fixed filters with stride 8; ``resnet50_dct`` reads the result."""
    return b.conv(x, 64, 8, stride=8, bias=False, weights=dct_filters(), name="dct")
