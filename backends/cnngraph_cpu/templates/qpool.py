"""Pooling of 8-bit blocked tensors: maximum, average of dequantised numbers, and the average of whole images.

An average is computed as its reference does: float32 sums in the order of the window's taps. The sum over an image is exact in int32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, per_image, product
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Pool
from cnngraph.ops.quantized_conv import QLinearAveragePool, QLinearGlobalAveragePool
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    add,
    add_int,
    div,
    get,
    load_bytes,
    load_signed_bytes,
    max_int,
    mul,
    registers,
    round_between,
    splat,
    splat_int,
    store_bytes,
    sub_int,
    to_float,
    to_floats,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked
from cnngraph_cpu.templates.conv_geometry import three
from cnngraph_cpu.templates.pool import inner_columns
from cnngraph_cpu.templates.quantized import EIGHT, UNUSED, number

W = AVERAGE = COUNT_PAD = SIGNED = SX = COLS = 0


def window(COLS: int, ox: int, from_x: int, to_x: int) -> None:
    """COLS output columns from ``ox`` on, each over the taps ``from_x .. to_x - 1`` of a row."""
    for c in unroll(COLS):
        if AVERAGE:
            total[c] = splat(0.0)
        else:
            most[c] = splat_int(-128 if SIGNED else 0)
    for ky in range(first_y, last_y):
        line = image * x_batch + ((cb * height + y0 + ky * dilation_y) * width + ox * SX - pad_x) * W
        for kx in range(from_x, to_x):
            for c in unroll(COLS):
                at = line + (kx * dilation_x + c * SX) * W
                if SIGNED:
                    value = load_signed_bytes(x, at)
                else:
                    value = load_bytes(x, at)
                if AVERAGE:
                    total[c] = add(total[c], mul(to_floats(sub_int(value, zeros)), x_scale))
                else:
                    most[c] = max_int(most[c], value)
    to = image * y_batch + ((cb * out_y + oy) * out_x + ox) * W
    if AVERAGE:
        counted = splat(to_float(max(1, kernel_y * kernel_x if COUNT_PAD else (last_y - first_y) * (to_x - from_x))))
        for c in unroll(COLS):
            scaled = add(div(div(total[c], counted), y_scale), y_zero_float)
            store_bytes(y, to + c * W, round_between(scaled, lowest, highest))
    else:
        for c in unroll(COLS):
            store_bytes(y, to + c * W, most[c])


def clipped(start: int, stop: int) -> None:
    """Output columns one by one, their taps clipped to the row."""
    for ox in range(start, stop):
        begin = ox * SX - pad_x
        from_x = max(0, (dilation_x - 1 - begin) // dilation_x)
        to_x = max(from_x, min(kernel_x, (width - begin + dilation_x - 1) // dilation_x))
        window(1, ox, from_x, to_x)


def qpool(
    x: BytePointer, y: BytePointer, scales: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, height: int, width: int,
    out_y: int, out_x: int, kernel_y: int, kernel_x: int, stride_y: int, dilation_y: int, dilation_x: int, pad_y: int, pad_x: int,
    first_inner: int, last_inner: int, x_zero: int, y_zero: int, low: int, high: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """A task is one output row of one channel block. ``[first_inner, last_inner)``: columns whose window lies within the row."""
    total = registers(8)
    most = registers(8)
    if AVERAGE:
        zeros = splat_int(x_zero)
        x_scale = splat(get(scales, 0))
        y_scale = splat(get(scales, 1))
        y_zero_float = splat(to_float(y_zero))
        lowest = splat(to_float(low))
        highest = splat(to_float(high))
    tasks = images * blocks * out_y
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (blocks * out_y)
        cb = task // out_y % blocks
        oy = task % out_y
        y0 = oy * stride_y - pad_y
        first_y = max(0, (dilation_y - 1 - y0) // dilation_y)
        last_y = max(first_y, min(kernel_y, (height - y0 + dilation_y - 1) // dilation_y))
        clipped(0, first_inner)
        eights = first_inner + (last_inner - first_inner) // 8 * 8
        for ox in range(first_inner, eights, 8):
            window(8, ox, 0, kernel_x)
        clipped(eights, out_x)


def qaverage_image(
    x: BytePointer, y: BytePointer, factors: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, pixels: int,
    x_zero: int, y_zero: int, low: int, high: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """The sum over an image's pixels, requantised."""
    acc = registers(4)
    factor = splat(get(factors, 0))
    tasks = images * blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // blocks
        cb = task % blocks
        at = image * x_batch + cb * pixels * W
        for c in unroll(4):
            acc[c] = splat_int(0)
        fours = pixels // 4 * 4
        for p in range(0, fours, 4):
            for c in unroll(4):
                if SIGNED:
                    acc[c] = add_int(acc[c], load_signed_bytes(x, at + (p + c) * W))
                else:
                    acc[c] = add_int(acc[c], load_bytes(x, at + (p + c) * W))
        for p in range(fours, pixels):
            if SIGNED:
                acc[0] = add_int(acc[0], load_signed_bytes(x, at + p * W))
            else:
                acc[0] = add_int(acc[0], load_bytes(x, at + p * W))
        whole = sub_int(add_int(add_int(acc[0], acc[1]), add_int(acc[2], acc[3])), splat_int(x_zero * pixels))
        scaled = round_between(mul(to_floats(whole), factor), splat(to_float(low - y_zero)), splat(to_float(high - y_zero)))
        store_bytes(y, image * y_batch + cb * W, add_int(scaled, splat_int(y_zero)))


def _refuse(node: Node) -> str | None:
    if node.input(0).type.dtype not in EIGHT:
        return "not an 8-bit tensor"
    if any(v is not None and v.data is None for v in node.inputs[1:]):
        return "a scale is computed at run time"
    if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
        return "an extent is zero or depends on the batch"
    return None


class QPool:
    """MaxPool of 8-bit tensors, and QLinearAveragePool, over one or two spatial axes."""

    name = "qpool"
    reorders_arithmetic = False
    code = Code(qpool, {"window": window, "clipped": clipped}, "Pooling of an 8-bit blocked tensor.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses indices, three spatial axes, and averages that count padding which ceil_mode has cut off."""
        op = node.op
        if not isinstance(op, (Pool, QLinearAveragePool)):
            return "not pooling"
        if isinstance(op, Pool) and (op.indices or op.kind != "max"):
            return "the indices of the maxima are wanted" if op.indices else "an average of integers"
        return _refuse(node) or ("three spatial axes" if len(op.kernel) > 2 else None)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        return [LayoutRequest((blocked(target), *[None] * (len(node.inputs) - 1)), (blocked(target),))]

    def cost(self, node: Node, target: Target) -> float:
        """Taps read."""
        assert isinstance(node.op, (Pool, QLinearAveragePool))
        return per_image(node.output.type.physical_elements) * product(node.op.kernel) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an output row of a channel block."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, (Pool, QLinearAveragePool))
        n, average = len(op.kernel), isinstance(op, QLinearAveragePool)
        dilations = op.dilations if isinstance(op, Pool) else (1,) * n
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        size, out, pads = three(x.type.shape[2:], 1)[1:], three(y.type.shape[2:], 1)[1:], three(op.pads[:n], 0)[1:]
        kernel, stride, dilation = three(op.kernel, 1)[1:], three(op.strides, 1)[1:], three(dilations, 1)[1:]
        first, last = inner_columns(size[1], out[1], kernel[1], stride[1], dilation[1], pads[1])
        low, high = x.type.dtype.range
        numbers = {
            "blocks": ceil_div(channels, target.width), "height": size[0], "width": size[1], "out_y": out[0], "out_x": out[1],
            "kernel_y": kernel[0], "kernel_x": kernel[1], "stride_y": stride[0], "dilation_y": dilation[0], "dilation_x": dilation[1],
            "pad_y": pads[0], "pad_x": pads[1], "first_inner": first, "last_inner": last,
            "x_zero": number(node.inputs[2]) if average else 0, "y_zero": number(node.inputs[4]) if average else 0,
            "low": low, "high": high,
        }  # fmt: skip
        scales = UNUSED
        if average:
            scales = Packed(np.array([float(node.input(i).data.reshape(-1)[0]) for i in (1, 3)], np.float32))  # type: ignore[union-attr]
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "scales": scales, "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x),
            "y_batch": BatchStride(y), **{name: Extent(value) for name, value in numbers.items()},
        }  # fmt: skip
        constants = (
            ("AVERAGE", int(average)), ("COUNT_PAD", int(isinstance(op, QLinearAveragePool) and op.count_include_pad)),
            ("SIGNED", int(x.type.dtype.value == "int8")), ("SX", stride[1]),
        )  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)


class QAverageImage:
    """QLinearGlobalAveragePool."""

    name = "qaverage_image"
    reorders_arithmetic = False
    code = Code(qaverage_image, {}, "Average of 8-bit images.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters computed at run time, and sums beyond int32."""
        if not isinstance(node.op, QLinearGlobalAveragePool):
            return "not an average of 8-bit images"
        refusal = _refuse(node)
        if refusal:
            return refusal
        if product(d for d in node.input(0).type.shape[2:] if isinstance(d, int)) >= 1 << 22:
            return "images of more than four million pixels"
        return None if np.isfinite(_factor(node)) else "a multiplier that is not finite"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        return [LayoutRequest((blocked(target), *[None] * 4), (blocked(target),))]

    def cost(self, node: Node, target: Target) -> float:
        """Vectors read."""
        return per_image(node.input(0).type.physical_elements) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a channel block of an image."""
        x, y = node.input(0), node.output
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        low, high = x.type.dtype.range
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "factors": Packed(np.array([_factor(node)], np.float32)), "images": Extent(x.type.shape[0]),
            "x_batch": BatchStride(x), "y_batch": BatchStride(y), "blocks": Extent(ceil_div(channels, target.width)),
            "pixels": Extent(numel(x.type.shape[2:])), "x_zero": Extent(number(node.inputs[2])),
            "y_zero": Extent(number(node.inputs[4])), "low": Extent(low), "high": Extent(high),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, (("SIGNED", int(x.type.dtype.value == "int8")),)), arguments)


def _factor(node: Node) -> np.float32:
    x_scale, y_scale = node.input(1).data, node.input(3).data
    assert x_scale is not None and y_scale is not None
    count = product(d for d in node.input(0).type.shape[2:] if isinstance(d, int))
    with np.errstate(all="ignore"):
        return np.float32(np.float32(x_scale.reshape(())) / (np.float32(y_scale.reshape(())) * np.float32(count)))
