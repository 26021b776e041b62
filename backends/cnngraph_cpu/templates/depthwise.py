"""Depthwise convolution (one filter a channel) on blocked tensors; taps are clipped at the borders, so nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, product
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Conv
from cnngraph.ops.correlate import Correlate
from cnngraph.ops.expression import Expression
from cnngraph_cpu.language import F32Pointer, epilogue, fma, load, registers, store, unroll
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, only_floats, operand_layouts, overwritable, per_channel
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_geometry import Geometry, geometry
from cnngraph_cpu.templates.pool import inner_columns

W = SX = KX = FIRST = LAST = PX = RX = 0
MOST_UNROLLED_TAPS = 5
"""Taps of a row up to which the code of each is written out."""
_COLS = 8
_PLANE = 2


def start_row() -> None:
    """The rows of taps of output row ``oy`` that lie within the input: ``first_y`` to ``last_y``, the first of all at row ``y0``."""
    y0 = oy * stride_y - pad_y
    first_y = max(0, (DY - 1 - y0) // DY)
    last_y = min(kernel_y, (height - y0 + DY - 1) // DY)


def next_row() -> None:
    """Move on to the next output row, channel block, image."""
    oy = oy + 1
    if oy == out_y:
        oy = 0
        cb = cb + 1
        if cb == blocks:
            cb = 0
            image = image + 1


def border(start: int, stop: int) -> None:
    """Output columns whose window leaves the row: one by one, taps clipped."""
    for ox in range(start, stop):
        x0 = ox * SX - pad_x
        first_x = max(0, (DX - 1 - x0) // DX)
        last_x = min(kernel_x, (width - x0 + DX - 1) // DX)
        total = bias
        for ky in range(first_y, last_y):
            line = image * x_batch + ((cb * height + y0 + ky * DY) * width + x0) * W
            for kx in range(first_x, last_x):
                weight = load(w, ((cb * kernel_y + ky) * kernel_x + kx) * W)
                total = fma(weight, load(x, line + kx * DX * W), total)
        inner = ((cb * out_y + oy) * out_x + ox) * W
        out = epilogue(total, image, inner, cb * W)
        store(y, image * y_batch + inner, out)


def columns(COLS: int, ox: int, LEFT: int, RIGHT: int) -> None:
    """COLS output columns whose windows leave the row by LEFT and RIGHT input columns."""
    for c in unroll(COLS):
        acc[c] = bias
    for ky in range(first_y, last_y):
        line = image * x_batch + ((cb * height + y0 + ky * DY) * width + ox * SX - pad_x) * W
        at = (cb * kernel_y + ky) * kernel_x * W
        if KX:
            for kx in unroll(KX):
                weights[kx] = load(w, at + kx * W)
            for place in unroll(LEFT, (COLS - 1) * SX + KX - RIGHT):
                value = load(x, line + place * W)
                for kx in unroll(KX):
                    for c in unroll(COLS):
                        if c * SX + kx == place:
                            acc[c] = fma(weights[kx], value, acc[c])
        else:
            for kx in range(kernel_x):
                weight = load(w, at + kx * W)
                for c in unroll(COLS):
                    acc[c] = fma(weight, load(x, line + (kx * DX + c * SX) * W), acc[c])
    for c in unroll(COLS):
        inner = ((cb * out_y + oy) * out_x + ox + c) * W
        total = acc[c]
        out = epilogue(total, image, inner, cb * W)
        store(y, image * y_batch + inner, out)


def depthwise(
    x: F32Pointer, w: F32Pointer, b: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, height: int,
    width: int, out_y: int, out_x: int, kernel_y: int, kernel_x: int, stride_y: int, DY: int, DX: int, pad_y: int,
    pad_x: int, first_inner: int, last_inner: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``[first_inner, last_inner)`` are the output columns whose window lies within the row.

    Dilations of 1 are compile-time constants, which leaves no division in the loops. With KX the column taps are unrolled:
    each input vector is loaded once for all the columns that share it. With FIRST the row is FIRST columns, eights, and LAST columns; the
    outer windows leave the row by PX and RX columns, whose taps are left out when the code is generated.
    """
    acc = registers(8)
    weights = registers(KX)
    tasks = images * blocks * out_y
    first_task = tasks * tid // threads
    image = first_task // (blocks * out_y)
    cb = first_task // out_y % blocks
    oy = first_task % out_y
    for task in range(first_task, tasks * (tid + 1) // threads):
        start_row()
        bias = load(b, cb * W)
        if FIRST and not LAST:
            columns(FIRST, 0, PX, RX)
        elif FIRST:
            columns(FIRST, 0, PX, 0)
            for ox in range(FIRST, out_x - LAST, 8):
                columns(8, ox, 0, 0)
            columns(LAST, out_x - LAST, 0, RX)
        else:
            border(0, first_inner)
            eights = first_inner + (last_inner - first_inner) // 8 * 8
            fours = eights + (last_inner - eights) // 4 * 4
            twos = fours + (last_inner - fours) // 2 * 2
            for ox in range(first_inner, eights, 8):
                columns(8, ox, 0, 0)
            for ox in range(eights, fours, 4):
                columns(4, ox, 0, 0)
            for ox in range(fours, twos, 2):
                columns(2, ox, 0, 0)
            border(twos, out_x)
        next_row()


class Depthwise:
    """Convolutions with as many groups as input and output channels."""

    name = "depthwise"
    reorders_arithmetic = False
    code = Code(depthwise, {f.__name__: f for f in (start_row, next_row, border, columns)}, "Depthwise convolution over a blocked tensor.")
    _direct = ConvDirect()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the direct convolution refuses, other groups, and three spatial axes."""
        refusal = self._direct.accepts(node, target)
        if refusal:
            return refusal
        g = geometry(node)
        if g.group != g.channels or g.group != g.out_channels:
            return "not one filter a channel"
        if g.size[0] != 1 or g.kernel[0] != 1 or g.pad[0] or g.pad_end[0]:
            return "three spatial axes"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Taps."""
        return _cycles(node, target)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """The filters packed."""
        op = node.op
        assert isinstance(op, Conv)
        bias, weights = node.inputs[2], node.input(1).data
        assert weights is not None
        filters = packed_filters(weights, target.width)
        by_channel = per_channel(None if bias is None else bias.data, geometry(node).channels, target.width)
        return _call(node, target, filters, by_channel, op.epilogue)


class DepthwiseComputed:
    """The same with computed filters, which in the blocked layout are in the order of packed ones."""

    name = "depthwise_computed"
    reorders_arithmetic = False
    code = Depthwise.code

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and types, and three spatial axes."""
        if not isinstance(node.op, Correlate):
            return "no correlation with computed filters"
        if len(node.op.kernel) > _PLANE:
            return "three spatial axes"
        refusal = only_floats(node)
        if refusal:
            return refusal
        known = all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:]))
        return None if known else "an extent is zero or depends on the batch"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        return [LayoutRequest((layout, layout), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Taps."""
        return _cycles(node, target)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """As for packed filters."""
        return _call(node, target, Pointer(node.input(1)), per_channel(None, geometry(node).channels, target.width), None)


def _cycles(node: Node, target: Target) -> float:
    g = geometry(node)
    return product(g.out) * product(g.kernel) * ceil_div(g.channels, target.width) * 1.0


def _call(node: Node, target: Target, filters: Argument, bias: Argument, expression: Expression | None) -> KernelCall:
    """One task an output row of a channel block; ``filters`` are ``[channel block][tap][width]``."""
    g, width = geometry(node), target.width
    x, y = node.input(0), node.output
    first, last = inner_columns(g.size[2], g.out[2], g.kernel[2], g.stride[2], g.dilation[2], g.pad[2])
    near = g.dilation[1:] == (1, 1)
    taps = g.kernel[2] if near and g.kernel[2] <= MOST_UNROLLED_TAPS else 0
    kinds, operands = epilogue_arguments(expression, node.inputs[3:], y.type, width)
    arguments: dict[str, Argument] = {
        "x": Pointer(x), "w": filters, "b": bias,
        "y": Pointer(y), "images": Extent(g.images), "x_batch": BatchStride(x), "y_batch": BatchStride(y),
        **extents(g, width, first, last), **operands,
    }  # fmt: skip
    parts = _row_parts(g) if taps else ()
    constants = (("SX", g.stride[2]), ("KX", taps), *((("DY", 1), ("DX", 1)) if near else ()), *parts, *kinds)
    return KernelCall(KernelSpec(Depthwise.name, target.isa, constants, expression), arguments, (), overwritable(node.inputs[3:], y))


def packed_filters(weights: np.ndarray, width: int) -> Packed:
    """A filter [1, *kernel] for each channel as float32 [channel block][tap][``width``], zeros behind the last channel."""
    blocks = ceil_div(weights.shape[0], width)
    packed = np.zeros((blocks * width, weights[0].size), np.float32)
    packed[: weights.shape[0]] = weights.reshape(weights.shape[0], -1)
    return Packed(np.ascontiguousarray(packed.reshape(blocks, width, -1).transpose(0, 2, 1)))


def extents(g: Geometry, width: int, first: int, last: int) -> dict[str, Argument]:
    """Sizes and steps of a convolution; columns ``first`` to ``last`` are those whose window lies within the row."""
    numbers = {
        "blocks": ceil_div(g.channels, width), "height": g.size[1], "width": g.size[2], "out_y": g.out[1], "out_x": g.out[2],
        "kernel_y": g.kernel[1], "kernel_x": g.kernel[2], "stride_y": g.stride[1], "DY": g.dilation[1],
        "DX": g.dilation[2], "pad_y": g.pad[1], "pad_x": g.pad[2], "first_inner": first, "last_inner": last,
    }  # fmt: skip
    return {name: Extent(value) for name, value in numbers.items()}


def _row_parts(g: Geometry) -> tuple[tuple[str, int], ...]:
    """The constants FIRST, LAST, PX and RX for the rows of ``g``, or none where windows other than the outer ones leave the row."""
    out, stride, kernel, pad, size = g.out[2], g.stride[2], g.kernel[2], g.pad[2], g.size[2]
    over = max(0, (out - 1) * stride + kernel - pad - size)
    if out <= _COLS:
        return ("FIRST", out), ("LAST", 0), ("PX", pad), ("RX", over)
    outer = out % _COLS + _COLS
    first, last = (outer + 1) // 2, outer // 2
    if first * stride < pad or (out - last - 1) * stride + kernel - pad > size:
        return ()
    return ("FIRST", first), ("LAST", last), ("PX", pad), ("RX", over)
