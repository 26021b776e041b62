"""Resize along the spatial axes, channels last, by tables of taps and weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, static
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Target
from cnngraph.ops.resize import Resize
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    I32Pointer,
    block_x,
    fma,
    load_float,
    load_int,
    load_vector,
    mul,
    registers,
    store_vector,
    thread,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import cuda, kernel_call, launch, reading, refuse_types, tensors, writing

VL = CROPS = THREADS = 0


def resize(
    x: DataPointer, y: DataPointer, rows: I32Pointer, row_weights: F32Pointer, columns: I32Pointer, column_weights: F32Pointer,
    row_outside: I32Pointer, column_outside: I32Pointer, settings: F32Pointer, vectors: int, groups: int, plane: int, out_width: int,
    width: int, taps_h: int, taps_w: int, x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """``y`` is the sum over taps of both axes of weight times weight times ``x``; with CROPS, outside it, the number at ``settings``."""
    v = registers(VL)
    value = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // groups
        channel = (at - rest * groups) * VL
        image = rest // plane
        pixel = rest - image * plane
        row = pixel // out_width
        column = pixel - row * out_width
        for e in unroll(VL):
            v[e] = 0.0
        for r in range(taps_h):
            h = load_int(rows, row * taps_h + r)
            scale = load_float(row_weights, row * taps_h + r)
            for s in range(taps_w):
                w = load_int(columns, column * taps_w + s)
                weight = mul(scale, load_float(column_weights, column * taps_w + s))
                (*value,) = load_vector(x, image * x_batch + (h * width + w) * x_pixel + channel)
                for e in unroll(VL):
                    v[e] = fma(weight, value[e], v[e])
        if CROPS:
            if load_int(row_outside, row) + load_int(column_outside, column) > 0:
                for e in unroll(VL):
                    v[e] = load_float(settings, 0)
        store_vector(y, image * y_batch + pixel * y_pixel + channel, *v)


class ResizeLast:
    """Resize and Upsample of one or two spatial axes."""

    name = "resize"
    reorders_arithmetic = False
    code = Code(resize, {}, "Interpolation along the spatial axes, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other axes."""
        op = node.op
        if not isinstance(op, Resize):
            return "not a resize"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if node.output.type.rank not in (3, 4) or any(a < 2 for a in op.axes):
            return f"axes {op.axes} are not one or two spatial ones"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        return [LayoutRequest((reading(node.input(0)),), (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a vector of an output pixel."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Resize)
        image, plane = static(x.type.shape[2:]), static(y.type.shape[2:])
        samples = dict(zip(op.axes, op.samples([image[axis - 2] for axis in op.axes]), strict=True))
        tables, outside = [], []
        for axis in range(2, x.type.rank):
            outside.append(np.zeros(plane[axis - 2], np.int32))
            if axis in samples:
                gone = samples[axis].outside
                if gone is not None:
                    outside[-1][gone] = 1
                tables.append((samples[axis].indices.astype(np.int32), samples[axis].weights.astype(np.float32)))
            else:
                tables.append((np.arange(image[axis - 2], dtype=np.int32)[:, None], np.ones((image[axis - 2], 1), np.float32)))
        if len(tables) == 1:
            tables.insert(0, (np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)))
            outside.insert(0, np.zeros(1, np.int32))
        channels = y.type.shape[1]
        assert isinstance(channels, int)
        groups, threads = ceil_div(channels, cuda(target).lanes), 256
        area = tables[0][0].shape[0] * tables[1][0].shape[0]
        assert area == int(np.prod(plane))
        units = numel((y.type.shape[0], area, groups))
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), **tensors(x, y), "rows": Packed(tables[0][0]),
            "row_weights": Packed(tables[0][1]), "columns": Packed(tables[1][0]), "column_weights": Packed(tables[1][1]),
            "row_outside": Packed(outside[0]), "column_outside": Packed(outside[1]),
            "settings": Packed(np.array([op.extrapolation], np.float32)), "vectors": Extent(units),
            "groups": Extent(groups), "plane": Extent(area), "out_width": Extent(plane[-1]),
            "width": Extent(image[-1]), "taps_h": Extent(tables[0][0].shape[1]), "taps_w": Extent(tables[1][0].shape[1]),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("VL", cuda(target).lanes), ("CROPS", int(any(o.any() for o in outside)))))
