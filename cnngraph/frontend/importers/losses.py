"""Importers of losses."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.reduce import narrowed, widened
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ops import Softmax
from cnngraph.ops.losses import NLLLoss


def _loss(ctx: NodeContext) -> NLLLoss:
    ignored = ctx.attr_int("ignore_index", 0) if ctx.has("ignore_index") else None
    return NLLLoss(ctx.attr_str("reduction", "mean"), ignored)


@importer("NegativeLogLikelihoodLoss")
def negative_log_likelihood(ctx: NodeContext) -> Value:
    """Of logarithms of probabilities."""
    return ctx.emit(_loss(ctx), ctx.value(0), ctx.value(1), ctx.optional(2))


@importer("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(ctx: NodeContext) -> tuple[Value | None, ...]:
    """The logarithm of softmax over the classes, the second output, and its negative log-likelihood loss."""
    scores = ctx.value(0)
    if scores.type.rank < 2:
        ctx.invalid(f"the scores {scores.type} have no class axis")
    dtype = scores.type.dtype
    logs = ctx.emit(Softmax(1, log=True), widened(ctx, scores))
    weights = widened(ctx, ctx.value(2)) if ctx.present(2) else None
    loss = narrowed(ctx, ctx.emit(_loss(ctx), logs, ctx.value(1), weights), dtype)
    return loss, narrowed(ctx, logs, dtype) if ctx.wants(1) else None
