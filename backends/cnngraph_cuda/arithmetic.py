"""What operations on numbers mean in the emulator, on NumPy arrays with one element a thread (see :mod:`cnngraph_cuda.emulate`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnngraph.kernels.specialize import VECTOR_NAMES
from cnngraph.ops.scalar import FUNCTIONS


def as_i32(x: Any) -> Any:
    """A number or array as int32; integers wrap around."""
    if isinstance(x, np.ndarray):
        return x if x.dtype == np.int32 else x.astype(np.int64).astype(np.int32) if x.dtype != np.bool_ else x.astype(np.int32)
    return ((int(x) + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def _select(condition: Any, a: Any, b: Any) -> Any:
    if isinstance(condition, (bool, np.bool_)):
        return a if condition else b
    is_float = any(isinstance(v, (float, np.floating)) or (isinstance(v, np.ndarray) and v.dtype.kind == "f") for v in (a, b))
    return np.where(condition, a, b).astype(np.float32 if is_float else np.int32)


def _below(a: Any, b: Any) -> Any:
    return (np.asarray(a) >= 0) & (np.asarray(a) < b)


def _divide(a: Any, b: Any) -> Any:
    if np.any(np.asarray(a) < 0) or np.any(np.asarray(b) <= 0):
        return as_i32(np.asarray(a, np.int64).astype(np.uint32) // np.maximum(np.asarray(b, np.int64), 1))
    return as_i32(a // b)


def _modulo(a: Any, b: Any) -> Any:
    return as_i32(np.asarray(a, np.int64) - np.asarray(_divide(a, b), np.int64) * np.asarray(b, np.int64))


def _round_tf32(x: Any) -> np.ndarray:
    """Nearest tf32, ties away from zero; infinities and NaN as they are."""
    bits = np.asarray(x, np.int32).view(np.uint32)
    special = (bits & 0x7F800000) == 0x7F800000
    return np.where(special, bits, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).astype(np.uint32).view(np.int32)


def _f32(x: Any) -> Any:
    return np.float32(x)


def _scalar(function: Callable[..., Any], operands: int) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        arrays = [np.asarray(a, np.float32) for a in args[:operands]]
        with np.errstate(all="ignore"):
            return np.asarray(function(*arrays, *args[operands:]), np.float32)

    return call


def _fma(a: Any, b: Any, c: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        return (np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)).astype(np.float32)


def _dot4(total: Any, *parts: Any) -> np.ndarray:
    for a, b in zip(parts[:4], parts[4:], strict=True):
        total = _fma(a, b, total)
    return np.asarray(total)


def _fma4(*values: Any) -> tuple[np.ndarray, ...]:
    return tuple(_fma(values[4], b, total) for total, b in zip(values[:4], values[5:], strict=True))


def _truncate(x: Any) -> np.ndarray:
    """float32 to int64, towards zero; out of range the nearest int64, NaN 0."""
    wide = np.trunc(np.nan_to_num(np.asarray(x, np.float64), nan=0.0, posinf=1e30, neginf=-1e30))
    least = np.iinfo(np.int64).min
    inside = (wide >= float(least)) & (wide < -float(least))
    return np.where(inside, np.where(inside, wide, 0).astype(np.int64), np.where(wide < 0, least, np.iinfo(np.int64).max))


def _shifted(function: Callable[..., Any], kind: type[Any], gone: Callable[[Any], Any]) -> Callable[..., Any]:
    def call(a: Any, b: Any) -> np.ndarray:
        count = np.asarray(b, np.int64).astype(np.uint64)
        a = np.asarray(a, np.int64).astype(kind)
        out = function(a, np.minimum(count, np.uint64(63)).astype(kind))
        return np.where(count > 63, gone(a), out).astype(np.int64)

    return call


def _long(function: Callable[..., Any], kind: type[Any] = np.int64) -> Callable[..., Any]:
    """A function of 64-bit integers, which wraps around."""

    def call(*args: Any) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.asarray(function(*(np.asarray(a, np.int64).astype(kind) for a in args))).astype(np.int64)

    return call


def _long_functions() -> dict[str, Any]:
    none: Callable[[Any], Any] = lambda a: a * 0  # noqa: E731
    unsigned = np.uint64
    quotient = FUNCTIONS["div"].reference
    return {
        "long_add": _long(np.add), "long_sub": _long(np.subtract), "long_mul": _long(np.multiply), "long_min": _long(np.minimum),
        "long_max": _long(np.maximum), "long_neg": _long(np.negative), "long_abs": _long(np.abs),
        "long_relu": _long(lambda x: np.maximum(x, 0)), "long_and": _long(np.bitwise_and), "long_or": _long(np.bitwise_or),
        "long_xor": _long(np.bitwise_xor), "long_not": _long(np.bitwise_not), "long_div": _long(quotient), "long_fmod": _long(np.fmod),
        "long_mod": _long(np.mod), "long_shift_left": _shifted(np.left_shift, np.int64, none),
        "long_shift_right": _shifted(np.right_shift, np.int64, lambda a: np.where(a < 0, -1, 0)),
        "ulong_min": _long(np.minimum, unsigned), "ulong_max": _long(np.maximum, unsigned),
        "ulong_div": _long(np.floor_divide, unsigned), "ulong_fmod": _long(np.fmod, unsigned), "ulong_mod": _long(np.mod, unsigned),
        "ulong_shift_right": _shifted(np.right_shift, unsigned, none),
        "ufloat_of_long": lambda x: np.asarray(x, np.int64).astype(np.uint64).astype(np.float32),
        "order_unsigned": lambda x: np.asarray(x, np.int64) ^ np.iinfo(np.int64).min, "float_of_long": lambda x: np.asarray(x, np.float32),
        "truncate": _truncate,
    }  # fmt: skip


def pure_functions() -> dict[str, Any]:
    """Operations that depend on nothing but their operands."""
    table: dict[str, Any] = _long_functions()
    for name, function in FUNCTIONS.items():
        table[VECTOR_NAMES.get(name, name)] = _scalar(function.reference, function.arity)
    table.update(
        i32=as_i32, f32=_f32, udiv=_divide, umod=_modulo, below=_below, both=lambda a, b: np.logical_and(a, b), select=_select,
        to_float=lambda x: np.asarray(x, np.float32), fma=_fma, dot4=_dot4, fma4=_fma4, round_tf32=_round_tf32,
        opaque=lambda x: x,
        as_float=lambda x: np.asarray(as_i32(x), np.int32).view(np.float32),
        as_bits=lambda x: np.asarray(x, np.float32).view(np.int32),
    )  # fmt: skip
    return table
