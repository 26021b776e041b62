"""RoiAlign: one thread has one element of the result and takes all its samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, numel
from cnngraph.kernels.template import Argument, Extent, Flag, KernelCall, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops.roi import RoiAlign
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    FlagPointer,
    Operand0,
    absolute,
    add,
    as_float,
    block_x,
    ceil,
    div,
    fma,
    load_float,
    load_one,
    load_operand,
    maximum,
    minimum,
    mul,
    select,
    store_int,
    store_one,
    sub,
    thread,
    to_float,
    truncate,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, data_type, kernel_call, launch, refuse_empty

MAXIMUM = HALF_PIXEL = SAMPLING = THREADS = 0


def span(START: int, bins: int) -> None:
    """``begin`` of the region along one axis, ``size`` of a bin and ``count`` of its samples; ``sound`` becomes 0 for one too large."""
    begin = mul(load_one(rois, roi * 4 + START), scale)
    length = mul(load_one(rois, roi * 4 + START + 2), scale)
    if HALF_PIXEL:
        begin = sub(begin, 0.5)
        length = sub(length, 0.5)
    length = sub(length, begin)
    if HALF_PIXEL == 0:
        length = maximum(length, 1.0)
    size = div(length, to_float(bins))
    samples = ceil(size)
    if SAMPLING > 0:
        samples = to_float(SAMPLING)
    reach = mul(samples, to_float(bins))
    fits = select(absolute(begin) < as_float(2139095040), select(absolute(length) < as_float(2139095040), 1, 0), 0)
    fits = select(reach <= 1048576.0, fits, 0)
    if fits == 0:
        sound = 0
        samples = 0.0
    count = truncate(samples)


def sample(extent: int) -> None:
    """Two neighbours of ``place`` and their weights, both 0 outside the image."""
    inside = select(place >= to_float(0 - 1), select(place <= to_float(extent), 1, 0), 0)
    place = minimum(maximum(place, 0.0), to_float(extent - 1))
    low = truncate(place)
    part = sub(place, to_float(low))
    high = select(low < extent - 1, low + 1, extent - 1)
    if inside == 1:
        high_weight = part
        low_weight = sub(1.0, part)
    else:
        high_weight = 0.0
        low_weight = 0.0


def roi_align(
    x: DataPointer, y: DataPointer, rois: DataPointer, batches: Operand0, settings: F32Pointer, flag: FlagPointer, limits: FlagPointer,
    elements: int, images: int, channels: int, height: int, width: int, bins_y: int, bins_x: int,
) -> None:  # fmt: skip
    """A region is (x1, y1, x2, y2) times ``scale``."""
    at = block_x() * THREADS + thread()
    if at < elements:
        line = at // bins_x
        bin_x = at - line * bins_x
        rest = line // bins_y
        bin_y = line - rest * bins_y
        roi = rest // channels
        channel = rest - roi * channels
        scale = load_float(settings, 0)
        sound = 1
        index = load_operand(0, batches, roi)
        image = select(index < 0, 0 - 1, select(index < images, index, 0 - 1))
        if image < 0:
            store_int(flag, 1, index)
            store_int(flag, 0, 1)
            image = 0
        span(1, bins_y)
        first_y = add(begin, mul(to_float(bin_y), size))
        size_y = size
        count_y = count
        span(0, bins_x)
        first_x = add(begin, mul(to_float(bin_x), size))
        if sound == 0:
            store_int(limits, 1, roi)
            store_int(limits, 0, 1)
        base = (image * channels + channel) * (height * width)
        total = 0.0
        if MAXIMUM:
            if count_y * count > 0:
                total = as_float(-8388608)
        for i in range(count_y):
            place = add(first_y, div(mul(add(to_float(i), 0.5), size_y), to_float(count_y)))
            sample(height)
            above = base + low * width
            under = base + high * width
            above_weight = low_weight
            under_weight = high_weight
            for j in range(count):
                place = add(first_x, div(mul(add(to_float(j), 0.5), size), to_float(count)))
                sample(width)
                a = mul(above_weight, low_weight)
                b = mul(above_weight, high_weight)
                c = mul(under_weight, low_weight)
                d = mul(under_weight, high_weight)
                if MAXIMUM:
                    total = maximum(total, mul(load_one(x, above + low), a))
                    total = maximum(total, mul(load_one(x, above + high), b))
                    total = maximum(total, mul(load_one(x, under + low), c))
                    total = maximum(total, mul(load_one(x, under + high), d))
                else:
                    total = fma(load_one(x, above + low), a, total)
                    total = fma(load_one(x, above + high), b, total)
                    total = fma(load_one(x, under + low), c, total)
                    total = fma(load_one(x, under + high), d, total)
        if MAXIMUM == 0:
            if count_y * count > 0:
                total = div(total, to_float(count_y * count))
        store_one(y, at, total)


class RoiAlignPlain:
    """RoiAlign of row-major tensors."""

    name = "roi_align"
    reorders_arithmetic = False
    code = Code(roi_align, {"span": span, "sample": sample}, "Bilinear samples of regions of interest.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, and empty tensors."""
        if not isinstance(node.op, RoiAlign):
            return "not RoiAlign"
        x = node.input(0).type.dtype
        return refuse_empty(node) if x in DATA_TYPES else f"{x.value} tensors have no kernel"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN, PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, rois, y = node.op, node.input(0), node.input(1), node.output
        assert isinstance(op, RoiAlign)
        units, threads = numel(y.type.shape), 128
        images, channels, height, width = x.type.shape
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "rois": Pointer(rois),
            "batches": Pointer(node.input(2)), "settings": Packed(np.array([op.scale], np.float32)),
            "flag": Flag(f"a region of image {{}}, but there are {images}"),
            "limits": Flag("region {} is not finite or takes too many samples"), "elements": Extent(units), "images": Extent(images),
            "channels": Extent(channels), "height": Extent(height), "width": Extent(width), "bins_y": Extent(op.height),
            "bins_x": Extent(op.width),
        }  # fmt: skip
        constants = (
            ("MAXIMUM", int(op.mode == "max")), ("HALF_PIXEL", int(op.half_pixel)), ("SAMPLING", op.sampling),
            ("T0", data_type(DType.I64)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants)
