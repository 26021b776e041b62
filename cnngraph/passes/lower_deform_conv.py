"""Deformable convolution as sampling and a convolution of single pixels, both of which have kernels.

deform_conv(x, w, offset, b, mask) => conv(grid_sample(x, places of the taps + offset) * mask, w as [M, C/group * taps, 1, 1], b).
The taps of a pixel are rows of the sampled image; offset groups are images of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType, product, static
from cnngraph.ops import Concat, Conv, DeformConv, Elementwise, Expression, GridSample, Reshape, Slice, Transpose
from cnngraph.ops.expression import Instr
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import Writer

_LEAST_EXTENT = 2
"""Pixels along an axis from which on places can be told by where they are between the first and the last."""


@dataclass(frozen=True)
class LowerDeformConv(Pass):
    """See the module's description. Refuses other than two spatial axes, images of one row or column, other types, computed weights."""

    name: ClassVar[str] = "lower_deform_conv"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrite every deformable convolution."""
        changes = 0
        for node in graph.nodes:
            if not isinstance(node.op, DeformConv):
                continue
            refusal = _refuse(node, node.op)
            if refusal:
                context.reject(self.name, node, refusal)
                continue
            writer = _Sampling(graph, node)
            writer.finish(writer.convolution(node.op))
            changes += 1
        return changes


def _refuse(node: Node, op: DeformConv) -> str | None:
    x, y = node.input(0).type, node.output.type
    if len(op.kernel) != 2 or x.dtype is not DType.F32:
        return "not two spatial axes of float32"
    if node.input(1).data is None:
        return "the weights are computed at run time"
    if not all(isinstance(d, int) and d > 0 for d in (*x.shape[1:], *y.shape[1:])) or min(static(x.shape[2:])) < _LEAST_EXTENT:
        return "an extent is zero, one pixel, or depends on the batch"
    return None


class _Sampling(Writer):
    """What stands for a deformable convolution."""

    def convolution(self, op: DeformConv) -> Value:
        x, w = self.node.input(0), self.node.input(1)
        bias, mask = (*self.node.inputs[3:], None, None)[:2]
        (channels, *_), (rows, columns) = static(x.type.shape[1:]), static(self.node.output.type.shape[2:])
        taps, extents, groups = product(op.kernel), static(x.type.shape[2:]), op.offset_group
        images = x.type.shape[0] * groups
        source = self.add(Reshape((images, channels // groups, *extents)), x) if groups > 1 else x
        moved = self.add(Reshape((images, taps, 2, rows, columns)), self.node.input(2))
        places = self.add(Concat(2), *(self._places(op, moved, axis) for axis in (1, 0)))  # GridSample's innermost axis comes first
        grid = self.add(Reshape((images, taps * rows, columns, 2)), self.add(Transpose((0, 1, 3, 4, 2)), places))
        taken = self.add(GridSample("linear", "zeros", True), source, grid)
        if mask is not None:
            factors = self.add(Reshape((images, 1, taps * rows, columns)), mask)
            taken = self.add(Elementwise(Expression.of("mul", 2)), taken, factors)
        taken = self.add(Reshape((x.type.shape[0], channels * taps, rows, columns)), taken)
        assert w.data is not None
        weights = self.graph.constant(np.ascontiguousarray(w.data.reshape(w.data.shape[0], -1, 1, 1)), w.names)
        return self.add(Conv((1, 1), (1, 1), (0,) * 4, (1, 1), op.group), taken, weights, bias)

    def _places(self, op: DeformConv, moved: Value, axis: int) -> Value:
        """Coordinates of all taps along an axis, from -1 on the first pixel to 1 on the last: ``[images, taps, 1, rows, columns]``."""
        images, taps, _, *out = moved.type.shape
        extent = static(self.node.input(0).type.shape[2:])[axis]
        tap = np.indices(op.kernel)[axis].reshape(-1, 1, 1, 1) * op.dilations[axis]
        pixel = np.indices(static(tuple(out)))[axis] * op.strides[axis] - op.pads[axis]
        unit = 2 / (extent - 1)
        unmoved = self.graph.constant(((tap + pixel) * unit - 1).astype(np.float32))
        offset = self.add(Slice((0, 0, axis, 0, 0), (1,) * 5, (images, taps, 1, *out)), moved)
        return self.add(Elementwise(Expression(2, (Instr("scale", (0,), (unit,)), Instr("add", (2, 1))))), offset, unmoved)
