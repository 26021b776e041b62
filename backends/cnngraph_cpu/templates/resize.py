"""Resize on blocked or plain tensors: nearest, linear, cubic and antialiased, from the tables of the operator itself.

An output row is a weighted sum of source rows, made once in scratch; its pixels are weighted sums along that row. Both sums
follow tables of places and weights that the plan takes from :meth:`cnngraph.ops.resize.Resize.samples`, so every
coordinate convention has the one definition. Nearest neighbours are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, numel, per_image, product, round_up
from cnngraph.kernels.template import (
    Argument,
    BatchStride,
    Extent,
    KernelCall,
    KernelSpec,
    LayoutRequest,
    Packed,
    Pointer,
    Scratch,
    Target,
)
from cnngraph.ops.resize import AxisSamples, Resize
from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    broadcast,
    fma,
    get,
    get_int,
    load,
    load_partial,
    mul,
    put,
    registers,
    splat,
    store,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats

W = BLOCKED = NEAREST = IN_PLACE = ROW_TAPS = COL_TAPS = 0  # fixed by the plan
_MOST_UNROLLED_TAPS = 4
_MOST_ENTRIES = 1 << 22


def combine_rows(source: int, entry: int) -> None:
    """The weighted sum of the source rows of one output row, into ``line``."""
    if ROW_TAPS:
        for t in unroll(ROW_TAPS):
            row_at[t] = source + get_int(row_places, entry + t)
            row_weight[t] = broadcast(row_weights, entry + t)
        for i in range(0, whole, W):
            total = mul(row_weight[0], load(x, row_at[0] + i))
            for t in unroll(1, ROW_TAPS):
                total = fma(row_weight[t], load(x, row_at[t] + i), total)
            store(line, i, total)
        if not BLOCKED and whole < length:
            total = mul(row_weight[0], load_partial(x, row_at[0] + whole, length - whole))
            for t in unroll(1, ROW_TAPS):
                total = fma(row_weight[t], load_partial(x, row_at[t] + whole, length - whole), total)
            store(line, whole, total)
    else:
        for i in range(0, length, W):
            total = splat(0.0)
            for t in range(row_taps):
                value = load_partial(x, source + get_int(row_places, entry + t) + i, min(W, length - i))
                total = fma(broadcast(row_weights, entry + t), value, total)
            store(line, i, total)


def combine_columns(to: int) -> None:
    """The pixels of one output row from ``row[at ..]``."""
    for c in range(cols_out):
        if NEAREST and BLOCKED:
            store(y, to + c * W, load(row, at + get_int(col_places, c)))
        elif NEAREST:
            put(y, to + c, get(row, at + get_int(col_places, c)))
        elif BLOCKED:
            if COL_TAPS:
                vector = mul(broadcast(col_weights, c * COL_TAPS), load(row, at + get_int(col_places, c * COL_TAPS)))
                for t in unroll(1, COL_TAPS):
                    value = load(row, at + get_int(col_places, c * COL_TAPS + t))
                    vector = fma(broadcast(col_weights, c * COL_TAPS + t), value, vector)
            else:
                vector = splat(0.0)
                for t in range(col_taps):
                    value = load(row, at + get_int(col_places, c * col_taps + t))
                    vector = fma(broadcast(col_weights, c * col_taps + t), value, vector)
            store(y, to + c * W, vector)
        else:
            number = get(col_weights, c * col_taps) * get(row, at + get_int(col_places, c * col_taps))
            if COL_TAPS:
                for t in unroll(1, COL_TAPS):
                    number = number + get(col_weights, c * COL_TAPS + t) * get(row, at + get_int(col_places, c * COL_TAPS + t))
            else:
                for t in range(1, col_taps):
                    number = number + get(col_weights, c * col_taps + t) * get(row, at + get_int(col_places, c * col_taps + t))
            put(y, to + c, number)


def resize(
    x: F32Pointer, y: F32Pointer, row_places: I64Pointer, row_weights: F32Pointer, col_places: I64Pointer, col_weights: F32Pointer,
    line: F32Pointer, images: int, x_batch: int, y_batch: int, planes: int, x_plane: int, rows_out: int, row_out: int, cols_out: int,
    length: int, row_taps: int, col_taps: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """[images, planes, rows, columns(, W)]; ``length`` elements of a source row, ``row_out`` of one of the result."""
    row_at = registers(ROW_TAPS)
    row_weight = registers(ROW_TAPS)
    tasks = images * planes * rows_out
    whole = length // W * W
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (planes * rows_out)
        inner = task % (planes * rows_out)
        number_of_row = task % rows_out
        source = image * x_batch + inner // rows_out * x_plane
        if IN_PLACE:
            row = x
            at = source + get_int(row_places, number_of_row)
        else:
            row = line
            at = 0
            combine_rows(source, number_of_row * row_taps)
        combine_columns(image * y_batch + inner * row_out)


@dataclass(frozen=True, eq=False)
class _Tables:
    """Source places and float32 weights ``[out, taps]`` of rows (all axes but the last together) and columns."""

    row_places: np.ndarray
    row_weights: np.ndarray
    col_places: np.ndarray
    col_weights: np.ndarray


def along_axis(op: Resize, axis: int, extent: int) -> AxisSamples:
    """The table of one axis; that of an axis that stays takes every position by itself."""
    if axis not in op.axes:
        return AxisSamples(np.arange(extent, dtype=np.int64)[:, None], np.ones((extent, 1)), None)
    return _samples(op, axis, extent)


@lru_cache(maxsize=256)
def _samples(op: Resize, axis: int, extent: int) -> AxisSamples:
    extents = [1] * len(op.axes)
    i = op.axes.index(axis)
    alone = Resize(
        (axis,), (op.sizes[i],), (op.lengths[i],), op.mode, op.transform, op.nearest, op.antialias, op.exclude_outside, op.cubic_a,
        op.extrapolation, (op.roi[i], op.roi[i + len(extents)]) if op.roi else (),
    )  # fmt: skip
    return alone.samples([extent])[0]


def _tables(op: Resize, first: int, shape: Sequence[Dim]) -> _Tables:
    """Tables for the axes from ``first`` on."""
    places, weights = np.zeros((1, 1), np.int64), np.ones((1, 1))
    for axis in range(first, len(shape) - 1):
        extent = per_image(shape[axis])
        table = along_axis(op, axis, extent)
        out = places.shape[0] * table.indices.shape[0]
        places = (places[:, None, :, None] * extent + table.indices[None, :, None, :]).reshape(out, -1)
        weights = (weights[:, None, :, None] * table.weights[None, :, None, :]).reshape(out, -1)
    last = along_axis(op, len(shape) - 1, per_image(shape[-1]))
    return _Tables(places, weights.astype(np.float32), last.indices, last.weights.astype(np.float32))


class ResizeRows:
    """Resize along the last axes."""

    name = "resize"
    reorders_arithmetic = False
    code = Code(resize, {"combine_rows": combine_rows, "combine_columns": combine_columns}, "Resize by tables of places and weights.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses extrapolation, and tables of more than some millions of entries."""
        op = node.op
        if not isinstance(op, Resize):
            return "not a resize"
        refusal = only_floats(node)
        if refusal:
            return refusal
        shape, out = node.input(0).type.shape, node.output.type.shape
        if any(d == 0 for d in (*shape, *out)):
            return "an empty tensor"
        if not op.axes:
            return "no axis is resized"
        first = op.axes[0]
        if not all(isinstance(d, int) for d in shape[max(1, first) :]):
            return "an extent depends on the batch"
        samples = [_samples(op, axis, per_image(shape[axis])) for axis in op.axes]
        if any(s.outside is not None for s in samples):
            return "positions outside the input take the extrapolation value"
        taps = prod(s.indices.shape[1] for s, axis in zip(samples, op.axes, strict=True) if axis != len(shape) - 1)
        if product(per_image(d) for d in out[first:-1]) * taps > _MOST_ENTRIES:
            return "the table of rows would be too large"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked where axes 0 and 1 stay, unless half of the lanes would be padding; or plain."""
        op, shape = node.op, node.input(0).type.shape
        assert isinstance(op, Resize)
        plain, layout = LayoutRequest((PLAIN,), (PLAIN,)), blocked(target)
        if op.axes[0] < 2 or not 3 <= len(shape) <= 5 or not isinstance(shape[1], int):
            return [plain]
        if round_up(shape[1], target.width) >= 2 * shape[1]:
            return [plain]
        return [LayoutRequest((layout,), (layout,)), plain]

    def cost(self, node: Node, target: Target) -> float:
        """Elements written."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row of the result."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Resize)
        in_blocks, shape, out = not y.type.layout.plain, x.type.shape, y.type.shape
        first = 2 if in_blocks else op.axes[0]
        t = _tables(op, first, shape)
        lanes = target.width if in_blocks else 1
        row_taps, col_taps = t.row_places.shape[1], t.col_places.shape[1]
        nearest = op.mode == "nearest"
        in_place = row_taps == 1 and bool((t.row_weights == 1).all())
        length, row_out = per_image(shape[-1]) * lanes, per_image(out[-1]) * lanes
        planes: Dim = -(-per_image(shape[1]) // target.width) if in_blocks else numel(shape[1:first]) if first else 1
        numbers: dict[str, Dim] = {
            "planes": planes, "x_plane": per_image(numel(shape[first:-1])) * length, "rows_out": t.row_places.shape[0],
            "row_out": row_out, "cols_out": per_image(out[-1]), "length": length, "row_taps": row_taps, "col_taps": col_taps,
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "row_places": Packed(t.row_places * length), "row_weights": Packed(t.row_weights),
            "col_places": Packed(t.col_places * lanes), "col_weights": Packed(t.col_weights),
            "line": Scratch(4 if in_place else round_up(length, target.width) * 4), "images": Extent(shape[0] if first else 1),
            "x_batch": BatchStride(x) if first else Extent(0), "y_batch": BatchStride(y) if first else Extent(0),
        }  # fmt: skip
        arguments |= {name: Extent(value) for name, value in numbers.items()}
        constants = (
            ("BLOCKED", int(in_blocks)), ("NEAREST", int(nearest)), ("IN_PLACE", int(in_place)),
            ("ROW_TAPS", 0 if in_place or row_taps > _MOST_UNROLLED_TAPS else row_taps),
            ("COL_TAPS", 0 if nearest or col_taps > _MOST_UNROLLED_TAPS else col_taps),
        )  # fmt: skip
        note = f"{row_taps} rows and {col_taps} columns a pixel"
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments, (note,))
