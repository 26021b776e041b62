"""Arithmetic on tensors whose numbers are known at import, the batch size N standing in for itself.

Exporters compute shapes with chains of ONNX nodes (Shape, Gather, Unsqueeze, Concat, ...). An evaluator computes the outputs of one
such node from known contents. Arrays that contain multiples of N have object dtype and :class:`~cnngraph.ir.types.Sym` entries;
what is not a multiple of N raises SymbolicBatchError, and the node is then computed at run time like any other.

Only operators whose results may contain N, or that move large constants, need an evaluator: small results of plain numbers are folded
by the importer whatever the operator (:mod:`cnngraph.frontend.nodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.ir.types import DType, Sym, SymbolicBatchError, TensorType

if TYPE_CHECKING:
    from cnngraph.frontend.context import NodeContext

SMALL = 1 << 14
"""Elements above which arithmetic is left to constant folding."""


@dataclass(frozen=True)
class Content:
    """Known numbers: an array of ``dtype``, or an object array where N occurs."""

    array: np.ndarray
    dtype: DType

    @property
    def symbolic(self) -> bool:
        """Whether the batch size is among the numbers."""
        return self.array.dtype == object

    @staticmethod
    def of(array: Any, dtype: DType) -> Content:
        """Contents of type ``dtype``; object arrays without N become plain ones."""
        array = np.asarray(array)
        if array.dtype == object and any(isinstance(v, Sym) for v in array.flat):
            return Content(array, dtype)
        return Content(array.astype(dtype.numpy, copy=False), dtype)


Evaluator = Callable[["NodeContext", Sequence[Content | None]], "list[Content] | None"]


@dataclass(frozen=True)
class EvaluatorEntry:
    """An evaluator and whether it only moves numbers, so that it may run on large constants too."""

    function: Evaluator
    moves: bool


EVALUATORS: dict[str, EvaluatorEntry] = {}


def evaluator(*ops: str, moves: bool = False) -> Callable[[Evaluator], Evaluator]:
    """Register an evaluator for the ONNX operators ``ops``."""

    def register(function: Evaluator) -> Evaluator:
        for op in ops:
            EVALUATORS[op] = EvaluatorEntry(function, moves)
        return function

    return register


def evaluate(ctx: NodeContext, inputs: Sequence[Content | None], max_bytes: int) -> list[Content] | None:
    """Outputs of the node of ``ctx`` from its inputs' contents, or None if it must be computed at run time.

    Args:
        ctx: the node.
        inputs: contents of every input, None where the input is absent.
        max_bytes: no more than this is computed.

    Raises:
        SymbolicBatchError: the result is no multiple of the batch size.
        ValueError, IndexError, ArithmeticError: the inputs contradict each other.
    """
    entry = EVALUATORS.get(ctx.op)
    if entry is None:
        return None
    sizes = [c.array.size for c in inputs if c is not None]
    if not entry.moves and any(size > SMALL for size in sizes):
        return None
    if sum(c.array.nbytes for c in inputs if c is not None) > max_bytes:
        return None
    with np.errstate(all="ignore"):
        return entry.function(ctx, inputs)


def _need(inputs: Sequence[Content | None], index: int) -> Content:
    content = inputs[index] if index < len(inputs) else None
    if content is None:
        raise ValueError(f"input {index} is missing")
    return content


def _ints(content: Content) -> list[int]:
    """The numbers of a shape-like input, which must not contain N."""
    out = []
    for value in content.array.reshape(-1).tolist():
        if isinstance(value, Sym):
            raise SymbolicBatchError(f"{value} must not depend on the batch size here")
        out.append(int(value))
    return out


def axes_of(ctx: NodeContext, inputs: Sequence[Content | None]) -> tuple[int, ...] | None:
    """Axes given by attribute or by input 1, or None."""
    if ctx.has("axes"):
        return ctx.attr_ints("axes")
    if len(inputs) > 1 and inputs[1] is not None:
        return tuple(_ints(inputs[1]))
    return None


def _exact(content: Content, symbolic: bool) -> np.ndarray:
    """The array; beside multiples of N integral floats become integers, so that N * 2.0 is exact."""
    if not symbolic or content.array.dtype == object:
        return content.array
    values = [int(v) if float(v).is_integer() else v for v in content.array.reshape(-1).tolist()]
    out = np.empty(len(values), object)
    out[:] = values
    return out.reshape(content.array.shape)


def _divide(a: Any, b: Any) -> Any:
    """Division by value: exact with N, truncating on integers."""
    if isinstance(a, Sym) or isinstance(b, Sym):
        return a // b
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    return a / b


def _equal(a: Any, b: Any) -> bool:
    """Whether two dimensions are equal for every N >= 1."""
    if isinstance(a, Sym) and isinstance(b, Sym):
        return a.scale == b.scale
    if isinstance(a, Sym) or isinstance(b, Sym):
        symbol, number = (a, b) if isinstance(a, Sym) else (b, a)
        if number < symbol.scale or number % symbol.scale:
            return False
        raise SymbolicBatchError(f"{a} == {b} depends on the batch size")
    return bool(a == b)


def _less(a: Any, b: Any) -> bool:
    return bool(a < b)


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Min": lambda a, b: a if a <= b else b,
    "Max": lambda a, b: a if a >= b else b,
    "Equal": _equal,
    "Less": _less,
    "Greater": lambda a, b: _less(b, a),
}
_TRUTH = {"Equal", "Less", "Greater"}


@evaluator(*_BINARY)
def _binary(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    contents = [_need(inputs, i) for i in range(len(inputs))]
    shape = np.broadcast_shapes(*(c.array.shape for c in contents))
    if int(np.prod(shape)) > SMALL:
        return None
    dtype = contents[0].dtype
    symbolic = any(c.symbolic for c in contents)
    if not symbolic and dtype.is_float and ctx.op not in _TRUTH:
        return None
    result = np.asarray(_exact(contents[0], symbolic), object)
    function = np.frompyfunc(_BINARY[ctx.op], 2, 1)
    for content in contents[1:]:
        result = np.asarray(function(result, np.asarray(_exact(content, symbolic), object)), object)
    return _checked(np.broadcast_to(result, shape), DType.BOOL if ctx.op in _TRUTH else dtype)


def _checked(array: np.ndarray, dtype: DType) -> list[Content] | None:
    """Object results as contents; None if integers leave the type's range, because they wrap at run time.

    Raises:
        OverflowError: they do beside multiples of the batch size.
    """
    if not dtype.is_float and dtype is not DType.BOOL:
        low, high = dtype.range
        if any(not isinstance(v, Sym) and not low <= v <= high for v in array.flat):
            if any(isinstance(v, Sym) for v in array.flat):
                raise OverflowError(f"a result leaves the range of {dtype.value}")
            return None
    return [Content.of(array, dtype)]


@evaluator("Abs", "Floor", "Ceil", "Round")
def _unary(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    """Multiples of N and what else is not negative stay as they are."""
    content = _need(inputs, 0)
    if not content.symbolic:
        return None
    if any(not isinstance(v, Sym) and v < 0 for v in content.array.flat):
        raise SymbolicBatchError(f"{ctx.op} of the batch size is not a multiple of it")
    return [content]


@evaluator("Identity", moves=True)
def _identity(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    return [_need(inputs, 0)]


@evaluator("Cast")
def _cast(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    from cnngraph.frontend.tensors import element_type
    from cnngraph.ops import Cast

    content, to = _need(inputs, 0), element_type(ctx.attr_int("to", 0))
    if content.symbolic:
        if to is DType.BOOL:
            raise SymbolicBatchError("a cast of the batch size to bool is not a multiple of it")
        return [Content(content.array, to)] if to.bits >= 16 else None
    if content.dtype.is_float and not to.is_float and not bool(np.isfinite(content.array.astype(np.float64)).all()):
        return None
    op = Cast(to, ctx.attr_bool("saturate", True), ctx.attr_str("round_mode", "up"))
    op.infer(TensorType(content.dtype, content.array.shape))
    return [Content.of(op.reference(content.array)[0], to)]


@evaluator("Gather")
def _gather(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data, indices = _need(inputs, 0), _need(inputs, 1)
    if indices.symbolic:
        raise SymbolicBatchError("an index depends on the batch size")
    if data.array.size and int(np.prod(indices.array.shape)) * data.array.size > SMALL * SMALL:
        return None
    return [Content.of(np.take(data.array, indices.array.astype(np.int64), axis=ctx.attr_int("axis", 0)), data.dtype)]


@evaluator("Unsqueeze", moves=True)
def _unsqueeze(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data, axes = _need(inputs, 0), axes_of(ctx, inputs)
    if axes is None:
        raise ValueError("axes are missing")
    return [Content.of(np.expand_dims(data.array, axes), data.dtype)]


@evaluator("Squeeze", moves=True)
def _squeeze(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data = _need(inputs, 0)
    return [Content.of(np.squeeze(data.array, axes_of(ctx, inputs)), data.dtype)]


@evaluator("Concat")
def _concat(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    contents = [_need(inputs, i) for i in range(len(inputs))]
    if any(c.dtype is not contents[0].dtype for c in contents):
        raise ValueError("the inputs have different types")
    return [Content.of(np.concatenate([c.array for c in contents], axis=ctx.attr_int("axis", 0)), contents[0].dtype)]


def clamped_slice(start: int, end: int, step: int, extent: int) -> slice:
    """What ONNX's Slice takes of an axis: a start before the axis means its first element, also where steps go backwards."""
    return slice(max(start, -extent), None if step < 0 and end < -extent else end, step)


@evaluator("Slice")
def _slice(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data = _need(inputs, 0)
    if ctx.has("starts"):
        starts, ends = list(ctx.attr_ints("starts")), list(ctx.attr_ints("ends"))
        axes, steps = list(ctx.attr_ints("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = _ints(_need(inputs, 1)), _ints(_need(inputs, 2))
        axes = _ints(_need(inputs, 3)) if len(inputs) > 3 and inputs[3] is not None else list(range(len(starts)))
        steps = _ints(_need(inputs, 4)) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    index = [slice(None)] * data.array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -data.array.ndim <= axis < data.array.ndim or step == 0:
            raise ValueError(f"axis {axis} or step {step} is out of range")
        index[axis] = clamped_slice(start, end, step, data.array.shape[axis])
    return [Content.of(data.array[tuple(index)], data.dtype)]


@evaluator("Transpose", moves=True)
def _transpose(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data = _need(inputs, 0)
    return [Content.of(np.transpose(data.array, ctx.attr_ints("perm", tuple(reversed(range(data.array.ndim))))), data.dtype)]


@evaluator("Reshape", moves=True)
def _reshape(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data, shape = _need(inputs, 0), _ints(_need(inputs, 1))
    if not ctx.attr_int("allowzero", 0):
        shape = [data.array.shape[i] if d == 0 else d for i, d in enumerate(shape)]
    if any(d < -1 for d in shape):
        raise ValueError(f"shape {shape} has a negative entry")
    return [Content.of(data.array.reshape(shape), data.dtype)]


def _product(dims: Sequence[int]) -> int:
    out = 1
    for dim in dims:
        out *= dim
    return out


@evaluator("Where")
def _where(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    condition, yes, no = (_need(inputs, i) for i in range(3))
    if condition.symbolic or int(np.prod(np.broadcast_shapes(condition.array.shape, yes.array.shape, no.array.shape))) > SMALL:
        return None
    symbolic = yes.symbolic or no.symbolic
    return [Content.of(np.where(condition.array, _exact(yes, symbolic), _exact(no, symbolic)), yes.dtype)]


@evaluator("Expand", "Tile")
def _expand(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data, second = _need(inputs, 0), _need(inputs, 1)
    if second.symbolic:
        return None
    numbers = _ints(second)
    if any(n < 0 for n in numbers):
        raise ValueError(f"{numbers} has a negative entry")
    if ctx.op == "Tile":
        if len(numbers) != data.array.ndim:
            raise ValueError(f"{len(numbers)} repeats for a tensor of rank {data.array.ndim}")
        if data.array.size * _product(numbers) > SMALL:
            return None
        return [Content.of(np.tile(data.array, numbers), data.dtype)]
    if _product(numbers) * max(data.array.size, 1) > SMALL:
        return None
    return [Content.of(np.broadcast_to(data.array, np.broadcast_shapes(data.array.shape, tuple(numbers))), data.dtype)]


@evaluator("ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax")
def _reduce(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data, axes = _need(inputs, 0), axes_of(ctx, inputs)
    if not axes:
        if ctx.attr_int("noop_with_empty_axes", 0):
            return [data]
        axes = tuple(range(data.array.ndim))
    if data.dtype.is_float and not data.symbolic:
        return None
    ufunc: Any = {"ReduceProd": np.multiply, "ReduceSum": np.add, "ReduceMin": np.minimum, "ReduceMax": np.maximum}[ctx.op]
    reduced = ufunc.reduce(np.asarray(data.array, object), axis=axes, keepdims=bool(ctx.attr_int("keepdims", 1)))
    return _checked(np.asarray(reduced, object), data.dtype)


@evaluator("Split")
def _split(ctx: NodeContext, inputs: Sequence[Content | None]) -> list[Content] | None:
    data, axis, count = _need(inputs, 0), ctx.attr_int("axis", 0), ctx.output_count
    extent = data.array.shape[axis]
    if ctx.has("split"):
        sizes = list(ctx.attr_ints("split"))
    elif len(inputs) > 1 and inputs[1] is not None:
        sizes = _ints(inputs[1])
    else:
        part = -(-extent // count)
        sizes = [part] * (count - 1) + [extent - part * (count - 1)]
    if len(sizes) != count or sum(sizes) != extent or min(sizes) < 0:
        raise ValueError(f"sizes {sizes} do not split {extent} in {count}")
    return [Content.of(part, data.dtype) for part in np.split(data.array, np.cumsum(sizes)[:-1], axis=axis)]
