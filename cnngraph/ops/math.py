"""Sums of products by subscripts, running sums and products, determinants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import Dim, DType, Sym, SymbolicBatchError, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, match_dim, require_axis, result, same_dtype, show, widened

LETTERS = 52
"""Subscripts that one Einsum may use."""


@dataclass(frozen=True)
class Einsum(Op):
    """Sum of products over the subscripts that ``output`` lacks; ``terms[i]`` names the axes of input ``i``.

    Subscripts are small integers. A subscript that occurs twice in one term takes the diagonal; axes of extent 1
    broadcast. Infer raises SymbolicBatchError if the sum runs over the batch.
    """

    name: ClassVar[str] = "Einsum"
    terms: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]

    def extents(self, *inputs: TensorType | None) -> dict[int, Dim]:
        """Extent of every subscript, extents of 1 broadcast."""
        require(len(inputs) == len(self.terms) >= 1, f"Einsum of {len(self.terms)} terms, got {len(inputs)} inputs")
        found: dict[int, Dim] = {}
        for index, (type_, term) in enumerate(zip(inputs, self.terms, strict=True)):
            x = needed(type_, str(index))
            require(x.rank == len(term), f"Einsum: {show(x.shape)} has not {len(term)} axes")
            for label, dim in zip(term, x.shape, strict=True):
                if found.get(label, 1) == 1:
                    found[label] = dim
                elif dim != 1:
                    match_dim(found[label], dim, f"Einsum: a subscript of input {index} of shape {show(x.shape)}")
        return found

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        extents = self.extents(*inputs)
        dtype = same_dtype([needed(t, "") for t in inputs], "Einsum")
        require(dtype is not DType.BOOL, "Einsum of bool")
        require(all(0 <= label < LETTERS for label in extents), f"Einsum has more than {LETTERS} subscripts")
        require(len(set(self.output)) == len(self.output), "a subscript is repeated in Einsum's result")
        require(all(label in extents for label in self.output), "Einsum's result has a subscript that no input has")
        for label, dim in extents.items():
            if label not in self.output and isinstance(dim, Sym):
                raise SymbolicBatchError(f"Einsum sums over the batch axis (dimension {dim}), which would mix images")
        return (result(dtype, tuple(extents[label] for label in self.output)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        arrays = [np.asarray(a) for a in inputs if a is not None]
        operands: list[np.ndarray | list[int]] = []
        for array, term in zip(arrays, self.terms, strict=True):
            operands += [widened(array), list(term)]
        with np.errstate(all="ignore"):
            y = np.einsum(*operands, list(self.output), optimize="greedy" if len(arrays) > 2 else False)
        return (np.array(y).astype(arrays[0].dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(macs=per_image(numel(self.extents(*inputs).values())))


@dataclass(frozen=True)
class Cumulative(Op):
    """ONNX CumSum (``kind`` sum) and CumProd (prod) along ``axis``; ``exclusive`` leaves out the element itself."""

    name: ClassVar[str] = "Cumulative"
    kind: str
    axis: int
    exclusive: bool = False
    reverse: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Cumulative takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(self.kind in ("sum", "prod"), f"unknown kind {self.kind!r}")
        require_axis(self.axis, x.rank, "CumSum/CumProd")
        forbid_batch(x.shape[self.axis], "the running result goes over the batch axis, which would mix images")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        wide = np.flip(widened(x), self.axis) if self.reverse else widened(x)
        function = np.cumsum if self.kind == "sum" else np.cumprod
        with np.errstate(all="ignore"):
            if self.exclusive and x.shape[self.axis]:
                before = [slice(None)] * x.ndim
                after = list(before)
                before[self.axis], after[self.axis] = slice(0, -1), slice(1, None)
                y = np.full(wide.shape, 0 if self.kind == "sum" else 1, wide.dtype)
                y[tuple(after)] = function(wide[tuple(before)], axis=self.axis, dtype=wide.dtype)
            else:
                y = function(wide, axis=self.axis, dtype=wide.dtype)
        return ((np.flip(y, self.axis) if self.reverse else y).astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class Det(Op):
    """ONNX Det: ``x[..., M, M] -> y[...]``, the determinant of every matrix (by elimination)."""

    name: ClassVar[str] = "Det"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Det takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.rank >= 2, f"Det needs matrices, the input is {show(x.shape)}")
        rows, columns = (forbid_batch(d, "Det mixes images along the batch axis") for d in x.shape[-2:])
        require(rows == columns, f"Det needs square matrices, the input is {show(x.shape)}")
        require(x.dtype.is_float, f"Det computes floats, not {x.dtype.value}")
        return (result(x.dtype, x.shape[:-2]),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        assert x is not None
        with np.errstate(all="ignore"):
            return (np.asarray(np.linalg.det(widened(x))).astype(x.dtype),)
