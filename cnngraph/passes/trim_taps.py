"""Convolutions with outer taps that only ever meet padding: conv(kernel 3, dilation 24, on 12 pixels) => conv(kernel 1).

Atrous pyramids (Chen et al. 2017) have dilations beyond the size of small maps; only the middle tap then sees the image.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import static
from cnngraph.ops import Conv
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import replace


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution: taps kept, and the geometry that they then have."""

    first: int
    last: int
    pad: int
    pad_end: int
    dilation: int


@dataclass(frozen=True)
class TrimTaps(Pass):
    """conv(x, w) => conv(x, the inner taps of w). Refuses weights computed at run time."""

    name: ClassVar[str] = "trim_taps"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Trim every axis of every convolution."""
        changes = 0
        for node in graph.nodes:
            if isinstance(node.op, Conv) and node.input(1).data is not None and any(k > 1 for k in node.op.kernel):
                changes += self._trim(graph, node, node.op)
        return changes

    def _trim(self, graph: Graph, node: Node, op: Conv) -> bool:
        rank, w = len(op.kernel), node.input(1)
        assert w.data is not None
        extents = zip(node.input(0).type.shape[2:], node.output.type.shape[2:], strict=True)
        if not all(isinstance(a, int) and isinstance(b, int) for a, b in extents):
            return False
        axes = [_axis(op, node, i) for i in range(rank)]
        if all(axis.last - axis.first + 1 == k for axis, k in zip(axes, op.kernel, strict=True)):
            return False
        kept = np.ascontiguousarray(w.data[(slice(None), slice(None), *(slice(a.first, a.last + 1) for a in axes))])
        pads = (*(a.pad for a in axes), *(a.pad_end for a in axes))
        smaller = dataclasses.replace(op, kernel=kept.shape[2:], pads=pads, dilations=tuple(a.dilation for a in axes))
        replace(graph, node, smaller, [node.inputs[0], graph.constant(kept, w.names), *node.inputs[2:]])
        return True


def _axis(op: Conv, node: Node, index: int) -> Axis:
    size, out = static((node.input(0).type.shape[2 + index], node.output.type.shape[2 + index]))
    taps, stride, dilation = op.kernel[index], op.strides[index], op.dilations[index]
    pad, pad_end = op.pads[index], op.pads[index + len(op.kernel)]
    whole = Axis(0, taps - 1, pad, pad_end, dilation)
    starts = np.arange(out) * stride - pad
    live = [t for t in range(taps) if np.any((starts + t * dilation >= 0) & (starts + t * dilation < size))]
    if not live or len(live) == taps:
        return whole
    first, last = live[0], live[-1]
    new_pad = pad - first * dilation
    reach = (last - first) * dilation + 1
    new_end = max((out - 1) * stride + reach - size - new_pad, 0)
    if new_pad < 0 or (size + new_pad + new_end - reach) // stride + 1 != out:
        return whole
    return Axis(first, last, new_pad, new_end, dilation if last > first else 1)
