"""Local response normalisation across channels (Krizhevsky et al. 2012) on plain tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import LRN
from cnngraph_cpu.language import F32Pointer, broadcast, exp, fma, load, load_partial, log, mul, splat, store, store_partial
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import only_f32

W = 0


def lrn(
    x: F32Pointer, y: F32Pointer, numbers: F32Pointer, images: int, x_batch: int, y_batch: int, channels: int, pixels: int,
    before: int, after: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``x * (bias + alpha/size * sum of squares)^-beta``; ``numbers`` is [alpha/size, bias, -beta]."""
    tasks = images * channels
    whole = pixels // W * W
    left = pixels - whole
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // channels
        c = task % channels
        first = max(0, c - before)
        stop = min(channels, c + after + 1)
        base = image * x_batch
        for p in range(0, whole, W):
            total = splat(0.0)
            for k in range(first, stop):
                value = load(x, base + k * pixels + p)
                total = fma(value, value, total)
            scaled = fma(total, broadcast(numbers, 0), broadcast(numbers, 1))
            factor = exp(mul(log(scaled), broadcast(numbers, 2)))
            store(y, image * y_batch + c * pixels + p, mul(load(x, base + c * pixels + p), factor))
        if left > 0:
            total = splat(0.0)
            for k in range(first, stop):
                value = load_partial(x, base + k * pixels + whole, left)
                total = fma(value, value, total)
            scaled = fma(total, broadcast(numbers, 0), broadcast(numbers, 1))
            factor = exp(mul(log(scaled), broadcast(numbers, 2)))
            store_partial(y, image * y_batch + c * pixels + whole, mul(load_partial(x, base + c * pixels + whole, left), factor), left)


class LrnPlain:
    """LRN."""

    name = "lrn"
    reorders_arithmetic = False
    code = Code(lrn, {}, "Local response normalisation across channels.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and a base that may not be positive."""
        if not isinstance(node.op, LRN):
            return "not LRN"
        if node.op.bias <= 0 or node.op.alpha < 0:
            return "the base of the power may not be positive"
        if not all(isinstance(d, int) and d > 0 for d in node.input(0).type.shape[1:]):
            return "an extent is zero or depends on the batch"
        return only_f32(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Squares and powers."""
        return 4.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an image and channel."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, LRN)
        numbers = np.array([op.alpha / op.size, op.bias, -op.beta], np.float32)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "numbers": Packed(numbers), "images": Extent(x.type.shape[0]),
            "x_batch": BatchStride(x), "y_batch": BatchStride(y), "channels": Extent(x.type.shape[1]),
            "pixels": Extent(numel(x.type.shape[2:])), "before": Extent((op.size - 1) // 2), "after": Extent(op.size // 2),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)
