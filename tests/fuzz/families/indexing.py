"""Gathers, scatters, sorting and running sums."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import DType
from tests.fuzz.case import Array, Case, Draw, strategy


def _index_type(d: Draw) -> DType:
    return DType.I32 if d.flag(0.3) else DType.I64


@strategy("Gather")
def gather(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape))
    indices = d.indices(d.shape(0, 3, 0), shape[axis], _index_type(d), d.opset >= 11)
    return d.case([d.array(shape, d.dtype()), indices], axis=axis if axis or d.flag() else None)


@strategy("GatherElements")
def gather_elements(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape))
    places = [d.int(1, e) for e in shape]
    places[axis] = d.int(0 if d.flag(0.1) else 1, 5)
    return d.case([d.array(shape, d.dtype()), d.indices(places, shape[axis], _index_type(d))], axis=axis)


def _tuples(d: Draw, lead: tuple[int, ...], extents: tuple[int, ...]) -> Array:
    columns = [d.indices(lead, extent) for extent in extents]
    return np.stack(columns, -1)


@strategy("GatherND")
def gather_nd(d: Draw) -> Case:
    shape = d.shape(1, 4)
    batch = d.int(0, len(shape) - 1) if d.opset >= 12 and d.flag() else 0
    depth = d.int(1, len(shape) - batch)
    indices = _tuples(d, (*shape[:batch], *d.shape(0 if batch else 1, 2)), shape[batch : batch + depth])
    return d.case([d.array(shape, d.dtype()), indices], batch_dims=batch or None)


def _reduction(d: Draw, nd: bool) -> str | None:
    known = ["none"] if d.opset < 16 else ["none", "add", "mul"] if d.opset < 18 else ["none", "add", "mul", "max", "min"]
    return known[d.int(0, len(known) - 1)] if d.opset >= 16 and d.flag(0.7) else None


def _unique(rng: np.random.Generator, places: list[int], extent: int, axis: int) -> Array:
    """Indices that do not repeat along ``axis``."""
    order = np.argsort(rng.random([*places[:axis], extent, *places[axis + 1 :]]), axis=axis)
    return np.asarray(np.take(order, range(places[axis]), axis=axis)).astype(np.int64)


@strategy("Scatter", "ScatterElements")
def scatter_elements(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape))
    places = [d.int(1, e) for e in shape]
    reduction = _reduction(d, False) if d.op == "ScatterElements" else None
    if reduction in (None, "none"):
        indices = _unique(np.random.default_rng(d.int(0, 99)), places, shape[axis], axis % len(shape))
    else:
        indices = d.indices(places, shape[axis])
    if d.opset >= 11 and d.flag(0.3):
        indices = indices - np.where(indices >= 0, shape[axis], 0)
    x, updates = d.array(shape, d.dtype(), special=False), d.array(places, d.dtype(), special=False)
    wide = DType.of(x).is_float
    return d.case([x, indices.astype(_index_type(d).numpy), updates], axis=axis, reduction=reduction, scaled=wide)


@strategy("ScatterND")
def scatter_nd(d: Draw) -> Case:
    shape = d.shape(1, 4)
    depth = d.int(1, len(shape))
    reduction = _reduction(d, True)
    lead = d.shape(1, 2, 1, 4)
    if reduction in (None, "none"):
        total = int(np.prod(shape[:depth]))
        lead = (d.int(1, total),)
        flat = np.random.default_rng(d.int(0, 99)).permutation(total)[: lead[0]]
        indices = np.stack(np.unravel_index(flat, shape[:depth]), -1).astype(np.int64)
        if d.opset >= 11 and d.flag(0.3):
            indices = indices - np.array(shape[:depth], np.int64)
    else:
        indices = _tuples(d, lead, shape[:depth])
    x = d.array(shape, d.dtype(), special=False)
    updates = d.array((*lead, *shape[depth:]), d.dtype(), special=False)
    return d.case([x, indices, updates], reduction=reduction, scaled=DType.of(x).is_float)


@strategy("OneHot")
def one_hot(d: Draw) -> Case:
    shape = d.shape(1, 3)
    depth = d.int(1, 6)
    indices = d.indices(shape, depth + 1, d.dtype(0), d.dtype(0).is_float or d.dtype(0).range[0] < 0)
    return d.case(
        [indices, np.array(d.pick(depth), d.dtype(1).numpy), d.array((2,), d.dtype(2))], constants=(1,), fixed=(2,),
        axis=d.axis(len(shape) + 1) if d.flag() else None,
    )  # fmt: skip


@strategy("TopK")
def top_k(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape)) if d.opset >= 11 or d.flag() else d.int(0, len(shape) - 1)
    if d.opset < 11:
        axis %= len(shape)
    x = d.array(shape, d.dtype(), special=False)
    k = d.int(0 if d.opset >= 10 and d.flag(0.1) else 1, shape[axis])
    if d.opset < 10:
        return d.case([x], 2, axis=axis, k=k)
    given = d.some(largest=lambda: d.int(0, 1)) if d.opset >= 11 else {}
    return d.case([x, np.array([k], np.int64)], 2, constants=(1,), fixed=(1,), axis=axis, **given)


@strategy("ArgMax", "ArgMin")
def arg_reduce(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape)) if d.opset >= 11 else d.int(0, len(shape) - 1)
    given = d.some(keepdims=lambda: d.int(0, 1))
    if d.opset >= 12:
        given |= d.some(select_last_index=lambda: d.int(0, 1))
    return d.case([d.array(shape, d.dtype(), special=False)], axis=axis if axis or d.flag() else None, **given)


@strategy("CumSum", "CumProd")
def cumulative(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = np.array(d.axis(len(shape)), np.int32 if d.flag(0.3) else np.int64)
    low, high = (-2, 2) if d.op == "CumProd" else (-9, 9)
    x = d.array(shape, d.dtype(), low, high)
    given = d.some(exclusive=lambda: d.int(0, 1), reverse=lambda: d.int(0, 1))
    return d.case([x, axis], constants=(1,), scaled=True, **given)


@strategy("TensorScatter")
def tensor_scatter(d: Draw) -> Case:
    shape = list(d.shape(2, 4))
    axis = d.int(1, len(shape) - 1)
    count = d.int(1, shape[axis])
    mode = d.pick("linear", "circular")
    places = None
    if d.flag(0.8):
        most = shape[axis] - 1 if mode == "circular" else shape[axis] - count
        places = d.array((shape[0],), DType.I64, 0, most)
    update = [*shape[:axis], count, *shape[axis + 1 :]]
    signed = axis - len(shape) if d.flag() else axis
    return d.case(
        [d.array(shape, d.dtype()), d.array(update, d.dtype()), places], axis=signed, mode=mode if mode != "linear" or d.flag() else None
    )
