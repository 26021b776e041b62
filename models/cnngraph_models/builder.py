"""A small language for writing convolutional networks as ONNX, with seeded weights.

A network is a function that takes a :class:`Builder`, applies its layers to a :class:`Tensor` and marks the outputs. The builder keeps
the shape of every tensor without the batch, so a layer knows its fan-in, and an estimate of its moments, so random weights keep the
activations of order one through a hundred layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper

from cnngraph.errors import UsageError
from cnngraph_models.weights import Moments, UniformSource, weight_deviation

OPSET = 17
IR_VERSION = 8

Fill = Literal["random", "zeros", "none"]
Batch = Literal["dynamic"] | int
Padding = Literal["valid", "same"] | int | tuple[int, ...]
Size = int | tuple[int, ...]

_RESIDUAL_GAMMA = 0.5


@dataclass(frozen=True)
class Tensor:
    """A float32 tensor of the network being written.

    Attributes:
        name: its name in the graph.
        shape: its shape without the batch, (C, H, W) or (features,).
        moments: estimated mean and variance of its elements.
        rows: size of the first axis, which ``shape`` leaves out; None if that is the batch.
    """

    name: str
    shape: tuple[int, ...]
    moments: Moments
    rows: int | None = None


class Builder:
    """Writes one network.

    Args:
        name: name of the graph.
        seed: seed of the weights.
        batch: a fixed batch size, or "dynamic" for a symbolic one called ``N``.
        fill: "random"; "zeros" where only the structure matters; "none" to store shapes without numbers, which suffices for counting.
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
        if fill not in get_args(Fill):
            raise UsageError(f"fill is one of {', '.join(get_args(Fill))}, not {fill!r}")
        self.name = name
        self._batch: str | int = "N" if batch == "dynamic" else batch
        self._fill = fill
        self._random = UniformSource(seed) if fill == "random" else None
        self._transposed_dense = transposed_dense
        self._conv_bias = conv_bias
        self._epsilon = epsilon
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="cnngraph_models")
        self._model.opset_import.append(helper.make_opsetid("", OPSET))
        self._graph = self._model.graph
        self._graph.name = name
        self._names: set[str] = set()
        self._rows: dict[str, int | None] = {}

    # -- graph ------------------------------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> Tensor:
        """Declare an input of shape (batch, *shape) whose values lie, evenly, between ``low`` and ``high``."""
        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [self._batch, *shape]))
        return Tensor(name, tuple(shape), Moments((low + high) / 2, (high - low) ** 2 / 12))

    def output(self, x: Tensor, name: str | None = None, *, data_type: int = TensorProto.FLOAT, shape: Sequence[int | str] = ()) -> None:
        """Declare ``x`` an output, called ``name`` if that is given; ``shape`` replaces that of a tensor whose extents run time decides."""
        final = x.name
        if name is not None and name != x.name:
            producer = next(node for node in self._graph.node if node.output[0] == x.name)
            producer.output[0] = name
            for node in self._graph.node:
                for i, used in enumerate(node.input):
                    if used == x.name:
                        node.input[i] = name
            final = name
        declared = list(shape) if shape else [self._batch if x.rows is None else x.rows, *x.shape]
        self._graph.output.append(helper.make_tensor_value_info(final, data_type, declared))

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
        weights: str | np.ndarray | None = None,
        bias_value: float | None = None,
    ) -> Tensor:
        """Convolve (C, H, W) or (C, T) to (filters, ...).

        Args:
            x: the input.
            filters: channels of the result.
            kernel: window; one number for all axes, or one an axis.
            name: name of the layer.
            stride: steps of the window.
            pad: "valid", "same" (SAME_UPPER), one number, or the begins and then the ends.
            group: number of groups of channels.
            bias: whether there is a bias; default: as the builder says.
            weights: the fixed weights, or the name of the layer whose weights this layer shares; default: random ones of its own.
            bias_value: a fixed value of every bias.
        """
        channels, size, step = x.shape[0], _each(kernel, x), _each(stride, x)
        shape = (filters, channels // group, *size)
        has_bias = self._conv_bias if bias is None else bias
        inputs = [x.name]
        if isinstance(weights, np.ndarray):
            inputs.append(self.constant(f"{name}.weight", weights.reshape(shape).astype(np.float32)))
        elif weights is not None:
            inputs.append(f"{weights}.weight")
        else:
            deviation = weight_deviation(math.prod(shape[1:]), x.moments)
            inputs.append(self._spread(f"{name}.weight", shape, deviation))
        if has_bias and isinstance(weights, str):
            inputs.append(f"{weights}.bias")
        elif has_bias and bias_value is not None:
            inputs.append(self.constant(f"{name}.bias", np.full(filters, bias_value, np.float32)))
        elif has_bias:
            inputs.append(self._spread(f"{name}.bias", (filters,), 0.05))
        window, spatial = _window(x.shape[1:], size, step, pad)
        extra: dict[str, Any] = {"group": group} if group != 1 else {}
        result = Moments(bias_value or 0.0, 1.0025 if has_bias else 1.0)
        return self._add("Conv", inputs, name, (filters, *spatial), result, kernel_shape=size, **window, **extra)

    def conv_transpose(
        self, x: Tensor, filters: int, kernel: Size, *, name: str, stride: Size, pad: int = 0, output_padding: Size = 0, bias: bool = True
    ) -> Tensor:
        """Transposed convolution: each side becomes ``(side - 1) * stride - 2 * pad + kernel + output_padding``."""
        channels, size, step, extra = x.shape[0], _each(kernel, x), _each(stride, x), _each(output_padding, x)
        spatial = tuple((d - 1) * s - 2 * pad + k + e for d, s, k, e in zip(x.shape[1:], step, size, extra, strict=True))
        # A result sums over the channels and the part of the window that meets one position.
        overlap = max(1.0, math.prod(size) / math.prod(step))
        deviation = weight_deviation(round(channels * overlap), x.moments)
        inputs = [x.name, self._spread(f"{name}.weight", (channels, filters, *size), deviation)]
        if bias:
            inputs.append(self._spread(f"{name}.bias", (filters,), 0.05))
        attributes: dict[str, Any] = {"kernel_shape": size, "strides": step, "pads": (pad,) * (2 * len(size))}
        if any(extra):
            attributes["output_padding"] = extra
        return self._add("ConvTranspose", inputs, name, (filters, *spatial), Moments(0.0, 1.0), **attributes)

    def dense(self, x: Tensor, units: int, *, name: str) -> Tensor:
        """Multiply (features,) by a matrix and add a bias."""
        (features,) = x.shape
        shape = (units, features) if self._transposed_dense else (features, units)
        weight = self._spread(f"{name}.weight", shape, weight_deviation(features, x.moments))
        bias = self._spread(f"{name}.bias", (units,), 0.05)
        attributes: dict[str, Any] = {"transB": 1} if self._transposed_dense else {}
        return self._add("Gemm", [x.name, weight, bias], name, (units,), Moments(0.0, 1.0025), **attributes)

    def batch_norm(self, x: Tensor, *, name: str, residual: bool = False, scale: bool = True) -> Tensor:
        """Normalise each channel with stored statistics.

        Args:
            x: the input.
            name: name of the layer.
            residual: halve the scale, as for the last one of a residual branch.
            scale: False for Keras' ``scale=False``: nothing is stored, the graph makes the ones that ONNX asks for.
        """
        channels = x.shape[0]
        deviation = math.sqrt(x.moments.variance)
        gain = _RESIDUAL_GAMMA if residual else 1.0
        inputs = [
            x.name,
            self._uniform(f"{name}.scale", channels, 0.5 * gain, 1.5 * gain) if scale else self.filled(channels, 1.0),
            self._spread(f"{name}.bias", (channels,), 0.1),
            self._uniform(f"{name}.mean", channels, x.moments.mean - 0.5 * deviation, x.moments.mean + 0.5 * deviation),
            self._uniform(f"{name}.variance", channels, 0.5 * x.moments.variance, 1.5 * x.moments.variance),
        ]
        # E[gamma^2] = 13/12 and E[1/variance] = ln 3 for the ranges above; the stored means differ from the true one by 1/12.
        variance = (gain * gain * 13 / 12 if scale else 1.0) * math.log(3.0) * (1 + 1 / 12) + 0.01
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
        """Softmax over the features or the channels."""
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
        size = _each(kernel, x)
        window, spatial = _window(x.shape[1:], size, _each(stride, x), pad, ceil_mode)
        # Neighbours are correlated: about half the rise that independent elements would show.
        rise = 0.5 * math.sqrt(2 * math.log(math.prod(size)) * x.moments.variance)
        moments = Moments(x.moments.mean + rise, x.moments.variance)
        extra: dict[str, Any] = {"ceil_mode": 1} if ceil_mode else {}
        return self._add("MaxPool", [x.name], name, (x.shape[0], *spatial), moments, kernel_shape=size, **window, **extra)

    def average_pool(self, x: Tensor, kernel: Size, *, name: str, stride: Size, pad: Padding = "valid") -> Tensor:
        """Mean of the elements of each window; padding is not counted, as in Keras."""
        size = _each(kernel, x)
        window, spatial = _window(x.shape[1:], size, _each(stride, x), pad)
        moments = Moments(x.moments.mean, x.moments.variance * 0.6)
        return self._add("AveragePool", [x.name], name, (x.shape[0], *spatial), moments, kernel_shape=size, **window)

    def global_average_pool(self, x: Tensor, *, name: str) -> Tensor:
        """Mean over the spatial axes: (C, H, W) to (C, 1, 1), (C, T) to (C, 1)."""
        moments = Moments(x.moments.mean, x.moments.variance * 0.2)
        return self._add("GlobalAveragePool", [x.name], name, (x.shape[0], *(1 for _ in x.shape[1:])), moments)

    def lrn(self, x: Tensor, *, name: str, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, bias: float = 2.0) -> Tensor:
        """Local response normalisation across channels by the formula of Krizhevsky et al. 2012.

        The paper's alpha multiplies the sum of squares; ONNX divides it by ``size``, so ``alpha * size`` is stored.
        """
        moments = x.moments.scaled(bias**-beta)
        return self._add("LRN", [x.name], name, x.shape, moments, size=size, alpha=alpha * size, beta=beta, bias=bias)

    # -- parts ------------------------------------------------------------------------------------------------------------------

    def node(
        self,
        op: str,
        inputs: Sequence[Tensor | str],
        shape: Sequence[int],
        *,
        name: str,
        moments: Moments | None = None,
        rows: int | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Add any node of one output.

        Args:
            op: the ONNX operator.
            inputs: tensors, and names of constants ("" for one left out).
            shape: shape of the result, without its first axis.
            name: name of the node.
            moments: of the result; default: those of the first tensor.
            rows: size of the result's first axis; default: as of the first input.
            **attributes: of the operator.
        """
        if moments is None:
            moments = next((x.moments for x in inputs if isinstance(x, Tensor)), Moments())
        names = [x.name if isinstance(x, Tensor) else x for x in inputs]
        return self._add(op, names, name, tuple(shape), moments, rows, **attributes)

    def top_k(self, x: Tensor, count: int, *, name: str) -> tuple[Tensor, Tensor]:
        """The ``count`` largest elements along the last axis, and their int64 indices."""
        shape = (*x.shape[:-1], count)
        size = self.constant(f"{name}.count", np.array([count], np.int64))
        values = self._add("TopK", [x.name, size], name, shape, x.moments)
        indices = f"{name}.indices"
        self._graph.node[-1].output.append(indices)
        self._rows[indices] = values.rows
        return values, Tensor(indices, shape, Moments(), values.rows)

    def constant(self, name: str, values: np.ndarray) -> str:
        """Store a tensor of float32 or int64 numbers; returns its name, which :meth:`node` takes as an input."""
        kind = TensorProto.FLOAT if values.dtype == np.float32 else TensorProto.INT64
        data = np.ascontiguousarray(values).astype("<f4" if kind == TensorProto.FLOAT else "<i8", copy=False).tobytes()
        self._graph.initializer.add(name=name, dims=values.shape, data_type=kind, raw_data=data)
        return name

    def weight(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        """Store random float32 weights of the given shape and standard deviation; returns their name."""
        return self._spread(name, shape, deviation)

    def uniform(self, name: str, count: int, low: float, high: float) -> str:
        """Store ``count`` random float32 numbers in [low, high]; returns their name."""
        return self._uniform(name, count, low, high)

    def filled(self, count: int, value: float) -> str:
        """Let the graph make ``count`` times the float32 ``value``, which is not stored; returns the name."""
        name = f"filled{count}_{value:g}"
        if name not in self._names:
            size = self.constant(f"{name}.size", np.array([count], np.int64))
            one = helper.make_tensor("value", TensorProto.FLOAT, [1], [value])
            self._add("ConstantOfShape", [size], name, (), Moments(value, 0.0), count, value=one)
        return f"{name}.out"

    def _add(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        shape: tuple[int, ...],
        moments: Moments,
        rows: int | None = None,
        **attributes: Any,
    ) -> Tensor:
        if name in self._names:
            raise UsageError(f"two layers of {self.name} are called {name}")
        if any(extent < 1 for extent in shape):
            raise UsageError(f"the input is too small: {name} of {self.name} would have the shape {shape}")
        self._names.add(name)
        self._graph.node.append(helper.make_node(op, list(inputs), [f"{name}.out"], name=name, **attributes))
        if rows is None:
            rows = self._rows.get(inputs[0])
        self._rows[f"{name}.out"] = rows
        return Tensor(f"{name}.out", shape, moments, rows)

    def _spread(self, name: str, shape: tuple[int, ...], deviation: float) -> str:
        count = math.prod(shape)
        return self._store(name, shape, None if self._random is None else self._random.spread(count, deviation))

    def _uniform(self, name: str, count: int, low: float, high: float) -> str:
        return self._store(name, (count,), None if self._random is None else self._random.uniform(count, low, high))

    def _scalar(self, name: str, value: float) -> str:
        return self._store(name, (), np.array([value], np.float32))

    def _store(self, name: str, shape: tuple[int, ...], values: np.ndarray | None) -> str:
        if self._fill == "none":
            self._graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT)
            return name
        data = bytes(4 * math.prod(shape)) if values is None else values.astype("<f4", copy=False).tobytes()
        self._graph.initializer.add(name=name, dims=shape, data_type=TensorProto.FLOAT, raw_data=data)
        return name


def _each(size: Size, x: Tensor) -> tuple[int, ...]:
    """One number for each spatial axis of ``x``."""
    return (size,) * (len(x.shape) - 1) if isinstance(size, int) else size


def _window(
    spatial: Sequence[int], kernel: tuple[int, ...], stride: tuple[int, ...], pad: Padding, ceil_mode: bool = False
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The attributes and the spatial result of a window of the given kernel, stride and padding."""
    attributes: dict[str, Any] = {"strides": stride}
    if pad == "same":
        attributes["auto_pad"] = "SAME_UPPER"
        return attributes, tuple(-(-size // step) for size, step in zip(spatial, stride, strict=True))
    rank = len(spatial)
    pads: tuple[int, ...]
    if pad == "valid":
        pads = (0,) * (2 * rank)
    elif isinstance(pad, int):
        pads = (pad,) * (2 * rank)
    else:
        assert not isinstance(pad, str)
        pads = pad
    attributes["pads"] = pads
    result = []
    for axis, (size, extent, step) in enumerate(zip(spatial, kernel, stride, strict=True)):
        room = size + pads[axis] + pads[axis + rank] - extent
        result.append((-(-room // step) if ceil_mode else room // step) + 1)
    return attributes, tuple(result)
