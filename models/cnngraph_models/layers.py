"""Layers that several families share, made of the builder's: normalised convolutions, activations, re-arrangements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cnngraph_models.builder import Builder, Padding, Size, Tensor
from cnngraph_models.weights import Moments


def conv_bn(
    b: Builder,
    x: Tensor,
    filters: int,
    kernel: Size,
    *,
    name: str,
    stride: Size = 1,
    pad: Padding = "same",
    group: int = 1,
    act: str = "relu",
    scale: bool = True,
    residual: bool = False,
) -> Tensor:
    """Convolution without bias, batch normalisation, and the activation ``act`` ("" for none)."""
    x = b.conv(x, filters, kernel, stride=stride, pad=pad, group=group, bias=False, name=f"{name}_conv")
    x = b.batch_norm(x, name=f"{name}_bn", scale=scale, residual=residual)
    return activation(b, x, act, name=f"{name}_{act}") if act else x


def depthwise(b: Builder, x: Tensor, kernel: int, *, name: str, stride: int = 1, pad: Padding = "same") -> Tensor:
    """One convolution a channel, without bias."""
    return b.conv(x, x.shape[0], kernel, stride=stride, pad=pad, group=x.shape[0], bias=False, name=name)


def separable(b: Builder, x: Tensor, filters: int, kernel: int, *, name: str, stride: int = 1, pad: Padding = "same") -> Tensor:
    """A depthwise convolution, then a pointwise one; neither has a bias."""
    x = depthwise(b, x, kernel, stride=stride, pad=pad, name=f"{name}_depthwise")
    return b.conv(x, filters, 1, bias=False, name=f"{name}_pointwise")


def activation(b: Builder, x: Tensor, kind: str, *, name: str) -> Tensor:
    """Apply "relu", "relu6", "swish", "hard_swish", "leaky_relu", "prelu", "tanh" or "sigmoid"."""
    return _ACTIVATIONS[kind](b, x, name=name)


def relu(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """max(x, 0)."""
    return b.relu(x, name=name)


def relu6(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """min(max(x, 0), 6)."""
    return b.relu6(x, name=name)


def tanh(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """Hyperbolic tangent."""
    return b.tanh(x, name=name)


def sigmoid(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """Logistic function."""
    return b.sigmoid(x, name=name)


def swish(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """``x * sigmoid(x)``, as Sigmoid and Mul."""
    return multiply(b, x, b.sigmoid(x, name=f"{name}_sigmoid"), name=name, moments=_spread_out(x).through(lambda v: v / (1 + math.exp(-v))))


def hard_swish(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """``x * clip(x / 6 + 1/2, 0, 1)``."""
    return b.node("HardSwish", [x], x.shape, name=name, moments=_spread_out(x).through(lambda v: v * min(max(v / 6 + 0.5, 0.0), 1.0)))


def _spread_out(x: Tensor) -> Moments:
    """A quarter more variance than estimated: a swish's gain rises with the scale of its input, so any excess would grow with depth."""
    return Moments(x.moments.mean, 1.25 * x.moments.variance)


def leaky_relu(b: Builder, x: Tensor, *, name: str, alpha: float = 0.1) -> Tensor:
    """``x`` where positive, else ``alpha * x``."""
    return b.node("LeakyRelu", [x], x.shape, name=name, moments=x.moments.through(lambda v: max(v, alpha * v)), alpha=alpha)


def prelu(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """``x`` where positive, else ``x`` times a stored slope of its channel."""
    slope = b.constant(f"{name}.slope", np.full((x.shape[0], *(1 for _ in x.shape[1:])), 0.25, np.float32))
    return b.node("PRelu", [x, slope], x.shape, name=name, moments=x.moments.through(lambda v: max(v, 0.25 * v)))


_ACTIVATIONS = {
    "relu": relu,
    "relu6": relu6,
    "swish": swish,
    "hard_swish": hard_swish,
    "leaky_relu": leaky_relu,
    "prelu": prelu,
    "tanh": tanh,
    "sigmoid": sigmoid,
}


def multiply(b: Builder, x: Tensor, y: Tensor, *, name: str, moments: Moments | None = None) -> Tensor:
    """``x * y``, where y has the shape of x or ones for its spatial extents."""
    mean = x.moments.mean * y.moments.mean
    scaled = moments or Moments(mean, x.moments.second * y.moments.second - mean * mean)
    return b.node("Mul", [x, y], x.shape, name=name, moments=scaled)


def squeeze_excite(b: Builder, x: Tensor, squeezed: int, *, name: str, act: str = "relu", gate: str = "Sigmoid") -> Tensor:
    """Scale each channel by a gate computed from the means of all channels (Hu et al. 2018)."""
    y = b.global_average_pool(x, name=f"{name}_squeeze")
    # The channels differ more than the places of one channel do.
    y = replace(y, moments=Moments(x.moments.mean, 0.6 * x.moments.variance))
    y = activation(b, b.conv(y, squeezed, 1, bias=True, name=f"{name}_reduce"), act, name=f"{name}_reduce_{act}")
    # Small weights keep the gate where it is nearly linear; a gate of 0 or 1 would let errors of scale grow from block to block.
    y = replace(y, moments=y.moments.scaled(4.0))
    y = b.conv(y, x.shape[0], 1, bias=True, name=f"{name}_expand")
    attributes: dict[str, Any] = {"alpha": 1 / 6, "beta": 0.5} if gate == "HardSigmoid" else {}
    y = b.node(gate, [y], y.shape, name=f"{name}_gate", moments=Moments(0.5, 0.004), **attributes)
    return multiply(b, x, y, name=f"{name}_excite")


def pad(b: Builder, x: Tensor, begins: Sequence[int], ends: Sequence[int], *, name: str, mode: str = "constant") -> Tensor:
    """Pad (or with negative numbers crop) the spatial axes; with zeros, or by "reflect"."""
    numbers = b.constant(f"{name}.pads", np.array([0, 0, *begins, 0, 0, *ends], np.int64))
    spatial = (size + low + high for size, low, high in zip(x.shape[1:], begins, ends, strict=True))
    return b.node("Pad", [x, numbers], (x.shape[0], *spatial), name=name, mode=mode)


def crop(b: Builder, x: Tensor, begins: Sequence[int], sizes: Sequence[int], *, name: str) -> Tensor:
    """The part of the spatial axes that begins at ``begins``."""
    rank = len(begins)
    start = b.constant(f"{name}.starts", np.array(begins, np.int64))
    stop = b.constant(f"{name}.ends", np.array([low + size for low, size in zip(begins, sizes, strict=True)], np.int64))
    axes = b.constant(f"{name}.axes", np.arange(2, 2 + rank, dtype=np.int64))
    return b.node("Slice", [x, start, stop, axes], (x.shape[0], *sizes), name=name)


def channels(b: Builder, x: Tensor, start: int, stop: int, *, name: str) -> Tensor:
    """Channels ``start`` to ``stop``."""
    numbers = [
        b.constant(f"{name}.{part}", np.array([value], np.int64)) for part, value in (("starts", start), ("ends", stop), ("axes", 1))
    ]
    return b.node("Slice", [x, *numbers], (stop - start, *x.shape[1:]), name=name)


def reshape(b: Builder, x: Tensor, shape: Sequence[int], *, name: str) -> Tensor:
    """Another shape of the same number of elements; the first axis stays."""
    numbers = b.constant(f"{name}.shape", np.array([0, *shape], np.int64))
    return b.node("Reshape", [x, numbers], shape, name=name)


def transpose(b: Builder, x: Tensor, order: Sequence[int], *, name: str) -> Tensor:
    """Permute the axes; 0 is the batch and stays first."""
    assert order[0] == 0
    return b.node("Transpose", [x], [x.shape[axis - 1] for axis in order[1:]], name=name, perm=list(order))


def channel_shuffle(b: Builder, x: Tensor, groups: int, *, name: str) -> Tensor:
    """Interleave the channels of ``groups`` groups, as Reshape, Transpose and Reshape."""
    count, *spatial = x.shape
    y = reshape(b, x, (groups, count // groups, *spatial), name=f"{name}_split")
    y = transpose(b, y, (0, 2, 1, 3, 4), name=f"{name}_swap")
    return reshape(b, y, x.shape, name=name)


def upsample(b: Builder, x: Tensor, factor: int, *, name: str, mode: str = "nearest") -> Tensor:
    """Enlarge the spatial axes by Resize: "nearest" as repetition, or "linear" with half-pixel centres."""
    scales = b.constant(f"{name}.scales", np.array([1, 1, *(factor for _ in x.shape[1:])], np.float32))
    attributes: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    shape = (x.shape[0], *(size * factor for size in x.shape[1:]))
    return b.node("Resize", [x, "", scales], shape, name=name, mode=mode, **attributes)


def instance_norm(b: Builder, x: Tensor, *, name: str) -> Tensor:
    """Normalise each channel of each image by its own mean and variance; scale 1 and bias 0, which nothing trains."""
    one = b.constant(f"{name}.scale", np.ones(x.shape[0], np.float32))
    zero = b.constant(f"{name}.bias", np.zeros(x.shape[0], np.float32))
    return b.node("InstanceNormalization", [x, one, zero], x.shape, name=name, moments=Moments(0.0, 1.0))


def l2_normalize(b: Builder, x: Tensor, *, name: str, epsilon: float = 1e-12) -> Tensor:
    """Features of length one: x / max(|x|, epsilon)."""
    length = b.node("ReduceL2", [x], (1,), name=f"{name}_length", moments=Moments(math.sqrt(x.shape[0]), 1.0), axes=[1], keepdims=1)
    bound = b.constant(f"{name}.epsilon", np.array(epsilon, np.float32))
    length = b.node("Clip", [length, bound], (1,), name=f"{name}_clip")
    return b.node("Div", [x, length], x.shape, name=name, moments=Moments(0.0, 1 / x.shape[0]))


def classifier(b: Builder, x: Tensor, classes: int = 1000, *, softmax: bool = True) -> Tensor:
    """Global average pooling and a dense layer, the end of most networks."""
    x = b.flatten(b.global_average_pool(x, name="avg_pool"), name="flatten")
    x = b.dense(x, classes, name="predictions")
    return b.softmax(x, name="softmax") if softmax else x
