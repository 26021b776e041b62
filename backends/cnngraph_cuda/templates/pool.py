"""Max and average pooling, channels last: one thread has VL channels of one output pixel."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, static
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Target
from cnngraph.ops import Pool
from cnngraph_cuda.language import (
    DataPointer,
    add,
    as_float,
    below,
    block_x,
    both,
    div,
    load_vector,
    maximum,
    registers,
    select,
    store_vector,
    thread,
    to_float,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import (
    cuda,
    extents,
    kernel_call,
    launch,
    pair,
    reading,
    refuse_types,
    tensors,
    writing,
)

VL = AVERAGE = INCLUDE_PAD = THREADS = 0


def pool(
    x: DataPointer, y: DataPointer, vectors: int, groups: int, plane: int, out_width: int, height: int, width: int, x_batch: int,
    x_pixel: int, y_batch: int, y_pixel: int, taps_h: int, taps_w: int, stride_h: int, stride_w: int, pad_h: int, pad_w: int,
    dilation_h: int, dilation_w: int, reach_h: int, reach_w: int,
) -> None:  # fmt: skip
    """``reach`` is the extent with both paddings, within which positions of a padded average count."""
    v = registers(VL)
    value = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // groups
        channel = (at - rest * groups) * VL
        image = rest // plane
        pixel = rest - image * plane
        row = pixel // out_width
        top = row * stride_h - pad_h
        left = (pixel - row * out_width) * stride_w - pad_w
        for e in unroll(VL):
            if AVERAGE:
                v[e] = 0.0
            else:
                v[e] = as_float(-8388608)
        count = 0
        for r in range(taps_h):
            h = top + r * dilation_h
            for s in range(taps_w):
                w = left + s * dilation_w
                if INCLUDE_PAD:
                    if both(below(h + pad_h, reach_h), below(w + pad_w, reach_w)):
                        count = count + 1
                if both(below(h, height), below(w, width)):
                    if INCLUDE_PAD == 0:
                        count = count + 1
                    (*value,) = load_vector(x, image * x_batch + (h * width + w) * x_pixel + channel)
                    for e in unroll(VL):
                        if AVERAGE:
                            v[e] = add(v[e], value[e])
                        else:
                            v[e] = maximum(v[e], value[e])
        if AVERAGE:
            share = to_float(select(count < 1, 1, count))
            for e in unroll(VL):
                v[e] = div(v[e], share)
        store_vector(y, image * y_batch + pixel * y_pixel + channel, *v)


class PoolLast:
    """Pooling over one or two spatial axes."""

    name = "pool"
    reorders_arithmetic = False
    code = Code(pool, {}, "Max or average pooling, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses indices and three spatial axes."""
        if not isinstance(node.op, Pool):
            return "not a pooling"
        if node.op.indices:
            return "indices of the maxima"
        if len(node.op.kernel) > 2:
            return "three spatial axes"
        return refuse_types(node, target)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return [LayoutRequest((reading(node.input(0)),), (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a vector of an output pixel."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Pool)
        one = len(op.kernel) == 1

        channels = y.type.shape[1]
        assert isinstance(channels, int)
        image, plane = pair(static(x.type.shape[2:]), 1), pair(static(y.type.shape[2:]), 1)
        kernel, strides, dilations = pair(op.kernel, 1), pair(op.strides, 1), pair(op.dilations, 1)
        begins, ends = pair(op.pads[: len(op.kernel)], 0), pair(op.pads[len(op.kernel) :], 0)
        groups, threads = ceil_div(channels, cuda(target).lanes), 256
        units = numel((y.type.shape[0], plane[0], plane[1], groups))
        numbers = {
            "taps_h": kernel[0], "taps_w": kernel[1], "stride_h": strides[0], "stride_w": strides[1], "pad_h": begins[0],
            "pad_w": begins[1], "dilation_h": dilations[0], "dilation_w": dilations[1], "reach_h": image[0] + begins[0] + ends[0],
            "reach_w": image[1] + begins[1] + ends[1],
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), **tensors(x, y), "vectors": Extent(units),
            "groups": Extent(groups), "plane": Extent(plane[0] * plane[1]), "out_width": Extent(plane[1]), "height": Extent(image[0]),
            "width": Extent(image[1]), **extents(numbers),
        }  # fmt: skip
        constants = (
            ("AVERAGE", int(op.kind == "average")), ("INCLUDE_PAD", int(op.kind == "average" and op.count_include_pad)),
            ("VL", cuda(target).lanes),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants)
