"""Scalar int64 arithmetic in the kernel language, as NumPy defines it: sums and products wrap around, quotients are cut towards zero.

``long_primitives()`` extends :func:`cnngraph_cpu.simd.primitives`. LLVM makes vectors of the loops where the instruction set has them.
What its instructions leave undefined is defined here: a quotient by zero is 0, and so no trap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LONG = ir.IntType(64)
_LEAST = ir.Constant(LONG, -(1 << 63))


def _constant(value: int) -> Any:
    return ir.Constant(LONG, value)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _magnitude(builder: Any, a: Any) -> Any:
    return builder.select(builder.icmp_signed("<", a, _constant(0)), builder.neg(a), a)


def _quotient(builder: Any, a: Any, b: Any) -> Any:
    zero, minus = builder.icmp_signed("==", b, _constant(0)), builder.icmp_signed("==", b, _constant(-1))
    plain = builder.sdiv(a, builder.select(builder.or_(zero, minus), _constant(1), b))
    return builder.select(zero, _constant(0), builder.select(minus, builder.neg(a), plain))


def _halved(builder: Any, a: Any, times: Any) -> Any:
    below = builder.lshr(builder.ashr(a, _constant(63)), builder.sub(_constant(64), times))  # 2**times - 1 for a negative number
    return builder.ashr(builder.add(a, below), times)


_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "long_add": (2, lambda builder, a, b: builder.add(a, b)),
    "long_sub": (2, lambda builder, a, b: builder.sub(a, b)),
    "long_mul": (2, lambda builder, a, b: builder.mul(a, b)),
    "long_div": (2, _quotient),
    "long_halved": (2, _halved),
    "long_min": (2, _smaller),
    "long_max": (2, _larger),
    "long_neg": (1, lambda builder, a: builder.neg(a)),
    "long_abs": (1, _magnitude),
    "long_relu": (1, lambda builder, a: _larger(builder, a, _constant(0))),
}
"""Arity and LLVM code, by ``long_`` and the name in :data:`cnngraph.ops.scalar.FUNCTIONS`.

``long_halved`` is a quotient by a power of two, whose exponent of 1 to 62 it takes.
"""


def _function(arity: int, code: Callable[..., Any]) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return code(builder, *values)

    if arity == 1:

        @intrinsic
        def unary(typingctx: Any, a: Any) -> Any:
            return types.int64(types.int64), codegen

        return unary

    @intrinsic
    def binary(typingctx: Any, a: Any, b: Any) -> Any:
        return types.int64(types.int64, types.int64), codegen

    return binary


@intrinsic
def truncated(typingctx: Any, value: Any) -> Any:
    """A float32 cut to an integer; the least one for what does not fit, as x86-64 has it."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        (x,) = values
        bound = ir.Constant(ir.FloatType(), float(1 << 63))
        fits = builder.and_(builder.fcmp_ordered("<", x, bound), builder.fcmp_ordered(">=", x, ir.Constant(bound.type, -float(1 << 63))))
        safe = builder.select(fits, x, ir.Constant(bound.type, 0.0))
        return builder.select(fits, builder.fptosi(safe, LONG), _LEAST)

    return types.int64(types.float32), codegen


def long_primitives() -> dict[str, Any]:
    """The functions that generated source may name."""
    return {"truncated": truncated, **{name: _function(*entry) for name, entry in _FUNCTIONS.items()}}
