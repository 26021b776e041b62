"""Transposed convolutions no other kernel takes (three spatial axes, odd groups, computed weights): one thread has one output element."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, static
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import ConvTranspose
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
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import data_type, layer_call, layer_layouts, refuse_epilogue, refuse_types
from cnngraph_cuda.templates.conv_direct import PLACE_HELPERS, bias_type, by_axis, layer_numbers, one_thread_an_element, output_place

VL = THREADS = 0


def reach(extent: int, stride: int) -> None:
    """``from_`` is the input position whose tap falls on ``far``, or one outside."""
    from_ = 0 - 1
    if far >= 0:
        from_ = far // stride
        if far - from_ * stride > 0:
            from_ = 0 - 1
    if from_ >= extent:
        from_ = 0 - 1


def conv_transpose_direct(
    x: DataPointer, w: Operand0, b: Operand1, y: DataPointer, elements: int, outputs: int, group_outputs: int, group_channels: int,
    plane: int, out_area: int, out_width: int, frames: int, height: int, width: int, taps_d: int, taps_h: int, taps_w: int,
    stride_d: int, stride_h: int, stride_w: int, begin_d: int, begin_h: int, begin_w: int, dilation_d: int, dilation_h: int,
    dilation_w: int, x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """Weights lie ``[input channel][output channel of the group][tap]``, as ONNX has them."""
    v = registers(1)
    at = block_x() * THREADS + thread()
    if at < elements:
        output_place()
        group = channel // group_outputs
        source = group * group_channels
        own = channel - group * group_outputs
        taps = taps_d * taps_h * taps_w
        v[0] = load_operand(1, b, channel)
        for t in range(taps_d):
            far = frame + begin_d - t * dilation_d
            reach(frames, stride_d)
            d = from_
            for r in range(taps_h):
                far = row + begin_h - r * dilation_h
                reach(height, stride_h)
                h = from_
                for s in range(taps_w):
                    far = column + begin_w - s * dilation_w
                    reach(width, stride_w)
                    if both(below(d, frames), both(below(h, height), below(from_, width))):
                        here = image * x_batch + ((d * height + h) * width + from_) * x_pixel + source
                        there = (source * group_outputs + own) * taps + (t * taps_h + r) * taps_w + s
                        for c in range(group_channels):
                            v[0] = fma(load_one(x, here + c), load_operand(0, w, there + c * group_outputs * taps), v[0])
        apply_epilogue(v, image, pixel, channel)
        store_one(y, image * y_batch + pixel * y_pixel + channel, v[0])


class ConvTransposeDirect:
    """Any ConvTranspose."""

    name = "conv_transpose_direct"
    reorders_arithmetic = False
    code = Code(conv_transpose_direct, {**PLACE_HELPERS, "reach": reach}, "Transposed convolution, one output element a thread.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, and epilogue operands that no kernel loads."""
        if not isinstance(node.op, ConvTranspose):
            return "not a transposed convolution"
        return refuse_types(node, target) or refuse_epilogue(node.inputs[3:], node.output.type)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last; weights row-major."""
        (request,) = layer_layouts(node)
        return [
            LayoutRequest(
                (request.inputs[0], *(None if v is None else PLAIN for v in node.inputs[1:3]), *request.inputs[3:]), request.outputs
            )
        ]

    def cost(self, node: Node, target: Target) -> float:
        """Above that of every other kernel."""
        return 1e15

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, weights = node.op, node.input(1)
        assert isinstance(op, ConvTranspose)
        inputs, group_outputs = static(weights.type.shape[:2])
        outputs = group_outputs * op.group
        numbers = layer_numbers(node, op, outputs, inputs // op.group) | by_axis("begin", op.begins, 0)
        kinds = (("T0", data_type(weights.type.dtype)), ("T1", bias_type(node.inputs[2])))
        return layer_call(self, node, target, op.epilogue, one_thread_an_element(node), weights, outputs, numbers, kinds)
