"""Depthwise correlation with filters that are computed at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import TensorType, numel, per_image, product, static
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import forbid_batch, require_window, result, same_dtype, show, taps, widened, window_extents


@dataclass(frozen=True)
class Correlate(Op):
    """``x[N,C,*d], w[1,C,*kernel] -> y[N,C,*out]``: each channel is correlated with a filter of its own, the same for all images.

    The filters have their channels on the axis of the images' channels, so that both can have one blocked layout: a depthwise kernel
    then reads computed filters as it reads packed ones. Made by the pass ``lower_computed_filters`` only.

    Attributes:
        kernel, strides, dilations: one integer for each of 1 to 3 spatial axes.
        pads: all begins, then all ends.
    """

    name: ClassVar[str] = "Correlate"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"Correlate takes x and filters, got {len(inputs)} inputs")
        x, w = needed(inputs[0], "x"), needed(inputs[1], "filters")
        dtype = same_dtype([x, w], "Correlate")
        require(dtype.is_float, f"Correlate computes floats, not {dtype.value}")
        require_window(x.rank, self.kernel, self.strides, self.pads, self.dilations)
        channels = forbid_batch(x.shape[1], "filters by channel, which must not depend on the batch size")
        require(w.shape == (1, channels, *self.kernel), f"filters {show(w.shape)} do not suit {show(x.shape)}")
        out = window_extents(static(x.shape[2:]), self.kernel, self.strides, self.pads, self.dilations)
        return (result(dtype, (x.shape[0], channels, *out)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, w = inputs
        assert x is not None and w is not None
        wide, filters, spatial = widened(x), widened(w), len(self.kernel)
        out = window_extents(wide.shape[2:], self.kernel, self.strides, self.pads, self.dilations)
        padded = np.pad(wide, [(0, 0), (0, 0), *zip(self.pads[:spatial], self.pads[spatial:], strict=True)])
        y = np.zeros((*wide.shape[:2], *out), wide.dtype)
        by_tap = filters.reshape(wide.shape[1], *[1] * spatial, product(self.kernel))
        for tap, (_, window) in enumerate(taps(self.kernel, self.strides, self.dilations, out)):
            y += padded[:, :, *window] * by_tap[..., tap]
        return (y.astype(x.dtype),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(macs=per_image(numel(outputs[0].shape)) * product(self.kernel))
