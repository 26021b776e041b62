"""Convolutions whose weights are computed at run time: experts mixed for an image, modulated filters, templates to be found.

* One filter a channel: :class:`cnngraph.ops.correlate.Correlate`, whose filters can have the layout that a kernel reads.
* Others: the taps of each pixel side by side ("im2col": Chellapilla, Puri and Simard, "High performance convolutional neural networks
  for document processing", 2006), multiplied by the weights as a matrix: ``[M, taps*C] @ [N, taps*C, pixels]``, group by group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import product, static
from cnngraph.ops import Concat, Conv, Elementwise, Expression, MatMul, Pad, Reshape, Slice, Transpose
from cnngraph.ops.common import taps
from cnngraph.ops.correlate import Correlate
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import Writer

_PLANE = 2
"""Spatial axes up to which kernels take one filter a channel."""


@dataclass(frozen=True)
class LowerComputedFilters(Pass):
    """See the module's description. Runs before epilogues are fused; refuses convolutions that have one, or that round their result."""

    name: ClassVar[str] = "lower_computed_filters"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrite every convolution with computed weights."""
        changes = 0
        for node in graph.nodes:
            op = node.op
            if not isinstance(op, Conv) or node.input(1).data is not None:
                continue
            refusal = _refuse(node, op)
            if refusal:
                context.reject(self.name, node, refusal)
                continue
            channels = node.input(0).type.shape[1]
            each = op.group == channels == node.output.type.shape[1] and len(op.kernel) <= _PLANE
            writer = _Convolution(graph, node)
            writer.finish(writer.correlated(op) if each else writer.multiplied(op))
            changes += 1
        return changes


def _refuse(node: Node, op: Conv) -> str | None:
    if op.epilogue is not None or op.to is not None:
        return "the convolution has an epilogue"
    if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
        return "an extent is zero or depends on the batch"
    return None


class _Convolution(Writer):
    """What stands for a convolution."""

    def correlated(self, op: Conv) -> Value:
        """One filter a channel."""
        x, w = self.node.input(0), self.node.input(1)
        filters = self.add(Reshape((1, *static(w.type.shape[:1]), *op.kernel)), w)
        return self._biased(self.add(Correlate(op.kernel, op.strides, op.pads, op.dilations), x, filters))

    def multiplied(self, op: Conv) -> Value:
        """A product of matrices."""
        x, w, y = self.node.input(0), self.node.input(1), self.node.output.type
        channels, outputs = static((x.type.shape[1], y.shape[1]))
        images, out, spatial = x.type.shape[0], static(y.shape[2:]), len(op.kernel)
        per_group, pixels, count = channels // op.group, product(out), product(op.kernel)
        if any(op.pads):
            x = self.add(Pad((0, 0, *op.pads[:spatial], 0, 0, *op.pads[spatial:])), x)
        groups = (op.group,) if op.group > 1 else ()
        parts = []
        for _, window in taps(op.kernel, op.strides, op.dilations, out):
            part = x
            if static(x.type.shape[2:]) != out or count > 1:
                part = self.add(Slice((0, 0, *(s.start for s in window)), (1, 1, *(s.step for s in window)), (images, channels, *out)), x)
            parts.append(self.add(Reshape((images, *groups, per_group, pixels)), part))
        columns = parts[0] if count == 1 else self.add(Concat(1 + len(groups)), *parts)
        matrix = self.add(Reshape((*groups, outputs // op.group, per_group, count)), w)
        if count > 1:
            matrix = self.add(Transpose((*range(len(groups) + 1), len(groups) + 2, len(groups) + 1)), matrix)
        matrix = self.add(Reshape((*groups, outputs // op.group, count * per_group)), matrix)
        return self._biased(self.add(Reshape(y.shape), self.add(MatMul(), matrix, columns)))

    def _biased(self, sums: Value) -> Value:
        bias = self.node.inputs[2]
        if bias is None:
            return sums
        by_channel = self.add(Reshape((*bias.type.shape, *[1] * (sums.type.rank - 2))), bias)
        return self.add(Elementwise(Expression.of("add", 2)), sums, by_channel)
