"""Fold a per-channel affine ``z = y*s + t`` into the weights of a neighbouring Conv, ConvTranspose or Dense.

Backward, y = conv(x, w) + b:   z = conv(x, w*s[m]) + (b*s + t)           (s, t by output channel m)
Forward,  y = conv(x*s + t, w) + b = conv(x, w*s[c]) + (b + sum_{c,k} w*t[c])   (s, t by input channel c)

Forward is exact only where every tap sees a real pixel: a convolution without padding, or a dense layer, also behind a
Reshape that flattens [N, C, ...] to [N, C*...], where s and t repeat for every pixel. A ConvTranspose
is folded backward only: the taps that meet in a pixel differ from pixel to pixel. An affine is a BatchNorm with constant
parameters, or an Elementwise add, sub, mul or div by a constant per channel. All arithmetic is float64, rounded once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.analysis.rounding import rounded_later
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import per_image
from cnngraph.ops import BatchNorm, Conv, ConvTranspose, Dense, Elementwise, Reshape
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.lower_batchnorm import affine
from cnngraph.passes.rewrite import channel_vector, erase_unused, only_user, other_reader, replace


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """affine(conv(x)) => conv'(x), and conv(affine(x)) => conv'(x) where no padding meets the affine.

    Refuses: a convolution whose result has another reader, weights computed at run time, a padded convolution (forward), and
    results that are rounded to integers afterwards.
    """

    name: ClassVar[str] = "fold_batchnorm"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Fold every affine node backward, else forward."""
        changes = 0
        for node in graph.nodes:
            if node not in graph:
                continue
            found = _affine_of(node)
            if found is None:
                continue
            source, s, t = found
            step = rounded_later(node.output)
            if step is not None:
                context.reject(self.name, node, f"{step.label} rounds the result to integers, so the order of arithmetic is kept")
                continue
            reason = self._backward(graph, node, source, s, t)
            if reason is not None and isinstance(node.op, BatchNorm):
                forward = self._forward(graph, node, source, s, t)
                if forward is None:
                    reason = None
                else:
                    context.reject(self.name, node, f"backward: {reason}; forward: {forward}")
            changes += reason is None
        return changes

    def _backward(self, graph: Graph, node: Node, source: Value, s: np.ndarray, t: np.ndarray) -> str | None:
        conv = source.producer
        if conv is None or not isinstance(conv.op, (Conv, ConvTranspose, Dense)):
            return f"its input comes from {conv.op.name if conv else 'a graph input'}, not from a convolution"
        if only_user(graph, source) is not node:
            return f"the result of {conv.label} is also {other_reader(graph, source, node)}"
        weights = _constant_weights(conv)
        if weights is None or conv.op.epilogue is not None:
            return "the weights are not constant"
        w, b = weights
        _rebuild(graph, conv, node, _scaled(conv, w, s), b * s + t, (*conv.origin, *node.origin))
        return None

    def _forward(self, graph: Graph, node: Node, source: Value, s: np.ndarray, t: np.ndarray) -> str | None:
        value, path = node.output, []
        reader = only_user(graph, value)
        while reader is not None and isinstance(reader.op, Reshape) and _flattens(reader):
            repeat = per_image(reader.output.type.shape[1]) // s.size
            s, t = np.repeat(s, repeat), np.repeat(t, repeat)
            path.append(reader)
            value = reader.output
            reader = only_user(graph, value)
        if reader is None or not isinstance(reader.op, (Conv, Dense)) or reader.inputs[0] is not value:
            return "it is not read by exactly one convolution or dense layer"
        if isinstance(reader.op, Conv) and any(reader.op.pads):
            return f"{reader.label} pads with zeros that the normalisation has not seen"
        weights = _constant_weights(reader)
        if weights is None:
            return f"the weights of {reader.label} are not constant"
        w, b = weights
        if isinstance(reader.op, Dense):
            new_w, shift = w * s[:, None], t @ w
        else:
            per_group = w.shape[1]
            group_of = np.arange(w.shape[0]) // (w.shape[0] // reader.op.group)
            channels = group_of[:, None] * per_group + np.arange(per_group)
            shape = (*channels.shape, *(1,) * (w.ndim - 2))
            new_w = w * s[channels].reshape(shape)
            shift = (w * t[channels].reshape(shape)).reshape(w.shape[0], -1).sum(axis=1)
        graph.replace_uses(node.output, source)
        origin = (*node.origin, *reader.origin)
        _rebuild(graph, reader, reader, new_w, b + shift, origin)
        erase_unused(graph, node)
        return None


def _affine_of(node: Node) -> tuple[Value, np.ndarray, np.ndarray] | None:
    """(x, s, t) if ``node`` computes x*s + t with constant vectors over axis 1 of x."""
    if isinstance(node.op, BatchNorm):
        folded = affine(node)
        return None if folded is None else (node.input(0), *folded)
    if not isinstance(node.op, Elementwise) or len(node.inputs) != 2 or len(node.op.expression.instrs) != 1:
        return None
    (instr,) = node.op.expression.instrs
    if instr.fn not in ("add", "sub", "mul", "div") or set(instr.args) != {0, 1} or not node.output.type.dtype.is_float:
        return None
    left, right = node.input(instr.args[0]), node.input(instr.args[1])
    x, constant = (left, right) if right.is_constant else (right, left)
    if x.is_constant or not constant.is_constant or x.type.shape != node.output.type.shape or x.type.rank < 2:
        return None
    channels = x.type.shape[1]
    vector = channel_vector(constant, x.type.rank, channels) if isinstance(channels, int) else None
    if vector is None:
        return None
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    if instr.fn == "add":
        return x, one, vector
    if instr.fn == "mul":
        return x, vector, zero
    if instr.fn == "sub":
        return (x, one, -vector) if x is left else (x, -one, vector)
    return (x, 1.0 / vector, zero) if x is left and np.all(vector != 0) else None


def _constant_weights(node: Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights and bias (zeros if absent) of a Conv, ConvTranspose or Dense in float64, or None if they are not constant."""
    w, b = node.input(1).data, node.inputs[2]
    if w is None or (b is not None and b.data is None):
        return None
    outputs = w.shape[0] if isinstance(node.op, Conv) else w.shape[1]
    if isinstance(node.op, ConvTranspose):
        outputs *= node.op.group
    bias = np.zeros(outputs) if b is None or b.data is None else b.data.astype(np.float64)
    return w.astype(np.float64), bias


def _scaled(layer: Node, w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """The weights of ``layer`` times a number per output channel."""
    if isinstance(layer.op, Conv):
        return w * s.reshape(-1, *(1,) * (w.ndim - 1))
    if isinstance(layer.op, ConvTranspose):  # [C, M/group, *kernel], the input channels of a group together
        by_group = s.reshape(layer.op.group, 1, -1, *(1,) * (w.ndim - 2))
        return (w.reshape(layer.op.group, -1, *w.shape[1:]) * by_group).reshape(w.shape)
    return w * s


def _rebuild(graph: Graph, layer: Node, at: Node, w: np.ndarray, b: np.ndarray, origin: tuple[str, ...]) -> None:
    """Put ``layer`` with new weights in the place of ``at`` (itself, or the affine that reads it)."""
    dtype = layer.output.type.dtype.numpy
    inputs = [layer.inputs[0], graph.constant(w.astype(dtype)), graph.constant(b.astype(dtype)), *layer.inputs[3:]]
    replace(graph, at, dataclasses.replace(layer.op), inputs, origin)
    if at is not layer:
        erase_unused(graph, layer)


def _flattens(node: Node) -> bool:
    """Whether a Reshape turns [N, C, ...] into [N, C*...]."""
    before, after = node.input(0).type.shape, node.output.type.shape
    return len(after) == 2 and len(before) >= 2 and before[0] == after[0] and isinstance(after[1], int)
