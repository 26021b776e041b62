"""Transposed convolutions that an ordinary convolution computes faster.

* Stride 1: conv_transpose(x, w) => conv(x, w mirrored, its channels exchanged), for which there are more kernels.
* Few output channels, stride s: the pixels of the result with the same remainders of row and column by s are a channel of their own of an
  ordinary convolution, whose taps are those of all remainders together, and depth_to_space puts them in their places (Shi et al., "Is the
  deconvolution layer the same as a convolutional layer?", 2016). A kernel whose vectors are output channels would leave most lanes idle.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Conv, ConvTranspose, Reshape, Transpose
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import replace

LANES = 16
"""Output channels that a vector of the widest target takes up."""
_GAIN = 0.6


@dataclass(frozen=True)
class _Axis:
    """One spatial axis as a convolution: for every remainder and tap of the result's own kernel the tap of the joint kernel, or None."""

    pad: int
    pad_end: int
    taps: int
    place: tuple[tuple[int | None, ...], ...]

    @property
    def used(self) -> int:
        """Taps that are not zero, over all remainders."""
        return sum(tap is not None for row in self.place for tap in row)


def _axis(kernel: int, stride: int, begin: int, out: int, extent: int) -> _Axis:
    """y[stride*j + r] sums w[t] * x[j + (r + begin - t) / stride] over the taps t that divide."""
    offsets = [[(r + begin - t) // stride if (r + begin - t) % stride == 0 else None for t in range(kernel)] for r in range(stride)]
    known = [offset for row in offsets for offset in row if offset is not None]
    first, last = min(known), max(known)
    place = tuple(tuple(None if offset is None else offset - first for offset in row) for row in offsets)
    return _Axis(-first, out // stride + last - extent, last - first + 1, place)


@dataclass(frozen=True)
class LowerConvTranspose(Pass):
    """See the module's description. Refuses weights computed at run time, and geometries that would need negative padding."""

    name: ClassVar[str] = "lower_conv_transpose"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrite every transposed convolution that one of the two forms suits."""
        changes = 0
        for node in graph.nodes:
            op = node.op
            if not isinstance(op, ConvTranspose):
                continue
            refusal = self._refuse(node, op) or (self._mirror(graph, node, op) if max(op.strides) == 1 else self._join(graph, node, op))
            if refusal:
                context.reject(self.name, node, refusal)
            else:
                changes += 1
        return changes

    def _refuse(self, node: Node, op: ConvTranspose) -> str | None:
        bias = node.inputs[2]
        if node.input(1).data is None or (bias is not None and bias.data is None):
            return "the weights are computed at run time"
        if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
            return "an extent is zero or depends on the batch"
        return None

    def _mirror(self, graph: Graph, node: Node, op: ConvTranspose) -> str | None:
        """The form for stride 1."""
        x, data = node.input(0), node.input(1).data
        assert data is not None
        reach = [d * (k - 1) for d, k in zip(op.dilations, op.kernel, strict=True)]
        begins = [r - b for r, b in zip(reach, op.begins, strict=True)]
        extents = [int(d) for d in x.type.shape[2:] if isinstance(d, int)]
        ends = [o + r - n - p for o, r, n, p in zip(op.out, reach, extents, begins, strict=True)]
        if min(*begins, *ends) < 0:
            return "borders are cut off, so that the convolution's padding would be negative"
        grouped = data.reshape(op.group, data.shape[0] // op.group, data.shape[1], *op.kernel).swapaxes(1, 2)
        mirrored = np.flip(grouped.reshape(-1, data.shape[0] // op.group, *op.kernel), tuple(range(2, 2 + len(op.kernel))))
        weights = graph.constant(np.ascontiguousarray(mirrored), node.input(1).names)
        conv = Conv(op.kernel, op.strides, (*begins, *ends), op.dilations, op.group, op.epilogue, op.to)
        replace(graph, node, conv, [x, weights, *node.inputs[2:]])
        return None

    def _join(self, graph: Graph, node: Node, op: ConvTranspose) -> str | None:
        """The form for few output channels."""
        x, y, data = node.input(0), node.output, node.input(1).data
        assert data is not None
        outputs, phases = data.shape[1], prod(op.strides)
        if op.group > 1 or max(op.dilations) > 1 or len(op.kernel) > 2:
            return "groups, dilations and three spatial axes stay as they are"
        if any(o % s for o, s in zip(op.out, op.strides, strict=True)):
            return "the strides do not divide the result"
        extents = [int(d) for d in x.type.shape[2:] if isinstance(d, int)]
        axes = [_axis(*numbers) for numbers in zip(op.kernel, op.strides, op.begins, op.out, extents, strict=True)]
        joint = prod(axis.taps for axis in axes) * phases * outputs / LANES
        if joint > _GAIN * prod(axis.used for axis in axes) * -(-outputs // LANES):
            return "enough output channels to fill vectors, or too many zeros in the joint kernel"
        if min(pad for axis in axes for pad in (axis.pad, axis.pad_end)) < 0:
            return "borders are cut off, so that the convolution's padding would be negative"
        operands = [_repeated(graph, value, outputs, phases, len(y.type.shape)) for value in node.inputs[3:]]
        if any(operand is None for operand in operands):
            return "an operand of the epilogue differs between pixels"
        bias = node.inputs[2]
        weights = graph.constant(_joint_weights(data, axes), node.input(1).names)
        repeated = None if bias is None or bias.data is None else graph.constant(np.repeat(bias.data, phases), bias.names)
        grid = tuple(o // s for o, s in zip(op.out, op.strides, strict=True))
        pads = (*(a.pad for a in axes), *(a.pad_end for a in axes))
        ones = (1,) * len(axes)
        conv = Conv(tuple(a.taps for a in axes), ones, pads, ones, 1, op.epilogue, op.to)
        (joined,) = graph.add(conv, [x, weights, repeated, *operands], origin=node.origin, before=node)
        (split,) = graph.add(Reshape((x.type.shape[0], outputs, *op.strides, *grid)), [joined], origin=node.origin, before=node)
        rank = len(axes)
        order = [axis for i in range(rank) for axis in (2 + rank + i, 2 + i)]
        (placed,) = graph.add(Transpose((0, 1, *order)), [split], origin=node.origin, before=node)
        replace(graph, node, Reshape(y.type.shape), [placed])
        return None


def _joint_weights(data: np.ndarray, axes: list[_Axis]) -> np.ndarray:
    """[C, M, *kernel] as [M * remainders, C, *joint kernel], zero where a remainder has no such tap."""
    channels, outputs = data.shape[:2]
    rows = axes[0]
    columns = axes[1] if len(axes) > 1 else _Axis(0, 0, 1, ((0,),))
    own = data.reshape(channels, outputs, len(rows.place[0]), len(columns.place[0]))
    out = np.zeros((outputs, len(rows.place), len(columns.place), channels, rows.taps, columns.taps), data.dtype)
    for ry, row in enumerate(rows.place):
        for rx, column in enumerate(columns.place):
            for ty, y in enumerate(row):
                for tx, x in enumerate(column):
                    if y is not None and x is not None:
                        out[:, ry, rx, :, y, x] = own[:, :, ty, tx].T
    return out.reshape(-1, channels, *(axis.taps for axis in axes))


def _repeated(graph: Graph, value: Value | None, outputs: int, phases: int, rank: int) -> Value | None:
    """An operand of the epilogue for the joint convolution: one number, or a constant for each channel; None for others."""
    if value is None:
        return None
    if prod(d if isinstance(d, int) else 0 for d in value.type.shape) == 1:
        return value
    if value.data is None or value.data.shape[-(rank - 1) :] != (outputs, *(1,) * (rank - 2)):
        return None
    return graph.constant(np.repeat(value.data, phases, axis=value.data.ndim - rank + 1), value.names)
