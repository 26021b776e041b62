"""Batch normalisation and local response normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import Sym, SymbolicBatchError, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, result, show, widened


@dataclass(frozen=True)
class BatchNorm(Op):
    """ONNX BatchNormalization (opset 15): ``x[N,C,*d], scale[C], bias[C], mean[C], var[C] -> y (, mean, var)``.

    ``y = (x - mean) / sqrt(var + epsilon) * scale + bias`` for each channel. With ``training`` the mean and the
    population variance are those of ``x``, and two more outputs are the running statistics
    ``input * momentum + current * (1 - momentum)``.
    """

    name: ClassVar[str] = "BatchNorm"
    epsilon: float = 1e-5
    momentum: float = 0.9
    training: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 5, f"BatchNorm takes 5 inputs, got {len(inputs)}")
        x, scale, bias, mean, var = (needed(t, w) for t, w in zip(inputs, ("x", "scale", "bias", "mean", "var"), strict=True))
        require(x.rank >= 1, "BatchNorm of a scalar")
        require(all(t.dtype.is_float for t in (x, scale, bias, mean, var)), "BatchNorm computes floats")
        require(scale.dtype == bias.dtype and mean.dtype == var.dtype, "BatchNorm mixes element types of its parameters")
        channels = forbid_batch(x.shape[1], "BatchNorm's channels must not depend on the batch size") if x.rank > 1 else 1
        for what, type_ in (("scale", scale), ("bias", bias), ("mean", mean), ("variance", var)):
            require(type_.shape == (channels,), f"{what} {show(type_.shape)} does not suit the input {show(x.shape)}")
        y = result(x.dtype, x.shape)
        if not self.training:
            return (y,)
        if any(isinstance(d, Sym) for d in x.shape):
            raise SymbolicBatchError("BatchNorm in training mode takes statistics over the batch, which mixes images")
        return y, result(mean.dtype, mean.shape), result(var.dtype, var.shape)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, scale, bias, mean, var = (np.asarray(a) for a in inputs)
        wide, given_mean, given_var = widened(x), widened(mean), widened(var)
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        with np.errstate(all="ignore"):
            if self.training:
                axes = tuple(a for a in range(x.ndim) if a != 1)
                used_mean = np.atleast_1d(wide.mean(axis=axes))
                used_var = np.atleast_1d(wide.var(axis=axes))
            else:
                used_mean, used_var = given_mean, given_var
            factor = widened(scale) / np.sqrt(used_var + used_var.dtype.type(self.epsilon))
            y = (wide - used_mean.reshape(per_channel)) * factor.reshape(per_channel) + widened(bias).reshape(per_channel)
        if not self.training:
            return (y.astype(x.dtype),)
        keep = self.momentum
        return (
            y.astype(x.dtype),
            (given_mean * keep + used_mean * (1 - keep)).astype(mean.dtype),
            (given_var * keep + used_var * (1 - keep)).astype(var.dtype),
        )

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=2 * per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class LRN(Op):
    """ONNX LRN across channels: ``y = x / (bias + alpha / size * s) ** beta`` with x, y of shape [N,C,*d].

    ``s[c]`` is the sum of squares over channels ``c - floor((size-1)/2) .. c + ceil((size-1)/2)`` that exist
    (Krizhevsky et al. 2012, section 3.3, with ONNX's division of alpha by size).
    """

    name: ClassVar[str] = "LRN"
    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"LRN takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.rank >= 2, f"LRN needs a channel axis, the input is {show(x.shape)}")
        require(x.dtype.is_float, f"LRN computes floats, not {x.dtype.value}")
        require(self.size >= 1, f"LRN size {self.size} must be at least 1")
        forbid_batch(x.shape[1], "LRN sums over channels, which must not depend on the batch size")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        wide = widened(x)
        channels = x.shape[1]
        before, after = (self.size - 1) // 2, self.size // 2
        squares = wide * wide
        total = np.zeros_like(squares)
        for c in range(channels):
            total[:, c] = squares[:, max(0, c - before) : min(channels, c + after + 1)].sum(axis=1)
        with np.errstate(all="ignore"):
            return ((wide / (self.bias + self.alpha / self.size * total) ** self.beta).astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=(self.size + 4) * per_image(numel(outputs[0].shape)))
