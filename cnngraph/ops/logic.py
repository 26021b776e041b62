"""Comparisons, truth values, bits, remainders and selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import broadcast, result, same_dtype, show, widened

PREDICATES: dict[str, tuple[int, Callable[..., Any]]] = {
    "equal": (2, np.equal),
    "less": (2, np.less),
    "less_equal": (2, np.less_equal),
    "greater": (2, np.greater),
    "greater_equal": (2, np.greater_equal),
    "and": (2, np.logical_and),
    "or": (2, np.logical_or),
    "xor": (2, np.logical_xor),
    "not": (1, np.logical_not),
    "is_nan": (1, np.isnan),
    "is_inf": (1, np.isinf),
    "is_positive_inf": (1, np.isposinf),
    "is_negative_inf": (1, np.isneginf),
    "never": (1, lambda x: np.zeros(x.shape, bool)),
}
"""Functions to bool: number of operands, NumPy's definition."""


def _shift_left(x: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count < 8 * x.itemsize, np.left_shift(x, np.minimum(count, x.dtype.type(8 * x.itemsize - 1))), x.dtype.type(0))


def _shift_right(x: np.ndarray, count: np.ndarray) -> np.ndarray:
    gone = np.where(x < 0, -1, 0).astype(x.dtype)  # arithmetic for signed numbers; of x's type, because uint64 with int64 makes float64
    return np.where(count < 8 * x.itemsize, np.right_shift(x, np.minimum(count, x.dtype.type(8 * x.itemsize - 1))), gone)


BINARY: dict[str, tuple[int, Callable[..., Any]]] = {
    "bit_and": (2, np.bitwise_and),
    "bit_or": (2, np.bitwise_or),
    "bit_xor": (2, np.bitwise_xor),
    "bit_not": (1, np.bitwise_not),
    "shift_left": (2, _shift_left),
    "shift_right": (2, _shift_right),
    "mod": (2, np.mod),
    "fmod": (2, np.fmod),
}
"""Functions to the operands' own type; ``mod`` has the sign of the divisor, ``fmod`` that of the dividend."""


@dataclass(frozen=True)
class Predicate(Op):
    """A function of :data:`PREDICATES` on broadcastable tensors of one dtype; the result is bool."""

    name: ClassVar[str] = "Predicate"
    function: str

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        return (result(DType.BOOL, _shape(self.function, PREDICATES, inputs)[1]),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        arrays = [widened(np.asarray(a)) for a in inputs]
        return (np.asarray(PREDICATES[self.function][1](*arrays), bool),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class Bits(Op):
    """A function of :data:`BINARY` on broadcastable tensors of one dtype, which is the result's too.

    Only ``mod`` and ``fmod`` take floats. Integers divided by 0 give 0.
    """

    name: ClassVar[str] = "Bits"
    function: str

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        dtype, shape = _shape(self.function, BINARY, inputs)
        require(not dtype.is_float or self.function in ("mod", "fmod"), f"{self.function} of {dtype.value} does not exist")
        require(dtype is not DType.BOOL, f"{self.function} of truth values does not exist")
        return (result(dtype, shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        arrays = [np.asarray(a) for a in inputs]
        with np.errstate(all="ignore"):
            y = BINARY[self.function][1](*map(widened, arrays))
        return (np.asarray(y).astype(arrays[0].dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class Where(Op):
    """``x`` where the bool ``condition`` holds, else ``y``; the three broadcast."""

    name: ClassVar[str] = "Where"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"Where takes 3 inputs, got {len(inputs)}")
        condition, x, y = (needed(t, what) for t, what in zip(inputs, ("condition", "x", "y"), strict=True))
        require(condition.dtype is DType.BOOL, f"the condition is {condition.dtype.value}, not bool")
        return (result(same_dtype([x, y], "Where"), broadcast(condition.shape, x.shape, y.shape)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        condition, x, y = (np.asarray(a) for a in inputs)
        return (np.asarray(np.where(condition, x, y), x.dtype),)


def _shape(function: str, table: dict[str, tuple[int, Any]], inputs: tuple[TensorType | None, ...]) -> tuple[DType, tuple[Any, ...]]:
    require(function in table, f"unknown function {function!r}")
    types = [needed(t, str(i)) for i, t in enumerate(inputs)]
    require(
        len(types) == table[function][0], f"{function} takes {table[function][0]} operands, got {' '.join(show(t.shape) for t in types)}"
    )
    return same_dtype(types, function), broadcast(*(t.shape for t in types))
