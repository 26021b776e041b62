"""Maximum pooling with the places of the maxima, and unpooling to them, on plain images."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, DType, numel, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Pool
from cnngraph.ops.geometry import MaxUnpool
from cnngraph_cpu.language import F32Pointer, I64Pointer, get, get_int, put, put_int, splat, store, store_partial, to_float
from cnngraph_cpu.source import Code

W = 0  # fixed by the plan


def pool_indices(
    x: F32Pointer, y: F32Pointer, places: I64Pointer, planes: int, height: int, width: int, out_y: int, out_x: int, kernel_y: int,
    kernel_x: int, stride_y: int, stride_x: int, dilation_y: int, dilation_x: int, pad_y: int, pad_x: int, step_y: int, step_x: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """The first maximum of every window and its place ``y*step_y + x*step_x`` in the plane, plus the planes before it."""
    tasks = planes * out_y
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        plane = task // out_y
        first_y = task % out_y * stride_y - pad_y
        for ox in range(out_x):
            best = to_float(-1e400)
            place = -1
            for ky in range(kernel_y):
                iy = first_y + ky * dilation_y
                if iy >= 0 and iy < height:
                    for kx in range(kernel_x):
                        ix = ox * stride_x - pad_x + kx * dilation_x
                        if ix >= 0 and ix < width:
                            value = get(x, (plane * height + iy) * width + ix)
                            if place < 0 or value > best or (value != value and best == best):
                                best = value
                                place = iy * step_y + ix * step_x
            put(y, task * out_x + ox, best)
            put_int(places, task * out_x + ox, place + plane * height * width)


def max_unpool(x: F32Pointer, places: I64Pointer, y: F32Pointer, planes: int, elements: int, size: int, tid: int, threads: int) -> None:
    """Zeros, and in order the elements of a plane at their places."""
    for plane in range(planes * tid // threads, planes * (tid + 1) // threads):
        to = plane * size
        whole = size // W * W
        for i in range(0, whole, W):
            store(y, to + i, splat(0.0))
        if whole < size:
            store_partial(y, to + whole, splat(0.0), size - whole)
        for i in range(elements):
            place = get_int(places, plane * elements + i)
            if place >= to and place < to + size:
                put(y, place, get(x, plane * elements + i))


class PoolIndices:
    """Maximum pooling of images with indices."""

    name = "pool_indices"
    reorders_arithmetic = False
    code = Code(pool_indices, {}, "Maximum pooling with the places of the maxima.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses pooling without indices and other tensors than images."""
        op = node.op
        if not isinstance(op, Pool) or not op.indices:
            return "not a pooling with indices"
        x = node.input(0).type
        if x.dtype is not DType.F32:
            return f"{x.dtype.value} tensors run by the reference; kernels are float32"
        if x.rank != 4 or not all(isinstance(d, int) and d > 0 for v in (x, node.outputs[0].type) for d in v.shape[1:]):
            return "not a tensor of images"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN, PLAIN))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements compared."""
        assert isinstance(node.op, Pool)
        return 4.0 * per_image(numel(node.outputs[0].type.shape)) * node.op.kernel[0] * node.op.kernel[1]

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row of the result."""
        op, x = node.op, node.input(0)
        assert isinstance(op, Pool)
        shape, out = x.type.shape, node.outputs[0].type.shape
        by_rows = op.storage_order == 0
        numbers: dict[str, Dim] = {
            "planes": numel(shape[:2]), "height": shape[2], "width": shape[3], "out_y": out[2], "out_x": out[3],
            "kernel_y": op.kernel[0], "kernel_x": op.kernel[1], "stride_y": op.strides[0], "stride_x": op.strides[1],
            "dilation_y": op.dilations[0], "dilation_x": op.dilations[1], "pad_y": op.pads[0], "pad_x": op.pads[1],
            "step_y": shape[3] if by_rows else 1, "step_x": 1 if by_rows else shape[2],
        }  # fmt: skip
        arguments: dict[str, Argument] = {"x": Pointer(x), "y": Pointer(node.outputs[0]), "places": Pointer(node.outputs[1])}
        arguments |= {name: Extent(value) for name, value in numbers.items()}
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)


class MaxUnpoolPlaces:
    """MaxUnpool to places that a pooling of the result's shape has given, so that they are known to be sound."""

    name = "max_unpool"
    reorders_arithmetic = False
    code = Code(max_unpool, {}, "Unpooling to the places of the maxima.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses indices from elsewhere, which the reference checks."""
        op = node.op
        if not isinstance(op, MaxUnpool):
            return "not unpooling"
        x, y = node.input(0).type, node.output.type
        if x.dtype is not DType.F32:
            return f"{x.dtype.value} tensors run by the reference; kernels are float32"
        if any(d == 0 for d in (*x.shape, *y.shape)):
            return "an empty tensor"
        pool = node.input(1).producer
        if pool is None or not isinstance(pool.op, Pool) or pool.op.storage_order != 0 or any(d != 1 for d in pool.op.dilations):
            return "the indices do not come straight from a pooling"
        if op.natural != op.shape or pool.input(0).type.shape != y.shape:
            return "the pooling had another shape"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements written."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a plane."""
        x, y = node.input(0), node.output
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "places": Pointer(node.input(1)), "y": Pointer(y), "planes": Extent(numel(x.type.shape[:2])),
            "elements": Extent(numel(x.type.shape[2:])), "size": Extent(numel(y.type.shape[2:])),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)
