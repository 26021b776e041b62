"""Transposed convolution over 1 to 3 spatial axes, with bias and an element-wise epilogue."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as tuples
from typing import Any, ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, in_result, mixed_dtype, result, show, widened
from cnngraph.ops.conv import apply_epilogue, require_epilogue
from cnngraph.ops.expression import Expression


@dataclass(frozen=True)
class ConvTranspose(Op):
    """ONNX ConvTranspose: ``x[N,C,*d], w[C,M/group,*kernel], b[M]|None, *operands -> y[N,M,*out]``.

    ``y[n,m,o] = b[m] + sum over c, i, t with stride*i + dilation*t - begin = o of x[n,c,i] * w[c,m,t]``: every input pixel adds
    its multiple of the kernel to the result, which is the transpose of the matrix of a Conv with the same attributes
    (Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4). Pixels of the result
    that no input pixel reaches hold the bias.

    Attributes:
        kernel, strides, dilations: one integer for each of 1 to 3 spatial axes.
        begins: pixels cut off the beginning of the result along each spatial axis.
        out: spatial extents of the result; what the pads at the ends, output_padding and output_shape of ONNX amount to.
        group: number of independent channel groups.
        epilogue: as in :class:`~cnngraph.ops.conv.Conv`; its input 0 is the convolution with bias.
        to: as in :class:`~cnngraph.ops.conv.Conv`.

    The reference computes float16 and bfloat16 in float32, other floats in their own precision.
    """

    name: ClassVar[str] = "ConvTranspose"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begins: tuple[int, ...]
    dilations: tuple[int, ...]
    out: tuple[int, ...]
    group: int = 1
    epilogue: Expression | None = None
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) >= 3, f"ConvTranspose takes x, weights, bias (or None) and operands, got {len(inputs)} inputs")
        x, w, b = needed(inputs[0], "x"), needed(inputs[1], "weights"), inputs[2]
        operands = [needed(t, f"operand {i}") for i, t in enumerate(inputs[3:])]
        dtype = mixed_dtype([x, w] if b is None else [x, w, b], self.to, "ConvTranspose")
        require(dtype.is_float, f"ConvTranspose computes floats, not {dtype.value}")
        spatial = len(self.kernel)
        require(1 <= spatial <= 3, f"kernel {show(self.kernel)} has {spatial} spatial axes, not 1 to 3")
        require(x.rank == spatial + 2, f"input of rank {x.rank} does not suit a kernel of {spatial} spatial axes")
        for what, values, least in (
            ("kernel", self.kernel, 1), ("strides", self.strides, 1), ("dilations", self.dilations, 1), ("pads", self.begins, 0),
            ("output shape", self.out, 1),
        ):  # fmt: skip
            require(len(values) == spatial, f"{what} {values} do not suit a kernel of {spatial} spatial axes")
            require(all(v >= least for v in values), f"{what} {values} must be at least {least}")
        shapes = f"input {show(x.shape)}, weights {show(w.shape)}"
        channels = forbid_batch(x.shape[1], "ConvTranspose mixes the channels, which must not depend on the batch size")
        static(x.shape[2:])
        weights = static(w.shape)
        require(len(weights) == x.rank and weights[2:] == self.kernel, f"kernel {show(self.kernel)} does not suit {shapes}")
        require(self.group >= 1, f"group {self.group} must be at least 1")
        require(channels >= 1 and weights[1] >= 1, f"ConvTranspose without channels: {shapes}")
        require(weights[0] == channels, f"{shapes}: the weights' first axis differs from C")
        require(channels % self.group == 0, f"group {self.group} does not divide the channels of {shapes}")
        outputs = weights[1] * self.group
        require(b is None or b.shape == (outputs,), f"bias {show(b.shape) if b else ''} does not suit {shapes}, group {self.group}")
        y = result(dtype, (x.shape[0], outputs, *self.out))
        require_epilogue(self.epilogue, operands, y, self.to)
        return (y,)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w, b = inputs[0], inputs[1], inputs[2]
        assert x is not None and w is not None
        wide, weights = widened(x), widened(w)
        (n, c), size, g = wide.shape[:2], wide.shape[2:], self.group
        m, spatial = weights.shape[1], len(self.kernel)
        per_axis = list(zip(self.strides, self.dilations, self.begins, self.out, size, strict=True))
        pixels = wide.reshape(n, g, c // g, product(size))
        grouped = weights.reshape(g, c // g, m, *self.kernel)
        y = np.zeros((n, g * m, *self.out), wide.dtype)
        for tap in tuples(*(range(k) for k in self.kernel)):
            # the input pixels of each axis whose multiple of this tap falls inside the result, and where
            ranges = [_inside(s, d * t - begin, o, extent) for t, (s, d, begin, o, extent) in zip(tap, per_axis, strict=True)]
            if any(stop <= first for first, stop, _ in ranges):
                continue
            at_tap: Any = (slice(None), slice(None), slice(None), *tap)
            spread = (grouped[at_tap].transpose(0, 2, 1) @ pixels).reshape(n, g * m, *size)
            source = tuple(slice(first, stop) for first, stop, _ in ranges)
            place = tuple(slice(at, at + (stop - first - 1) * s + 1, s) for (first, stop, at), s in zip(ranges, self.strides, strict=True))
            y[(slice(None), slice(None), *place)] += spread[(slice(None), slice(None), *source)]
        if b is not None:
            y += widened(b).reshape(g * m, *[1] * spatial)
        return (in_result(apply_epilogue(self.epilogue, y, inputs[3:]), x, self.to),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        x = needed(inputs[0], "x")
        elements, channels = per_image(numel(outputs[0].shape)), per_image(outputs[0].shape[1])
        macs = per_image(numel(x.shape)) * (channels // self.group) * product(self.kernel)
        extra = (inputs[2] is not None) + (len(self.epilogue.instrs) if self.epilogue else 0)
        return Cost(macs=macs, flops=elements * extra)


def _inside(stride: int, shift: int, out: int, extent: int) -> tuple[int, int, int]:
    """First and last+1 of the i in [0, extent) with ``0 <= stride*i + shift < out``, and the place of the first in the result."""
    first = max(0, -(shift // stride))
    stop = min(extent, (out - 1 - shift) // stride + 1)
    return first, stop, stride * first + shift
