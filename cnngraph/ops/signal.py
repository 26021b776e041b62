"""Discrete Fourier transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import Dim, TensorType
from cnngraph.ops.base import Op, needed, require
from cnngraph.ops.common import forbid_batch, require_axis, result, show, widened


def _complex(x: np.ndarray) -> np.ndarray:
    """Complex numbers of x's own precision, at least single, of pairs or of single real numbers in the last axis."""
    wide = widened(x)
    y = np.zeros(x.shape[:-1], np.result_type(wide.dtype, np.complex64))
    y.real = wide[..., 0]
    if x.shape[-1] == 2:
        y.imag = wide[..., 1]
    return y


def _pairs(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.stack([x.real, x.imag], -1).astype(dtype)


@dataclass(frozen=True)
class DFT(Op):
    """ONNX DFT of ``x [..., 1 or 2]`` along ``axis`` (not the last), of ``length`` numbers: cut, or continued by zeros.

    Forward and ``onesided``: real input, the first length // 2 + 1 results. Inverse and ``onesided``: real output from those.

    """

    name: ClassVar[str] = "DFT"
    axis: int
    length: int
    inverse: bool = False
    onesided: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = needed(inputs[0], "x")
        require(x.dtype.is_float and x.rank >= 2 and x.shape[-1] in (1, 2), f"{x} has no last axis of 1 or 2 floats")
        require_axis(self.axis, x.rank - 1, "DFT")
        forbid_batch(x.shape[self.axis], "the transform runs over the batch axis, which would mix images")
        require(self.length >= 1, f"DFT length {self.length} is not positive")
        require(not self.onesided or self.inverse == (x.shape[-1] == 2), "a one-sided transform goes from real numbers, or back to them")
        shape: list[Dim] = list(x.shape)
        shape[self.axis] = self.length // 2 + 1 if self.onesided and not self.inverse else self.length
        shape[-1] = 1 if self.onesided and self.inverse else 2
        return (result(x.dtype, shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = inputs[0]
        assert x is not None
        if self.onesided and self.inverse:
            return (np.fft.irfft(_complex(x), self.length, self.axis)[..., None].astype(x.dtype),)
        transform = np.fft.ifft if self.inverse else np.fft.fft
        y = transform(_complex(x), self.length, self.axis)
        if self.onesided:
            y = np.take(y, np.arange(self.length // 2 + 1), self.axis)
        return (_pairs(y, x.dtype),)


@dataclass(frozen=True)
class STFT(Op):
    """ONNX STFT: ``signal [N, length, 1 or 2]`` and optionally ``window [frame]`` to ``[N, frames, bins, 2]``.

    Frames of ``frame`` numbers begin every ``step`` numbers.
    """

    name: ClassVar[str] = "STFT"
    frame: int
    step: int
    onesided: bool = True

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = needed(inputs[0], "signal")
        require(x.dtype.is_float and x.rank == 3 and x.shape[2] in (1, 2), f"the signal {x} is not [batch, length, 1 or 2]")
        length = forbid_batch(x.shape[1], "the signal's length must not be the batch size")
        require(self.step >= 1 and 1 <= self.frame <= length, f"frames of {self.frame} every {self.step} do not suit length {length}")
        require(not (self.onesided and x.shape[2] == 2), "the one-sided transform is of real signals")
        if len(inputs) > 1 and inputs[1] is not None:
            require(inputs[1].shape == (self.frame,), f"the window has shape {show(inputs[1].shape)}, not [{self.frame}]")
        bins = self.frame // 2 + 1 if self.onesided else self.frame
        return (result(x.dtype, (x.shape[0], (length - self.frame) // self.step + 1, bins, 2)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = inputs[0]
        assert x is not None
        frames = np.lib.stride_tricks.sliding_window_view(_complex(x), self.frame, axis=1)[:, :: self.step]
        if len(inputs) > 1 and inputs[1] is not None:
            frames = frames * widened(inputs[1])
        y = np.fft.fft(frames, axis=-1)
        return (_pairs(y[..., : self.frame // 2 + 1] if self.onesided else y, x.dtype),)
