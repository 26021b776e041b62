"""A small language for writing convolutional networks as ONNX, with seeded weights.

A network is a function that takes a :class:`Builder`, applies its layers to a :class:`Tensor` and marks the outputs. The builder keeps
the shape of every tensor without the batch, so a layer knows its fan-in, and an estimate of its moments, so random weights keep the
activations of order one through a hundred layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from cnngraph.errors import UsageError
from cnngraph_models.weights import Moments, UniformSource, weight_deviation

OPSET = 17
IR_VERSION = 8

Fill = Literal["random", "zeros"]
Batch = Literal["dynamic"] | int
Padding = Literal["valid", "same"] | int | tuple[int, int, int, int]
Size = int | tuple[int, int]

_RESIDUAL_GAMMA = 0.5


@dataclass(frozen=True)
class Tensor:
    """A float32 tensor of the network being written.

    Attributes:
        name: its name in the graph.
        shape: its shape without the batch, (C, H, W) or (features,).
        moments: estimated mean and variance of its elements.
    """

    name: str
    shape: tuple[int, ...]
    moments: Moments


class Builder:
    """Writes one network.

    Args:
        name: name of the graph.
        seed: seed of the weights.
        batch: a fixed batch size, or "dynamic" for a symbolic one called ``N``.
        fill: "random", or "zeros" where only the structure matters.
        transposed_dense: store dense weights as [out, in] (torch) and not as [in, out] (Keras).
        conv_bias: whether convolutions have a bias unless the layer says otherwise.
        epsilon: epsilon of the batch normalisations.

    Raises:
        UsageError: for a batch below 1, a negative seed or an unknown fill.
    """

    def __init__(
        self,
        name: str,
        *,
        seed: int = 0,
        batch: Batch = "dynamic",
        fill: Fill = "random",
        transposed_dense: bool = False,
        conv_bias: bool = True,
        epsilon: float = 1e-5,
    ) -> None:
        if batch != "dynamic" and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
            raise UsageError(f'batch is "dynamic" or an integer of at least 1, not {batch!r}')
        if seed < 0:
            raise UsageError(f"seed is not negative, got {seed}")
        if fill not in ("random", "zeros"):
            raise UsageError(f'fill is "random" or "zeros", not {fill!r}')
        self.name = name
        self._batch: str | int = "N" if batch == "dynamic" else batch
        self._random = UniformSource(seed) if fill == "random" else None
        self._transposed_dense = transposed_dense
        self._conv_bias = conv_bias
        self._epsilon = epsilon
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="cnngraph_models")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._graph.name = name
        self._names: set[str] = set()

    # -- graph ------------------------------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> Tensor:
        """Declare an input of shape (batch, *shape) whose values lie, evenly, between ``low`` and ``high``."""
        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [self._batch, *shape]))
        return Tensor(name, tuple(shape), Moments((low + high) / 2, (high - low) ** 2 / 12))

    def output(self, x: Tensor, name: str | None = None) -> None:
        """Declare ``x`` an output, called ``name`` if that is given."""
        final = x.name
        if name is not None and name != x.name:
            producer = next(node for node in self._graph.node if node.output[0] == x.name)
            producer.output[0] = name
            for node in self._graph.node:
                for i, used in enumerate(node.input):
                    if used == x.name:
                        node.input[i] = name
            final = name
        self._graph.output.append(helper.make_tensor_value_info(final, TensorProto.FLOAT, [self._batch, *x.shape]))

    def finish(self) -> onnx.ModelProto:
        """Return the model (opset 17)."""
        return self._model

    # -- layers with weights ----------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: Tensor,
        filters: int,
        kernel: Size,
        *,
        name: str,
        stride: Size = 1,
        pad: Padding = "valid",
        group: int = 1,
        bias: bool | None = None,
    ) -> Tensor:
        """Convolve (C, H, W) to (filters, H', W'); ``pad`` is "valid", "same" (SAME_UPPER), one number, or (top, left, bottom, right)."""
        channels = x.shape[0]
        size = _pair(kernel)
        fan_in = channels // group * size[0] * size[1]
        deviation = weight_deviation(fan_in, x.moments)
        inputs = [x.name, self._spread(f"{name}.weight", (filters, channels // group, *size), deviation)]
        has_bias = self._conv_bias if bias is None else bias
        if has_bias:
            inputs.append(self._spread(f"{name}.bias", (filters,), 0.05))
        window, spatial = _window(x.shape[1:], size, _pair(stride), pad)
        extra = {"group": group} if group != 1 else {}
        result = Moments(0.0, 1.0025 if has_bias else 1.0)
        return self._add("Conv", inputs, name, (filters, *spatial), result, kernel_shape=size, **window, **extra)

    def dense(self, x: Tensor, units: int, *, name: str) -> Tensor:
        """Multiply (features,) by a matrix and add a bias."""
        (features,) = x.shape
        shape = (units, features) if self._transposed_dense else (features, units)
        weight = self._spread(f"{name}.weight", shape, weight_deviation(features, x.moments))
        bias = self._spread(f"{name}.bias", (units,), 0.05)
        attributes = {"transB": 1} if self._transposed_dense else {}
        return self._add("Gemm", [x.name, weight, bias], name, (units,), Moments(0.0, 1.0025), **attributes)

    def batch_norm(self, x: Tensor, *, name: str, residual: bool = False) -> Tensor:
        """Normalise each channel with stored statistics; ``residual`` halves the scale of the last one of a residual branch."""
        channels = x.shape[0]
        deviation = math.sqrt(x.moments.variance)
        gain = _RESIDUAL_GAMMA if residual else 1.0
        inputs = [
            x.name,
            self._uniform(f"{name}.scale", channels, 0.5 * gain, 1.5 * gain),
            self._spread(f"{name}.bias", (channels,), 0.1),
            self._uniform(f"{name}.mean", channels, x.moments.mean - 0.5 * deviation, x.moments.mean + 0.5 * deviation),
            self._uniform(f"{name}.variance", channels, 0.5 * x.moments.variance, 1.5 * x.moments.variance),
        ]
        # E[gamma^2] = 13/12 and E[1/variance] = ln 3 for the ranges above; the stored means differ from the true one by 1/12.
        variance = gain * gain * 13 / 12 * math.log(3.0) * (1 + 1 / 12) + 0.01
        return self._add("BatchNormalization", inputs, name, x.shape, Moments(0.0, variance), epsilon=self._epsilon)

    # -- layers without weights -------------------------------------------------------------------------------------------------

    def relu(self, x: Tensor, *, name: str) -> Tensor:
        """max(x, 0)."""
        return self._add("Relu", [x.name], name, x.shape, x.moments.rectified())

    def relu6(self, x: Tensor, *, name: str) -> Tensor:
        """min(max(x, 0), 6), as Clip."""
        bounds = [self._scalar(f"{name}.min", 0.0), self._scalar(f"{name}.max", 6.0)]
        return self._add("Clip", [x.name, *bounds], name, x.shape, x.moments.rectified())

    def tanh(self, x: Tensor, *, name: str) -> Tensor:
        """Hyperbolic tangent; a normal input of unit variance leaves with variance 0.39."""
        return self._add("Tanh", [x.name], name, x.shape, Moments(0.0, 0.39))

    def sigmoid(self, x: Tensor, *, name: str) -> Tensor:
        """Logistic function."""
        return self._add("Sigmoid", [x.name], name, x.shape, Moments(0.5, 0.04))

    def softmax(self, x: Tensor, *, name: str) -> Tensor:
        """Softmax over the features."""
        return self._add("Softmax", [x.name], name, x.shape, Moments(1 / x.shape[0], 0.01), axis=1)

    def dropout(self, x: Tensor, *, name: str) -> Tensor:
        """Dropout, which does nothing at inference."""
        return self._add("Dropout", [x.name], name, x.shape, x.moments)

    def flatten(self, x: Tensor, *, name: str) -> Tensor:
        """(C, H, W) to (C*H*W,)."""
        return self._add("Flatten", [x.name], name, (math.prod(x.shape),), x.moments, axis=1)

    def scale(self, x: Tensor, factor: float, *, name: str) -> Tensor:
        """Multiply by a constant."""
        return self._add("Mul", [x.name, self._scalar(f"{name}.factor", factor)], name, x.shape, x.moments.scaled(factor))

    def add(self, x: Tensor, y: Tensor, *, name: str) -> Tensor:
        """Element-wise sum of two tensors of one shape.

        Raises:
            UsageError: if the shapes differ.
        """
        if x.shape != y.shape:
            raise UsageError(f"{name} adds {x.name} of shape {x.shape} and {y.name} of shape {y.shape}; a residual sum needs equal shapes")
        return self._add("Add", [x.name, y.name], name, x.shape, x.moments.plus(y.moments))

    def concat(self, parts: Sequence[Tensor], *, name: str) -> Tensor:
        """Concatenate along the channels."""
        channels = sum(part.shape[0] for part in parts)
        shape = (channels, *parts[0].shape[1:])
        mean = sum(part.moments.mean * part.shape[0] for part in parts) / channels
        second = sum(part.moments.second * part.shape[0] for part in parts) / channels
        return self._add("Concat", [part.name for part in parts], name, shape, Moments(mean, second - mean * mean), axis=1)

    def max_pool(self, x: Tensor, kernel: Size, *, name: str, stride: Size, pad: Padding = "valid", ceil_mode: bool = False) -> Tensor:
        """Largest element of each window."""
        size = _pair(kernel)
        window, spatial = _window(x.shape[1:], size, _pair(stride), pad, ceil_mode)
        # Neighbours are correlated: about half the rise that independent elements would show.
        rise = 0.5 * math.sqrt(2 * math.log(size[0] * size[1]) * x.moments.variance)
        moments = Moments(x.moments.mean + rise, x.moments.variance)
        extra = {"ceil_mode": 1} if ceil_mode else {}
        return self._add("MaxPool", [x.name], name, (x.shape[0], *spatial), moments, kernel_shape=size, **window, **extra)

    def average_pool(self, x: Tensor, kernel: Size, *, name: str, stride: Size) -> Tensor:
        """Mean of each window, without padding."""
        size = _pair(kernel)
        window, spatial = _window(x.shape[1:], size, _pair(stride), "valid")
        moments = Moments(x.moments.mean, x.moments.variance * 0.6)
        return self._add("AveragePool", [x.name], name, (x.shape[0], *spatial), moments, kernel_shape=size, **window)

    def global_average_pool(self, x: Tensor, *, name: str) -> Tensor:
        """Mean over the spatial axes: (C, H, W) to (C, 1, 1)."""
        moments = Moments(x.moments.mean, x.moments.variance * 0.2)
        return self._add("GlobalAveragePool", [x.name], name, (x.shape[0], *(1 for _ in x.shape[1:])), moments)

    def lrn(self, x: Tensor, *, name: str, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 2.0) -> Tensor:
        """Local response normalisation across channels by the formula of Krizhevsky et al. 2012.

        The paper's alpha multiplies the sum of squares; ONNX divides it by ``size``, so ``alpha * size`` is stored.
        """
        moments = x.moments.scaled(bias**-beta)
        return self._add("LRN", [x.name], name, x.shape, moments, size=size, alpha=alpha * size, beta=beta, bias=bias)

    # -- parts ------------------------------------------------------------------------------------------------------------------

    def _add(self, op: str, inputs: Sequence[str], name: str, shape: tuple[int, ...], moments: Moments, **attributes: Any) -> Tensor:
        if name in self._names:
            raise UsageError(f"two layers of {self.name} are called {name}")
        self._names.add(name)
        self._graph.node.append(helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes))
        return Tensor(f"{name}.out", shape, moments)

    def _spread(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        count = math.prod(shape)
        return self._store(name, shape, None if self._random is None else self._random.spread(count, deviation))

    def _uniform(self, name: str, count: int, low: float, high: float) -> str:
        return self._store(name, (count,), None if self._random is None else self._random.uniform(count, low, high))

    def _scalar(self, name: str, value: float) -> str:
        return self._store(name, (), np.array([value], np.float32))

    def _store(self, name: str, shape: tuple[int, ...], values: np.ndarray | None) -> str:
        data = bytes(4 * math.prod(shape)) if values is None else values.astype("<f4", copy=False).tobytes()
        self._graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT, raw_data=data)
        return name


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _window(
    spatial: Sequence[int], kernel: tuple[int, int], stride: tuple[int, int], pad: Padding, ceil_mode: bool = False
) -> tuple[dict[str, object], tuple[int, ...]]:
    """The attributes and the spatial result of a window of the given kernel, stride and padding."""
    attributes: dict[str, object] = {"strides": stride}
    if pad == "same":
        attributes["auto_pad"] = "SAME_UPPER"
        return attributes, tuple(-(-size // step) for size, step in zip(spatial, stride, strict=True))
    if pad == "valid":
        pads = (0, 0, 0, 0)
    elif isinstance(pad, int):
        pads = (pad, pad, pad, pad)
    else:
        pads = pad
    attributes["pads"] = pads
    result = []
    for axis, (size, extent, step) in enumerate(zip(spatial, kernel, stride, strict=True)):
        room = size + pads[axis] + pads[axis + 2] - extent
        result.append((-(-room // step) if ceil_mode else room // step) + 1)
    return attributes, tuple(result)
