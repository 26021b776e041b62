"""Importers of recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType
from cnngraph.ops import Cast, Elementwise, Expression, Recurrent, Reshape, Transpose
from cnngraph.ops.recurrent import ACTIVATIONS, GATES

_DIRECTIONS = {"forward": "f", "reverse": "r", "bidirectional": "fr"}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


@importer("RNN", "GRU", "LSTM")
def recurrent(ctx: NodeContext) -> tuple[Value | None, ...]:
    """``layout`` 1 has the batch first in x, the states and the outputs."""
    return _layer(ctx, ctx.op, [ctx.optional(i) for i in range(8)])


@importer("com.microsoft::DynamicQuantizeLSTM")
def dynamic_quantize_lstm(ctx: NodeContext) -> tuple[Value | None, ...]:
    """An LSTM of dequantised weights, which stand transposed, with one scale a direction or a column.

    onnxruntime quantises inputs and states before every product; here they stay float32, which loses less.
    """
    values = [ctx.optional(i) for i in range(8)]
    for i, at in ((1, 8), (2, 10)):
        weights, scale, zero = ctx.value(i), ctx.value(at), ctx.optional(at + 1)
        if weights.type.rank != 3 or scale.type.rank not in (1, 2):
            ctx.invalid(f"weights {weights.type} with scales {scale.type}")
        spread = (scale.type.shape[0], 1, scale.type.shape[1] if scale.type.rank == 2 else 1)
        numbers = ctx.emit(Cast(DType.F32), weights)
        if zero is not None:
            offsets = ctx.emit(Reshape(spread), ctx.emit(Cast(DType.F32), zero))
            numbers = ctx.emit(Elementwise(Expression.of("sub", 2)), numbers, offsets)
        numbers = ctx.emit(Elementwise(Expression.of("mul", 2)), numbers, ctx.emit(Reshape(spread), scale))
        values[i] = ctx.emit(Transpose((0, 2, 1)), numbers)
    return _layer(ctx, "LSTM", values)


def _layer(ctx: NodeContext, kind: str, values: list[Value | None]) -> tuple[Value | None, ...]:
    """The layer ``kind`` of the eight inputs of ONNX's LSTM, by the attributes of the node."""
    direction = ctx.attr_str("direction", "forward")
    if direction not in _DIRECTIONS:
        ctx.invalid(f"direction '{direction[:40]}' must be forward, reverse or bidirectional")
    count = len(_DIRECTIONS[direction])
    names = ctx.attr_strings("activations", _DEFAULTS[kind] * count)
    if len(names) != len(_DEFAULTS[kind]) * count:
        ctx.invalid(f"{len(names)} activations, but there are {len(_DEFAULTS[kind]) * count} gate functions")
    unknown = [name for name in names if name.lower() not in ACTIVATIONS]
    if unknown:
        ctx.invalid(f"the activation '{unknown[0][:40]}' does not exist")
    alphas, betas = (iter(ctx.attr_floats(n) if ctx.has(n) else ()) for n in ("activation_alpha", "activation_beta"))
    parameters = tuple(_parameters(name.lower(), alphas, betas) for name in names)
    assert values[1] is not None
    w = values[1].type.shape
    hidden = ctx.attr_int("hidden_size", w[1] // GATES[kind.lower()] if len(w) == 3 and isinstance(w[1], int) else 0)
    if hidden < 1:
        ctx.invalid(f"hidden_size {hidden} must be positive")
    clip = ctx.attr_float("clip", float("inf"))
    if clip < 0:
        ctx.invalid(f"clip {clip} is negative")
    batch_first = ctx.attr_bool("layout", False)
    if batch_first:
        values = [ctx.emit(Transpose((1, 0, 2)), v) if v is not None and i in (0, 5, 6) else v for i, v in enumerate(values)]
    op = Recurrent(
        kind.lower(), hidden, _DIRECTIONS[direction], tuple(name.lower() for name in names), parameters, clip,
        ctx.attr_bool("linear_before_reset", False), ctx.attr_bool("input_forget", False),
    )  # fmt: skip
    outputs = ctx.emit_all(op, *values)
    if batch_first:
        return tuple(ctx.emit(Transpose((2, 0, 1, 3) if i == 0 else (1, 0, 2)), v) for i, v in enumerate(outputs))
    return outputs


def _parameters(name: str, alphas: Iterator[float], betas: Iterator[float]) -> tuple[float, ...]:
    """The next of the lists, which only activations with parameters consume, else the defaults."""
    count, defaults, _ = ACTIVATIONS[name]
    return tuple(next(source, default) for source, default in zip((alphas, betas)[:count], defaults, strict=True))
