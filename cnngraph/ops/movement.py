"""Operators that move, select or convert elements without arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.ir.types import Dim, DType, Layout, Sym, SymbolicBatchError, TensorType, numel, static
from cnngraph.ops.base import Op, needed, require
from cnngraph.ops.cast import Cast as Cast
from cnngraph.ops.common import forbid_batch, match_dim, require_axis, require_broadcastable_to, result, same_dtype, show


def _single(name: str, inputs: tuple[TensorType | None, ...]) -> TensorType:
    require(len(inputs) == 1, f"{name} takes 1 input, got {len(inputs)}")
    return needed(inputs[0], "x")


def _array(inputs: tuple[np.ndarray | None, ...], index: int = 0) -> np.ndarray:
    array = inputs[index]
    assert array is not None
    return array


@dataclass(frozen=True)
class Reshape(Op):
    """Flatten, Squeeze, Unsqueeze and Reshape: the same elements in row-major order under the resolved ``shape``."""

    name: ClassVar[str] = "Reshape"
    shape: tuple[Dim, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        require(all(isinstance(d, Sym) or d >= 0 for d in self.shape), f"reshape to {show(self.shape)} has a negative dimension")
        match_dim(numel(x.shape), numel(self.shape), f"reshape of {show(x.shape)} to {show(self.shape)} changes the number of elements")
        return (result(x.dtype, self.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (_array(inputs).reshape(static(self.shape)),)


@dataclass(frozen=True)
class Transpose(Op):
    """``y.shape[i] == x.shape[perm[i]]``; ``perm`` may move the batch axis."""

    name: ClassVar[str] = "Transpose"
    perm: tuple[int, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        require(sorted(self.perm) == list(range(x.rank)), f"perm {self.perm} is no permutation of the axes of {show(x.shape)}")
        return (result(x.dtype, tuple(x.shape[p] for p in self.perm)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (np.ascontiguousarray(_array(inputs).transpose(self.perm)).reshape([_array(inputs).shape[p] for p in self.perm]),)


@dataclass(frozen=True)
class Concat(Op):
    """One or more tensors of one dtype joined along ``axis`` (non-negative); their other dimensions are equal."""

    name: ClassVar[str] = "Concat"
    axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = [needed(t, str(i)) for i, t in enumerate(inputs)]
        dtype = same_dtype(types, "Concat")
        first = types[0]
        require_axis(self.axis, first.rank, "Concat")
        shapes = " and ".join(show(t.shape) for t in types[:8])
        joined = 0
        for type_ in types:
            require(type_.rank == first.rank, f"Concat of different ranks: {shapes}")
            for i, (a, b) in enumerate(zip(first.shape, type_.shape, strict=True)):
                if i != self.axis:
                    match_dim(a, b, f"Concat of {shapes} along axis {self.axis}")
            joined += forbid_batch(type_.shape[self.axis], "Concat along the batch axis would mix images")
        shape: list[Dim] = list(first.shape)
        shape[self.axis] = joined
        return (result(dtype, shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (np.concatenate([_array(inputs, i) for i in range(len(inputs))], axis=self.axis),)


@dataclass(frozen=True)
class Slice(Op):
    """``y[i, j..] = x[starts[0] + steps[0]*i, ..]``, full rank; ``shape`` is the resolved output shape.

    Steps may be negative, never 0. A batch axis must be taken whole.
    """

    name: ClassVar[str] = "Slice"
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    shape: tuple[Dim, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        require(
            len(self.starts) == len(self.steps) == len(self.shape) == x.rank,
            f"slice starts {self.starts}, steps {self.steps}, shape {show(self.shape)} do not suit {show(x.shape)}",
        )
        for start, step, count, dim in zip(self.starts, self.steps, self.shape, x.shape, strict=True):
            if isinstance(dim, Sym) or isinstance(count, Sym):
                if (start, step) != (0, 1) or count != dim:
                    raise SymbolicBatchError(f"a slice takes part of the batch axis of {show(x.shape)}, which picks single images")
                continue
            require(step != 0, "a slice step is 0")
            require(count >= 0, f"slice to {show(self.shape)} has a negative dimension")
            last = start + (count - 1) * step
            require(
                count == 0 or (0 <= start < dim and 0 <= last < dim),
                f"slice from {self.starts} in steps {self.steps} to shape {show(self.shape)} leaves {show(x.shape)}",
            )
        return (result(x.dtype, self.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        index = []
        for start, step, count in zip(self.starts, self.steps, static(self.shape), strict=True):
            stop = start + count * step
            index.append(slice(0, 0) if count == 0 else slice(start, None if stop < 0 else stop, step))
        return (_array(inputs)[tuple(index)].copy(),)


PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@dataclass(frozen=True)
class Pad(Op):
    """ONNX Pad. ``pads`` holds the begins of all axes, then the ends; a negative pad crops, before the others pad.

    ``mode`` is constant, reflect, edge or wrap; ``value`` fills in constant mode (converted for integers).
    """

    name: ClassVar[str] = "Pad"
    pads: tuple[int, ...]
    mode: str = "constant"
    value: float = 0.0

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        require(self.mode in PAD_MODES, f"unknown padding mode {self.mode!r}")
        require(len(self.pads) == 2 * x.rank, f"{len(self.pads)} pads do not suit {show(x.shape)}")
        if self.mode == "constant" and not x.dtype.is_float:
            require(np.isfinite(self.value), f"padding {x.dtype.value} with {self.value}")
            if x.dtype is not DType.BOOL:
                low, high = x.dtype.range
                require(low <= int(self.value) <= high, f"padding value {self.value} is outside {x.dtype.value}")
        shape: list[Dim] = []
        for axis, dim in enumerate(x.shape):
            begin, end = self.pads[axis], self.pads[axis + x.rank]
            if (begin, end) == (0, 0):
                shape.append(dim)
                continue
            extent = forbid_batch(dim, "padding the batch axis would add or remove images")
            cropped = extent + min(begin, 0) + min(end, 0)
            what = f"pads ({begin}, {end}) of axis {axis} of {show(x.shape)}"
            require(cropped >= 0, f"{what} crop more than there is")
            grows = max(begin, end) > 0
            require(self.mode == "constant" or not grows or cropped >= 1, f"{what}: nothing to {self.mode}")
            require(self.mode != "reflect" or max(begin, end) < max(cropped, 1), f"{what} reflect more than there is")
            shape.append(cropped + max(begin, 0) + max(end, 0))
        return (result(x.dtype, shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x = _array(inputs)
        pairs = [(self.pads[i], self.pads[i + x.ndim]) for i in range(x.ndim)]
        kept = x[tuple(slice(max(-b, 0), extent - max(-e, 0)) for (b, e), extent in zip(pairs, x.shape, strict=True))]
        grown = [(max(b, 0), max(e, 0)) for b, e in pairs]
        if self.mode == "constant":
            value = self.value if DType.of(x).is_float else int(self.value)
            return (np.pad(kept, grown, constant_values=np.array(value).astype(x.dtype)),)
        if self.mode == "reflect":
            return (np.pad(kept, grown, mode="reflect"),)
        return (np.pad(kept, grown, mode="edge" if self.mode == "edge" else "wrap"),)


@dataclass(frozen=True)
class Expand(Op):
    """``x`` broadcast to the resolved result ``shape``."""

    name: ClassVar[str] = "Expand"
    shape: tuple[Dim, ...]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        require(all(isinstance(d, Sym) or d >= 0 for d in self.shape), f"expand to {show(self.shape)} has a negative dimension")
        require_broadcastable_to(x.shape, self.shape, "input")
        return (result(x.dtype, self.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (np.array(np.broadcast_to(_array(inputs), static(self.shape))),)


@dataclass(frozen=True)
class Gather(Op):
    """ONNX Gather: ``x, indices (int32 or int64) -> x.shape[:axis] + indices.shape + x.shape[axis+1:]``.

    A negative index counts from the end. The reference raises InvalidInputError for one outside the axis.
    """

    name: ClassVar[str] = "Gather"
    axis: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        require(len(inputs) == 2, f"Gather takes 2 inputs, got {len(inputs)}")
        x, indices = needed(inputs[0], "x"), needed(inputs[1], "indices")
        require(indices.dtype in (DType.I32, DType.I64), f"Gather indices are {indices.dtype.value}, not int32 or int64")
        require_axis(self.axis, x.rank, "Gather")
        forbid_batch(x.shape[self.axis], "Gather along the batch axis picks single images")
        return (result(x.dtype, (*x.shape[: self.axis], *indices.shape, *x.shape[self.axis + 1 :])),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        x, indices = _array(inputs), _array(inputs, 1)
        extent = x.shape[self.axis]
        bad = indices[(indices < -extent) | (indices >= extent)]
        if bad.size:
            raise InvalidInputError(f"Gather index {int(bad.flat[0])} is outside axis {self.axis} of {show(x.shape)}")
        return (np.take(x, indices, axis=self.axis),)


@dataclass(frozen=True)
class Shape(Op):
    """ONNX Shape: dimensions ``start .. end-1`` (resolved, non-negative) of the input as an int64 vector."""

    name: ClassVar[str] = "Shape"
    start: int
    end: int

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        require(0 <= self.start <= self.end <= x.rank, f"shape range {self.start}..{self.end} is outside {show(x.shape)}")
        return (result(DType.I64, (self.end - self.start,)),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (np.array(_array(inputs).shape[self.start : self.end], np.int64),)


@dataclass(frozen=True)
class Identity(Op):
    """``y = x``."""

    name: ClassVar[str] = "Identity"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (_array(inputs),)


@dataclass(frozen=True)
class Reorder(Op):
    """The same logical tensor in the physical ``layout``, which the output's type carries once layouts are set."""

    name: ClassVar[str] = "Reorder"
    layout: Layout

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x = _single(self.name, inputs)
        if not self.layout.plain:
            require(x.rank >= 2, f"{show(x.shape)} has no channel axis to block")
            forbid_batch(x.shape[1], "a blocked channel axis must not depend on the batch size")
        return (result(x.dtype, x.shape),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        return (_array(inputs),)
