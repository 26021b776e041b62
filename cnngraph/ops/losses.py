"""Losses of classification, as evaluation graphs contain them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.ir.types import DType, Sym, SymbolicBatchError, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, match_dim, result, same_dtype, show, widened

REDUCTIONS = ("none", "sum", "mean")


@dataclass(frozen=True)
class NLLLoss(Op):
    """ONNX NegativeLogLikelihoodLoss: ``log p[N,C,*d], target[N,*d], weight[C]|None -> loss``, of shape [N,*d] or a scalar.

    ``loss = -weight[t] * log p[n, t]``; targets equal to ``ignore_index`` weigh nothing. The mean divides by the sum of the
    weights of all targets. The reference raises InvalidInputError for any other target outside the classes.
    """

    name: ClassVar[str] = "NLLLoss"
    reduction: str = "mean"
    ignore_index: int | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"NLLLoss takes 3 inputs, got {len(inputs)}")
        x, target, weight = needed(inputs[0], "input"), needed(inputs[1], "target"), inputs[2]
        dtype = same_dtype([x] if weight is None else [x, weight], "NLLLoss")
        what = f"loss of {show(x.shape)} for targets {show(target.shape)}"
        require(self.reduction in REDUCTIONS, f"the reduction is {self.reduction[:40]!r}, not one of {', '.join(REDUCTIONS)}")
        require(dtype.is_float, f"NLLLoss computes floats, not {dtype.value}")
        require(target.dtype in (DType.I32, DType.I64), f"the targets are {target.dtype.value}, not int32 or int64")
        require(x.rank >= 2 and target.rank == x.rank - 1, f"{what}: the targets must lack the class axis only")
        for a, b in zip((x.shape[0], *x.shape[2:]), target.shape, strict=True):
            match_dim(a, b, what)
        classes = forbid_batch(x.shape[1], "the classes of a loss must not depend on the batch size")
        require(weight is None or weight.shape == (classes,), f"{what}: the weights have shape {show(weight.shape) if weight else ''}")
        if self.reduction == "none":
            return (result(dtype, target.shape),)
        if any(isinstance(d, Sym) for d in target.shape):
            raise SymbolicBatchError(f"a loss reduced by {self.reduction} mixes the images of the batch")
        return (result(dtype, ()),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, target, weight = inputs
        assert x is not None and target is not None
        wide = widened(x)
        ignored = np.zeros(target.shape, np.bool_) if self.ignore_index is None else target == self.ignore_index
        bad = target[~ignored & ((target < 0) | (target >= x.shape[1]))]
        if bad.size:
            raise InvalidInputError(f"loss target {int(bad[0])} is not one of {x.shape[1]} classes")
        classes = np.where(ignored, 0, target).astype(np.int64)
        if x.shape[1]:
            picked = np.take_along_axis(wide, classes[:, None], axis=1)[:, 0]
        else:
            picked = np.zeros(target.shape, wide.dtype)
        one = np.ones(x.shape[1], wide.dtype) if weight is None else widened(weight)
        factors = np.where(ignored, wide.dtype.type(0), one[classes] if x.shape[1] else wide.dtype.type(0))
        loss = np.where(ignored, wide.dtype.type(0), -picked * factors)
        with np.errstate(all="ignore"):
            if self.reduction == "sum":
                loss = np.sum(loss, dtype=wide.dtype)
            elif self.reduction == "mean":
                loss = np.sum(loss, dtype=wide.dtype) / np.sum(factors, dtype=wide.dtype)
        return (np.asarray(loss).astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=2 * per_image(numel(needed(inputs[1], "target").shape)))
