"""Convolution over 1 to 3 spatial axes, with bias and an element-wise epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import (
    MIXED,
    forbid_batch,
    in_result,
    mixed_dtype,
    require_broadcastable_to,
    require_window,
    result,
    show,
    taps,
    widened,
    window_extents,
)
from cnngraph.ops.elementwise import require_expression
from cnngraph.ops.expression import Expression


def require_epilogue(epilogue: Expression | None, operands: Sequence[TensorType], output: TensorType, to: DType | None = None) -> None:
    """Check an epilogue's extra operands: their number, dtype (with ``to`` they may mix), and that they broadcast to ``output``."""
    if epilogue is None:
        require(not operands, f"{len(operands)} operands but no epilogue that reads them")
        return
    require_expression(epilogue)
    require(epilogue.inputs == 1 + len(operands), f"the epilogue reads {epilogue.inputs - 1} operands, got {len(operands)}")
    for i, operand in enumerate(operands):
        require(
            operand.dtype == output.dtype or (to and operand.dtype in MIXED),
            f"epilogue operand {i} is {operand.dtype.value}, not {output.dtype.value}",
        )
        require_broadcastable_to(operand.shape, output.shape, f"epilogue operand {i}")


def apply_epilogue(epilogue: Expression | None, y: np.ndarray, operands: Sequence[np.ndarray | None]) -> np.ndarray:
    """``y`` after the epilogue, in the precision of ``y``."""
    if epilogue is None:
        return y
    extra = [widened(np.asarray(a)) for a in operands if a is not None]
    return np.array(np.broadcast_to(epilogue.evaluate([y, *extra]), y.shape))


@dataclass(frozen=True)
class Conv(Op):
    """ONNX Conv: ``x[N,C,*d], w[M,C/group,*kernel], b[M]|None, *operands -> y[N,M,*out]``.

    Attributes:
        kernel, strides, dilations: one integer for each of 1 to 3 spatial axes.
        pads: all begins, then all ends.
        group: number of independent channel groups.
        epilogue: expression whose input 0 is conv+bias and whose inputs 1.. are the operands, broadcast against y.
        to: type of the result, None for that of the operands; with it float32 and 16-bit floats may mix among these.

    The reference computes float16 and bfloat16 in float32, other floats in their own precision.
    """

    name: ClassVar[str] = "Conv"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1
    epilogue: Expression | None = None
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) >= 3, f"Conv takes x, weights, bias (or None) and operands, got {len(inputs)} inputs")
        x, w, b = needed(inputs[0], "x"), needed(inputs[1], "weights"), inputs[2]
        operands = [needed(t, f"operand {i}") for i, t in enumerate(inputs[3:])]
        dtype = mixed_dtype([x, w] if b is None else [x, w, b], self.to, "Conv")
        require(dtype.is_float, f"Conv computes floats, not {dtype.value}")
        require_window(x.rank, self.kernel, self.strides, self.pads, self.dilations)
        shapes = f"input {show(x.shape)}, weights {show(w.shape)}"
        channels = forbid_batch(x.shape[1], "Conv mixes the channels, which must not depend on the batch size")
        weights = static(w.shape)
        require(len(weights) == x.rank and weights[2:] == self.kernel, f"kernel {show(self.kernel)} does not suit {shapes}")
        require(self.group >= 1, f"group {self.group} must be at least 1")
        require(channels >= 1 and weights[0] >= 1, f"Conv without channels: {shapes}")
        require(weights[0] % self.group == 0 and channels % self.group == 0, f"group {self.group} does not divide the channels of {shapes}")
        require(weights[1] * self.group == channels, f"{shapes}, group {self.group}: the weights' channels times group differ from C")
        require(b is None or b.shape == (weights[0],), f"bias {show(b.shape) if b else ''} does not suit {shapes}")
        out = window_extents(static(x.shape[2:]), self.kernel, self.strides, self.pads, self.dilations)
        y = result(dtype, (x.shape[0], weights[0], *out))
        require_epilogue(self.epilogue, operands, y, self.to)
        return (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w, b = inputs[0], inputs[1], inputs[2]
        assert x is not None and w is not None
        wide, weights = widened(x), widened(w)
        n, c = wide.shape[:2]
        m, g, spatial = weights.shape[0], self.group, len(self.kernel)
        out = window_extents(wide.shape[2:], self.kernel, self.strides, self.pads, self.dilations)
        padded = np.pad(wide, [(0, 0), (0, 0), *zip(self.pads[:spatial], self.pads[spatial:], strict=True)])
        grouped = weights.reshape(g, m // g, c // g, product(self.kernel))
        y = np.zeros((n, g, m // g, product(out)), wide.dtype)
        for tap, (_, window) in enumerate(taps(self.kernel, self.strides, self.dilations, out)):
            y += grouped[:, :, :, tap] @ padded[:, :, *window].reshape(n, g, c // g, product(out))
        y = y.reshape(n, m, *out)
        if b is not None:
            y += widened(b).reshape(m, *[1] * spatial)
        return (in_result(apply_epilogue(self.epilogue, y, inputs[3:]), x, self.to),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        x = needed(inputs[0], "x")
        elements = per_image(numel(outputs[0].shape))
        macs = elements * (per_image(x.shape[1]) // self.group) * product(self.kernel)
        extra = (inputs[2] is not None) + (len(self.epilogue.instrs) if self.epilogue else 0)
        return Cost(macs=macs, flops=elements * extra)
