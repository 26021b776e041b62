"""Row-major to channels-last and back, and conversions of the element type on the way."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, Sym, TensorType, ceil_div, numel
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Cast, Reorder
from cnngraph_cuda.language import (
    DataPointer,
    SourcePointer,
    block_x,
    load_source,
    load_source_vector,
    registers,
    store_one,
    store_vector,
    thread,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, cuda, lanes_of, launch, pitch, reading, writing

VL = FROM_LAST = TO_LAST = THREADS = 0


def relayout(
    x: SourcePointer, y: DataPointer, vectors: int, plane: int, channels: int, groups: int, x_batch: int, x_pixel: int, y_batch: int,
    y_pixel: int,
) -> None:  # fmt: skip
    """One thread moves VL channels of one pixel; neighbouring threads have neighbouring pixels."""
    v = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // plane
        pixel = at - rest * plane
        image = rest // groups
        channel = (rest - image * groups) * VL
        if FROM_LAST:
            (*v,) = load_source_vector(x, image * x_batch + pixel * x_pixel + channel)
        else:
            for e in unroll(VL):
                v[e] = 0.0
                if channel + e < channels:
                    v[e] = load_source(x, image * x_batch + (channel + e) * plane + pixel)
        if TO_LAST:
            store_vector(y, image * y_batch + pixel * y_pixel + channel, *v)
        else:
            for e in unroll(VL):
                if channel + e < channels:
                    store_one(y, image * y_batch + (channel + e) * plane + pixel, v[e])


class Relayout:
    """Reorder, and Cast between float types, which changes the layout at no cost."""

    name = "relayout"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(relayout, {}, "Between row-major and channels-last, and between float types.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other than float types."""
        if not isinstance(node.op, (Reorder, Cast)):
            return "neither a reorder nor a cast"
        for value in (node.input(0), node.output):
            if value.type.dtype not in DATA_TYPES:
                return f"{value.type.dtype.value} tensors have no kernel"
            if any(isinstance(d, int) and d == 0 for d in value.type.shape):
                return "an empty tensor"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """To the computing type: from row-major to channels-last; from it: whichever way it lies."""
        x, y = node.input(0).type, node.output.type
        if isinstance(node.op, Reorder):
            return [LayoutRequest((x.layout,), (y.layout,))]
        plain = LayoutRequest((PLAIN,), (PLAIN,))
        if not has_images(x):
            return [plain]
        if y.dtype is cuda(target).dtype and x.dtype is not y.dtype:
            return [LayoutRequest((PLAIN,), (writing(node.output),)), plain]
        return [plain, LayoutRequest((reading(node.input(0)),), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """VL is the vector of the channels-last side, or 1 number where there is none."""
        x, y = node.input(0), node.output
        lasts = [v.type for v in (x, y) if not v.type.layout.plain]
        lanes = max((lanes_of(t.dtype) for t in lasts), default=1)
        images, channels, plane = split(y.type)
        groups = ceil_div(channels, lanes)
        units = numel((images, plane, groups))
        threads = 256

        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "vectors": Extent(units),
            "plane": Extent(plane), "channels": Extent(channels), "groups": Extent(groups),
            "x_batch": BatchStride(x) if has_images(x.type) else Extent(0), "x_pixel": Extent(pitch(x.type) if lasts else 1),
            "y_batch": BatchStride(y) if has_images(y.type) else Extent(0), "y_pixel": Extent(pitch(y.type) if lasts else 1),
        }  # fmt: skip
        constants = (
            ("VL", lanes), ("FROM_LAST", int(not x.type.layout.plain)), ("TO_LAST", int(not y.type.layout.plain)),
            ("DS", DATA_TYPES[x.type.dtype]), ("DT", DATA_TYPES[y.type.dtype]), ("THREADS", threads),
        )  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)


def split(type_: TensorType) -> tuple[Dim, int, Dim]:
    """(images, channels, pixels) of a tensor; one without an axis of images is one row of pixels."""
    if not has_images(type_):
        return 1, 1, numel(type_.shape)
    channels = type_.shape[1]
    assert isinstance(channels, int)
    return type_.shape[0], channels, numel(type_.shape[2:])


def has_images(type_: TensorType) -> bool:
    """Whether the first axis is that of images, and no other depends on the batch."""
    return type_.rank >= 2 and not any(isinstance(d, Sym) for d in type_.shape[1:])
