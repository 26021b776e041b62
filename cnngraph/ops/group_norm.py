"""Normalisation of groups of channels by their mean and variance over all pixels of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, in_result, mixed_dtype, result, show, widened
from cnngraph.ops.conv import apply_epilogue, require_epilogue
from cnngraph.ops.expression import Expression


@dataclass(frozen=True)
class GroupNorm(Op):
    """Group normalisation: ``x[N,C,*d], scale[C]|None, bias[C]|None, *operands -> y[N,C,*d]``.

    The channels form ``groups`` groups of neighbours. ``y = (x - mean) / sqrt(var + epsilon) * scale + bias`` with the mean
    and the population variance of each image and group over its channels and pixels (Wu and He, "Group Normalization",
    2018). As many groups as channels is instance normalisation.

    Attributes:
        groups: number of groups, a divisor of C.
        epsilon: added to the variance.
        epilogue: as in :class:`~cnngraph.ops.conv.Conv`; its input 0 is the normalised, scaled and shifted value.
        to: as in :class:`~cnngraph.ops.conv.Conv`.

    The reference computes float16 and bfloat16 in float32, other floats in their own precision, the variance as the mean of
    squared deviations.
    """

    name: ClassVar[str] = "GroupNorm"
    groups: int
    epsilon: float = 1e-5
    epilogue: Expression | None = None
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) >= 3, f"GroupNorm takes x, scale, bias (or None) and operands, got {len(inputs)} inputs")
        x = needed(inputs[0], "x")
        operands = [needed(t, f"operand {i}") for i, t in enumerate(inputs[3:])]
        parameters = [t for t in inputs[1:3] if t is not None]
        dtype = mixed_dtype([x, *parameters], self.to, "GroupNorm")
        require(dtype.is_float, f"GroupNorm computes floats, not {dtype.value}")
        require(x.rank >= 2, f"GroupNorm needs a channel axis, the input is {show(x.shape)}")
        channels = forbid_batch(x.shape[1], "GroupNorm's channels must not depend on the batch size")
        static(x.shape[2:])
        require(self.groups >= 1 and channels % self.groups == 0, f"{self.groups} groups do not divide the channels of {show(x.shape)}")
        for type_ in parameters:
            require(type_.shape == (channels,), f"parameter {show(type_.shape)} does not suit the input {show(x.shape)}")
        y = result(dtype, x.shape)
        require_epilogue(self.epilogue, operands, y, self.to)
        return (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, scale, bias = inputs[0], inputs[1], inputs[2]
        assert x is not None
        wide = widened(x)
        grouped = wide.reshape(x.shape[0], self.groups, -1)
        per_channel = (-1, *[1] * (x.ndim - 2))
        with np.errstate(all="ignore"):
            if grouped.size:
                centred = grouped - grouped.mean(axis=2, keepdims=True)
                variance = np.mean(centred * centred, axis=2, keepdims=True)
                y = (centred / np.sqrt(variance + wide.dtype.type(self.epsilon))).reshape(x.shape)
            else:
                y = wide
            if scale is not None:
                y = y * widened(scale).reshape(per_channel)
            if bias is not None:
                y = y + widened(bias).reshape(per_channel)
            return (in_result(apply_epilogue(self.epilogue, y, inputs[3:]), x, self.to),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        extra = sum(t is not None for t in inputs[1:3]) + (len(self.epilogue.instrs) if self.epilogue else 0)
        return Cost(flops=(6 + extra) * per_image(numel(outputs[0].shape)))
