"""Depthwise convolution, channels last: one thread has VL channels of TW neighbouring output pixels of one row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, product, round_up, static
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import Conv
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    apply_epilogue,
    below,
    block_x,
    fma,
    load_floats,
    load_vector,
    registers,
    store_vector,
    thread,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import (
    Work,
    cuda,
    layer_call,
    layer_layouts,
    pair,
    refuse_types,
    refuse_weights,
)

VL = TW = S = SW = DW = THREADS = 0
_MOST_TAPS = 7


def depthwise(
    x: DataPointer, w: F32Pointer, b: F32Pointer, y: DataPointer, vectors: int, groups: int, strips: int, out_height: int,
    out_width: int, taps_h: int, height: int, width: int, stride_h: int, pad_h: int, pad_w: int, dilation_h: int, depth: int,
    x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """Weights lie ``[tap row][tap][channel]``, ``depth`` channels each."""
    acc = registers(TW, VL)
    weight = registers(S, VL)
    value = registers(VL)
    bias = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // groups
        channel = (at - rest * groups) * VL
        rows = rest // strips
        first = (rest - rows * strips) * TW
        image = rows // out_height
        row = rows - image * out_height
        (*bias,) = load_floats(b, channel)
        for j in unroll(TW):
            for e in unroll(VL):
                acc[j, e] = bias[e]
        left = first * SW - pad_w
        for r in range(taps_h):
            h = row * stride_h - pad_h + r * dilation_h
            if below(h, height):
                for s in unroll(S):
                    (*weight[s],) = load_floats(w, (r * S + s) * depth + channel)
                for c in unroll((TW - 1) * SW + (S - 1) * DW + 1):
                    if below(left + c, width):
                        (*value,) = load_vector(x, image * x_batch + (h * width + left + c) * x_pixel + channel)
                        for j in unroll(TW):
                            for s in unroll(S):
                                if c == j * SW + s * DW:
                                    for e in unroll(VL):
                                        acc[j, e] = fma(value[e], weight[s, e], acc[j, e])
        for j in unroll(TW):
            if first + j < out_width:
                for e in unroll(VL):
                    value[e] = acc[j, e]
                apply_epilogue(value, image, row * out_width + first + j, channel)
                store_vector(y, image * y_batch + (row * out_width + first + j) * y_pixel + channel, *value)


class Depthwise:
    """Conv with as many groups as input and output channels."""

    name = "depthwise"
    reorders_arithmetic = False
    code = Code(depthwise, {}, "Depthwise convolution, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other groups, more than two axes, wide kernels, run-time weights."""
        op = node.op
        if not isinstance(op, Conv):
            return "not a convolution"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if not op.group == node.input(0).type.shape[1] == node.output.type.shape[1]:
            return "not one output channel for each input channel"
        if len(op.kernel) > 2 or op.kernel[-1] > _MOST_TAPS:
            return "three spatial axes or a wide kernel"
        return refuse_weights(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return layer_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Below that of every kernel for grouped convolutions."""
        return 0.5

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a strip of TW pixels."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Conv)
        data = node.input(1).data
        assert data is not None
        gpu, threads = cuda(target), 128
        channels = data.shape[0]
        depth = round_up(channels, gpu.lanes)
        kernel, strides, pads, dilations = (
            pair(op.kernel, 1),
            pair(op.strides, 1),
            pair(op.pads[: len(op.kernel)], 0),
            pair(op.dilations, 1),
        )
        image, plane = pair(static(x.type.shape[2:]), 1), pair(static(y.type.shape[2:]), 1)
        packed = np.zeros((product(kernel), depth), np.float32)
        packed[:, :channels] = data.reshape(channels, -1).T
        width = 2 if plane[1] > 1 and kernel[1] * gpu.lanes <= 40 else 1
        strips, groups = ceil_div(plane[1], width), depth // gpu.lanes
        units = numel((x.type.shape[0], plane[0], strips, groups))
        numbers = {
            "groups": groups, "strips": strips, "out_height": plane[0], "out_width": plane[1], "taps_h": kernel[0], "height": image[0],
            "width": image[1], "stride_h": strides[0], "pad_h": pads[0], "pad_w": pads[1], "dilation_h": dilations[0], "depth": depth,
        }  # fmt: skip
        constants = (("TW", width), ("S", kernel[1]), ("SW", strides[1]), ("DW", dilations[1]))
        work = Work(units, "vectors", threads, gpu.lanes)
        notes = (f"strips of {width} pixels",)
        return layer_call(self, node, target, op.epilogue, work, packed, depth, numbers, constants, notes)
