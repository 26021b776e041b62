"""Importers of the fused operators that onnxruntime's offline optimiser writes: they come apart here and are fused again by passes."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.elementwise import ERF_GELU, TANH_GELU, swish
from cnngraph.frontend.importers.nn import conv, gemm
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType
from cnngraph.ops import Elementwise, Expression, MatMul, Transpose
from cnngraph.ops.common import match_shape

_ACTIVATIONS: dict[str, tuple[str, tuple[float, ...]]] = {
    "Relu": ("relu", ()),
    "Sigmoid": ("sigmoid", ()),
    "Tanh": ("tanh", ()),
    "LeakyRelu": ("leaky_relu", (0.01,)),
    "Clip": ("clip", (float("-inf"), float("inf"))),
    "HardSigmoid": ("hard_sigmoid", (0.2, 0.5)),
    "Elu": ("elu", (1.0,)),
    "Selu": ("selu", (1.67326319217681884765625, 1.05070102214813232421875)),
    "Softplus": ("softplus", ()),
}
"""Scalar function of each activation and the defaults of its parameters, in onnxruntime's order."""


def check_inputs(ctx: NodeContext, least: int, most: int, required: int | None = None) -> None:
    """Refuse another number of inputs, and absent ones among the first ``required`` (default ``least``)."""
    if not least <= ctx.input_count <= most:
        ctx.invalid(f"{ctx.input_count} inputs, but the operator takes {least} to {most}")
    for index in range(least if required is None else required):
        if not ctx.present(index):
            ctx.invalid(f"input {index} is missing")


def _one_float_type(ctx: NodeContext) -> DType:
    dtype = ctx.type(0).dtype
    for index in range(ctx.input_count):
        if ctx.present(index) and ctx.type(index).dtype is not dtype:
            ctx.invalid(f"input {index} is {ctx.type(index).dtype.value}, but input 0 is {dtype.value}")
    if not dtype.is_float:
        ctx.invalid(f"its inputs must be floats, not {dtype.value}")
    return dtype


def _activated(ctx: NodeContext, value: Value, given: tuple[float, ...] | None) -> Value:
    """``value`` after the attribute ``activation`` with the parameters ``given``, or its defaults."""
    name = ctx.attr_str("activation", "")
    if not name:
        return value
    if name not in _ACTIVATIONS:
        ctx.unsupported(f"the activation '{name[:40]}'")
    function, defaults = _ACTIVATIONS[name]
    parameters = defaults if given is None else given
    if len(parameters) != len(defaults):
        ctx.invalid(f"{name} takes {len(defaults)} parameters, not {len(parameters)}")
    return ctx.emit(Elementwise(Expression.of(function, 1, parameters)), value)


@importer("com.microsoft::FusedConv")
def fused_conv(ctx: NodeContext) -> Value:
    """``activation(conv(X, W) + B + Z)``; parameters in the attribute activation_params."""
    check_inputs(ctx, 2, 4)
    _one_float_type(ctx)
    y = conv(ctx)
    if ctx.present(3):
        z = ctx.value(3)
        match_shape(z.type.shape, y.type.shape, "Z and the convolution's result")
        y = ctx.emit(Elementwise(Expression.of("add", 2)), y, z)
    return _activated(ctx, y, ctx.attr_floats("activation_params") if ctx.has("activation_params") else None)


@importer("com.microsoft::FusedGemm")
def fused_gemm(ctx: NodeContext) -> Value:
    """``activation(alpha * A' @ B' + beta * C)``; parameters in activation_alpha, activation_beta and activation_gamma."""
    check_inputs(ctx, 2, 3)
    _one_float_type(ctx)
    defaults = _ACTIVATIONS.get(ctx.attr_str("activation", ""), ("", ()))[1]
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    if ctx.attr_str("activation", "") == "Selu":
        names = ("activation_alpha", "activation_gamma", "activation_beta")
    given = tuple(ctx.attr_float(name, default) for name, default in zip(names, defaults, strict=False))
    return _activated(ctx, gemm(ctx), given)


@importer("com.microsoft::FusedMatMul")
def fused_matmul(ctx: NodeContext) -> Value:
    """``alpha * A' @ B'``; transBatch moves the first axis of the batch behind the others, trans swaps the last two axes."""
    check_inputs(ctx, 2, 2)
    _one_float_type(ctx)
    operands = []
    for index, letter in enumerate("AB"):
        value = ctx.value(index)
        batch, swap = ctx.attr_bool(f"transBatch{letter}"), ctx.attr_bool(f"trans{letter}")
        rank = value.type.rank
        order = list(range(rank))
        if batch:
            if rank < 3:
                ctx.invalid(f"transBatch{letter} of {value.type}")
            order = [*order[1:-1], order[0], order[-1]]
        if swap and rank >= 2:
            order[-2:] = order[:-3:-1]
        operands.append(value if order == list(range(rank)) else ctx.emit(Transpose(tuple(order)), value))
    alpha = ctx.attr_float("alpha", 1.0)
    product = ctx.emit(MatMul(), *operands)
    return product if alpha == 1.0 else ctx.emit(Elementwise(Expression.of("scale", 1, (alpha,))), product)


@importer("com.microsoft::Gelu", "com.microsoft::BiasGelu", "com.microsoft::FastGelu", "com.microsoft::QuickGelu")
def contrib_gelu(ctx: NodeContext) -> Value:
    """Gelu of x, or of x plus a bias; FastGelu by tanh, QuickGelu ``x * sigmoid(alpha * x)``."""
    check_inputs(ctx, 2 if ctx.op.endswith("BiasGelu") else 1, 1 if ctx.op.endswith(("::Gelu", "QuickGelu")) else 2)
    x = ctx.value(0)
    if ctx.present(1):
        x = ctx.emit(Elementwise(Expression.of("add", 2)), x, ctx.value(1))
    if ctx.op.endswith("QuickGelu"):
        return ctx.emit(Elementwise(swish(ctx.attr_float("alpha", 1.702))), x)
    return ctx.emit(Elementwise(TANH_GELU if ctx.op.endswith("FastGelu") else ERF_GELU), x)
