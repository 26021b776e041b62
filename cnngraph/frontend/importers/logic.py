"""Importers of comparisons, truth values, bit operations, remainders and Where."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ops import Bits, Elementwise, Expression, Predicate, Where

_PREDICATES = {
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
    "Not": "not",
    "IsNaN": "is_nan",
}
_BITS = {"BitwiseAnd": "bit_and", "BitwiseOr": "bit_or", "BitwiseXor": "bit_xor", "BitwiseNot": "bit_not"}

# a comparison whose result selects: scalar function of one expression, and whether the compared operands are swapped
_SELECTIONS = {
    "less": ("where_less", False),
    "greater": ("where_less", True),
    "less_equal": ("where_less_equal", False),
    "greater_equal": ("where_less_equal", True),
    "equal": ("where_equal", False),
}


@importer(*_PREDICATES)
def predicate(ctx: NodeContext) -> Value:
    """Functions to bool without attributes."""
    return ctx.emit(Predicate(_PREDICATES[ctx.op]), *ctx.values())


@importer("IsInf")
def is_inf(ctx: NodeContext) -> Value:
    """Either sign can be left out."""
    negative, positive = ctx.attr_bool("detect_negative", True), ctx.attr_bool("detect_positive", True)
    function = {(1, 1): "is_inf", (1, 0): "is_negative_inf", (0, 1): "is_positive_inf", (0, 0): "never"}[negative, positive]
    return ctx.emit(Predicate(function), ctx.value(0))


@importer(*_BITS)
def bits(ctx: NodeContext) -> Value:
    """Bit by bit."""
    return ctx.emit(Bits(_BITS[ctx.op]), *ctx.values())


@importer("BitShift")
def bit_shift(ctx: NodeContext) -> Value:
    """Counts of at least the width give 0."""
    direction = ctx.attr_str("direction", "")
    if direction not in ("LEFT", "RIGHT"):
        ctx.invalid(f"direction '{direction}' must be LEFT or RIGHT")
    return ctx.emit(Bits("shift_left" if direction == "LEFT" else "shift_right"), ctx.value(0), ctx.value(1))


@importer("Mod")
def mod(ctx: NodeContext) -> Value:
    """Remainder with the divisor's sign, or with the dividend's if ``fmod``."""
    fmod = ctx.attr_bool("fmod", False)
    if ctx.type(0).dtype.is_float and not fmod and ctx.opset < 28:
        ctx.invalid("fmod must be 1 for floats")
    return ctx.emit(Bits("fmod" if fmod else "mod"), ctx.value(0), ctx.value(1))


@importer("Where")
def where(ctx: NodeContext) -> Value:
    """A condition that compares floats of the result's type becomes part of one expression."""
    condition, x, y = ctx.value(0), ctx.value(1), ctx.value(2)
    made = condition.producer
    if made is not None and isinstance(made.op, Predicate) and made.op.function in _SELECTIONS and x.type.dtype.is_float:
        function, swapped = _SELECTIONS[made.op.function]
        a, b = made.inputs if not swapped else made.inputs[::-1]
        if a is not None and b is not None and a.type.dtype is b.type.dtype is x.type.dtype is y.type.dtype:
            return ctx.emit(Elementwise(Expression.of(function, 4)), a, b, x, y)
    return ctx.emit(Where(), condition, x, y)
