"""Importers of Einsum, running sums and products, Det and Range. A float32 Einsum becomes matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.indexing import one_int
from cnngraph.frontend.registry import importer
from cnngraph.frontend.tensors import element_type
from cnngraph.ir.graph import Value
from cnngraph.ir.types import Dim, DType, Shape, Sym, SymbolicBatchError, TensorType, numel
from cnngraph.ops import Dense, Elementwise, Expression, MatMul, Reduce, Reshape, Transpose
from cnngraph.ops.base import normalize_axis
from cnngraph.ops.math import Cumulative, Det, Einsum

_ELLIPSIS = "..."


def _subscripts(ctx: NodeContext, text: str, ellipsis: bool = True) -> list[str]:
    """The subscripts of one term, the ellipsis as one of them."""
    out: list[str] = []
    rest = text
    while rest:
        if rest.startswith(_ELLIPSIS) and ellipsis and _ELLIPSIS not in out:
            out.append(_ELLIPSIS)
            rest = rest[len(_ELLIPSIS) :]
        elif rest[0].isascii() and rest[0].isalpha():
            out.append(rest[0])
            rest = rest[1:]
        else:
            ctx.invalid(f"the term '{text[:40]}' of the equation is neither letters nor one ellipsis")
    return out


def _parsed(ctx: NodeContext, shapes: Sequence[Shape]) -> Einsum:
    """The equation with integers for letters; an ellipsis stands for its own subscripts, aligned at the end."""
    equation = ctx.attr_str("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = [_subscripts(ctx, term) for term in left.split(",")]
    if len(terms) != len(shapes):
        ctx.invalid(f"the equation '{equation[:80]}' has {len(terms)} terms for {len(shapes)} inputs")
    hidden = 0
    for term, shape in zip(terms, shapes, strict=True):
        free = len(shape) - len(term) + (_ELLIPSIS in term)
        if free < 0 or (free and _ELLIPSIS not in term):
            ctx.invalid(f"the equation '{equation[:80]}' does not suit an input with {len(shape)} axes")
        hidden = max(hidden, free)
    if arrow:
        result = _subscripts(ctx, right)
    else:
        letters = [label for term in terms for label in term if label != _ELLIPSIS]
        result = sorted(label for label in set(letters) if letters.count(label) == 1)
        result = [_ELLIPSIS, *result] if any(_ELLIPSIS in term for term in terms) else result
    number = {label: hidden + i for i, label in enumerate(sorted({c for t in terms for c in t} - {_ELLIPSIS}))}
    if any(label not in number and label != _ELLIPSIS for label in result):
        ctx.invalid(f"the result of the equation '{equation[:80]}' has a subscript that no input has")

    def resolve(term: list[str], free: int) -> tuple[int, ...]:
        out: list[int] = []
        for label in term:
            out += range(hidden - free, hidden) if label == _ELLIPSIS else [number[label]]
        return tuple(out)

    resolved = tuple(resolve(t, len(s) - len(t) + 1) for t, s in zip(terms, shapes, strict=True))
    return Einsum(resolved, resolve(result, hidden))


@dataclass
class _Operand:
    """A factor of an Einsum: a value and the subscript of each of its axes."""

    value: Value
    labels: list[int]

    def extent(self, label: int) -> Dim:
        """Size of the axis with this subscript."""
        return self.value.type.shape[self.labels.index(label)]


@importer("Einsum")
def einsum(ctx: NodeContext) -> Value:
    """float32 and float64 are lowered to sums, transpositions and matrix products, two operands at a time."""
    values = ctx.values()
    op = _parsed(ctx, [v.type.shape for v in values])
    (type_,) = op.infer(*(v.type for v in values))
    if type_.dtype not in (DType.F32, DType.F64) or not _small_rank(op):
        return ctx.emit(op, *values)
    operands = []
    for value, term in zip(values, op.terms, strict=True):
        labels = list(dict.fromkeys(term))
        if len(labels) != len(term):
            value = ctx.emit(Einsum((term,), tuple(labels)), value)
        operands.append(_Operand(value, labels))
    _drop_broadcast(ctx, operands, op.output)
    first = _summed(ctx, operands[0], {*op.output, *(label for o in operands[1:] for label in o.labels)})
    for i, second in enumerate(operands[1:], 1):
        kept = {*op.output, *(label for o in operands[i + 1 :] for label in o.labels)}
        first = _product(ctx, first, second, kept)
    return _arranged(ctx, _summed(ctx, first, set(op.output)), op.output)


def _small_rank(op: Einsum) -> bool:
    """Whether no intermediate tensor can have more axes than tensors usually may."""
    return len({label for term in op.terms for label in term}) <= 8


def _drop_broadcast(ctx: NodeContext, operands: list[_Operand], output: Sequence[int]) -> None:
    """Remove axes of extent 1 whose subscript has another extent elsewhere: they only broadcast."""
    for operand in operands:
        for label in list(operand.labels):
            others = [o for o in operands if o is not operand and label in o.labels]
            larger = any(o.extent(label) != 1 for o in others)
            if operand.extent(label) == 1 and (larger or (others and label not in output)):
                axis = operand.labels.index(label)
                shape = operand.value.type.shape
                operand.value = ctx.emit(Reshape((*shape[:axis], *shape[axis + 1 :])), operand.value)
                operand.labels.remove(label)


def _summed(ctx: NodeContext, operand: _Operand, kept: set[int]) -> _Operand:
    """The sum over all subscripts not in ``kept``."""
    axes = tuple(i for i, label in enumerate(operand.labels) if label not in kept)
    if not axes:
        return operand
    return _Operand(ctx.emit(Reduce("sum", axes, False), operand.value), [label for label in operand.labels if label in kept])


def _arranged(ctx: NodeContext, operand: _Operand, labels: Sequence[int]) -> Value:
    """The operand's value with its axes in the order of ``labels``, a permutation of its own."""
    perm = tuple(operand.labels.index(label) for label in labels)
    if perm == tuple(range(len(perm))):
        return operand.value
    if operand.value.data is not None:
        return ctx.constant(np.ascontiguousarray(operand.value.data.transpose(perm)))
    return ctx.emit(Transpose(perm), operand.value)


def _product(ctx: NodeContext, a: _Operand, b: _Operand, kept: set[int]) -> _Operand:
    """The product of two operands, summed over the subscripts that are in both but not in ``kept``."""
    a = _summed(ctx, a, kept | set(b.labels))
    b = _summed(ctx, b, kept | set(a.labels))
    shared = [label for label in a.labels if label in b.labels]
    batch, summed = [s for s in shared if s in kept], [s for s in shared if s not in kept]
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    if not summed:
        return _outer(ctx, a, b, batch, rows, columns)
    left, right = _arranged(ctx, a, batch + rows + summed), _arranged(ctx, b, batch + summed + columns)
    lead: Shape = left.type.shape[: len(batch)]
    row_dims, column_dims = tuple(map(a.extent, rows)), tuple(map(b.extent, columns))
    depth = numel(map(a.extent, summed))
    if isinstance(depth, Sym):
        raise SymbolicBatchError("the sum runs over the batch axis")
    m, n = numel(row_dims), numel(column_dims)
    left = ctx.emit(Reshape((*lead, m, depth)), left)
    if right.data is not None and not batch:
        weights = right.data.reshape(depth, -1) if depth else right.data.reshape(0, int(np.prod(right.data.shape[len(summed) :])))
        y = ctx.emit(Dense(), left, ctx.constant(np.ascontiguousarray(weights)), None)
    else:
        y = ctx.emit(MatMul(), left, ctx.emit(Reshape((*lead, depth, n)), right))
    return _Operand(ctx.emit(Reshape((*lead, *row_dims, *column_dims)), y), batch + rows + columns)


def _outer(ctx: NodeContext, a: _Operand, b: _Operand, batch: list[int], rows: list[int], columns: list[int]) -> _Operand:
    """The element-wise product, broadcast over the subscripts that only one of the operands has."""
    left, right = _arranged(ctx, a, batch + rows), _arranged(ctx, b, batch + columns)
    lead = left.type.shape[: len(batch)]
    left = ctx.emit(Reshape((*left.type.shape, *(1 for _ in columns))), left)
    right = ctx.emit(Reshape((*lead, *(1 for _ in rows), *right.type.shape[len(batch) :])), right)
    return _Operand(ctx.emit(Elementwise(Expression.of("mul", 2)), left, right), batch + rows + columns)


@importer("CumSum", "CumProd")
def cumulative(ctx: NodeContext) -> Value:
    """The axis must be known."""
    x = ctx.value(0)
    axis = normalize_axis(one_int(ctx, 1, "the axis"), x.type.rank)
    kind = "sum" if ctx.op == "CumSum" else "prod"
    return ctx.emit(Cumulative(kind, axis, ctx.attr_bool("exclusive"), ctx.attr_bool("reverse")), x)


@importer("Det")
def det(ctx: NodeContext) -> Value:
    """The determinant of square matrices."""
    return ctx.emit(Det(), ctx.value(0))


def _range_count(start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> int:
    """Number of elements of an ONNX Range.

    Raises:
        ZeroDivisionError: the step is 0.
        ValueError: a bound is not finite.
    """
    first, last, step = (v.reshape(()).item() for v in (start, limit, delta))
    if isinstance(first, int):
        return max(-((first - last) // step), 0)
    if not all(map(math.isfinite, (first, last, step))):
        raise ValueError("start, limit or delta is not finite")
    return max(math.ceil((last - first) / step), 0)


def _range_numbers(ctx: NodeContext, start: np.ndarray, delta: np.ndarray, count: int, dtype: DType) -> np.ndarray:
    """``start + i * delta``; 16-bit floats are computed in the type that the attribute stash_type says."""
    compute = dtype
    if dtype in (DType.F16, DType.BF16):
        compute = element_type(ctx.attr_int("stash_type", 1))
        if compute not in (DType.F32, DType.F64):
            ctx.invalid(f"stash_type {compute.value} is neither float nor double")
    wide = compute.numpy if dtype.is_float else np.dtype(np.int64)
    first, step = (v.reshape(()).astype(wide) for v in (start, delta))
    return np.asarray(first + np.arange(count).astype(wide) * step).astype(dtype.numpy)


@importer("Range")
def range_(ctx: NodeContext) -> Value:
    """All bounds must be known, so that the result is."""
    ctx.require_contents((0, 1, 2), "the range")
    start, limit, delta = (ctx.scalar(i, "a bound of the range") for i in range(3))
    if any(v.dtype == object for v in (start, limit, delta)):
        raise SymbolicBatchError("the length of a range depends on the batch size")
    dtype = ctx.type(0).dtype
    try:
        count = _range_count(start, limit, delta)
    except (ZeroDivisionError, ValueError) as error:
        ctx.invalid(f"the range {start} to {limit} by {delta}: {error}")
    ctx.check_size(TensorType(DType.I64, (count,)))
    return ctx.constant(_range_numbers(ctx, start, delta, count, dtype))
