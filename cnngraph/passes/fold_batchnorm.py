"""Per-channel affine functions, above all batch normalization, disappear into convolutions and dense layers.

*Backward*, into the layer that makes ``x``: ``(w * x + b) * s + t = (w * s) * x + (b * s + t)``, ``s`` and ``t`` along the
output channels. A separate bias addition is the case ``s = 1``.

*Forward*, into the layer that reads the result: ``w * (x * s + t) + b = (w * s) * x + (b + sum(w * t))``, ``s`` and ``t``
along the input channels. It is exact only where no zero padding takes the place of a shifted ``x``. Averages over space
and flattening commute with the affine function and may stand between.

Both are computed in float64 and rounded once (Jacob et al. 2018, section 3.2, gives the backward form).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Sym
from cnngraph.ops.conv import Conv
from cnngraph.ops.dense import Dense
from cnngraph.ops.movement import Reshape
from cnngraph.ops.pool import Pool
from cnngraph.ops.reduce import Reduce
from cnngraph.passes.affine import Affine, affine_of
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, other_reader, replace


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Affine after Conv/Dense -> changed weights and bias; else affine before Conv/Dense -> the same there."""

    name: ClassVar[str] = "fold_batchnorm"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Fold to a fixpoint; a node is looked at again when the layer it could fold into has come nearer."""
        changes = 0
        refused: dict[Node, str] = {}
        queue = deque(graph.nodes)
        while queue:
            node = queue.popleft()
            if node not in graph or (affine := affine_of(node)) is None:
                continue
            refused.pop(node, None)
            backward = _fold_backward(graph, node, affine)
            if backward is None:
                changes += 1
                continue
            forward = _fold_forward(graph, node, affine)
            if forward is None:
                changes += 1
                if affine.x.producer is not None:
                    queue.append(affine.x.producer)
            else:
                refused[node] = f"not backward: {backward}; not forward: {forward}"
        for node, reason in refused.items():
            if node in graph:
                context.reject(self.name, node, reason)
        return changes


def _fold_backward(graph: Graph, node: Node, affine: Affine) -> str | None:
    layer = affine.x.producer
    if layer is None:
        return "its input is a graph input"
    if not isinstance(layer.op, (Conv, Dense)):
        return f"its input comes from {layer.op.name} {layer.label}"
    if layer.op.epilogue is not None:
        return f"{layer.op.name} {layer.label} already ends in other arithmetic"
    if only_user(graph, affine.x) is not node:
        return f"the result of {layer.op.name} {layer.label} is also {other_reader(graph, affine.x, node)}"
    weights, bias = _parameters(layer)
    if weights is None:
        return f"the weights or the bias of {layer.op.name} {layer.label} are not constant"
    along = (-1,) + (1,) * (weights.ndim - 1) if isinstance(layer.op, Conv) else (1, -1)
    new_bias = affine.shift if bias is None else bias * affine.scale + affine.shift
    new = _layer_inputs(graph, layer, weights * affine.scale.reshape(along), new_bias)
    if new is None:
        return "the folded weights are not finite"
    fused = replace(graph, layer, layer.op, new, layer.origin + node.origin)
    graph.replace_uses(node.output, fused.output)
    graph.erase(node)
    return None


def _fold_forward(graph: Graph, node: Node, affine: Affine) -> str | None:
    value, scale, shift = node.output, affine.scale, affine.shift
    between: list[Node] = []
    while True:
        layer = only_user(graph, value)
        if layer is None:
            count = len(set(value.users))
            return "its result is a graph output" if graph.is_output(value) else f"its result is read by {count} nodes"
        repeats = _commutes(layer, value)
        if repeats is None:
            break
        scale, shift = np.repeat(scale, repeats), np.repeat(shift, repeats)
        between.append(layer)
        value = layer.output
    if not isinstance(layer.op, (Conv, Dense)) or layer.inputs[0] is not value or value in layer.inputs[1:]:
        return f"its result goes to {layer.op.name} {layer.label}"
    weights, bias = _parameters(layer)
    if weights is None:
        return f"the weights or the bias of {layer.op.name} {layer.label} are not constant"
    if isinstance(layer.op, Conv):
        if any(layer.op.pads) and shift.any():
            return f"Conv {layer.label} pads with zeros, which the shift would change"
        group = layer.op.group
        per_input = (group, 1, weights.shape[1]) + (1,) * (weights.ndim - 2)
        grouped = weights.reshape(group, weights.shape[0] // group, *weights.shape[1:])
        new_weights = (grouped * scale.reshape(per_input)).reshape(weights.shape)
        extra = (grouped * shift.reshape(per_input)).reshape(weights.shape[0], -1).sum(axis=1)
    else:
        new_weights = weights * scale[:, None]
        extra = shift @ weights
    new = _layer_inputs(graph, layer, new_weights, extra if bias is None else bias + extra)
    if new is None:
        return "the folded weights are not finite"
    _bypass(graph, node, affine.x, between, layer, new)
    return None


def _bypass(graph: Graph, node: Node, x: Value, between: list[Node], layer: Node, inputs: tuple[Value | None, ...]) -> None:
    """Feed ``x`` through the nodes ``between`` to ``layer`` with its new inputs, and drop the affine node."""
    source = x
    for old in between:
        (source,) = graph.add(old.op, (source, *old.inputs[1:]), origin=old.origin, before=old)
    replace(graph, layer, layer.op, (source, *inputs[1:]), node.origin + layer.origin)
    for old in (*reversed(between), node):
        erase_unused(graph, old)


def _commutes(node: Node, value: Value) -> int | None:
    """How many neighbouring result channels one channel becomes where ``node(x * s + t) = node(x) * s + t``, else None."""
    op = node.op
    if node.inputs != (value,):
        return None
    old, new = value.type.shape, node.output.type.shape
    if isinstance(op, Reduce):
        return 1 if op.kind == "mean" and not {0, 1} & set(op.axes) else None
    if isinstance(op, Pool):
        zeros = op.count_include_pad and (any(op.pads) or op.ceil_mode)
        return 1 if op.kind == "average" and not zeros else None
    if isinstance(op, Reshape) and len(old) >= 2 and len(new) >= 2 and old[0] == new[0]:
        if len(new) > 2 and (old[1] != new[1] or any(isinstance(d, Sym) for d in old[1:])):
            return None
        a, b = old[1], new[1]
        if isinstance(a, int) and isinstance(b, int) and a > 0 and b % a == 0:
            return b // a
    return None


def _parameters(layer: Node) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Weights and bias in float64; (None, None) unless the weights, and the bias if there is one, are constant."""
    weights, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    if weights is None or weights.data is None or (bias is not None and bias.data is None):
        return None, None
    return weights.data.astype(np.float64), None if bias is None or bias.data is None else bias.data.astype(np.float64)


def _layer_inputs(graph: Graph, layer: Node, weights: np.ndarray, bias: np.ndarray) -> tuple[Value | None, ...] | None:
    """The layer's inputs with these weights and bias rounded to its dtype; unchanged ones are kept. None if not finite."""
    dtype = layer.output.type.dtype.numpy
    with np.errstate(over="ignore"):
        new_weights, new_bias = weights.astype(dtype), bias.astype(dtype)
    if not (np.isfinite(new_weights.astype(np.float32)).all() and np.isfinite(new_bias.astype(np.float32)).all()):
        return None
    old_weights = layer.input(1)
    assert old_weights.data is not None
    w = old_weights if np.array_equal(old_weights.data, new_weights) else graph.constant(new_weights)
    had_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
    b = graph.constant(new_bias) if had_bias or new_bias.any() else None
    return (layer.inputs[0], w, b, *layer.inputs[3:])
