"""Element-wise operators on quantised 8-bit tensors, as onnxruntime defines them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import broadcast, result
from cnngraph.ops.expression import Expression
from cnngraph.ops.quantized import present, quantize, require_eight_bits, require_single, require_zero_point, single


def add_quantized(a: np.ndarray, b: np.ndarray, p: dict[str, Any], to: DType, bounds: tuple[int, int] | None = None) -> np.ndarray:
    """``saturate(rint(fma(a, ra, fma(b, rb, fixed))))`` with ``ra = a_scale / y_scale`` and so on, each step rounded to float32.

    ``p`` holds scales (float32) and zero points (float32) as ``a_scale``, ``a_zero``, ..., ``y_zero``.
    """
    ra, rb, fixed = add_parameters(p)
    inner: np.ndarray = (b.astype(np.float64) * np.float64(rb) + np.float64(fixed)).astype(np.float32)
    total = (a.astype(np.float64) * np.float64(ra) + inner.astype(np.float64)).astype(np.float32)
    low, high = bounds or to.range
    return np.clip(np.nan_to_num(np.rint(total.astype(np.float64))), low, high).astype(np.int64).astype(to.numpy)


def add_parameters(p: dict[str, Any]) -> tuple[np.float32, np.float32, np.float32]:
    """The two factors and the constant of :func:`add_quantized`."""
    ra, rb = np.float32(p["a_scale"] / p["y_scale"]), np.float32(p["b_scale"] / p["y_scale"])
    fixed = np.float32(p["y_zero"]) - np.float32(np.float32(ra * p["a_zero"]) + np.float32(rb * p["b_zero"]))
    return ra, rb, np.float32(fixed)


@dataclass(frozen=True)
class QLinearBinary(Op):
    """Addition or multiplication of quantised tensors: ``a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero -> y`` (broadcasting).

    Attributes:
        kind: "add" (see :func:`add_quantized`) or "mul" (the product of ``a - a_zero`` and ``b - b_zero`` times
            ``a_scale * b_scale / y_scale``, plus the zero point, then rounded).
        low, high: bounds of the result, for an activation before the quantisation; the type's own by default.
    """

    name: ClassVar[str] = "QLinearBinary"
    kind: str
    low: int = -128
    high: int = 255

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 8, f"QLinearBinary takes 8 inputs, got {len(inputs)}")
        require(self.kind in ("add", "mul"), f"unknown operation {self.kind!r}")
        a, b = needed(inputs[0], "a"), needed(inputs[3], "b")
        require_eight_bits(a, "a")
        require(a.dtype is b.dtype, f"a is {a.dtype.value}, b {b.dtype.value}")
        for i in (1, 4, 6):
            require_single(needed(inputs[i], "a scale"), "a scale")
        for i in (2, 5, 7):
            require_single(inputs[i], "a zero point")
            require_zero_point(inputs[i], a.dtype, "a")
        return (result(a.dtype, broadcast(a.shape, b.shape)),)

    def bounds(self, to: DType) -> tuple[int, int]:
        """Least and greatest result of the type ``to``."""
        low, high = to.range
        return max(low, self.low), min(high, self.high)

    def parameters(self, inputs: Sequence[np.ndarray | None]) -> dict[str, Any]:
        """Scales and zero points by name, as float32."""
        names = {1: "a_scale", 2: "a_zero", 4: "b_scale", 5: "b_zero", 6: "y_scale", 7: "y_zero"}
        return {name: single(inputs[i]).astype(np.float32) for i, name in names.items()}

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        a, b = present(inputs, 0), present(inputs, 3)
        p, to = self.parameters(inputs), DType.of(a)
        if self.kind == "add":
            return (add_quantized(a, b, p, to, self.bounds(to)),)
        product = (a.astype(np.int32) - p["a_zero"].astype(np.int32)) * (b.astype(np.int32) - p["b_zero"].astype(np.int32))
        factor = np.float32(p["a_scale"] * p["b_scale"]) / p["y_scale"]
        scaled = (product.astype(np.float32) * factor).astype(np.float32) + p["y_zero"]
        low, high = self.bounds(to)
        return (np.clip(np.nan_to_num(np.rint(scaled.astype(np.float64))), low, high).astype(np.int64).astype(to.numpy),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=4 * per_image(numel(outputs[0].shape)))


def _leaky(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x >= 0, x, np.float32(alpha) * x)


def _sigmoid(x: np.ndarray, alpha: float) -> np.ndarray:
    return (1.0 / (1.0 + np.exp(-np.clip(x.astype(np.float64), -80, 80)))).astype(np.float32)


LOOKUPS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "identity": lambda x, alpha: x,
    "sigmoid": _sigmoid,
    "leaky_relu": _leaky,
}
"""The functions of :class:`QLinearUnary`, from float32 to float32."""


def lookup_table(
    function: Callable[[np.ndarray], np.ndarray], x_scale: Any, x_zero: Any, y_scale: Any, y_zero: Any, dtype: DType, to: DType
) -> np.ndarray:
    """Results of the type ``to`` for the 256 numbers of ``dtype``, indexed by their bits as uint8."""
    numbers = np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.int32)
    wide = np.float32(x_scale) * (numbers - int(x_zero)).astype(np.float32)
    with np.errstate(all="ignore"):
        results = function(wide).astype(np.float32)
    return quantize(results, np.asarray(y_scale, np.float32), np.asarray(y_zero), to)


@dataclass(frozen=True)
class QLinearUnary(Op):
    """A function of each quantised number: ``x, x_scale, x_zero, y_scale, y_zero -> y``, by a table of 256 results.

    Attributes:
        kind: one of :data:`LOOKUPS`; "identity" requantises; "expression" applies ``expression`` to the dequantised numbers.
        alpha: slope of leaky_relu for negative numbers.
        expression: of one input.
        to: type of y, that of x by default.
    """

    name: ClassVar[str] = "QLinearUnary"
    kind: str
    alpha: float = 0.01
    expression: Expression | None = None
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 5, f"QLinearUnary takes 5 inputs, got {len(inputs)}")
        require(self.kind in LOOKUPS or (self.kind == "expression" and self.expression is not None), f"unknown function {self.kind!r}")
        x = needed(inputs[0], "x")
        require_eight_bits(x, "x")
        y = result(self.to or x.dtype, x.shape)
        require_eight_bits(y, "y")
        for i in (1, 3):
            require_single(needed(inputs[i], "a scale"), "a scale")
        for i, dtype, what in ((2, x.dtype, "x"), (4, y.dtype, "y")):
            require_single(inputs[i], "a zero point")
            require_zero_point(inputs[i], dtype, what)
        return (y,)

    def table(self, dtype: DType, parameters: tuple[np.ndarray | None, ...]) -> np.ndarray:
        """The 256 results for the inputs 1 to 4."""
        x_scale, x_zero, y_scale, y_zero = (single(p) for p in parameters)
        return lookup_table(self._function, x_scale, x_zero, y_scale, y_zero, dtype, self.to or dtype)

    def _function(self, x: np.ndarray) -> np.ndarray:
        if self.expression is not None:
            return self.expression.evaluate([x])
        return LOOKUPS[self.kind](x, self.alpha)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = present(inputs, 0)
        indices = np.ascontiguousarray(x).view(np.uint8).reshape(x.shape)
        return (self.table(DType.of(x), inputs[1:])[indices],)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)))


@dataclass(frozen=True)
class QTable(Op):
    """``x, table [256] -> y``: the entry of the table that each number's bits, as uint8, count out."""

    name: ClassVar[str] = "QTable"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"QTable takes 2 inputs, got {len(inputs)}")
        x, table = needed(inputs[0], "x"), needed(inputs[1], "table")
        require_eight_bits(x, "x")
        require_eight_bits(table, "table")
        require(table.shape == (256,), "a table has 256 entries")
        return (result(table.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = present(inputs, 0)
        return (present(inputs, 1)[np.ascontiguousarray(x).view(np.uint8).reshape(x.shape)],)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)))
