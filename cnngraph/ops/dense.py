"""Matrix products: the dense layer with bias and epilogue, and numpy.matmul."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import broadcast, forbid_batch, in_result, mixed_dtype, result, same_dtype, show, widened
from cnngraph.ops.conv import apply_epilogue, require_epilogue
from cnngraph.ops.expression import Expression


@dataclass(frozen=True)
class Dense(Op):
    """Fully connected layer: ``x[M,K], w[K,N], b[N]|None, *operands -> y[M,N]``.

    ``epilogue`` and ``to`` are as in :class:`~cnngraph.ops.conv.Conv`; input 0 of the epilogue is ``x @ w + b``.
    """

    name: ClassVar[str] = "Dense"
    epilogue: Expression | None = None
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) >= 3, f"Dense takes x, weights, bias (or None) and operands, got {len(inputs)} inputs")
        x, w, b = needed(inputs[0], "x"), needed(inputs[1], "weights"), inputs[2]
        operands = [needed(t, f"operand {i}") for i, t in enumerate(inputs[3:])]
        dtype = mixed_dtype([x, w] if b is None else [x, w, b], self.to, "Dense")
        shapes = f"input {show(x.shape)}, weights {show(w.shape)}"
        require(x.rank == 2 and w.rank == 2, f"Dense multiplies matrices, not {shapes}")
        depth = forbid_batch(x.shape[1], "a dense layer sums over its input's second axis, which must not depend on the batch size")
        rows, columns = static(w.shape)
        require(depth == rows, f"{shapes}: inner dimensions differ")
        require(b is None or b.shape == (columns,), f"bias {show(b.shape) if b else ''} does not suit {shapes}")
        y = result(dtype, (x.shape[0], columns))
        require_epilogue(self.epilogue, operands, y, self.to)
        return (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w, b = inputs[0], inputs[1], inputs[2]
        assert x is not None and w is not None
        y = widened(x) @ widened(w)
        if b is not None:
            y = y + widened(b)
        return (in_result(apply_epilogue(self.epilogue, y, inputs[3:]), x, self.to),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        elements = per_image(numel(outputs[0].shape))
        extra = (inputs[2] is not None) + (len(self.epilogue.instrs) if self.epilogue else 0)
        return Cost(macs=elements * per_image(needed(inputs[0], "x").shape[1]), flops=elements * extra)


@dataclass(frozen=True)
class MatMul(Op):
    """numpy.matmul: ``a[...,M,K], b[...,K,N] -> [...,M,N]``; a 1-D operand is a row (a) or a column (b) that vanishes."""

    name: ClassVar[str] = "MatMul"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"MatMul takes 2 inputs, got {len(inputs)}")
        a, b = needed(inputs[0], "a"), needed(inputs[1], "b")
        dtype = same_dtype([a, b], "MatMul")
        shapes = f"{show(a.shape)} @ {show(b.shape)}"
        require(a.rank >= 1 and b.rank >= 1, f"MatMul of a scalar: {shapes}")
        left = a.shape if a.rank > 1 else (1, *a.shape)
        right = b.shape if b.rank > 1 else (*b.shape, 1)
        sentence = "MatMul sums over an axis that depends on the batch size, which would mix images"
        require(forbid_batch(left[-1], sentence) == forbid_batch(right[-2], sentence), f"{shapes}: inner dimensions differ")
        rows = left[-2:-1] if a.rank > 1 else ()
        columns = right[-1:] if b.rank > 1 else ()
        return (result(dtype, (*broadcast(left[:-2], right[:-2]), *rows, *columns)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        a, b = inputs
        assert a is not None and b is not None
        return (np.asarray(np.matmul(widened(a), widened(b))).astype(a.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(macs=per_image(numel(outputs[0].shape)) * per_image(needed(inputs[0], "a").shape[-1]))
