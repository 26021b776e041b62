"""The range of a tensor, in parts that threads share, and the scale and zero point that follow from it."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, ceil_div, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops.quantized_range import PARTS, RangeOfParts, RangeParameters
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    div,
    get,
    load,
    load_partial,
    maximum,
    minimum,
    put,
    reduce_max,
    reduce_min,
    registers,
    round_between,
    splat,
    store_bytes_partial,
    sub,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_f32

W = 0


def range_of_parts(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, blocks: int, last_lanes: int, elements: int, parts: int, tid: int, threads: int
) -> None:
    """``y[part, 2]``; x is [images, blocks, elements], of whose last block only ``last_lanes`` lanes count (0: of which all do)."""
    least = registers(4)
    most = registers(4)
    rows = images * blocks
    for part in range(parts * tid // threads, parts * (tid + 1) // threads):
        for u in unroll(4):
            least[u] = splat(0.0)
            most[u] = splat(0.0)
        for row in range(rows * part // parts, rows * (part + 1) // parts):
            at = row // blocks * x_batch + row % blocks * elements
            if last_lanes > 0 and row % blocks == blocks - 1:
                for i in range(0, elements, W):
                    value = load_partial(x, at + i, last_lanes)
                    least[0] = minimum(least[0], value)
                    most[0] = maximum(most[0], value)
            else:
                fours = elements // (4 * W) * (4 * W)
                for i in range(0, fours, 4 * W):
                    for u in unroll(4):
                        value = load(x, at + i + u * W)
                        least[u] = minimum(least[u], value)
                        most[u] = maximum(most[u], value)
                whole = elements // W * W
                for i in range(fours, whole, W):
                    value = load(x, at + i)
                    least[0] = minimum(least[0], value)
                    most[0] = maximum(most[0], value)
                if whole < elements:
                    value = load_partial(x, at + whole, elements - whole)
                    least[0] = minimum(least[0], value)
                    most[0] = maximum(most[0], value)
        put(y, part * 2, reduce_min(minimum(minimum(least[0], least[1]), minimum(least[2], least[3]))))
        put(y, part * 2 + 1, reduce_max(maximum(maximum(most[0], most[1]), maximum(most[2], most[3]))))


def range_parameters(parts: F32Pointer, scale: F32Pointer, zero: BytePointer, count: int, tid: int, threads: int) -> None:
    """Scale (high - low) / 255 and zero point rint(-low / scale) of the joint range."""
    if tid == 0:
        low = splat(0.0)
        high = splat(0.0)
        for p in range(count):
            low = minimum(low, splat(get(parts, 2 * p)))
            high = maximum(high, splat(get(parts, 2 * p + 1)))
        width = sub(high, low)
        put(scale, 0, reduce_max(div(width, splat(255.0))))
        if not get(scale, 0) > 0.0:
            if not reduce_max(width) > 0.0:
                put(scale, 0, 1.0)
        shifted = sub(splat(0.0), div(low, splat(get(scale, 0))))
        store_bytes_partial(zero, 0, round_between(shifted, splat(0.0), splat(255.0)), 1)


class RangeKernel:
    """RangeOfParts."""

    name = "range_of_parts"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(range_of_parts, {}, "Least and greatest numbers of parts of a tensor.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses empty tensors."""
        if not isinstance(node.op, RangeOfParts):
            return "not a range"
        shape = node.input(0).type.shape
        return "an extent is zero" if any(d == 0 for d in shape) else only_f32(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain, or blocked where the tensor is."""
        offers = [LayoutRequest((PLAIN,), (PLAIN,))]
        shape = node.input(0).type.shape
        if 3 <= len(shape) <= 5 and all(isinstance(d, int) for d in shape[1:]):
            offers.append(LayoutRequest((blocked(target),), (PLAIN,)))
        return offers

    def cost(self, node: Node, target: Target) -> float:
        """Vectors read."""
        return per_image(node.input(0).type.physical_elements) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """A task a part."""
        x, y = node.input(0), node.output
        shape, width = x.type.shape, target.width
        blocks: Dim = 1
        lanes = 0
        images: Dim = shape[0] if shape else 1
        elements = numel(x.type.physical_shape[1:]) if shape else 1
        if not x.type.layout.plain:
            channels = shape[1]
            assert isinstance(channels, int) and isinstance(elements, int)
            blocks, lanes = ceil_div(channels, width), channels % width
            elements //= blocks
        elif any(not isinstance(d, int) for d in shape[1:]):
            images, blocks, elements = 1, shape[0], numel(shape[1:])
        elif len(shape) > 1:
            blocks = shape[1]  # rows enough for the parts
            elements = numel(shape[2:])
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "images": Extent(images), "x_batch": Extent(0) if images == 1 else BatchStride(x),
            "blocks": Extent(blocks), "last_lanes": Extent(lanes), "elements": Extent(elements), "parts": Extent(PARTS),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)


class RangeParametersKernel:
    """RangeParameters."""

    name = "range_parameters"
    reorders_arithmetic = False
    code = Code(range_parameters, {}, "Scale and zero point of a range.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators."""
        return None if isinstance(node.op, RangeParameters) else "not the parameters of a range"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN, PLAIN))]

    def cost(self, node: Node, target: Target) -> float:
        """Little."""
        return float(PARTS)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread does it."""
        scale, zero = node.outputs
        arguments: dict[str, Argument] = {
            "parts": Pointer(node.input(0)), "scale": Pointer(scale), "zero": Pointer(zero), "count": Extent(PARTS),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)


__all__ = ["RangeKernel", "RangeParametersKernel"]
