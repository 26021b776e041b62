"""Reductions over axes (ONNX Reduce*, GlobalAveragePool, GlobalMaxPool)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import Dim, DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, require_axis, result, widened

KINDS = ("mean", "sum", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square")


@dataclass(frozen=True)
class Reduce(Op):
    """``x -> y``: the axes ``axes`` (sorted, non-negative) vanish, or become 1 with ``keepdims``.

    ``kind`` is one of mean, sum, max, min, prod, l1, l2, log_sum, log_sum_exp, sum_square. No axes means that every
    element is its own reduction set. Over an empty set: sum 0, prod 1, max the least and min the greatest value of
    the dtype (infinite for floats). Integers: sums wrap, a mean truncates towards zero, other results are computed in
    float64 and truncated.

    Infer raises SymbolicBatchError for an axis that depends on the batch size.
    """

    name: ClassVar[str] = "Reduce"
    kind: str
    axes: tuple[int, ...]
    keepdims: bool = True

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Reduce takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(self.kind in KINDS, f"unknown reduction {self.kind!r}")
        require(x.dtype is not DType.BOOL or self.kind in ("max", "min"), f"{self.kind} reduction of bool")
        require(self.axes == tuple(sorted(set(self.axes))), f"reduction axes {self.axes} repeat or are not sorted")
        shape: list[Dim] = []
        for axis in self.axes:
            require_axis(axis, x.rank, "reduction")
            forbid_batch(x.shape[axis], "the reduction runs over the batch axis, which would mix images")
        for axis, dim in enumerate(x.shape):
            if axis not in self.axes:
                shape.append(dim)
            elif self.keepdims:
                shape.append(1)
        return (result(x.dtype, shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        with np.errstate(all="ignore"):
            return (np.asarray(self._reduce(widened(x))).astype(x.dtype),)

    def _reduce(self, x: np.ndarray) -> Any:
        axes, keep = self.axes, self.keepdims
        floating = np.issubdtype(x.dtype, np.floating)
        total: dict[str, Any] = {"axis": axes, "keepdims": keep, "dtype": x.dtype}
        match self.kind:
            case "sum":
                return np.sum(x, **total)
            case "prod":
                return np.prod(x, **total)
            case "l1":
                return np.sum(np.abs(x), **total)
            case "sum_square":
                return np.sum(x * x, **total)
            case "max" | "min":
                return self._extreme(x)
            case "mean" if not floating:
                count = np.prod([x.shape[a] for a in axes], dtype=np.int64)
                return np.trunc(np.sum(x, axis=axes, keepdims=keep, dtype=np.float64) / count)
        real = x if floating else x.astype(np.float64)
        total["dtype"] = real.dtype
        match self.kind:
            case "mean":
                return np.mean(real, **total) if axes else real
            case "l2":
                return np.sqrt(np.sum(real * real, **total))
            case "log_sum":
                return np.log(np.sum(real, **total))
            case _:
                top = np.max(real, axis=axes, keepdims=True, initial=-np.inf)
                top = np.where(np.isfinite(top), top, 0).astype(real.dtype)
                logs = np.log(np.sum(np.exp(real - top), axis=axes, keepdims=True)) + top
                return logs if keep else np.squeeze(logs, axis=axes)

    def _extreme(self, x: np.ndarray) -> Any:
        if x.dtype == np.bool_:
            low: Any = False
            high: Any = True
        elif np.issubdtype(x.dtype, np.floating):
            low, high = -np.inf, np.inf
        else:
            low, high = np.iinfo(x.dtype).min, np.iinfo(x.dtype).max
        if self.kind == "max":
            return np.max(x, axis=self.axes, keepdims=self.keepdims, initial=low)
        return np.min(x, axis=self.axes, keepdims=self.keepdims, initial=high)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(needed(inputs[0], "x").shape)))
