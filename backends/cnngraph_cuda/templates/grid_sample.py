"""GridSample over one to three axes of row-major tensors: one thread has one element."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, static
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops.deform import GridSample
from cnngraph_cuda.language import (
    DataPointer,
    absolute,
    add,
    block_x,
    div,
    floor,
    fma,
    load_one,
    maximum,
    minimum,
    mul,
    registers,
    round_even,
    select,
    store_one,
    sub,
    thread,
    to_float,
    truncate,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, kernel_call, launch, refuse_empty
from cnngraph_cuda.templates.conv_direct import triple

AXES = TAPS = PADDING = ALIGN = THREADS = 0
ZEROS, BORDER, REFLECTION = range(3)
_MODES = {"nearest": 1, "linear": 2, "cubic": 4}
_PADDINGS = {"zeros": ZEROS, "border": BORDER, "reflection": REFLECTION}


def borders(extent: int) -> None:
    """``least`` and ``most``, between which a point is inside."""
    if ALIGN:
        least = 0.0
        most = to_float(extent - 1)
    else:
        least = sub(0.0, 0.5)
        most = sub(to_float(extent), 0.5)


def mirror(extent: int) -> None:
    """``at`` mirrored at both borders until it lies between them."""
    borders(extent)
    span = sub(most, least)
    before = select(at < least, 1, 0)
    after = select(at > most, 1, 0)
    if span > 0.0:
        if before + after > 0:
            if before == 1:
                distance = sub(least, at)
            else:
                distance = sub(at, most)
            turns = floor(div(distance, span))
            rest = sub(distance, mul(turns, span))
            odd = select(mul(floor(div(turns, 2.0)), 2.0) == turns, 0, 1)
            if odd + before == 1:
                at = add(least, rest)
            else:
                at = sub(most, rest)
    else:
        at = 0.0


def find(NUMBER: int, extent: int) -> None:
    """The pixel below a coordinate, and the part of a pixel above it."""
    if NUMBER + AXES > 2:
        at = load_one(grid, (image * points + point) * AXES + 2 - NUMBER)
        if ALIGN:
            at = mul(div(add(at, 1.0), 2.0), to_float(extent - 1))
        else:
            at = div(sub(mul(add(at, 1.0), to_float(extent)), 1.0), 2.0)
        if TAPS == 1:
            at = round_even(at)
        if PADDING == BORDER:
            borders(extent)
            if select(at < least, 1, 0) + select(at > most, 1, 0) > 0:
                at = minimum(maximum(at, 0.0), to_float(extent - 1))
        if PADDING == REFLECTION:
            mirror(extent)
        lower[NUMBER] = floor(at)
        part[NUMBER] = sub(at, lower[NUMBER])
        far = to_float(1073741824)
        lower[NUMBER] = select(lower[NUMBER] > sub(0.0, far), lower[NUMBER], sub(0.0, far))
        lower[NUMBER] = select(lower[NUMBER] < far, lower[NUMBER], far)
    else:
        lower[NUMBER] = 0.0
        part[NUMBER] = 0.0


def tap(NUMBER: int, offset: int, extent: int) -> None:
    """Place and weight of one tap along one axis."""
    place[NUMBER] = truncate(to_float(0))
    weight[NUMBER] = 1.0
    if NUMBER + AXES > 2:
        step = to_float(offset)
        if TAPS == 4:
            step = to_float(offset - 1)
        at = add(lower[NUMBER], step)
        if TAPS == 2:
            if offset == 0:
                weight[NUMBER] = sub(1.0, part[NUMBER])
            else:
                weight[NUMBER] = part[NUMBER]
        if TAPS == 4:
            far = absolute(sub(part[NUMBER], step))
            if far <= 1.0:
                weight[NUMBER] = add(mul(mul(sub(mul(far, 1.25), 2.25), far), far), 1.0)
            else:
                weight[NUMBER] = add(mul(add(mul(add(mul(far, sub(0.0, 0.75)), 3.75), far), sub(0.0, 6.0)), far), 3.0)
        if PADDING == ZEROS:
            if select(at < 0.0, 1, 0) + select(at > to_float(extent - 1), 1, 0) > 0:
                weight[NUMBER] = 0.0
        if PADDING == REFLECTION:
            mirror(extent)
        place[NUMBER] = truncate(minimum(maximum(at, 0.0), to_float(extent - 1)))


def grid_sample(
    x: DataPointer, y: DataPointer, grid: DataPointer, elements: int, channels: int, points: int, taps_d: int, taps_h: int, taps_w: int,
    depth: int, height: int, width: int,
) -> None:  # fmt: skip
    """Axes that are not there have one pixel and one tap."""
    lower = registers(3)
    part = registers(3)
    place = registers(3)
    weight = registers(3)
    element = block_x() * THREADS + thread()
    if element < elements:
        plane = element // points
        point = element - plane * points
        image = plane // channels
        find(0, depth)
        find(1, height)
        find(2, width)
        first = plane * (depth * height * width)
        total = 0.0
        for i in range(taps_d):
            tap(0, i, depth)
            for j in range(taps_h):
                tap(1, j, height)
                for k in range(taps_w):
                    tap(2, k, width)
                    value = load_one(x, first + (place[0] * height + place[1]) * width + place[2])
                    factor = mul(mul(weight[0], weight[1]), weight[2])
                    if PADDING == ZEROS:
                        value = select(factor == 0.0, 0.0, value)
                    total = fma(value, factor, total)
        store_one(y, element, total)


class GridSamplePlain:
    """GridSample."""

    name = "grid_sample"
    reorders_arithmetic = False
    code = Code(grid_sample, {"find": find, "tap": tap, "mirror": mirror, "borders": borders}, "Interpolation at the points of a grid.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses integers, grids of another type than the image, more than three axes, and empty tensors."""
        if not isinstance(node.op, GridSample):
            return "not GridSample"
        x, grid = node.input(0).type, node.input(1).type
        if x.dtype not in DATA_TYPES or grid.dtype is not x.dtype:
            return f"{x.dtype.value} tensors by a grid of {grid.dtype.value}"
        return "more than three spatial axes" if x.rank > 5 else refuse_empty(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, grid, y, threads = node.op, node.input(0), node.input(1), node.output, 128
        assert isinstance(op, GridSample)
        axes, taps, units = x.type.rank - 2, _MODES[op.mode], numel(y.type.shape)
        numbers = dict(zip(("depth", "height", "width"), triple(static(x.type.shape[2:]), 1), strict=True))
        numbers |= dict(zip(("taps_d", "taps_h", "taps_w"), triple((taps,) * axes, 1), strict=True))
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "grid": Pointer(grid),
            "elements": Extent(units), "channels": Extent(x.type.shape[1]), "points": Extent(numel(y.type.shape[2:])),
            **{name: Extent(value) for name, value in numbers.items()},
        }  # fmt: skip
        constants = (("AXES", axes), ("TAPS", taps), ("PADDING", _PADDINGS[op.padding]), ("ALIGN", int(op.align_corners)))
        return kernel_call(self, target, arguments, y, threads, constants)
