"""The scalar functions that expressions are made of, each with its plain NumPy meaning.

Adding an element-wise operator: a row here, its vector form in the backend's table of the same names, and an importer.
References keep the dtype of their array operands (integers included).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ScalarFunction:
    """Number of operands and of constant parameters, and the NumPy definition taking both in that order."""

    arity: int
    params: int
    reference: Callable[..., Any]


def _sigmoid(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x))).astype(x.dtype)


def _div(a: Any, b: Any) -> Any:
    if np.issubdtype(np.result_type(a, b), np.integer):
        with np.errstate(divide="ignore", over="ignore"):
            towards_zero = (a % b != 0) & ((a < 0) != (b < 0))
            return (a // b + towards_zero).astype(np.result_type(a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return call


def _clip(x: Any, lo: float, hi: float) -> Any:
    """min(max(x, lo), hi); NaN stays NaN. Bounds may be infinite (absent)."""
    if np.issubdtype(x.dtype, np.integer):
        info = np.iinfo(x.dtype)
        low = info.min if lo == -np.inf else int(lo)
        high = info.max if hi == np.inf else int(hi)
        return np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high))
    return np.minimum(np.maximum(x, x.dtype.type(lo)), x.dtype.type(hi))


def _softplus(x: Any) -> Any:
    return (np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))).astype(x.dtype)


def _pow(a: Any, b: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.power(a, b).astype(np.asarray(a).dtype)


def _f(x: Any, value: float) -> Any:
    return x.dtype.type(value)


def _zero(x: Any) -> Any:
    return x.dtype.type(0)


def _integral(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``function`` where the array is of floats; integers are integral already."""
    return lambda x: x if np.issubdtype(x.dtype, np.integer) else function(x)


def _erf(x: Any) -> Any:
    """erf; NumPy has none, and the standard library's is for one number."""
    values: Any = np.frompyfunc(math.erf, 1, 1)(np.asarray(x, np.float64))
    return np.asarray(values).astype(x.dtype)


def _celu(x: Any, alpha: float) -> Any:
    return np.where(x < 0, _f(x, alpha) * np.expm1(x / _f(x, alpha)), x)


def _shrink(x: Any, lambd: float, bias: float) -> Any:
    shrunk = np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0))
    return shrunk.astype(x.dtype)


FUNCTIONS: dict[str, ScalarFunction] = {
    "add": ScalarFunction(2, 0, lambda a, b: a + b),
    "sub": ScalarFunction(2, 0, lambda a, b: a - b),
    "mul": ScalarFunction(2, 0, lambda a, b: a * b),
    "div": ScalarFunction(2, 0, _div),
    "min": ScalarFunction(2, 0, np.minimum),
    "max": ScalarFunction(2, 0, np.maximum),
    "pow": ScalarFunction(2, 0, _pow),
    "prelu": ScalarFunction(2, 0, lambda x, slope: np.where(x < 0, x * slope, x)),
    "scale": ScalarFunction(1, 1, lambda x, factor: x * _f(x, factor)),
    "shift": ScalarFunction(1, 1, lambda x, offset: x + _f(x, offset)),
    "relu": ScalarFunction(1, 0, lambda x: np.maximum(x, x.dtype.type(0))),
    "leaky_relu": ScalarFunction(1, 1, lambda x, alpha: np.where(x < 0, x * _f(x, alpha), x)),
    "elu": ScalarFunction(1, 1, _quiet(lambda x, alpha: np.where(x < 0, _f(x, alpha) * np.expm1(x), x))),
    "selu": ScalarFunction(1, 2, _quiet(lambda x, alpha, gamma: _f(x, gamma) * np.where(x > 0, x, _f(x, alpha) * np.expm1(x)))),
    "sigmoid": ScalarFunction(1, 0, _sigmoid),
    "hard_sigmoid": ScalarFunction(1, 2, lambda x, alpha, beta: np.minimum(np.maximum(x * _f(x, alpha) + _f(x, beta), _f(x, 0)), _f(x, 1))),
    "hard_swish": ScalarFunction(1, 0, lambda x: x * np.minimum(np.maximum(x * _f(x, 1 / 6) + _f(x, 0.5), _f(x, 0)), _f(x, 1))),
    "tanh": ScalarFunction(1, 0, np.tanh),
    "softplus": ScalarFunction(1, 0, _softplus),
    "clip": ScalarFunction(1, 2, _clip),
    "sqrt": ScalarFunction(1, 0, _quiet(np.sqrt)),
    "exp": ScalarFunction(1, 0, _quiet(np.exp)),
    "log": ScalarFunction(1, 0, _quiet(np.log)),
    "abs": ScalarFunction(1, 0, np.abs),
    "neg": ScalarFunction(1, 0, np.negative),
    "reciprocal": ScalarFunction(1, 0, _quiet(lambda x: _f(x, 1) / x)),
    "sign": ScalarFunction(1, 0, np.sign),
    "floor": ScalarFunction(1, 0, _integral(np.floor)),
    "ceil": ScalarFunction(1, 0, _integral(np.ceil)),
    "round": ScalarFunction(1, 0, _integral(np.rint)),
    "sin": ScalarFunction(1, 0, _quiet(np.sin)),
    "cos": ScalarFunction(1, 0, _quiet(np.cos)),
    "tan": ScalarFunction(1, 0, _quiet(np.tan)),
    "asin": ScalarFunction(1, 0, _quiet(np.arcsin)),
    "acos": ScalarFunction(1, 0, _quiet(np.arccos)),
    "atan": ScalarFunction(1, 0, np.arctan),
    "sinh": ScalarFunction(1, 0, _quiet(np.sinh)),
    "cosh": ScalarFunction(1, 0, _quiet(np.cosh)),
    "asinh": ScalarFunction(1, 0, np.arcsinh),
    "acosh": ScalarFunction(1, 0, _quiet(np.arccosh)),
    "atanh": ScalarFunction(1, 0, _quiet(np.arctanh)),
    "erf": ScalarFunction(1, 0, _erf),
    "celu": ScalarFunction(1, 1, _quiet(_celu)),
    "thresholded_relu": ScalarFunction(1, 1, lambda x, alpha: np.where(x > _f(x, alpha), x, _zero(x))),
    "shrink": ScalarFunction(1, 2, _shrink),
    "where_less": ScalarFunction(4, 0, lambda a, b, x, y: np.where(a < b, x, y)),
    "where_less_equal": ScalarFunction(4, 0, lambda a, b, x, y: np.where(a <= b, x, y)),
    "where_equal": ScalarFunction(4, 0, lambda a, b, x, y: np.where(a == b, x, y)),
}
