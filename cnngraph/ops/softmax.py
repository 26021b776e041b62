"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, require_axis, result, widened


@dataclass(frozen=True)
class Softmax(Op):
    """ONNX Softmax/LogSoftmax of opset 13: ``exp(x - max) / sum`` along ``axis`` (non-negative), or its logarithm.

    Infer raises SymbolicBatchError if the axis depends on the batch size.
    """

    name: ClassVar[str] = "Softmax"
    axis: int
    log: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Softmax takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.dtype.is_float, f"Softmax computes floats, not {x.dtype.value}")
        require_axis(self.axis, x.rank, "Softmax")
        forbid_batch(x.shape[self.axis], "Softmax runs over the batch axis, which would mix images")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        wide = widened(x)
        with np.errstate(all="ignore"):
            shifted = wide - np.max(wide, axis=self.axis, keepdims=True, initial=-np.inf)
            powers = np.exp(shifted)
            total = np.sum(powers, axis=self.axis, keepdims=True)
            y = shifted - np.log(total) if self.log else powers / total
        return (y.astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=4 * per_image(numel(outputs[0].shape)))
