"""Operators that pick or place elements by run-time indices, and sorting ones: their results depend on the numbers, not on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.ir.types import Dim, DType, Shape, Sym, TensorType
from cnngraph.ops.base import Op, needed, require
from cnngraph.ops.common import forbid_batch, match_dim, match_shape, require_axis, result, same_dtype, show, widened

REDUCTIONS = ("none", "add", "mul", "max", "min")
_UFUNCS: dict[str, np.ufunc] = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def array_of(inputs: tuple[np.ndarray | None, ...], index: int = 0) -> np.ndarray:
    """Input ``index`` of a reference, which is there."""
    array = inputs[index]
    assert array is not None
    return array


def wrapped(indices: np.ndarray, extent: int, what: str) -> np.ndarray:
    """``indices`` as int64 with negative ones counted from the end; InvalidInputError for one outside ``extent``."""
    numbers = indices.astype(np.int64)
    bad = numbers[(numbers < -extent) | (numbers >= extent)]
    if bad.size:
        raise InvalidInputError(f"{what} index {int(bad.flat[0])} is outside an axis of {extent}")
    return np.where(numbers < 0, numbers + extent, numbers)


def _require_indices(type_: TensorType, what: str) -> None:
    require(type_.dtype in (DType.I32, DType.I64), f"{what} indices are {type_.dtype.value}, not int32 or int64")


def _require_within(indices: Shape, data: Shape, axis: int, what: str) -> None:
    """The indices of an element-wise gather or scatter may be shorter than the data, but not along the batch."""
    require(len(indices) == len(data), f"{what}: indices {show(indices)} and data {show(data)} have different ranks")
    require_axis(axis, len(data), what)
    for i, (count, extent) in enumerate(zip(indices, data, strict=True)):
        if i == axis:
            forbid_batch(extent, f"{what} along the batch axis picks single images")
        elif isinstance(count, Sym) or isinstance(extent, Sym):
            match_dim(count, extent, f"{what}: indices {show(indices)} and data {show(data)}")
        else:
            require(count <= extent, f"{what}: indices {show(indices)} are larger than the data {show(data)}")


def _grid(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Index arrays of every axis, broadcastable to ``shape``."""
    return [np.arange(n).reshape([-1 if i == axis else 1 for i in range(len(shape))]) for axis, n in enumerate(shape)]


def _combine(data: np.ndarray, place: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    """A copy of ``data`` with ``updates`` written (the last one wins) or accumulated at ``place``."""
    if reduction == "none":
        out = data.copy()
        out[place] = updates
        return out
    wide = np.array(widened(data))
    with np.errstate(all="ignore"):
        _UFUNCS[reduction].at(wide, place, widened(updates))
    return wide.astype(data.dtype)


@dataclass(frozen=True)
class GatherElements(Op):
    """ONNX GatherElements: ``y[i][j] = x[indices[i][j]][j]`` for axis 0; the result has the shape of the indices."""

    name: ClassVar[str] = "GatherElements"
    axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"GatherElements takes 2 inputs, got {len(inputs)}")
        x, indices = needed(inputs[0], "x"), needed(inputs[1], "indices")
        _require_indices(indices, "GatherElements")
        _require_within(indices.shape, x.shape, self.axis, "GatherElements")
        return (result(x.dtype, indices.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, indices = array_of(inputs), array_of(inputs, 1)
        place = _grid(indices.shape)
        place[self.axis] = wrapped(indices, x.shape[self.axis], "GatherElements")
        return (np.array(x[tuple(place)]),)


@dataclass(frozen=True)
class GatherND(Op):
    """ONNX GatherND: the last axis of the indices addresses the axes of ``x`` after the first ``batch_dims``.

    Result: ``indices.shape[:-1] + x.shape[batch_dims + indices.shape[-1]:]``.
    """

    name: ClassVar[str] = "GatherND"
    batch_dims: int = 0

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"GatherND takes 2 inputs, got {len(inputs)}")
        x, indices = needed(inputs[0], "x"), needed(inputs[1], "indices")
        _require_indices(indices, "GatherND")
        what = f"GatherND of {show(x.shape)} by indices {show(indices.shape)}"
        require(indices.rank >= 1 and x.rank >= 1, f"{what}: a scalar cannot be indexed")
        require(0 <= self.batch_dims < min(indices.rank, x.rank), f"{what}: batch_dims {self.batch_dims} is out of range")
        for a, b in zip(x.shape[: self.batch_dims], indices.shape[: self.batch_dims], strict=True):
            match_dim(a, b, what)
        depth = forbid_batch(indices.shape[-1], "GatherND addresses as many axes as there are images")
        require(depth <= x.rank - self.batch_dims, f"{what} addresses more axes than there are")
        for dim in x.shape[self.batch_dims : self.batch_dims + depth]:
            forbid_batch(dim, "GatherND along the batch axis picks single images")
        return (result(x.dtype, (*indices.shape[:-1], *x.shape[self.batch_dims + depth :])),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, indices = array_of(inputs), array_of(inputs, 1)
        lead = indices.shape[:-1]
        place = _grid(lead)[: self.batch_dims]
        for i in range(indices.shape[-1]):
            place.append(wrapped(indices[..., i], x.shape[self.batch_dims + i], "GatherND"))
        shape = (*lead, *x.shape[self.batch_dims + indices.shape[-1] :])
        if not place:
            return (np.array(np.broadcast_to(x, shape)),)
        return (np.array(np.broadcast_to(x[tuple(place)], shape)),)


@dataclass(frozen=True)
class ScatterElements(Op):
    """ONNX ScatterElements: ``y = x; y[indices[i][j]][j] (op)= updates[i][j]`` for axis 0.

    ``reduction`` is none, add, mul, max or min; with none, the last of several updates of one element stays.
    """

    name: ClassVar[str] = "ScatterElements"
    axis: int
    reduction: str = "none"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"ScatterElements takes 3 inputs, got {len(inputs)}")
        x, indices, updates = needed(inputs[0], "x"), needed(inputs[1], "indices"), needed(inputs[2], "updates")
        same_dtype([x, updates], "ScatterElements")
        _require_indices(indices, "ScatterElements")
        require(self.reduction in REDUCTIONS, f"unknown scatter reduction {self.reduction!r}")
        match_shape(indices.shape, updates.shape, f"ScatterElements: {show(indices.shape)} indices for {show(updates.shape)} updates")
        _require_within(indices.shape, x.shape, self.axis, "ScatterElements")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, indices, updates = array_of(inputs), array_of(inputs, 1), array_of(inputs, 2)
        place = _grid(indices.shape)
        place[self.axis] = wrapped(indices, x.shape[self.axis], "ScatterElements")
        return (_combine(x, tuple(place), updates, self.reduction),)


@dataclass(frozen=True)
class ScatterND(Op):
    """ONNX ScatterND: ``y = x; y[indices[i]] (op)= updates[i]`` where a row of indices addresses the leading axes of ``x``."""

    name: ClassVar[str] = "ScatterND"
    reduction: str = "none"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"ScatterND takes 3 inputs, got {len(inputs)}")
        x, indices, updates = needed(inputs[0], "x"), needed(inputs[1], "indices"), needed(inputs[2], "updates")
        same_dtype([x, updates], "ScatterND")
        _require_indices(indices, "ScatterND")
        require(self.reduction in REDUCTIONS, f"unknown scatter reduction {self.reduction!r}")
        what = f"ScatterND of {show(updates.shape)} updates at {show(indices.shape)} indices into {show(x.shape)}"
        require(indices.rank >= 1 and x.rank >= 1, f"{what}: a scalar cannot be indexed")
        depth = forbid_batch(indices.shape[-1], "ScatterND addresses as many axes as there are images")
        require(depth <= x.rank, f"{what} addresses more axes than there are")
        for dim in (*x.shape[:depth], *indices.shape[:-1]):
            forbid_batch(dim, "ScatterND along the batch axis mixes images")
        expected = (*indices.shape[:-1], *x.shape[depth:])
        require(len(expected) == updates.rank, f"{what}: the updates must have shape {show(expected)}")
        for a, b in zip(expected, updates.shape, strict=True):
            match_dim(a, b, what)
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, indices, updates = array_of(inputs), array_of(inputs, 1), array_of(inputs, 2)
        depth = indices.shape[-1]
        if not depth:
            # no axis is addressed: every update is one of the whole tensor
            place: tuple[np.ndarray, ...] = (np.zeros(indices.shape[:-1], np.int64),)
            return (_combine(x[None], place, updates, self.reduction)[0],)
        place = tuple(wrapped(indices[..., i], x.shape[i], "ScatterND") for i in range(depth))
        return (_combine(x, place, updates, self.reduction),)


@dataclass(frozen=True)
class TensorScatter(Op):
    """ONNX TensorScatter: ``x, update (, write_indices[batch]) -> x`` with ``update`` written along ``axis`` from the given positions on.

    ``circular`` positions wrap around; otherwise the reference raises InvalidInputError for one outside the axis.
    """

    name: ClassVar[str] = "TensorScatter"
    axis: int
    circular: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 3, f"TensorScatter takes 3 inputs, got {len(inputs)}")
        x, update, start = needed(inputs[0], "past_cache"), needed(inputs[1], "update"), inputs[2]
        same_dtype([x, update], "TensorScatter")
        what = f"TensorScatter of {show(update.shape)} into {show(x.shape)}"
        require(x.rank == update.rank and 1 <= self.axis < x.rank, f"{what} along axis {self.axis}")
        for axis, (a, b) in enumerate(zip(x.shape, update.shape, strict=True)):
            if axis == self.axis:
                require(forbid_batch(b, what) <= forbid_batch(a, what), f"{what}: the update is too long")
            else:
                match_dim(a, b, what)
        if start is not None:
            _require_indices(start, "TensorScatter")
            require(start.rank == 1, f"{what}: write_indices have shape {show(start.shape)}")
            match_dim(start.shape[0], x.shape[0], what)
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, update, start = array_of(inputs), array_of(inputs, 1), inputs[2]
        first = np.zeros(x.shape[0], np.int64) if start is None else start.astype(np.int64)
        out, extent, length = x.copy(), x.shape[self.axis], update.shape[self.axis]
        for image, begin in enumerate(first):
            positions = begin + np.arange(length)
            if self.circular:
                positions %= max(extent, 1)
            elif length and (begin < 0 or begin + length > extent):
                raise InvalidInputError(f"TensorScatter writes {int(begin)}..{int(begin) + length - 1} along an axis of {extent}")
            out[image][(slice(None),) * (self.axis - 1) + (positions,)] = update[image]
        return (out,)


@dataclass(frozen=True)
class OneHot(Op):
    """ONNX OneHot: ``indices, values[off, on] -> `` a new axis of ``depth`` at ``axis``, ``on`` where it equals the index.

    An index in ``[-depth, -1]`` counts from the end, one outside gives only ``off``. Indices may be of any numeric type.
    """

    name: ClassVar[str] = "OneHot"
    depth: int
    axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"OneHot takes indices and values, got {len(inputs)} inputs")
        indices, values = needed(inputs[0], "indices"), needed(inputs[1], "values")
        require(self.depth >= 0, f"OneHot depth {self.depth} is negative")
        require(values.shape == (2,), f"OneHot values have shape {show(values.shape)}, not [2]")
        require_axis(self.axis, indices.rank + 1, "OneHot")
        return (result(values.dtype, (*indices.shape[: self.axis], self.depth, *indices.shape[self.axis :])),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        indices, values = widened(array_of(inputs)), array_of(inputs, 1)
        if indices.dtype.kind == "u":
            # an unsigned index beyond int64 must not become a negative one
            indices = np.minimum(indices, np.asarray(np.iinfo(np.int64).max).astype(np.uint64)).astype(np.int64)
        places = np.expand_dims(indices, self.axis)
        classes = np.arange(self.depth).reshape((-1,) + (1,) * (indices.ndim - self.axis))
        return (np.where((places == classes) | (places == classes - self.depth), values[1], values[0]),)


@dataclass(frozen=True)
class Trilu(Op):
    """ONNX Trilu: the part of each matrix on and above (``upper``) or on and below its ``k``-th diagonal; zeros elsewhere."""

    name: ClassVar[str] = "Trilu"
    upper: bool
    k: int = 0

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"Trilu takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(x.rank >= 2, f"Trilu needs matrices, the input is {show(x.shape)}")
        for dim in x.shape[-2:]:
            forbid_batch(dim, "Trilu compares the batch position with another one")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = array_of(inputs)
        distance = np.arange(x.shape[-1])[None, :] - np.arange(x.shape[-2])[:, None]
        kept = distance >= self.k if self.upper else distance <= self.k
        return (np.where(kept, x, np.zeros((), x.dtype)),)


@dataclass(frozen=True)
class ReverseSequence(Op):
    """ONNX ReverseSequence: ``x, lengths[batch] -> y``: the first ``lengths[b]`` steps of sequence ``b`` in reverse order."""

    name: ClassVar[str] = "ReverseSequence"
    time_axis: int
    batch_axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"ReverseSequence takes 2 inputs, got {len(inputs)}")
        x, lengths = needed(inputs[0], "x"), needed(inputs[1], "sequence_lens")
        require(x.rank >= 2, f"ReverseSequence needs at least 2 axes, the input is {show(x.shape)}")
        require({self.time_axis, self.batch_axis} == {0, 1}, f"time axis {self.time_axis} and batch axis {self.batch_axis} are not 0 and 1")
        require(lengths.rank == 1, f"sequence_lens have shape {show(lengths.shape)}")
        match_dim(lengths.shape[0], x.shape[self.batch_axis], "ReverseSequence's lengths and its input")
        forbid_batch(x.shape[self.time_axis], "ReverseSequence along the batch axis mixes images")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, lengths = array_of(inputs), array_of(inputs, 1).astype(np.int64)
        steps = x.shape[self.time_axis]
        bad = lengths[(lengths < 0) | (lengths > steps)]
        if bad.size:
            raise InvalidInputError(f"ReverseSequence length {int(bad[0])} is outside 0..{steps}")
        place, until = np.arange(steps)[None, :], lengths[:, None]
        source = np.where(place < until, until - 1 - place, place)
        sequences = np.arange(x.shape[self.batch_axis])[:, None]
        if self.batch_axis == 0:
            return (np.array(x[sequences, source]),)
        return (np.array(x[source.T, sequences.T]),)


@dataclass(frozen=True)
class ArgReduce(Op):
    """ONNX ArgMax (``kind`` max) and ArgMin (min): int64 position of the first - or ``last`` - extreme element along ``axis``."""

    name: ClassVar[str] = "ArgReduce"
    kind: str
    axis: int
    keepdims: bool = True
    last: bool = False

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"ArgReduce takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require(self.kind in ("max", "min"), f"unknown kind {self.kind!r}")
        require_axis(self.axis, x.rank, "ArgMax/ArgMin")
        extent = forbid_batch(x.shape[self.axis], "the search runs over the batch axis, which would mix images")
        require(extent >= 1, f"axis {self.axis} of {show(x.shape)} has no elements to choose from")
        kept: tuple[Dim, ...] = (1,) if self.keepdims else ()
        return (result(DType.I64, (*x.shape[: self.axis], *kept, *x.shape[self.axis + 1 :])),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = widened(array_of(inputs))
        search = np.argmax if self.kind == "max" else np.argmin
        if self.last:
            found = x.shape[self.axis] - 1 - search(np.flip(x, self.axis), axis=self.axis, keepdims=self.keepdims)
        else:
            found = search(x, axis=self.axis, keepdims=self.keepdims)
        return (np.asarray(found).astype(np.int64),)


_LONG, _FEW = 1024, 8
"""Elements of a long row, and which part of it makes partitioning it first faster than sorting it."""


def _sorted(keys: np.ndarray, axis: int, largest: bool) -> np.ndarray:
    """Places of the elements along ``axis`` in order, of equal ones the first place first."""
    if not largest:
        return np.argsort(keys, axis=axis, kind="stable")
    # ascending and stable on the reversed axis: of equal elements the first one ends up last, then first
    return keys.shape[axis] - 1 - np.flip(np.argsort(np.flip(keys, axis), axis=axis, kind="stable"), axis)


def _few_of_long_rows(keys: np.ndarray, axis: int, k: int) -> bool:
    return keys.size > 0 and keys.shape[axis] >= _LONG and 0 < _FEW * k < keys.shape[axis]


def _best(row: np.ndarray, k: int, largest: bool) -> np.ndarray:
    """As the first ``k`` of :func:`_sorted`; only what can be among them is sorted, unless there is a NaN, which has no order here."""
    places = np.arange(row.size, dtype=np.int64)
    if not (row.dtype.kind == "f" and np.isnan(row).any()):
        bound = np.partition(row, row.size - k if largest else k - 1)[row.size - k if largest else k - 1]
        places = np.flatnonzero(row >= bound if largest else row <= bound)
    return places[_sorted(row[places], 0, largest)[:k]].astype(np.int64)


@dataclass(frozen=True)
class TopK(Op):
    """ONNX TopK: ``x -> values, int64 indices`` of the ``k`` largest (or smallest) elements along ``axis``, best first.

    Of equal elements the one with the lower index comes first. NaN counts as greater than every number.
    """

    name: ClassVar[str] = "TopK"
    k: int
    axis: int
    largest: bool = True

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 1, f"TopK takes 1 input, got {len(inputs)}")
        x = needed(inputs[0], "x")
        require_axis(self.axis, x.rank, "TopK")
        extent = forbid_batch(x.shape[self.axis], "TopK along the batch axis picks single images")
        require(0 <= self.k <= extent, f"TopK of {self.k} elements along axis {self.axis} of {show(x.shape)}")
        shape = (*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :])
        return result(x.dtype, shape), result(DType.I64, shape)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, axis = array_of(inputs), self.axis
        keys = widened(x)
        best = np.apply_along_axis(_best, axis, keys, self.k, self.largest) if _few_of_long_rows(keys, axis, self.k) else None
        if best is None:
            best = np.take(_sorted(keys, axis, self.largest), np.arange(self.k), axis=axis).astype(np.int64)
        return np.take_along_axis(x, best, axis=axis), best
