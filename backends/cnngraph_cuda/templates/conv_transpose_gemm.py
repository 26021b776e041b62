"""Transposed convolution as one matrix product for each phase, by the kernel of ordinary convolutions.

Result pixels ``o = stride * j + r`` with the same remainder r form a phase. The terms ``stride * i + t - begin = o`` are
``i = j + (r + begin - t) / stride`` for those taps t that make it whole: a convolution of stride 1 over at most
``ceil(kernel / stride)`` taps, whose first source pixel is ``j + floor((r + begin - kernel + stride) / stride)``. No zero is inserted
and none multiplied, but where the stride does not divide the kernel: phases with fewer taps have zeros as weights.
(Shi et al., "Is the deconvolution layer the same as a convolutional layer?", 2016.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, per_image, product, round_up, static
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import ConvTranspose
from cnngraph_cuda.templates.common import cuda, pair
from cnngraph_cuda.templates.conv_plan import CODE, Problem, plan_product
from cnngraph_cuda.templates.conv_transpose import ConvTransposeGather

_MOST_PHASES = 1024


def axis_weights(weights: np.ndarray, axis: int, stride: int, begin: int) -> tuple[np.ndarray, int, int]:
    """Weights with the taps of ``axis`` regrouped as a new first axis of phases: (weights, pad, lead) as the kernel takes them."""
    kernel = weights.shape[axis]
    taps = ceil_div(kernel, stride)
    moved = np.moveaxis(weights, axis, 0)
    out = np.zeros((stride, taps, *moved.shape[1:]), weights.dtype)
    pad = ceil_div(kernel, stride)  # keeps the dividend of the floor from being negative
    for r in range(stride):
        first = (r + begin - kernel + stride) // stride
        for n in range(taps):
            t = r + begin - stride * (first + n)
            if 0 <= t < kernel:
                out[r, n] = moved[t]
    return np.moveaxis(out, 1, axis + 1), pad, begin - kernel + stride + stride * pad


def problem_of(node: Node) -> tuple[Problem, np.ndarray]:
    """A transposed convolution as the kernel's problem, and its weights ``[group, phase, output, channel, taps]`` in one first axis."""
    op, x, y = node.op, node.input(0).type, node.output.type
    data = node.input(1).data
    assert isinstance(op, ConvTranspose) and data is not None
    channels, outputs = data.shape[0] // op.group, data.shape[1]
    strides, begins, out = pair(op.strides, 1), pair(op.begins, 0), pair(op.out, 1)
    taps = pair(op.kernel, 1)
    weights = data.reshape(op.group, channels, outputs, *taps)
    weights, pad_w, lead_w = axis_weights(weights, 4, strides[1], begins[1])  # [pw, g, c, m, th, tw]
    weights, pad_h, lead_h = axis_weights(weights, 4, strides[0], begins[0])  # [ph, pw, g, c, m, th, tw]
    ordered = weights.transpose(2, 0, 1, 4, 3, 5, 6)
    grid = (ceil_div(out[0], strides[0]), ceil_div(out[1], strides[1]))
    kernel = (int(ordered.shape[5]), int(ordered.shape[6]))
    if product(strides) == 1:  # one phase: an ordinary convolution
        pad_h, pad_w, lead_h, lead_w = pad_h - lead_h, pad_w - lead_w, 0, 0
    problem = Problem(
        numel((y.shape[0], product(grid))), grid, pair(static(x.shape[2:]), 1), channels, outputs, op.group, kernel, (1, 1),
        (pad_h, pad_w, 0, 0), (1, 1), strides, (lead_h, lead_w),
    )  # fmt: skip
    return problem, np.ascontiguousarray(ordered).reshape(-1, channels, *kernel)


class ConvTransposeGemm(ConvTransposeGather):
    """ConvTranspose with constant weights as a matrix product for each phase."""

    name = "conv_transpose_gemm"
    code = CODE

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what :class:`ConvTransposeGather` refuses, dilation, and groups of channels that are not whole 16-byte pieces."""
        refusal = super().accepts(node, target)
        if refusal:
            return refusal
        op = node.op
        assert isinstance(op, ConvTranspose)
        if any(d > 1 for d in op.dilations):
            return "dilated taps"
        if product(op.strides) * op.group > _MOST_PHASES:
            return f"more than {_MOST_PHASES} phases"
        lanes, channels = cuda(target).lanes, static(node.input(1).type.shape)[0] // op.group
        if op.group > 1 and channels % lanes:
            return f"groups of {channels} channels are not whole vectors of {lanes}"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return super().layouts(node, target)

    def cost(self, node: Node, target: Target) -> float:
        """Below that of the kernel that gathers, but where most of the padded products are of zeros."""
        op = node.op
        assert isinstance(op, ConvTranspose)
        inputs, outputs = static(node.input(1).type.shape)[:2]
        work = per_image(numel((node.output.type.shape[0], product(op.out)))) * round_up(outputs, 32) * round_up(inputs, cuda(target).lanes)
        return 0.5 if work * product(op.kernel) >= 32 * 32 else 2.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Regroup the taps by phase, and choose a tile."""
        op = node.op
        assert isinstance(op, ConvTranspose)
        problem, weights = problem_of(node)
        return plan_product(self, node, op.epilogue, weights, problem, cuda(target))
