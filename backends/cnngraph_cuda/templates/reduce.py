"""Reductions over all spatial axes, channels last: a block has 8 vectors of channels of one image and 32 rows of threads on its pixels."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, product, static
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Reduce
from cnngraph_cuda.language import (
    DataPointer,
    add,
    as_float,
    block_x,
    div,
    lds1,
    load_vector,
    maximum,
    minimum,
    registers,
    shared_base,
    store_one,
    sts1,
    sync,
    thread,
    to_float,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import cuda, kernel_call, launch, pitch, reading, refuse_types, writing

VL = KIND = 0
SUM, MEAN, MAX, MIN = 0, 1, 2, 3
_KINDS = {"sum": SUM, "mean": MEAN, "max": MAX, "min": MIN}


def reduce_spatial(
    x: DataPointer, y: DataPointer, tasks: int, blocks: int, groups: int, channels: int, plane: int, x_batch: int, x_pixel: int,
    y_batch: int,
) -> None:  # fmt: skip
    """``y[image, channel]`` is the sum, mean or extreme over the pixels."""
    v = registers(VL)
    value = registers(VL)
    tid = thread()
    task = block_x()
    image = task // blocks
    group = (task - image * blocks) * 8 + (tid & 7)
    slot = tid >> 3
    base = shared_base()
    for e in unroll(VL):
        if KIND == MAX:
            v[e] = as_float(-8388608)
        elif KIND == MIN:
            v[e] = as_float(2139095040)
        else:
            v[e] = 0.0
    if group < groups:
        for pixel in range(slot, plane, 32):
            (*value,) = load_vector(x, image * x_batch + pixel * x_pixel + group * VL)
            for e in unroll(VL):
                if KIND == MAX:
                    v[e] = maximum(v[e], value[e])
                elif KIND == MIN:
                    v[e] = minimum(v[e], value[e])
                else:
                    v[e] = add(v[e], value[e])
    for e in unroll(VL):
        sts1(base + ((slot * 8 + (tid & 7)) * VL + e) * 4, v[e])
    sync()
    channel = (task - image * blocks) * 8 * VL + tid
    if tid < 8 * VL:
        if channel < channels:
            total = lds1(base + tid * 4)
            for other in range(1, 32):
                part = lds1(base + (other * 8 * VL + tid) * 4)
                if KIND == MAX:
                    total = maximum(total, part)
                elif KIND == MIN:
                    total = minimum(total, part)
                else:
                    total = add(total, part)
            if KIND == MEAN:
                total = div(total, to_float(plane))
            store_one(y, image * y_batch + channel, total)


class ReduceSpatial:
    """Global pooling and other reductions over every spatial axis."""

    name = "reduce_spatial"
    reorders_arithmetic = False
    code = Code(reduce_spatial, {}, "Reduction over all pixels of a channel, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other axes and kinds than sum, mean, max and min."""
        op, x = node.op, node.input(0).type if node.inputs and node.inputs[0] is not None else None
        if not isinstance(op, Reduce) or x is None:
            return "not a reduction"
        if op.kind not in _KINDS:
            return f"reduction {op.kind}"
        if x.rank < 3 or tuple(sorted(op.axes)) != tuple(range(2, x.rank)):
            return f"axes {op.axes} are not the spatial ones"
        return refuse_types(node, target)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return [LayoutRequest((reading(node.input(0)),), (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block an image and 8 vectors of channels."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Reduce)
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        lanes = cuda(target).lanes
        groups = ceil_div(channels, lanes)
        blocks = ceil_div(groups, 8)
        units = numel((x.type.shape[0], blocks))
        arguments: dict[str, Argument] = {
            **launch(units, 1, 256, shared=256 * lanes * 4, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "tasks": Extent(units),
            "blocks": Extent(blocks), "groups": Extent(groups), "channels": Extent(channels),
            "plane": Extent(product(static(x.type.shape[2:]))), "x_batch": BatchStride(x), "x_pixel": Extent(pitch(x.type)),
            "y_batch": BatchStride(y),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, 256, (("KIND", _KINDS[op.kind]), ("VL", lanes)))
