"""Conversions of element types: by value (ONNX Cast) and by bits (BitCast)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np

from cnngraph.ir.types import DType, TensorType
from cnngraph.ops.base import Op, needed, require
from cnngraph.ops.common import result

_SATURATING = (DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2, DType.F8E5M2FNUZ)
_E8M0_BIAS, _E8M0_GREATEST, _E8M0_NAN = 127, 254, 255
ROUND_MODES = ("up", "down", "nearest")


@dataclass(frozen=True)
class Cast(Op):
    """Convert elements to ``to`` as ONNX Cast does.

    Float to integer truncates (out of range is unspecified), integer to a smaller integer drops the higher bits, anything to bool is
    ``!= 0``, anything to a float type rounds to nearest even, once.

    Attributes:
        to: the type of the result.
        saturate: numbers beyond an 8-bit float type's range become its greatest, else infinity, or NaN if it has none.
        round_mode: up, down or nearest (ties up), for float8e8m0, whose numbers are the powers of 2 from -127 to 127.
    """

    name: ClassVar[str] = "Cast"
    to: DType
    saturate: bool = True
    round_mode: str = "up"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Cast takes 1 input, got {len(inputs)}")
        require(self.round_mode in ROUND_MODES, f"round_mode {self.round_mode!r} is none of {', '.join(ROUND_MODES)}")
        return (result(self.to, needed(inputs[0], "x").shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = inputs[0]
        assert x is not None
        with np.errstate(all="ignore"):
            if self.to is DType.F8E8M0:
                return (_to_power_of_two(x, self.saturate, self.round_mode),)
            if self.to.is_float and self.to.is_extension:
                return (self._to_narrow_float(x),)
            return (np.array(x.astype(self.to.numpy)),)

    def _to_narrow_float(self, x: np.ndarray) -> np.ndarray:
        exact = _to_odd_float32(x)
        if self.saturate and self.to in _SATURATING:
            greatest = np.float32(ml_dtypes.finfo(self.to.numpy).max)  # type: ignore[no-untyped-call]
            exact = np.clip(exact, -greatest, greatest)
        return np.array(exact.astype(self.to.numpy))


def _to_odd_float32(x: np.ndarray) -> np.ndarray:
    """As float32, what is inexact rounded to the neighbour with an odd last bit: rounding that again to fewer bits is as rounding once."""
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8:
        large = (x > (1 << 53)) | (x < -(1 << 53)) if x.dtype.kind == "i" else x > np.uint64(1 << 53)
        high = x >> x.dtype.type(11)
        sticky = (x != (high << x.dtype.type(11))).astype(x.dtype)
        x = np.where(large, (high | sticky).astype(np.float64) * 2048.0, x.astype(np.float64))
    elif x.dtype.kind in "iu":
        x = x.astype(np.float64)
    if x.dtype != np.float64:
        return x.astype(np.float32)
    near = np.asarray(x.astype(np.float32))
    toward_zero = np.where(np.abs(near.astype(np.float64)) > np.abs(x), np.nextafter(near, np.float32(0)), near)
    inexact = np.isfinite(x) & (toward_zero.astype(np.float64) != x)
    return (toward_zero.view(np.uint32) | inexact.astype(np.uint32)).view(np.float32)


def _to_power_of_two(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """The magnitude of ``x`` as float8e8m0. Below its range the least number stands if ``saturate``, else NaN; 0 likewise."""
    magnitude = np.abs(x.astype(np.float64))
    fraction, exponent = np.frexp(magnitude)  # magnitude == fraction * 2**exponent, fraction in [1/2, 1)
    up_from = {"up": np.nextafter(0.5, 1.0), "down": 1.0, "nearest": 0.75}[round_mode]
    code = exponent.astype(np.int64) - 1 + (fraction >= up_from) + _E8M0_BIAS
    code = np.where(magnitude == 0, -1, np.where(np.isinf(magnitude), _E8M0_GREATEST + 1, code))
    outside = (code < 0) | (code > _E8M0_GREATEST)
    code = np.clip(code, 0, _E8M0_GREATEST) if saturate else np.where(outside, _E8M0_NAN, code)
    bytes_ = np.where(np.isnan(magnitude), _E8M0_NAN, code).astype(np.uint8)
    return bytes_.view(DType.F8E8M0.numpy)


@dataclass(frozen=True)
class BitCast(Op):
    """The same bits read as ``to``, a type of as many bits. A byte read as bool is whether it is not 0."""

    name: ClassVar[str] = "BitCast"
    to: DType

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"BitCast takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.dtype.bits == self.to.bits, f"BitCast from {x.dtype.bits} to {self.to.bits} bits ({x.dtype.value} to {self.to.value})")
        return (result(self.to, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = inputs[0]
        assert x is not None
        if self.to is DType.BOOL:
            return (np.array(x.view(np.uint8) != 0),)
        return (np.array(np.ascontiguousarray(x).reshape(x.shape).view(self.to.numpy)),)
