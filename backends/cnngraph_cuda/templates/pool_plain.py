"""Pooling of row-major tensors over up to three axes, of integers too, with the places of the maxima; and its inverse, MaxUnpool."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, DType, numel, static
from cnngraph.kernels.template import Argument, Extent, Flag, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Pool
from cnngraph.ops.common import show
from cnngraph.ops.geometry import MaxUnpool
from cnngraph_cuda.language import (
    DataPointer,
    FlagPointer,
    Operand0,
    add,
    below,
    block_x,
    both,
    div,
    load_one,
    load_operand,
    select,
    store_int,
    store_one,
    store_operand,
    sync,
    thread,
    to_float,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, INTEGERS, data_type, kernel_call, launch, refuse_empty
from cnngraph_cuda.templates.conv_direct import pixel_place, triple

AVERAGE = INCLUDE_PAD = PLACES = FLOATS = THREADS = 0


def pool_plain(
    x: DataPointer, y: DataPointer, places: Operand0, elements: int, out_plane: int, out_area: int, out_width: int, frames: int,
    height: int, width: int, taps_d: int, taps_h: int, taps_w: int, stride_d: int, stride_h: int, stride_w: int, pad_d: int, pad_h: int,
    pad_w: int, dilation_d: int, dilation_h: int, dilation_w: int, reach_d: int, reach_h: int, reach_w: int, step_d: int, step_h: int,
    step_w: int,
) -> None:  # fmt: skip
    """``step`` is what an axis adds to a place; ``reach`` as in the kernel for channels last."""
    at = block_x() * THREADS + thread()
    if at < elements:
        plane = at // out_plane
        pixel = at - plane * out_plane
        pixel_place()
        first = plane * (frames * height * width)
        best = load_one(x, first)
        if AVERAGE:
            best = 0.0
        where = 0 - 1
        count = 0
        for t in range(taps_d):
            d = frame * stride_d - pad_d + t * dilation_d
            for r in range(taps_h):
                h = row * stride_h - pad_h + r * dilation_h
                for s in range(taps_w):
                    w = column * stride_w - pad_w + s * dilation_w
                    if INCLUDE_PAD:
                        if both(below(d + pad_d, reach_d), both(below(h + pad_h, reach_h), below(w + pad_w, reach_w))):
                            count = count + 1
                    if both(below(d, frames), both(below(h, height), below(w, width))):
                        value = load_one(x, first + (d * height + h) * width + w)
                        if AVERAGE:
                            best = add(best, value)
                            if INCLUDE_PAD == 0:
                                count = count + 1
                        else:
                            better = 0
                            if where < 0:
                                better = 1
                            if value > best:
                                better = 1
                            if FLOATS:
                                if value != value:
                                    if best == best:
                                        better = 1
                            if better == 1:
                                best = value
                                where = d * step_d + h * step_h + w * step_w
        if AVERAGE:
            best = div(best, to_float(select(count < 1, 1, count)))
        store_one(y, at, best)
        if PLACES:
            store_operand(0, places, at, first + where)


def max_unpool(x: DataPointer, y: DataPointer, places: Operand0, flag: FlagPointer, elements: int, size: int, writers: int) -> None:
    """One block has one plane; ``writers`` threads write, one if windows overlap, so that the last of equal places stays."""
    tid = thread()
    plane = block_x()
    for i in range(tid, size, THREADS):
        store_one(y, plane * size + i, 0)
    sync()
    if tid < writers:
        for i in range(tid, elements, writers):
            index = load_operand(0, places, plane * elements + i)
            inside = select(index < plane * size, 0, select(index < plane * size + size, 1, 0))
            if inside == 1:
                store_one(y, index, load_one(x, plane * elements + i))
            else:
                store_int(flag, 1, index)
                store_int(flag, 0, 1)


class PoolPlain:
    """Pool with indices, over three axes, or of integers."""

    name = "pool_plain"
    reorders_arithmetic = False
    code = Code(pool_plain, {"pixel_place": pixel_place}, "Max or average pooling, row-major.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types."""
        op, x = node.op, node.input(0).type if node.inputs else None
        if not isinstance(op, Pool):
            return "not a pooling"
        assert x is not None
        if x.dtype not in DATA_TYPES and (x.dtype not in INTEGERS or x.dtype in (DType.BOOL, DType.U64)):
            return f"{x.dtype.value} tensors have no kernel"
        return refuse_empty(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN,), tuple(PLAIN for _ in node.outputs))]

    def cost(self, node: Node, target: Target) -> float:
        """Above that of the kernel for channels last."""
        return 10.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, y = node.op, node.input(0), node.outputs[0]
        assert isinstance(op, Pool)
        axes = len(op.kernel)
        image, plane = triple(static(x.type.shape[2:]), 1), triple(static(y.type.shape[2:]), 1)
        begins, ends = triple(op.pads[:axes], 0), triple(op.pads[axes:], 0)
        units, threads = numel(y.type.shape), 256
        steps = (image[1] * image[2], image[2], 1) if op.storage_order == 0 else (1, image[0], image[0] * image[1])
        numbers: dict[str, Dim] = {
            "elements": units, "out_plane": plane[0] * plane[1] * plane[2], "out_area": plane[1] * plane[2], "out_width": plane[2],
            "frames": image[0], "height": image[1], "width": image[2],
        }  # fmt: skip
        for name, values in (
            ("taps", triple(op.kernel, 1)), ("stride", triple(op.strides, 1)), ("pad", begins), ("dilation", triple(op.dilations, 1)),
            ("reach", tuple(i + b + e for i, b, e in zip(image, begins, ends, strict=True))), ("step", steps),
        ):  # fmt: skip
            numbers |= {f"{name}_{axis}": v for axis, v in zip("dhw", values, strict=True)}
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "places": Pointer(node.outputs[-1]),
            **{name: Extent(value) for name, value in numbers.items()},
        }  # fmt: skip
        average = op.kind == "average"
        constants = (
            ("AVERAGE", int(average)), ("INCLUDE_PAD", int(average and op.count_include_pad)), ("PLACES", int(op.indices)),
            ("FLOATS", int(x.type.dtype.is_float)), ("T0", data_type(DType.I64)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants)


class MaxUnpoolPlain:
    """MaxUnpool."""

    name = "max_unpool"
    reorders_arithmetic = False
    code = Code(max_unpool, {}, "Elements back to the places of the maxima.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses results of another shape than the windows give, where indices have two readings."""
        op = node.op
        if not isinstance(op, MaxUnpool):
            return "not unpooling"
        return "another shape than the windows give" if op.natural != op.shape else refuse_empty(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block a plane."""
        op, x, places, y, threads = node.op, node.input(0), node.input(1), node.output, 256
        assert isinstance(op, MaxUnpool)
        apart = all(k <= s for k, s in zip(op.kernel, op.strides, strict=True))
        arguments: dict[str, Argument] = {
            **launch(numel(x.type.shape[:2]), 1, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "places": Pointer(places),
            "flag": Flag(f"MaxUnpool index {{}} is outside its plane of {show(y.type.shape)}"),
            "elements": Extent(numel(x.type.shape[2:])), "size": Extent(numel(y.type.shape[2:])),
            "writers": Extent(threads if apart else 1),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("T0", data_type(DType.I64)),))
