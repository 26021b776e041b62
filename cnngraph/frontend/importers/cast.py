"""Importers of conversions of element types."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.frontend.tensors import element_type
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType
from cnngraph.ops import BitCast, Cast


def _cast(ctx: NodeContext, to: DType) -> Value:
    op = Cast(to)
    if to is DType.F8E8M0:
        op = Cast(to, ctx.attr_bool("saturate", True), ctx.attr_str("round_mode", "up"))
    elif to.is_float and to.bits == 8:
        op = Cast(to, ctx.attr_bool("saturate", True))
    return ctx.emit(op, ctx.value(0))


@importer("Cast")
def cast(ctx: NodeContext) -> Value:
    """Conversion to the type in attribute ``to``; saturation and rounding concern the 8-bit floats only."""
    return _cast(ctx, element_type(ctx.attr_int("to", 0)))


@importer("CastLike")
def cast_like(ctx: NodeContext) -> Value:
    """Conversion to the type of the second input."""
    return _cast(ctx, ctx.type(1).dtype)


@importer("BitCast")
def bit_cast(ctx: NodeContext) -> Value:
    """The same bits as the type in attribute ``to``."""
    return ctx.emit(BitCast(element_type(ctx.attr_int("to", 0))), ctx.value(0))
