"""Importers of element-wise operators: each becomes one Elementwise expression."""

from __future__ import annotations

import numpy as np

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType
from cnngraph.ops import Cast, Elementwise, Expression, Identity, Instr
from cnngraph.ops.common import broadcast

_PLAIN_UNARY = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "HardSwish": "hard_swish",
    "Sqrt": "sqrt",
    "Exp": "exp",
    "Log": "log",
    "Abs": "abs",
    "Neg": "neg",
    "Reciprocal": "reciprocal",
    "Sign": "sign",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Asin": "asin",
    "Acos": "acos",
    "Atan": "atan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Asinh": "asinh",
    "Acosh": "acosh",
    "Atanh": "atanh",
    "Erf": "erf",
}

# attribute names and defaults, in the order of the function's parameters
_PARAMETRIC: dict[str, tuple[str, tuple[tuple[str, float], ...]]] = {
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "Elu": ("elu", (("alpha", 1.0),)),
    "Selu": ("selu", (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "HardSigmoid": ("hard_sigmoid", (("alpha", 0.2), ("beta", 0.5))),
    "Celu": ("celu", (("alpha", 1.0),)),
    "ThresholdedRelu": ("thresholded_relu", (("alpha", 1.0),)),
    "Shrink": ("shrink", (("lambd", 0.5), ("bias", 0.0))),
}


@importer(*_PLAIN_UNARY)
def unary(ctx: NodeContext) -> Value:
    """Functions without attributes."""
    return ctx.emit(Elementwise(Expression.of(_PLAIN_UNARY[ctx.op])), ctx.value(0))


@importer(*_PARAMETRIC)
def parametric(ctx: NodeContext) -> Value:
    """Functions with float attributes."""
    function, parameters = _PARAMETRIC[ctx.op]
    params = tuple(float(np.float32(ctx.attr_float(name, default))) for name, default in parameters)  # as attributes are stored
    return ctx.emit(Elementwise(Expression.of(function, 1, params)), ctx.value(0))


ERF_GELU = Expression(
    1,
    (
        Instr("scale", (0,), (0.5**0.5,)),
        Instr("erf", (1,)),
        Instr("shift", (2,), (1.0,)),
        Instr("mul", (0, 3)),
        Instr("scale", (4,), (0.5,)),
    ),
)
TANH_GELU = Expression(
    1,
    (
        Instr("mul", (0, 0)),
        Instr("scale", (1,), (0.044715,)),
        Instr("shift", (2,), (1.0,)),
        Instr("mul", (0, 3)),
        Instr("scale", (4,), ((2 / np.pi) ** 0.5,)),
        Instr("tanh", (5,)),
        Instr("shift", (6,), (1.0,)),
        Instr("mul", (0, 7)),
        Instr("scale", (8,), (0.5,)),
    ),
)


def swish(alpha: float) -> Expression:
    """``x * sigmoid(alpha * x)``."""
    return Expression(1, (Instr("scale", (0,), (alpha,)), Instr("sigmoid", (1,)), Instr("mul", (0, 2))))


@importer("Gelu")
def gelu(ctx: NodeContext) -> Value:
    """``x * Phi(x)`` by the error function, or its approximation by tanh (Hendrycks and Gimpel 2016)."""
    approximate = ctx.attr_str("approximate", "none")
    if approximate not in ("none", "tanh"):
        ctx.invalid(f"approximate '{approximate}' must be none or tanh")
    return ctx.emit(Elementwise(TANH_GELU if approximate == "tanh" else ERF_GELU), ctx.value(0))


@importer("Swish")
def swish_node(ctx: NodeContext) -> Value:
    """``x * sigmoid(alpha * x)`` (Ramachandran et al. 2017)."""
    return ctx.emit(Elementwise(swish(ctx.attr_float("alpha", 1.0))), ctx.value(0))


@importer("Mish")
def mish(ctx: NodeContext) -> Value:
    """``x * tanh(softplus(x))`` (Misra 2019)."""
    return ctx.emit(Elementwise(Expression(1, (Instr("softplus", (0,)), Instr("tanh", (1,)), Instr("mul", (0, 2))))), ctx.value(0))


@importer("Softsign")
def softsign(ctx: NodeContext) -> Value:
    """``x / (1 + |x|)``."""
    return ctx.emit(Elementwise(Expression(1, (Instr("abs", (0,)), Instr("shift", (1,), (1.0,)), Instr("div", (0, 2))))), ctx.value(0))


@importer("PRelu")
def prelu(ctx: NodeContext) -> Value:
    """The slope broadcasts to x without enlarging it."""
    x, slope = ctx.value(0), ctx.value(1)
    if broadcast(x.type.shape, slope.type.shape) != x.type.shape:
        ctx.invalid(f"the slope {slope.type} does not broadcast to {x.type}")
    return ctx.emit(Elementwise(Expression.of("prelu", 2)), x, slope)


@importer("Add", "Sub", "Mul", "Div")
def arithmetic(ctx: NodeContext) -> Value:
    """Binary arithmetic with NumPy's broadcasting."""
    return ctx.emit(Elementwise(Expression.of(ctx.op.lower(), 2)), ctx.value(0), ctx.value(1))


@importer("Pow")
def power(ctx: NodeContext) -> Value:
    """The result has the base's type; operands of other types are cast."""
    base, exponent = ctx.value(0), ctx.value(1)
    dtype = base.type.dtype
    if exponent.type.dtype is dtype:
        return ctx.emit(Elementwise(Expression.of("pow", 2)), base, exponent)
    if dtype.is_float or not exponent.type.dtype.is_float:
        return ctx.emit(Elementwise(Expression.of("pow", 2)), base, ctx.emit(Cast(dtype), exponent))
    wide = ctx.emit(Cast(exponent.type.dtype), base)
    return ctx.emit(Cast(dtype), ctx.emit(Elementwise(Expression.of("pow", 2)), wide, exponent))


@importer("Sum", "Max", "Min", "Mean")
def variadic(ctx: NodeContext) -> Value:
    """A chain of binary functions; Mean divides at the end."""
    values = ctx.values()
    if len(values) == 1:
        return ctx.emit(Identity(), values[0])
    function = {"Sum": "add", "Max": "max", "Min": "min", "Mean": "add"}[ctx.op]
    count = len(values)
    instrs = [Instr(function, (0, 1))]
    for i in range(2, count):
        instrs.append(Instr(function, (count + len(instrs) - 1, i)))
    if ctx.op == "Mean":
        instrs.append(Instr("scale", (count + len(instrs) - 1,), (1.0 / count,)))
    return ctx.emit(Elementwise(Expression(count, tuple(instrs))), *values)


@importer("Clip", until=10)
def clip_attributes(ctx: NodeContext) -> Value:
    """Bounds as attributes."""
    bounds = (ctx.attr_float("min", -np.inf), ctx.attr_float("max", np.inf))
    return ctx.emit(Elementwise(Expression.of("clip", 1, bounds)), ctx.value(0))


@importer("Clip", since=11)
def clip_inputs(ctx: NodeContext) -> Value:
    """Bounds as optional inputs, at best known numbers."""
    for index in (1, 2):
        if ctx.present(index) and ctx.type(index).shape not in ((), (1,)):
            ctx.invalid(f"the bound has shape {ctx.type(index)}, but must be a single number")
    low = _bound(ctx, 1, -np.inf)
    high = _bound(ctx, 2, np.inf)
    x = ctx.value(0)
    if low is not None and high is not None:
        return ctx.emit(Elementwise(Expression.of("clip", 1, (low, high))), x)
    steps: tuple[tuple[int, str], ...] = ((1, "max"), (2, "min"))
    for index, function in steps:
        if ctx.present(index):
            bound = ctx.value(index)
            if len(bound.type.shape) > x.type.rank:
                ctx.invalid(f"the bound {bound.type} has more axes than {x.type}")
            x = ctx.emit(Elementwise(Expression.of(function, 2)), x, bound)
    return x


def _bound(ctx: NodeContext, index: int, absent: float) -> float | None:
    """The bound as a float; None if it is computed at run time or is an integer that no float holds."""
    if not ctx.present(index):
        return absent
    known = ctx.known(index)
    if known is None:
        return None
    number = known.reshape(()).item()
    return float(number) if float(number) == number or number != number else None


@importer("Identity")
def identity(ctx: NodeContext) -> Value:
    """Kept for its name; a pass removes it."""
    return ctx.emit(Identity(), ctx.value(0))


@importer("Dropout")
def dropout(ctx: NodeContext) -> tuple[Value | None, ...]:
    """At inference the identity; the mask, if wanted, is all ones."""
    from cnngraph.frontend.importers.movement import filled

    if ctx.present(2):
        ctx.require_contents((1, 2), "the training mode")
    if ctx.present(2) and bool(ctx.scalar(2, "training_mode")):
        ratio = float(ctx.scalar(1, "ratio")) if ctx.present(1) else 0.5
        if ratio != 0.0:
            ctx.unsupported("training mode drops random elements, which is not supported")
    x = ctx.value(0)
    mask = None
    if ctx.wants(1):
        dtype = DType.BOOL if ctx.opset >= 10 else x.type.dtype
        mask = filled(ctx, np.ones((), dtype.numpy), x.type.shape)
    return ctx.emit(Identity(), x), mask
