"""DynamicQuantizeLinear in steps that kernels can share among threads: the range of parts, then scale and zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import result
from cnngraph.ops.quantized import present

PARTS = 32


@dataclass(frozen=True)
class RangeOfParts(Op):
    """``x float32 -> float32 [PARTS, 2]``: least and greatest number of each part of the tensor, 0 always among them.

    Which elements make a part is left open; only the least and the greatest of all parts have a meaning.
    """

    name: ClassVar[str] = "RangeOfParts"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"RangeOfParts takes 1 input, got {len(inputs)}")
        require(needed(inputs[0], "x").dtype is DType.F32, "RangeOfParts takes float32")
        return (result(DType.F32, (PARTS, 2)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = present(inputs, 0)
        low = min(0.0, float(x.min())) if x.size else 0.0
        high = max(0.0, float(x.max())) if x.size else 0.0
        return (np.tile(np.array([low, high], np.float32), (PARTS, 1)),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=2 * per_image(numel(needed(inputs[0], "x").shape)))


@dataclass(frozen=True)
class RangeParameters(Op):
    """``parts float32 [PARTS, 2] -> scale float32 [], zero_point uint8 []``, as ONNX's DynamicQuantizeLinear defines them."""

    name: ClassVar[str] = "RangeParameters"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"RangeParameters takes 1 input, got {len(inputs)}")
        require(needed(inputs[0], "parts").shape == (PARTS, 2), "RangeParameters takes the ranges of parts")
        return TensorType(DType.F32, ()), TensorType(DType.U8, ())

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        parts = present(inputs, 0).astype(np.float32)
        low, high = parts[:, 0].min(), parts[:, 1].max()
        scale = np.float32(1) if high == low else np.float32(high - low) / np.float32(255)
        with np.errstate(all="ignore"):
            zero = np.rint(np.clip(np.nan_to_num(np.float32(0) - low / scale), 0, 255)).astype(np.uint8)
        return np.array(scale, np.float32), np.array(zero, np.uint8)
