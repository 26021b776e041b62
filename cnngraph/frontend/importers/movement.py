"""Importers of operators that move or select elements: their shape inputs are resolved here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.frontend.contents import clamped_slice
from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import Dim, Shape, Sym, SymbolicBatchError, numel
from cnngraph.ops import Concat, Expand, Gather, Identity, Pad, Reshape, Slice, Transpose
from cnngraph.ops.base import normalize_axis
from cnngraph.ops.common import broadcast, show


def filled(ctx: NodeContext, number: np.ndarray, shape: Shape) -> Value:
    """``number`` (0-D) expanded to ``shape``."""
    return ctx.emit(Expand(shape), ctx.constant(number))


def resolved_axes(ctx: NodeContext, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes sorted and non-negative; refuses those out of range and repeated ones."""
    out = sorted(normalize_axis(a, rank) for a in axes)
    if len(set(out)) != len(out):
        ctx.invalid(f"axes {list(axes)} repeat")
    return tuple(out)


def given_axes(ctx: NodeContext, index: int = 1) -> tuple[int, ...] | None:
    """Axes by attribute, or by input ``index``, or None."""
    if ctx.has("axes"):
        return ctx.attr_ints("axes")
    return ctx.ints(index, "axes") if ctx.present(index) else None


@importer("Reshape")
def reshape(ctx: NodeContext) -> Value:
    """0 keeps a dimension (unless allowzero), -1 takes what is left."""
    x = ctx.value(0)
    wanted = list(ctx.dims(1, "the shape"))
    allow_zero = ctx.attr_bool("allowzero")
    if wanted.count(-1) > 1:
        ctx.invalid(f"shape {show(wanted)} has more than one -1")
    if allow_zero and 0 in wanted and -1 in wanted:
        ctx.invalid(f"shape {show(wanted)} has both 0 and -1 with allowzero")
    for axis, dim in enumerate(wanted):
        if dim == 0 and not allow_zero:
            if axis >= x.type.rank:
                ctx.invalid(f"shape {show(wanted)} keeps dimension {axis}, which {show(x.type.shape)} lacks")
            wanted[axis] = x.type.shape[axis]
        elif isinstance(dim, int) and dim < -1:
            ctx.invalid(f"shape {show(wanted)} has a negative dimension")
    if -1 in wanted:
        hole = wanted.index(-1)
        wanted[hole] = _remaining(ctx, x.type.shape, [d for i, d in enumerate(wanted) if i != hole])
    return ctx.emit(Reshape(tuple(wanted)), x)


def _remaining(ctx: NodeContext, shape: Shape, rest: Sequence[Dim]) -> Dim:
    """The dimension that -1 stands for beside the dimensions ``rest``."""
    total, known = numel(shape), numel(rest)
    what = f"{show(shape)} cannot be reshaped to {show([*rest, -1])} (-1 last)"
    if known == 0:
        ctx.invalid(f"{what}: the dimension -1 is undetermined beside a 0")
    if isinstance(total, int) and isinstance(known, int):
        if total % known:
            ctx.invalid(what)
        return total // known
    return total // known


@importer("Flatten")
def flatten(ctx: NodeContext) -> Value:
    """To two axes, split before ``axis``."""
    x = ctx.value(0)
    axis, rank = ctx.attr_int("axis", 1), x.type.rank
    if not -rank <= axis <= rank:
        ctx.invalid(f"axis {axis} is outside a tensor of rank {rank}")
    axis = axis + rank if axis < 0 else axis
    return ctx.emit(Reshape((numel(x.type.shape[:axis]), numel(x.type.shape[axis:]))), x)


@importer("Squeeze")
def squeeze(ctx: NodeContext) -> Value:
    """Removes the given axes of extent 1, or all of them."""
    x = ctx.value(0)
    shape = x.type.shape
    axes = given_axes(ctx)
    if axes is None:
        if any(isinstance(d, Sym) for d in shape):
            raise SymbolicBatchError(f"Squeeze without axes of {show(shape)} would drop a batch of 1")
        axes = tuple(i for i, d in enumerate(shape) if d == 1)
    axes = resolved_axes(ctx, axes, len(shape))
    for axis in axes:
        if isinstance(shape[axis], Sym):
            raise SymbolicBatchError(f"Squeeze of axis {axis} of {show(shape)} wants a batch of 1")
        if shape[axis] != 1:
            ctx.invalid(f"axis {axis} of {show(shape)} is not 1")
    return ctx.emit(Reshape(tuple(d for i, d in enumerate(shape) if i not in axes)), x)


@importer("Unsqueeze")
def unsqueeze(ctx: NodeContext) -> Value:
    """Inserts axes of extent 1; the axes count in the result."""
    x = ctx.value(0)
    axes = given_axes(ctx)
    if axes is None:
        ctx.invalid("axes are missing")
    rank = x.type.rank + len(axes)
    axes = resolved_axes(ctx, axes, rank)
    rest = iter(x.type.shape)
    return ctx.emit(Reshape(tuple(1 if i in axes else next(rest) for i in range(rank))), x)


@importer("Transpose")
def transpose(ctx: NodeContext) -> Value:
    """Default: all axes reversed."""
    x = ctx.value(0)
    return ctx.emit(Transpose(ctx.attr_ints("perm", tuple(reversed(range(x.type.rank))))), x)


@importer("Concat")
def concat(ctx: NodeContext) -> Value:
    """Joins along ``axis``."""
    values = ctx.values()
    axis = normalize_axis(ctx.attr_int("axis", 1), values[0].type.rank)
    if len(values) == 1:
        return ctx.emit(Identity(), values[0])
    return ctx.emit(Concat(axis), *values)


@importer("Split")
def split(ctx: NodeContext) -> tuple[Value | None, ...]:
    """One Slice for each output; sizes by attribute, by input, or equal parts (the last one smaller since opset 18)."""
    x = ctx.value(0)
    shape = x.type.shape
    axis = normalize_axis(ctx.attr_int("axis", 0), x.type.rank)
    extent, count = shape[axis], ctx.output_count
    if isinstance(extent, Sym):
        if count == 1 and not ctx.present(1) and not ctx.has("split"):
            return (ctx.emit(Identity(), x),)
        raise SymbolicBatchError(f"Split of the batch axis of {show(shape)}")
    sizes = _split_sizes(ctx, extent, count)
    if len(sizes) != count or sum(sizes) != extent or min(sizes) < 0:
        ctx.invalid(f"sizes {list(sizes)} do not split axis {axis} of {show(shape)} in {count}")
    outputs: list[Value | None] = []
    start = 0
    for index, size in enumerate(sizes):
        starts = tuple(start if i == axis and size else 0 for i in range(len(shape)))
        result = tuple(size if i == axis else d for i, d in enumerate(shape))
        outputs.append(ctx.emit(Slice(starts, (1,) * len(shape), result), x) if ctx.wants(index) else None)
        start += size
    return tuple(outputs)


def _split_sizes(ctx: NodeContext, extent: int, count: int) -> tuple[int, ...]:
    if ctx.has("num_outputs"):
        if ctx.present(1):
            ctx.invalid("both the input 'split' and the attribute 'num_outputs' are given")
        if ctx.attr_int("num_outputs", 0) != count:
            ctx.invalid(f"num_outputs is {ctx.attr_int('num_outputs', 0)}, but there are {count} outputs")
        part = -(-extent // count)
        return (*[part] * (count - 1), extent - part * (count - 1))
    if ctx.has("split"):
        return ctx.attr_ints("split")
    if ctx.present(1):
        return ctx.ints(1, "the sizes of the parts")
    if extent % count:
        ctx.invalid(f"{count} equal parts of {extent}")
    return (extent // count,) * count


@importer("Slice")
def slice_(ctx: NodeContext) -> Value:
    """Starts, ends, axes and steps by attribute or input, resolved for every axis."""
    x = ctx.value(0)
    shape, rank = x.type.shape, x.type.rank
    starts: tuple[Dim, ...]
    ends: tuple[Dim, ...]
    if ctx.opset < 10:
        starts, ends = ctx.attr_ints("starts"), ctx.attr_ints("ends")
        axes = ctx.attr_ints("axes", range(len(starts)))
        steps: tuple[int, ...] = (1,) * len(starts)
    else:
        ctx.require_contents((1, 2, 3, 4), "the range")
        starts, ends = ctx.dims(1, "starts"), ctx.dims(2, "ends")
        axes = ctx.ints(3, "axes") if ctx.present(3) else tuple(range(len(starts)))
        steps = ctx.ints(4, "steps") if ctx.present(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        ctx.invalid(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    axes = tuple(normalize_axis(a, rank) for a in axes)
    if len(set(axes)) != len(axes):
        ctx.invalid(f"axes {list(axes)} repeat")
    full_starts, full_steps, result = [0] * rank, [1] * rank, list(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == 0:
            ctx.invalid("a step is 0")
        full_starts[axis], full_steps[axis], result[axis] = _slice_range(start, end, step, shape[axis])
    return ctx.emit(Slice(tuple(full_starts), tuple(full_steps), tuple(result)), x)


_FAR = 1 << 31


def _slice_range(start: Dim, end: Dim, step: int, extent: Dim) -> tuple[int, int, Dim]:
    """First index, step and length of a slice along an axis of ``extent``."""
    if isinstance(extent, Sym):
        whole = start == 0 and step == 1 and (end == extent or (isinstance(end, int) and end >= _FAR - 1))
        if not whole:
            raise SymbolicBatchError(f"slice {start}:{end}:{step} of the batch axis")
        return 0, 1, extent
    if isinstance(end, Sym) or isinstance(start, Sym):
        raise SymbolicBatchError(f"slice {start}:{end} of an axis of {extent} depends on the batch size")
    chosen = range(extent)[clamped_slice(start, end, step, extent)]
    return (chosen.start, step, len(chosen)) if len(chosen) else (0, 1, 0)


@importer("Pad")
def pad(ctx: NodeContext) -> Value:
    """Pads by attribute or input, for all axes or some; the value must be known."""
    x = ctx.value(0)
    rank = x.type.rank
    if ctx.opset < 11:
        pads, number = ctx.attr_ints("pads"), ctx.attr_float("value", 0.0)
    else:
        ctx.require_contents((1, 2, 3), "the padding")
        pads = ctx.ints(1, "the padding")
        number = float(ctx.scalar(2, "the padding value")) if ctx.present(2) else 0.0
    axes = resolved_axes_in_order(ctx, ctx.ints(3, "axes"), rank) if ctx.present(3) else tuple(range(rank))
    if len(pads) != 2 * len(axes):
        ctx.invalid(f"{len(pads)} pads for {len(axes)} axes")
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis], full[axis + rank] = pads[i], pads[i + len(axes)]
    return ctx.emit(Pad(tuple(full), ctx.attr_str("mode", "constant"), number), x)


def resolved_axes_in_order(ctx: NodeContext, axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes non-negative, in the given order; refuses repeated ones."""
    out = tuple(normalize_axis(a, rank) for a in axes)
    if len(set(out)) != len(out):
        ctx.invalid(f"axes {list(axes)} repeat")
    return out


@importer("Expand")
def expand(ctx: NodeContext) -> Value:
    """To the broadcast of its shape and the given one."""
    x = ctx.value(0)
    wanted = ctx.dims(1, "the shape")
    if any(isinstance(d, int) and d < 0 for d in wanted):
        ctx.invalid(f"shape {show(wanted)} has a negative dimension")
    return ctx.emit(Expand(broadcast(x.type.shape, wanted)), x)


@importer("Gather")
def gather(ctx: NodeContext) -> Value:
    """Known indices are checked here, others when the program runs."""
    x, indices = ctx.value(0), ctx.value(1)
    axis = normalize_axis(ctx.attr_int("axis", 0), x.type.rank)
    extent, known = x.type.shape[axis], ctx.known(1)
    if known is not None and known.size and isinstance(extent, int):
        low, high = int(known.min()), int(known.max())
        if low < -extent or high >= extent:
            ctx.invalid(f"index {low if low < -extent else high} is outside axis {axis} of {show(x.type.shape)}")
        run = _run(known, extent)
        if run is not None and x.type.rank > 1:
            part = _part(ctx, x, axis, run, known.size)
            return part if known.ndim == 1 else ctx.emit(Reshape((*x.type.shape[:axis], *known.shape, *x.type.shape[axis + 1 :])), part)
    return ctx.emit(Gather(axis), x, indices)


def _run(indices: np.ndarray, extent: int) -> int | None:
    """The first of indices of an axis that each follow the one before; None if they do not."""
    places = np.where(indices < 0, indices + extent, indices).reshape(-1)
    return int(places[0]) if np.all(np.diff(places) == 1) else None


def _part(ctx: NodeContext, x: Value, axis: int, first: int, count: int) -> Value:
    """``count`` elements of an axis from ``first`` on."""
    starts, shape = [0] * x.type.rank, list(x.type.shape)
    starts[axis], shape[axis] = first, count
    return ctx.emit(Slice(tuple(starts), (1,) * x.type.rank, tuple(shape)), x)
