"""Convolutions no other kernel takes (odd groups, three spatial axes, computed weights): one thread has one output element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, numel, product, static
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import Conv, ConvTranspose
from cnngraph_cuda.language import (
    DataPointer,
    Operand0,
    Operand1,
    apply_epilogue,
    below,
    block_x,
    both,
    fma,
    load_one,
    load_operand,
    registers,
    store_one,
    thread,
)
from cnngraph_cuda.source import F32, Code
from cnngraph_cuda.templates.common import (
    Work,
    data_type,
    layer_call,
    layer_layouts,
    refuse_epilogue,
    refuse_types,
)

VL = THREADS = 0


def pixel_place() -> None:
    """``frame``, ``row`` and ``column`` of the output's ``pixel``."""
    frame = pixel // out_area
    row = (pixel - frame * out_area) // out_width
    column = pixel - frame * out_area - row * out_width


def output_place() -> None:
    """``image``, ``pixel`` and ``channel`` of output element ``at``, and the pixel's place."""
    rest = at // outputs
    channel = at - rest * outputs
    image = rest // plane
    pixel = rest - image * plane
    pixel_place()


def conv_direct(
    x: DataPointer, w: Operand0, b: Operand1, y: DataPointer, elements: int, outputs: int, group_outputs: int, group_channels: int,
    plane: int, out_area: int, out_width: int, frames: int, height: int, width: int, taps_d: int, taps_h: int, taps_w: int,
    stride_d: int, stride_h: int, stride_w: int, pad_d: int, pad_h: int, pad_w: int, dilation_d: int, dilation_h: int, dilation_w: int,
    w_tap: int, w_channel: int, w_output: int, x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """``w_tap``, ``w_channel`` and ``w_output`` are the steps from weight to weight."""
    v = registers(1)
    at = block_x() * THREADS + thread()
    if at < elements:
        output_place()
        source = channel // group_outputs * group_channels
        v[0] = load_operand(1, b, channel)
        for t in range(taps_d):
            d = frame * stride_d - pad_d + t * dilation_d
            for r in range(taps_h):
                h = row * stride_h - pad_h + r * dilation_h
                for s in range(taps_w):
                    g = column * stride_w - pad_w + s * dilation_w
                    if both(below(d, frames), both(below(h, height), below(g, width))):
                        here = image * x_batch + ((d * height + h) * width + g) * x_pixel + source
                        there = ((t * taps_h + r) * taps_w + s) * w_tap + channel * w_output
                        for c in range(group_channels):
                            v[0] = fma(load_one(x, here + c), load_operand(0, w, there + c * w_channel), v[0])
        apply_epilogue(v, image, pixel, channel)
        store_one(y, image * y_batch + pixel * y_pixel + channel, v[0])


PLACE_HELPERS = {"output_place": output_place, "pixel_place": pixel_place}


def triple(values: Sequence[int], lead: int) -> tuple[int, int, int]:
    """One to three numbers as three."""
    padded = (lead,) * (3 - len(values)) + tuple(values)
    return padded[0], padded[1], padded[2]


def by_axis(name: str, values: Sequence[int], lead: int) -> dict[str, int]:
    """Arguments ``name_d``, ``name_h`` and ``name_w``."""
    return {f"{name}_{axis}": value for axis, value in zip("dhw", triple(values, lead), strict=True)}


def layer_numbers(node: Node, op: Conv | ConvTranspose, outputs: int, group_channels: int) -> dict[str, int]:
    """The extents that kernels of one output element a thread are given: all but the padding, the steps between weights and pixels."""
    plane, image = triple(static(node.output.type.shape[2:]), 1), triple(static(node.input(0).type.shape[2:]), 1)
    return {
        "outputs": outputs, "group_outputs": outputs // op.group, "group_channels": group_channels, "plane": product(plane),
        "out_area": plane[1] * plane[2], "out_width": plane[2], "frames": image[0], "height": image[1], "width": image[2],
        **by_axis("taps", op.kernel, 1), **by_axis("stride", op.strides, 1), **by_axis("dilation", op.dilations, 1),
    }  # fmt: skip


def one_thread_an_element(node: Node) -> Work:
    """The launch of such a kernel."""
    return Work(numel(node.output.type.shape), "elements", 128, 1)


def bias_type(bias: Value | None) -> int:
    """The type of the bias in memory: that of the data where it is computed at run time."""
    return F32 if bias is None or bias.is_constant else data_type(bias.type.dtype)


class ConvDirect:
    """Any convolution."""

    name = "conv_direct"
    reorders_arithmetic = False
    code = Code(conv_direct, PLACE_HELPERS, "Convolution, one output element a thread.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses epilogue operands that no kernel loads."""
        if not isinstance(node.op, Conv):
            return "not a convolution"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        return refuse_epilogue(node.inputs[3:], node.output.type)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last; computed weights row-major."""
        (request,) = layer_layouts(node)
        weights = tuple(PLAIN if v is not None and not v.is_constant else None for v in node.inputs[1:3])
        return [LayoutRequest((request.inputs[0], *weights, *request.inputs[3:]), request.outputs)]

    def cost(self, node: Node, target: Target) -> float:
        """Above that of every other kernel."""
        return 1e15

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op = node.op
        assert isinstance(op, Conv)
        weights, bias = node.input(1), node.inputs[2]
        outputs, group_channels = static(weights.type.shape[:2])
        data: np.ndarray | Value = weights
        steps = {"w_tap": 1, "w_channel": product(op.kernel), "w_output": group_channels * product(op.kernel)}
        if weights.data is not None:
            data = np.ascontiguousarray(weights.data.reshape(outputs, group_channels, -1).transpose(2, 1, 0).astype(np.float32))
            steps = {"w_tap": group_channels * outputs, "w_channel": outputs, "w_output": 1}
        numbers = layer_numbers(node, op, outputs, group_channels)
        numbers |= {**steps, **by_axis("pad", op.pads[: len(op.kernel)], 0)}
        kinds = (("T0", F32 if weights.is_constant else data_type(weights.type.dtype)), ("T1", bias_type(bias)))
        return layer_call(self, node, target, op.epilogue, one_thread_an_element(node), data, outputs, numbers, kinds)
