"""Convolutions no other kernel takes (odd groups, three spatial axes): one thread has one output element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import numel, product, static
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import Conv
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    apply_epilogue,
    below,
    block_x,
    both,
    fma,
    load_float,
    load_one,
    registers,
    store_one,
    thread,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import (
    Work,
    layer_call,
    layer_layouts,
    refuse_types,
    refuse_weights,
)

VL = THREADS = 0


def conv_direct(
    x: DataPointer, w: F32Pointer, b: F32Pointer, y: DataPointer, elements: int, outputs: int, group_outputs: int, group_channels: int,
    plane: int, out_area: int, out_width: int, frames: int, height: int, width: int, taps_d: int, taps_h: int, taps_w: int,
    stride_d: int, stride_h: int, stride_w: int, pad_d: int, pad_h: int, pad_w: int, dilation_d: int, dilation_h: int, dilation_w: int,
    x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """Weights lie ``[tap][input channel of the group][output]``."""
    v = registers(1)
    at = block_x() * THREADS + thread()
    if at < elements:
        rest = at // outputs
        channel = at - rest * outputs
        image = rest // plane
        pixel = rest - image * plane
        frame = pixel // out_area
        row = (pixel - frame * out_area) // out_width
        column = pixel - frame * out_area - row * out_width
        source = channel // group_outputs * group_channels
        v[0] = load_float(b, channel)
        for t in range(taps_d):
            d = frame * stride_d - pad_d + t * dilation_d
            for r in range(taps_h):
                h = row * stride_h - pad_h + r * dilation_h
                for s in range(taps_w):
                    g = column * stride_w - pad_w + s * dilation_w
                    if both(below(d, frames), both(below(h, height), below(g, width))):
                        here = image * x_batch + ((d * height + h) * width + g) * x_pixel + source
                        there = ((t * taps_h + r) * taps_w + s) * group_channels * outputs + channel
                        for c in range(group_channels):
                            v[0] = fma(load_one(x, here + c), load_float(w, there + c * outputs), v[0])
        apply_epilogue(v, image, pixel, channel)
        store_one(y, image * y_batch + pixel * y_pixel + channel, v[0])


def triple(values: Sequence[int], lead: int) -> tuple[int, int, int]:
    """One to three numbers as three."""
    padded = (lead,) * (3 - len(values)) + tuple(values)
    return padded[0], padded[1], padded[2]


class ConvDirect:
    """Any convolution with constant weights."""

    name = "conv_direct"
    reorders_arithmetic = False
    code = Code(conv_direct, {}, "Convolution, one output element a thread.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses run-time weights."""
        if not isinstance(node.op, Conv):
            return "not a convolution"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        return refuse_weights(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return layer_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Above that of every other kernel."""
        return 1e15

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Conv)
        data = node.input(1).data
        assert data is not None
        outputs, group_channels = data.shape[:2]
        packed = np.ascontiguousarray(data.reshape(outputs, group_channels, -1).transpose(2, 1, 0).astype(np.float32))
        plane = triple(static(y.type.shape[2:]), 1)
        image = triple(static(x.type.shape[2:]), 1)
        spatial = len(op.kernel)
        units, threads = numel((y.type.shape[0], product(plane), outputs)), 128
        numbers: dict[str, int] = {
            "outputs": outputs, "group_outputs": outputs // op.group, "group_channels": group_channels, "plane": product(plane),
            "out_area": plane[1] * plane[2], "out_width": plane[2], "frames": image[0], "height": image[1], "width": image[2],
        }  # fmt: skip
        for name, values, lead in (
            ("taps", op.kernel, 1), ("stride", op.strides, 1), ("pad", op.pads[:spatial], 0), ("dilation", op.dilations, 1),
        ):  # fmt: skip
            numbers |= {f"{name}_{axis}": v for axis, v in zip("dhw", triple(values, lead), strict=True)}
        work = Work(units, "elements", threads, 1)
        return layer_call(self, node, target, op.epilogue, work, packed, outputs, numbers)
