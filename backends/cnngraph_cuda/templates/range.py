"""Dynamic quantisation: the range of each part of a tensor, one block a part, and scale and zero point from the ranges, by one warp."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, numel
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops.quantized_range import PARTS, RangeOfParts, RangeParameters
from cnngraph_cuda.language import (
    DataPointer,
    Operand0,
    block_x,
    div,
    lds1,
    load_one,
    maximum,
    minimum,
    round_even,
    select,
    shared_base,
    shuffle_xor,
    store_one,
    store_operand,
    sts1,
    sub,
    sync,
    thread,
    truncate,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import data_type, kernel_call, launch, pitch, reading, refuse_empty
from cnngraph_cuda.templates.relayout import has_images, split

THREADS = 0


def range_of_parts(x: DataPointer, y: DataPointer, elements: int, channels: int, plane: int, x_batch: int, x_pixel: int, step: int) -> None:
    """Elements are numbered channels last; ``step`` is from channel to channel."""
    tid = thread()
    base = shared_base()
    low = 0.0
    high = 0.0
    for i in range(block_x() * THREADS + tid, elements, PARTS * THREADS):
        rest = i // channels
        image = rest // plane
        value = load_one(x, image * x_batch + (rest - image * plane) * x_pixel + (i - rest * channels) * step)
        low = minimum(low, value)
        high = maximum(high, value)
    for k in unroll(5):
        low = minimum(low, shuffle_xor(low, 16 >> k))
        high = maximum(high, shuffle_xor(high, 16 >> k))
    if tid % 32 == 0:
        sts1(base + (tid >> 5) * 8, low)
        sts1(base + (tid >> 5) * 8 + 4, high)
    sync()
    if tid == 0:
        for k in unroll(1, THREADS // 32):
            low = minimum(low, lds1(base + 8 * k))
            high = maximum(high, lds1(base + 8 * k + 4))
        store_one(y, block_x() * 2, low)
        store_one(y, block_x() * 2 + 1, high)


def range_parameters(x: DataPointer, y: DataPointer, zero: Operand0) -> None:
    """``scale = (high - low) / 255``, 1 for a tensor of zeros; ``zero = rint(clip(-low / scale, 0, 255))``."""
    lane = thread()
    low = load_one(x, lane * 2)
    high = load_one(x, lane * 2 + 1)
    for k in unroll(5):
        low = minimum(low, shuffle_xor(low, 16 >> k))
        high = maximum(high, shuffle_xor(high, 16 >> k))
    if lane == 0:
        scale = div(sub(high, low), 255.0)
        if high == low:
            scale = 1.0
        share = div(sub(0.0, low), scale)
        share = select(share > 0.0, share, 0.0)
        store_one(y, 0, scale)
        store_operand(0, zero, 0, truncate(round_even(minimum(share, 255.0))))


class RangeOfPartsKernel:
    """RangeOfParts."""

    name = "range_of_parts"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(range_of_parts, {}, "Least and greatest number of each part.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses empty tensors."""
        return refuse_empty(node) if isinstance(node.op, RangeOfParts) else "not ranges of parts"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """As the operand lies, if that is row-major or channels last."""
        x = node.input(0)
        return [LayoutRequest((PLAIN if x.type.layout.plain else reading(x),), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block a part."""
        x, y, threads = node.input(0), node.output, 256
        images = has_images(x.type)
        _, channels, plane = split(x.type)
        last = not x.type.layout.plain
        arguments: dict[str, Argument] = {
            **launch(PARTS, 1, threads, shared=threads // 4, values=(x,)), "x": Pointer(x), "y": Pointer(y),
            "elements": Extent(numel(x.type.shape)), "channels": Extent(channels), "plane": Extent(plane),
            "x_batch": BatchStride(x) if images else Extent(0), "x_pixel": Extent(pitch(x.type) if last else 1),
            "step": Extent(1 if last else plane),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads)


class RangeParametersKernel:
    """RangeParameters."""

    name = "range_parameters"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(range_parameters, {}, "Scale and zero point of a range.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses nothing of this operator."""
        return None if isinstance(node.op, RangeParameters) else "not parameters of a range"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN,), (PLAIN, PLAIN))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One warp, a lane for each part."""
        arguments: dict[str, Argument] = {
            **launch(1, 1, PARTS), "x": Pointer(node.input(0)), "y": Pointer(node.outputs[0]), "zero": Pointer(node.outputs[1]),
        }  # fmt: skip
        return kernel_call(self, target, arguments, node.outputs[0], PARTS, (("T0", data_type(DType.U8)),))
