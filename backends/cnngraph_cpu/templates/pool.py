"""Max and average pooling on blocked tensors, windows clipped to the valid range.

A task is one output row of one channel block. Columns whose window lies within the row run eight or four at a time. Large windows are
separable: the rows of the window are combined first, into a line of scratch, then its columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cnngraph.ir.graph import Node
from cnngraph.ir.types import TensorType, ceil_div, per_image, product, static
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Scratch, Target
from cnngraph.ops import Pool
from cnngraph_cpu.language import F32Pointer, add, div, load, maximum, mul, prefetch, registers, splat, store, to_float, unroll
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats
from cnngraph_cpu.templates.conv_geometry import three
from cnngraph_cpu.templates.tile_loops import LINE

W = AVERAGE = COUNT_PAD = SEPARABLE = SX = KX = SCALE = 0
_MOST_UNROLLED_TAPS = 3


def first_row() -> None:
    """The output row ``oy`` of ``oz`` of an image's plane, which is a block of channels or a channel, that a thread begins with."""
    rows = out_d * out_y
    tasks = images * planes * rows
    first_task = tasks * tid // threads
    image = first_task // (planes * rows)
    plane = first_task // rows % planes
    oz = first_task % rows // out_y
    oy = first_task % out_y


def window_rows() -> None:
    """The rows of taps of an output row that lie within the input, ``first_*`` to ``last_*``, and how many an average counts."""
    row = oz * out_y + oy
    z0 = oz * stride_d - pad_d
    y0 = oy * stride_y - pad_y
    first_d = max(0, (DZ - 1 - z0) // DZ)
    last_d = max(first_d, min(kernel_d, (depth - z0 + DZ - 1) // DZ))
    first_y = max(0, (DY - 1 - y0) // DY)
    last_y = max(first_y, min(kernel_y, (height - y0 + DY - 1) // DY))
    if COUNT_PAD:
        counted_d = min(kernel_d, (limit_d - pad_d - z0 + DZ - 1) // DZ)
        counted_rows = counted_d * min(kernel_y, (limit_y - pad_y - y0 + DY - 1) // DY)
    else:
        counted_rows = (last_d - first_d) * (last_y - first_y)


def next_row() -> None:
    """Move on to the next output row, plane, image."""
    oy = oy + 1
    if oy == out_y:
        oy = 0
        oz = oz + 1
        if oz == out_d:
            oz = 0
            plane = plane + 1
            if plane == planes:
                plane = 0
                image = image + 1


def rows_of_window(COLS: int, column: int) -> None:
    """Combine the window's rows for COLS input columns, into scratch."""
    for c in unroll(COLS):
        acc[c] = splat(0.0) if AVERAGE else splat(-1e400)
    for kz in range(first_d, last_d):
        for ky in range(first_y, last_y):
            line = image * x_batch + (((plane * depth + z0 + kz * DZ) * height + y0 + ky * DY) * width + column) * W
            for c in unroll(COLS):
                value = load(x, line + c * W)
                acc[c] = add(acc[c], value) if AVERAGE else maximum(acc[c], value)
    for c in unroll(COLS):
        store(scratch, (column + c) * W, acc[c])


def taps_of_row(COLS: int, from_x: int, to_x: int) -> None:
    """Combine the taps of one row, at ``row_at`` in ``source``, into COLS columns.

    Unrolled (KX, for whole windows of dilation 1), each input vector is loaded once for all the columns that share it.
    """
    if KX and COLS > 1:
        for place in unroll((COLS - 1) * SX + KX):
            value = load(source, row_at + place * W)
            for kx in unroll(KX):
                for c in unroll(COLS):
                    if c * SX + kx == place:
                        acc[c] = add(acc[c], value) if AVERAGE else maximum(acc[c], value)
    else:
        for kx in range(from_x, to_x):
            line = row_at + kx * DX * W
            for c in unroll(COLS):
                value = load(source, line + c * SX * W)
                acc[c] = add(acc[c], value) if AVERAGE else maximum(acc[c], value)


def output_columns(COLS: int, ox: int, from_x: int, to_x: int) -> None:
    """COLS output columns from ``ox`` on, each over the taps ``from_x .. to_x - 1`` of a row."""
    for c in unroll(COLS):
        acc[c] = splat(0.0) if AVERAGE else splat(-1e400)
    x0 = ox * SX - pad_x
    if SEPARABLE:
        source = scratch
        row_at = x0 * W
        taps_of_row(COLS, from_x, to_x)
    else:
        source = x
        for ky in range(stride_y):  # the rows that the next output row reads besides
            ahead = image * x_batch + (((plane * depth + z0) * height + y0 + kernel_y + ky) * width + x0) * W
            for place in unroll(COLS * SX):
                if place * W % LINE == 0:
                    prefetch(x, ahead + place * W)
        for kz in range(first_d, last_d):
            for ky in range(first_y, last_y):
                row_at = image * x_batch + (((plane * depth + z0 + kz * DZ) * height + y0 + ky * DY) * width + x0) * W
                taps_of_row(COLS, from_x, to_x)
    if SCALE:
        for c in unroll(COLS):
            acc[c] = mul(acc[c], splat(1.0 / SCALE))
    elif AVERAGE:
        if COUNT_PAD:
            counted = counted_rows * min(kernel_x, (limit_x - pad_x - x0 + DX - 1) // DX)
        else:
            counted = counted_rows * (to_x - from_x)
        divisor = splat(to_float(max(counted, 1)))
        for c in unroll(COLS):
            acc[c] = div(acc[c], divisor)
    to = image * y_batch + ((plane * rows + row) * out_x + ox) * W
    for c in unroll(COLS):
        store(y, to + c * W, acc[c])


def clipped_columns(start: int, stop: int) -> None:
    """Output columns one by one, their taps clipped to the row."""
    for ox in range(start, stop):
        begin = ox * SX - pad_x
        from_x = max(0, (DX - 1 - begin) // DX)
        to_x = max(from_x, min(kernel_x, (width - begin + DX - 1) // DX))
        output_columns(1, ox, from_x, to_x)


def pool(
    x: F32Pointer, y: F32Pointer, scratch: F32Pointer, images: int, x_batch: int, y_batch: int, planes: int, first_inner: int,
    last_inner: int, depth: int, height: int, width: int, out_d: int, out_y: int, out_x: int, kernel_d: int, kernel_y: int,
    kernel_x: int, stride_d: int, stride_y: int, stride_x: int, DZ: int, DY: int, DX: int, pad_d: int,
    pad_y: int, pad_x: int, limit_d: int, limit_y: int, limit_x: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``limit_*`` is the padded extent: taps beyond it (ceil_mode) never count.

    The dilations are 1 at compile time where they all are, which leaves no division in the loops.
    ``[first_inner, last_inner)`` are the output columns whose window lies within the row.
    """
    acc = registers(8)
    first_row()
    for task in range(first_task, tasks * (tid + 1) // threads):
        window_rows()
        if SEPARABLE:
            eights = width // 8 * 8
            fours = eights + (width - eights) // 4 * 4
            for column in range(0, eights, 8):
                rows_of_window(8, column)
            for column in range(eights, fours, 4):
                rows_of_window(4, column)
            for column in range(fours, width):
                rows_of_window(1, column)
        eights = first_inner + (last_inner - first_inner) // 8 * 8
        fours = eights + (last_inner - eights) // 4 * 4
        clipped_columns(0, first_inner)
        for ox in range(first_inner, eights, 8):
            output_columns(8, ox, 0, kernel_x)
        for ox in range(eights, fours, 4):
            output_columns(4, ox, 0, kernel_x)
        clipped_columns(fours, out_x)
        next_row()


ROW_HELPERS = (first_row, window_rows, next_row)


class PoolBlocked:
    """Pooling over 1 to 3 spatial axes."""

    name = "pool"
    reorders_arithmetic = False
    code = Code(
        pool,
        {f.__name__: f for f in (*ROW_HELPERS, rows_of_window, taps_of_row, output_columns, clipped_columns)},
        "Max or average pooling over a blocked tensor.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses pooling that also returns indices."""
        return refuse_pooling(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        return [LayoutRequest((blocked(target),), (blocked(target),))]

    def cost(self, node: Node, target: Target) -> float:
        """Taps read."""
        assert isinstance(node.op, Pool)
        taps = 1
        for k in node.op.kernel:
            taps *= k
        return per_image(node.output.type.physical_elements) * taps / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an output row of a channel block."""
        op = node.op
        assert isinstance(op, Pool)
        x, y = node.input(0), node.output
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        size, out, kernel, stride, dilation, begins, limit = extents = windows_of(node)
        first, last = inner_columns(size[2], out[2], kernel[2], stride[2], dilation[2], begins[2])
        rows = kernel[0] * kernel[1]
        separable = rows * stride[2] + kernel[2] + stride[2] < 0.8 * rows * kernel[2]
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "scratch": Scratch(size[2] * target.width * 4 if separable else 4),
            "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x), "y_batch": BatchStride(y),
            "planes": Extent(ceil_div(channels, target.width)), "first_inner": Extent(first), "last_inner": Extent(last),
        }  # fmt: skip
        for names, values in zip(EXTENT_NAMES, extents, strict=True):
            arguments.update({name: Extent(v) for name, v in zip(names, values, strict=True)})
        near, taps = dilation == (1, 1, 1), product(op.kernel)  # by a power of two the product is the quotient
        constants = (
            ("AVERAGE", int(op.kind == "average")), ("COUNT_PAD", int(op.kind == "average" and op.count_include_pad)),
            ("SEPARABLE", int(separable)), ("SX", stride[2]), ("KX", kernel[2] if near and kernel[2] <= _MOST_UNROLLED_TAPS else 0),
            *((("DZ", 1), ("DY", 1), ("DX", 1)) if near else ()),
            *((("SCALE", taps),) if op.kind == "average" and taps & (taps - 1) == 0 and whole_windows(op, x.type, y.type) else ()),
        )  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)


class Windows(NamedTuple):
    """Extents of pooling by depth, row and column; of fewer axes the first are 1 long and unpadded. ``limit`` is the padded input's."""

    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begins: tuple[int, ...]
    limit: tuple[int, ...]


EXTENT_NAMES = (
    ("depth", "height", "width"), ("out_d", "out_y", "out_x"), ("kernel_d", "kernel_y", "kernel_x"), ("stride_d", "stride_y", "stride_x"),
    ("DZ", "DY", "DX"), ("pad_d", "pad_y", "pad_x"), ("limit_d", "limit_y", "limit_x"),
)  # fmt: skip
"""What the kernels call the numbers of :class:`Windows`."""


def windows_of(node: Node) -> Windows:
    """The extents of a Pool node."""
    op = node.op
    assert isinstance(op, Pool)
    n = len(op.kernel)
    size, begins = three(node.input(0).type.shape[2:], 1), three(op.pads[:n], 0)
    limit = tuple(s + a + b for s, a, b in zip(size, begins, three(op.pads[n:], 0), strict=True))
    out = three(node.output.type.shape[2:], 1)
    return Windows(size, out, three(op.kernel, 1), three(op.strides, 1), three(op.dilations, 1), begins, limit)


def refuse_pooling(node: Node) -> str | None:
    """Why no pooling kernel of floats takes a node, or None."""
    if not isinstance(node.op, Pool):
        return "not pooling"
    if len(node.outputs) != 1 or node.op.indices:
        return "the indices of the maxima are wanted"
    refusal = only_floats(node)
    if refusal:
        return refusal
    if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
        return "an extent is zero or depends on the batch"
    return None


def whole_windows(op: Pool, x: TensorType, y: TensorType) -> bool:
    """Whether every window lies within the input, and an average therefore always divides by the same number."""
    if any(op.pads):
        return False
    windows = zip(static(x.shape[2:]), static(y.shape[2:]), op.kernel, op.strides, op.dilations, strict=True)
    return all((out - 1) * stride + (kernel - 1) * dilation < size for size, out, kernel, stride, dilation in windows)


def inner_columns(size: int, out: int, kernel: int, stride: int, dilation: int, pad: int) -> tuple[int, int]:
    """The range of output columns whose whole window lies within a row of ``size`` columns, possibly empty."""
    reach = (kernel - 1) * dilation
    first = min(out, ceil_div(pad, stride))
    if size <= reach:
        return first, first
    return first, max(first, min(out, (size - 1 - reach + pad) // stride + 1))
