"""Transposed convolution, channels last: one thread gathers VL output channels of one output pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import numel, product, round_up, static
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import ConvTranspose
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    apply_epilogue,
    below,
    block_x,
    both,
    fma,
    load_floats,
    load_one,
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

VL = THREADS = 0


def conv_transpose(
    x: DataPointer, w: F32Pointer, b: F32Pointer, y: DataPointer, vectors: int, groups: int, plane: int, out_width: int, height: int,
    width: int, taps_h: int, taps_w: int, stride_h: int, stride_w: int, begin_h: int, begin_w: int, dilation_h: int, dilation_w: int,
    depth: int, group_outputs: int, group_channels: int, x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """Weights lie ``[tap][input channel of the group][output]``, ``depth`` outputs each."""
    v = registers(VL)
    weight = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // groups
        channel = (at - rest * groups) * VL
        image = rest // plane
        pixel = rest - image * plane
        row = pixel // out_width
        column = pixel - row * out_width
        source = channel // group_outputs * group_channels
        (*v,) = load_floats(b, channel)
        for r in range(taps_h):
            far_h = row + begin_h - r * dilation_h
            h = far_h // stride_h
            for s in range(taps_w):
                far_w = column + begin_w - s * dilation_w
                c = far_w // stride_w
                hits = both(far_h - h * stride_h == 0, far_w - c * stride_w == 0)
                if both(both(far_h >= 0, far_w >= 0), both(hits, both(below(h, height), below(c, width)))):
                    here = image * x_batch + (h * width + c) * x_pixel + source
                    there = (r * taps_w + s) * group_channels * depth + channel
                    for k in range(group_channels):
                        value = load_one(x, here + k)
                        (*weight,) = load_floats(w, there + k * depth)
                        for e in unroll(VL):
                            v[e] = fma(value, weight[e], v[e])
        apply_epilogue(v, image, pixel, channel)
        store_vector(y, image * y_batch + pixel * y_pixel + channel, *v)


class ConvTransposeGather:
    """ConvTranspose over one or two spatial axes."""

    name = "conv_transpose"
    reorders_arithmetic = False
    code = Code(conv_transpose, {}, "Transposed convolution, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses three spatial axes, run-time weights, and groups that split a vector of outputs."""
        op = node.op
        if not isinstance(op, ConvTranspose):
            return "not a transposed convolution"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if len(op.kernel) > 2:
            return "three spatial axes"
        refusal = refuse_weights(node)
        if refusal:
            return refusal
        lanes, outputs = cuda(target).lanes, static(node.input(1).type.shape)[1]
        if op.group > 1 and outputs % lanes:
            return f"groups of {outputs} output channels are not whole vectors of {lanes}"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return layer_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a vector of an output pixel."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, ConvTranspose)
        data = node.input(1).data
        assert data is not None
        lanes, threads = cuda(target).lanes, 128
        inputs, group_outputs = data.shape[:2]
        group_channels, outputs = inputs // op.group, group_outputs * op.group
        depth = round_up(outputs, lanes)
        taps = product(op.kernel)
        ordered = data.reshape(op.group, group_channels, group_outputs, taps).transpose(3, 1, 0, 2).reshape(taps, group_channels, outputs)
        packed = np.zeros((taps, group_channels, depth), np.float32)
        packed[:, :, :outputs] = ordered
        image, plane = pair(static(x.type.shape[2:]), 1), pair(op.out, 1)
        kernel, steps, begins, dilations = pair(op.kernel, 1), pair(op.strides, 1), pair(op.begins, 0), pair(op.dilations, 1)
        groups = depth // lanes
        units = numel((y.type.shape[0], plane[0] * plane[1], groups))
        numbers = {
            "groups": groups, "plane": plane[0] * plane[1], "out_width": plane[1], "height": image[0], "width": image[1],
            "taps_h": kernel[0], "taps_w": kernel[1], "stride_h": steps[0], "stride_w": steps[1], "begin_h": begins[0],
            "begin_w": begins[1], "dilation_h": dilations[0], "dilation_w": dilations[1], "depth": depth,
            "group_outputs": group_outputs, "group_channels": group_channels,
        }  # fmt: skip
        return layer_call(self, node, target, op.epilogue, Work(units, "vectors", threads, lanes), packed, depth, numbers)
