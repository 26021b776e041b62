"""Importers of recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ops import Recurrent, Transpose
from cnngraph.ops.recurrent import ACTIVATIONS, GATES

_DIRECTIONS = {"forward": "f", "reverse": "r", "bidirectional": "fr"}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}


@importer("RNN", "GRU", "LSTM")
def recurrent(ctx: NodeContext) -> tuple[Value | None, ...]:
    """``layout`` 1 has the batch first in x, the states and the outputs."""
    direction = ctx.attr_str("direction", "forward")
    if direction not in _DIRECTIONS:
        ctx.invalid(f"direction '{direction[:40]}' must be forward, reverse or bidirectional")
    count = len(_DIRECTIONS[direction])
    names = ctx.attr_strings("activations", _DEFAULTS[ctx.op] * count)
    if len(names) != len(_DEFAULTS[ctx.op]) * count:
        ctx.invalid(f"{len(names)} activations, but there are {len(_DEFAULTS[ctx.op]) * count} gate functions")
    unknown = [name for name in names if name.lower() not in ACTIVATIONS]
    if unknown:
        ctx.invalid(f"the activation '{unknown[0][:40]}' does not exist")
    alphas, betas = (iter(ctx.attr_floats(n) if ctx.has(n) else ()) for n in ("activation_alpha", "activation_beta"))
    parameters = tuple(_parameters(name.lower(), alphas, betas) for name in names)
    w = ctx.type(1).shape
    hidden = ctx.attr_int("hidden_size", w[1] // GATES[ctx.op.lower()] if len(w) == 3 and isinstance(w[1], int) else 0)
    if hidden < 1:
        ctx.invalid(f"hidden_size {hidden} must be positive")
    clip = ctx.attr_float("clip", float("inf"))
    if clip < 0:
        ctx.invalid(f"clip {clip} is negative")
    batch_first = ctx.attr_bool("layout", False)
    values = [ctx.optional(i) for i in range(8)]
    if batch_first:
        values = [ctx.emit(Transpose((1, 0, 2)), v) if v is not None and i in (0, 5, 6) else v for i, v in enumerate(values)]
    op = Recurrent(
        ctx.op.lower(), hidden, _DIRECTIONS[direction], tuple(name.lower() for name in names), parameters, clip,
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
