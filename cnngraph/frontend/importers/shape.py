"""Importers of operators that make tensors from shapes: Shape, Size, Constant, ConstantOfShape."""

from __future__ import annotations

import numpy as np

from cnngraph.errors import InvalidModelError
from cnngraph.frontend.contents import Content
from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.movement import filled
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType, numel
from cnngraph.ops import Reduce, Shape
from cnngraph.ops.common import show


def _shape_range(ctx: NodeContext) -> tuple[int, int]:
    """Attributes start and end of Shape, clamped to the rank as ONNX says."""
    rank = ctx.type(0).rank
    start, end = ctx.attr_int("start", 0), ctx.attr_int("end", rank)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    return start, max(start, end)


def shape_contents(ctx: NodeContext) -> list[Content]:
    """The numbers of a Shape or Size node, always known (N included).

    Raises:
        SymbolicBatchError: the size is no multiple of the batch size.
    """
    if ctx.op == "Size":
        count = np.empty((), object)
        count[()] = numel(ctx.type(0).shape)
        return [Content.of(count, DType.I64)]
    start, end = _shape_range(ctx)
    dims = ctx.type(0).shape[start:end]
    array = np.empty(len(dims), object)
    array[:] = dims
    return [Content.of(array, DType.I64)]


@importer("Shape")
def shape(ctx: NodeContext) -> Value:
    """Dimensions start to end as int64."""
    start, end = _shape_range(ctx)
    return ctx.emit(Shape(start, end), ctx.value(0))


@importer("Size")
def size(ctx: NodeContext) -> Value:
    """The number of elements as an int64 scalar: the product of the shape."""
    x = ctx.value(0)
    dims = ctx.emit(Shape(0, x.type.rank), x)
    return ctx.emit(Reduce("prod", (0,), False), dims)


@importer("Constant")
def constant(ctx: NodeContext) -> Value:
    """Any one of the numeric value attributes."""
    forms = [name for name in ("value", "sparse_value", "value_float", "value_floats", "value_int", "value_ints") if ctx.has(name)]
    for name in ("value_string", "value_strings"):
        if ctx.has(name):
            ctx.unsupported(f"the attribute '{name}' is not supported")
    if len(forms) != 1:
        ctx.invalid(f"a Constant has exactly one value attribute, not {len(forms)}")
    form = forms[0]
    if form in ("value", "sparse_value"):
        array = ctx.attr_tensor(form)
        assert array is not None
        return ctx.constant(array)
    if form == "value_float":
        return ctx.constant(np.array(ctx.attr_float(form, 0.0), np.float32))
    if form == "value_floats":
        return ctx.constant(np.array(ctx.attr_floats(form), np.float32))
    if form == "value_int":
        return ctx.constant(np.array(ctx.attr_int(form, 0), np.int64))
    return ctx.constant(np.array(ctx.attr_ints(form), np.int64))


@importer("ConstantOfShape")
def constant_of_shape(ctx: NodeContext) -> Value:
    """One number expanded to a shape; not stored, since it may be large."""
    dims = ctx.dims(0, "the shape")
    if any(isinstance(d, int) and d < 0 for d in dims):
        raise InvalidModelError(f"shape {show(dims)} has a negative dimension")
    value = ctx.attr_tensor("value")
    number = np.zeros((), np.float32) if value is None else value
    if number.size != 1:
        ctx.invalid(f"attribute 'value' has {number.size} elements, but must have one")
    return filled(ctx, number.reshape(()), dims)
