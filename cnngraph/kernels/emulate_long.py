"""What the int64 functions of the kernel language mean, in Python: see :mod:`cnngraph_cpu.simd_long`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cnngraph.ops.scalar import FUNCTIONS

_NAMES = ("add", "sub", "mul", "min", "max", "neg", "abs", "relu")
_LEAST = -(1 << 63)


def _wrapped(name: str) -> Callable[..., int]:
    def call(*operands: int) -> int:
        with np.errstate(over="ignore"):
            return int(FUNCTIONS[name].reference(*(np.array([x], np.int64) for x in operands))[0])

    return call


def _quotient(a: int, b: int) -> int:
    if b == 0:
        return 0
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return _LEAST if quotient == -_LEAST else quotient


def _truncated(x: Any) -> int:
    return math.trunc(float(x)) if -float(1 << 63) <= x < float(1 << 63) else _LEAST


def long_primitives() -> dict[str, Callable[..., Any]]:
    """The functions by their names in generated source."""
    halved = {"long_halved": lambda a, times: _quotient(a, 1 << times)}
    return {"truncated": _truncated, "long_div": _quotient, **halved, **{f"long_{name}": _wrapped(name) for name in _NAMES}}
