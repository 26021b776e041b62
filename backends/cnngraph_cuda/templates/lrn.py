"""Local response normalisation across channels, channels last: one thread has one element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Target
from cnngraph.ops import LRN
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    below,
    block_x,
    div,
    fma,
    load_float,
    load_one,
    power,
    store_one,
    thread,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, reading, refuse_types, tensors, writing
from cnngraph_cuda.templates.relayout import split

THREADS = 0


def lrn(
    x: DataPointer, y: DataPointer, settings: F32Pointer, elements: int, channels: int, plane: int, before: int, size: int, x_batch: int,
    x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """``y = x / (bias + alpha * sum of squares) ** beta``; settings are alpha, beta, bias."""
    at = block_x() * THREADS + thread()
    if at < elements:
        rest = at // channels
        channel = at - rest * channels
        image = rest // plane
        pixel = rest - image * plane
        here = image * x_batch + pixel * x_pixel
        total = 0.0
        for i in range(size):
            other = channel - before + i
            if below(other, channels):
                value = load_one(x, here + other)
                total = fma(value, value, total)
        scale = power(fma(load_float(settings, 0), total, load_float(settings, 2)), load_float(settings, 1))
        store_one(y, image * y_batch + pixel * y_pixel + channel, div(load_one(x, here + channel), scale))


class LocalResponse:
    """LRN."""

    name = "lrn"
    reorders_arithmetic = False
    code = Code(lrn, {}, "Local response normalisation, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Takes every LRN."""
        return refuse_types(node, target) if isinstance(node.op, LRN) else "not a local response normalisation"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return [LayoutRequest((reading(node.input(0)),), (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, LRN)
        images, channels, plane = split(y.type)
        units, threads = numel((images, plane, channels)), 256
        settings = np.array([op.alpha / op.size, op.beta, op.bias], np.float32)
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), **tensors(x, y), "settings": Packed(settings),
            "elements": Extent(units), "channels": Extent(channels), "plane": Extent(plane), "before": Extent((op.size - 1) // 2),
            "size": Extent(op.size),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads)
