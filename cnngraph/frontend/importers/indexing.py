"""Importers of gathers, scatters, sorting and the like; their shape-like operands (k, depth, axis, repeats) are resolved here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.frontend.contents import SMALL, Content, evaluator
from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.frontend.tensors import element_type
from cnngraph.ir.graph import Value
from cnngraph.ir.types import Dim, Sym, SymbolicBatchError, TensorType, static
from cnngraph.ops import Expand, Identity, Op, Reshape
from cnngraph.ops.base import normalize_axis
from cnngraph.ops.common import show
from cnngraph.ops.indexing import (
    ArgReduce,
    GatherElements,
    GatherND,
    OneHot,
    ReverseSequence,
    ScatterElements,
    ScatterND,
    TensorScatter,
    TopK,
    Trilu,
)

_EXPANDED_AXES = 8
"""Axes up to which a Tile is one Expand; above, every axis is repeated on its own."""


@importer("Tile")
def tile(ctx: NodeContext) -> Value:
    """Every repeated axis gets an axis of repeats before it, which is expanded and merged again."""
    x = ctx.value(0)
    repeats = ctx.dims(1, "the repeats")
    if len(repeats) != x.type.rank:
        ctx.invalid(f"{len(repeats)} repeats for a tensor of rank {x.type.rank}")
    if any(isinstance(r, int) and r < 0 for r in repeats):
        ctx.invalid(f"repeats {show(repeats)} are negative")
    axes = [i for i, r in enumerate(repeats) if r != 1]
    for i in axes:
        if isinstance(x.type.shape[i], Sym):
            raise SymbolicBatchError(f"Tile repeats the batch axis of {show(x.type.shape)}")
    if not axes:
        return ctx.emit(Identity(), x)
    if x.type.rank + len(axes) <= _EXPANDED_AXES:
        return _repeat(ctx, x, dict(enumerate(repeats)), axes)
    for axis in axes:
        x = _repeat(ctx, x, {axis: repeats[axis]}, [axis])
    return x


def _repeat(ctx: NodeContext, x: Value, repeats: dict[int, Dim], axes: Sequence[int]) -> Value:
    """``x`` with each of ``axes`` laid out ``repeats[axis]`` times, one after the other."""
    single: list[Dim] = []
    expanded: list[Dim] = []
    final: list[Dim] = []
    for axis, dim in enumerate(x.type.shape):
        count: Dim = repeats[axis] if axis in axes else 1
        final.append(dim * count)
        if axis in axes and dim == 1:
            single.append(1)
            expanded.append(count)
        elif axis in axes:
            single += [1, dim]
            expanded += [count, dim]
        else:
            single.append(dim)
            expanded.append(dim)
    y = ctx.emit(Expand(tuple(expanded)), ctx.emit(Reshape(tuple(single)), x))
    return ctx.emit(Reshape(tuple(final)), y)


def one_int(ctx: NodeContext, index: int, what: str) -> int:
    """The only number of an integer input, which must be known and independent of the batch size."""
    values = ctx.ints(index, what)
    if len(values) != 1:
        ctx.invalid(f"{what} has {len(values)} elements, but must be a single number")
    return values[0]


@importer("OneHot")
def one_hot(ctx: NodeContext) -> Value:
    """The depth must be known; the values need not be."""
    indices, values = ctx.value(0), ctx.value(2)
    depth = ctx.scalar(1, "the depth").item()
    if isinstance(depth, Sym):
        raise SymbolicBatchError("the depth of OneHot depends on the batch size")
    if depth != depth or int(depth) < 0:
        ctx.invalid(f"the depth is {depth}")
    axis = normalize_axis(ctx.attr_int("axis", -1), indices.type.rank + 1)
    return ctx.emit(OneHot(int(depth), axis), indices, values)


@importer("EyeLike")
def eye_like(ctx: NodeContext) -> Value:
    """Only the input's shape counts: the result is a constant."""
    x = ctx.type(0)
    if x.rank != 2:
        ctx.invalid(f"the input {x} is no matrix")
    dtype = element_type(ctx.attr_int("dtype", 0)) if ctx.has("dtype") else x.dtype
    rows, columns = static(x.shape)
    ctx.check_size(TensorType(dtype, (rows, columns)))
    k = max(min(ctx.attr_int("k", 0), columns), -rows)
    return ctx.constant(np.eye(rows, columns, k).astype(dtype.numpy))


@importer("Trilu")
def trilu(ctx: NodeContext) -> Value:
    """The number of the diagonal must be known."""
    k = one_int(ctx, 1, "k") if ctx.present(1) else 0
    return ctx.emit(Trilu(ctx.attr_bool("upper", True), k), ctx.value(0))


@importer("TopK")
def top_k(ctx: NodeContext) -> tuple[Value, ...]:
    """K by attribute before operator set 10; unsorted results may come sorted."""
    x = ctx.value(0)
    k = ctx.attr_int("k", 0) if ctx.opset < 10 else one_int(ctx, 1, "k")
    axis = normalize_axis(ctx.attr_int("axis", -1), x.type.rank)
    ctx.attr_bool("sorted", True)
    return ctx.emit_all(TopK(k, axis, ctx.attr_bool("largest", True)), x)


@importer("ArgMax", "ArgMin")
def arg_reduce(ctx: NodeContext) -> Value:
    """Position of an extreme along one axis."""
    x = ctx.value(0)
    axis = normalize_axis(ctx.attr_int("axis", 0), x.type.rank)
    kind = "max" if ctx.op == "ArgMax" else "min"
    return ctx.emit(ArgReduce(kind, axis, ctx.attr_bool("keepdims", True), ctx.attr_bool("select_last_index")), x)


@importer("ReverseSequence")
def reverse_sequence(ctx: NodeContext) -> Value:
    """One of the axes 0 and 1 is time, the other one the sequences."""
    time, batch = ctx.attr_int("time_axis", 0), ctx.attr_int("batch_axis", 1)
    if {time, batch} != {0, 1}:
        ctx.invalid(f"time_axis {time} and batch_axis {batch} are not 0 and 1")
    return ctx.emit(ReverseSequence(time, batch), ctx.value(0), ctx.value(1))


def _check_known(ctx: NodeContext, extents: Sequence[Dim]) -> None:
    """Refuse known indices (input 1) outside ``extents``: one extent for all, or one for each along their last axis."""
    known = ctx.known(1)
    if known is None or not known.size:
        return
    columns = [known] if len(extents) == 1 else [known[..., i] for i in range(len(extents))]
    for column, extent in zip(columns, extents, strict=True):
        low, high = int(column.min()), int(column.max())
        if isinstance(extent, int) and (low < -extent or high >= extent):
            ctx.invalid(f"index {low if low < -extent else high} is outside an axis of {extent}")


@importer("GatherElements")
def gather_elements(ctx: NodeContext) -> Value:
    """Known indices are checked here, others when the program runs."""
    x = ctx.value(0)
    axis = normalize_axis(ctx.attr_int("axis", 0), x.type.rank)
    _check_known(ctx, x.type.shape[axis : axis + 1])
    return ctx.emit(GatherElements(axis), x, ctx.value(1))


@importer("GatherND")
def gather_nd(ctx: NodeContext) -> Value:
    """The first ``batch_dims`` axes of data and indices go together."""
    x, indices = ctx.value(0), ctx.value(1)
    op = GatherND(ctx.attr_int("batch_dims", 0))
    y = ctx.emit(op, x, indices)
    depth = static(indices.type.shape[-1:])[0]
    _check_known(ctx, x.type.shape[op.batch_dims : op.batch_dims + depth])
    return y


@importer("Scatter", "ScatterElements")
def scatter_elements(ctx: NodeContext) -> Value:
    """Scatter is the older name."""
    x = ctx.value(0)
    axis = normalize_axis(ctx.attr_int("axis", 0), x.type.rank)
    _check_known(ctx, x.type.shape[axis : axis + 1])
    return ctx.emit(ScatterElements(axis, ctx.attr_str("reduction", "none")), x, ctx.value(1), ctx.value(2))


@importer("ScatterND")
def scatter_nd(ctx: NodeContext) -> Value:
    """Rows of indices address the leading axes."""
    x, indices = ctx.value(0), ctx.value(1)
    y = ctx.emit(ScatterND(ctx.attr_str("reduction", "none")), x, indices, ctx.value(2))
    _check_known(ctx, x.type.shape[: static(indices.type.shape[-1:])[0]])
    return y


@importer("TensorScatter")
def tensor_scatter(ctx: NodeContext) -> Value:
    """Writes along one axis, for each sequence from its own position on."""
    x = ctx.value(0)
    mode = ctx.attr_str("mode", "linear")
    if mode not in ("linear", "circular"):
        ctx.invalid(f"mode is '{mode[:40]}', not linear or circular")
    axis = normalize_axis(ctx.attr_int("axis", -2), x.type.rank)
    if axis == 0:
        ctx.invalid("the axis is that of the batch")
    return ctx.emit(TensorScatter(axis, mode == "circular"), x, ctx.value(1), ctx.optional(2))


# where exporters compute shapes with these operators


def _plain(inputs: Sequence[Content | None], index: int) -> np.ndarray:
    """The numbers of an input that must not contain the batch size."""
    content = inputs[index] if index < len(inputs) else None
    if content is None:
        raise ValueError(f"input {index} is missing")
    if content.symbolic:
        raise SymbolicBatchError("the result is not a multiple of the batch size")
    return content.array


def _moved(ctx: NodeContext, op: Op, inputs: Sequence[Content | None]) -> list[Content] | None:
    """Outputs of ``op`` by its reference, which only moves numbers of inputs 0 and 2: the batch size may be among them."""
    first = inputs[0]
    if first is None:
        raise ValueError("input 0 is missing")
    contents = [c for c in (first, *inputs[2:]) if c is not None]
    types = [TensorType(c.dtype, c.array.shape) for c in inputs if c is not None]
    symbolic = any(c.symbolic for c in contents)
    if sum(c.array.size for c in contents) > SMALL:
        return None
    (out,) = op.infer(*types)
    if np.prod(static(out.shape)) > SMALL:
        return None
    arrays = [c.array.astype(object) if symbolic else c.array for c in contents]
    arrays.insert(1, _plain(inputs, 1))
    try:
        return [Content.of(op.reference(*arrays)[0], first.dtype)]
    except InvalidInputError as error:
        raise ValueError(str(error)) from error


@evaluator("ScatterND")
def _scatter_nd(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    return _moved(ctx, ScatterND(), inputs) if ctx.attr_str("reduction", "none") == "none" else None


@evaluator("ScatterElements", "Scatter")
def _scatter_elements(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    if ctx.attr_str("reduction", "none") != "none":
        return None
    return _moved(ctx, ScatterElements(normalize_axis(ctx.attr_int("axis", 0), ctx.type(0).rank)), inputs)


@evaluator("GatherND")
def _gather_nd(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    return _moved(ctx, GatherND(ctx.attr_int("batch_dims", 0)), inputs)


@evaluator("GatherElements")
def _gather_elements(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    return _moved(ctx, GatherElements(normalize_axis(ctx.attr_int("axis", 0), ctx.type(0).rank)), inputs)
