"""Local response normalisation across channels (Krizhevsky et al. 2012) on plain or blocked tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, ceil_div, numel, per_image
from cnngraph.kernels.template import (
    Argument,
    BatchStride,
    Extent,
    KernelCall,
    KernelSpec,
    LayoutRequest,
    Packed,
    Pointer,
    Scratch,
    Target,
)
from cnngraph.ops import LRN
from cnngraph_cpu.language import (
    F32Pointer,
    add,
    broadcast,
    exp,
    fma,
    load,
    load_partial,
    log,
    mul,
    put,
    splat,
    store,
    store_partial,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats

W = BLOCKED = 0
_GROUP = 16


def plain_pixels(image: int, c: int, first_pixel: int, stop_pixel: int) -> None:
    """One channel of a plain image: neighbouring pixels in the lanes."""
    first = max(0, c - before)
    stop = min(channels, c + after + 1)
    base = image * x_batch
    for p in range(first_pixel, stop_pixel, W):
        count = min(W, stop_pixel - p)
        total = splat(0.0)
        for k in range(first, stop):
            value = load_partial(x, base + k * pixels + p, count)
            total = fma(value, value, total)
        factor = exp(mul(log(fma(total, alpha, bias)), exponent))
        value = mul(load_partial(x, base + c * pixels + p, count), factor)
        store_partial(y, image * y_batch + c * pixels + p, value, count)


def blocked_pixels(image: int, first_pixel: int, stop_pixel: int) -> None:
    """All channels of some pixels: their squares go to scratch, zeros around, where a window is an unaligned load."""
    for p in range(first_pixel, stop_pixel):
        line = (p - first_pixel) * pitch
        for cb in range(blocks):
            value = load_partial(x, image * x_batch + (cb * pixels + p) * W, channels - cb * W)
            store(squares, line + before + cb * W, mul(value, value))
        for k in range(before):
            put(squares, line + k, 0.0)
        for k in range(before + blocks * W, pitch):
            put(squares, line + k, 0.0)
    for p in range(first_pixel, stop_pixel):
        line = (p - first_pixel) * pitch
        for cb in range(blocks):
            total = load(squares, line + cb * W)
            for k in range(1, before + after + 1):
                total = add(total, load(squares, line + cb * W + k))
            factor = exp(mul(log(fma(total, alpha, bias)), exponent))
            at = (cb * pixels + p) * W
            store(y, image * y_batch + at, mul(load(x, image * x_batch + at), factor))


def lrn(
    x: F32Pointer, y: F32Pointer, numbers: F32Pointer, squares: F32Pointer, images: int, x_batch: int, y_batch: int, channels: int,
    blocks: int, pixels: int, before: int, after: int, pitch: int, group: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``x * (bias + alpha/size * sum of squares)^-beta``; ``numbers`` is [alpha/size, bias, -beta]."""
    alpha = broadcast(numbers, 0)
    bias = broadcast(numbers, 1)
    exponent = broadcast(numbers, 2)
    groups = (pixels + group - 1) // group
    if BLOCKED:
        tasks = images * groups
        for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
            start_pixel = task % groups * group
            blocked_pixels(task // groups, start_pixel, min(start_pixel + group, pixels))
    else:
        tasks = images * channels
        for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
            plain_pixels(task // channels, task % channels, 0, pixels)


class LocalResponse:
    """LRN."""

    name = "lrn"
    reorders_arithmetic = False
    code = Code(lrn, {"plain_pixels": plain_pixels, "blocked_pixels": blocked_pixels}, "Local response normalisation across channels.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and a base that may not be positive."""
        if not isinstance(node.op, LRN):
            return "not LRN"
        if node.op.bias <= 0 or node.op.alpha < 0:
            return "the base of the power may not be positive"
        if not all(isinstance(d, int) and d > 0 for d in node.input(0).type.shape[1:]):
            return "an extent is zero or depends on the batch"
        return only_floats(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked if there are spatial axes, or plain."""
        plain, layout = LayoutRequest((PLAIN,), (PLAIN,)), blocked(target)
        if node.input(0).type.rank < 3:
            return [plain]
        return [LayoutRequest((layout,), (layout,)), plain]

    def cost(self, node: Node, target: Target) -> float:
        """Squares and powers."""
        return 4.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a channel of an image, or some pixels of it."""
        op, x, y = node.op, node.input(0), node.output
        channels = x.type.shape[1]
        assert isinstance(op, LRN)
        assert isinstance(channels, int)
        reach = min(op.size, 2 * channels + 1)  # a wider window sees every channel anyway
        before, after = (reach - 1) // 2, reach // 2
        if reach < op.size:
            before = after = channels
        is_blocked = not x.type.layout.plain
        blocks = ceil_div(channels, target.width)
        pitch = before + blocks * target.width + after
        constants = np.array([op.alpha / op.size, op.bias, -op.beta], np.float32)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "numbers": Packed(constants), "squares": Scratch(pitch * _GROUP * 4 if is_blocked else 4),
            "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x), "y_batch": BatchStride(y), "channels": Extent(channels),
            "blocks": Extent(blocks), "pixels": Extent(numel(x.type.shape[2:])), "before": Extent(before), "after": Extent(after),
            "pitch": Extent(pitch), "group": Extent(_GROUP),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, (("BLOCKED", int(is_blocked)),)), arguments)
