"""The geometry of convolutions: three spatial axes, groups and the channels they read, taps on padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import Dim, ceil_div
from cnngraph.ops.conv import Conv

_FAR_ROWS = 4
_LEAST_SKIPPED = 100


@dataclass(frozen=True)
class Geometry:
    """A convolution lifted to three spatial axes (depth, height, width)."""

    images: Dim
    channels: int
    out_channels: int
    group: int
    size: tuple[int, int, int]
    out: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    pad: tuple[int, int, int]
    pad_end: tuple[int, int, int]

    @property
    def spread(self) -> bool:
        """Rows of taps lie so far apart that a task copies the rows of one output row alone, not all rows between them."""
        return self.kernel[1] > 1 and self.dilation[1] >= _FAR_ROWS

    @property
    def pointwise(self) -> bool:
        """1x1, stride 1, no padding: output pixel i depends on input pixel i alone."""
        return self.kernel == (1, 1, 1) and self.stride == (1, 1, 1) and not any(self.pad + self.pad_end)


def geometry(node: Node) -> Geometry:
    """The geometry of a Conv node."""
    op = node.op
    assert isinstance(op, Conv)
    x, y = node.input(0).type, node.output.type
    lift = 3 - len(op.kernel)
    rank = len(op.kernel)

    def three(values: Sequence[Dim], fill: int) -> tuple[int, int, int]:
        a, b, c = (fill,) * lift + tuple(int(v) for v in values)  # type: ignore[arg-type]
        return a, b, c

    channels, out_channels = x.shape[1], y.shape[1]
    assert isinstance(channels, int) and isinstance(out_channels, int)
    return Geometry(
        images=x.shape[0], channels=channels, out_channels=out_channels, group=op.group,
        size=three(x.shape[2:], 1), out=three(y.shape[2:], 1), kernel=three(op.kernel, 1), stride=three(op.strides, 1),
        dilation=three(op.dilations, 1), pad=three(op.pads[:rank], 0), pad_end=three(op.pads[rank:], 0),
    )  # fmt: skip


def skips(g: Geometry, merged: bool) -> list[tuple[str, int]]:
    """The constants SKIP_ROWS and SKIP_COLUMNS of :mod:`cnngraph_cpu.templates.tile_loops`, where they pay.

    Columns do where of the taps of a row of pixels at least a hundredth lie on padding, since they take more code.
    """
    on_padding = sum(min(g.out[2], ceil_div(outside, g.stride[2])) for outside in _outside(g))
    columns = not merged and on_padding * _LEAST_SKIPPED >= g.kernel[2] * g.out[2]
    return [(name, 1) for name, pays in (("SKIP_ROWS", any(g.pad[:2] + g.pad_end[:2])), ("SKIP_COLUMNS", columns)) if pays]


def _outside(g: Geometry) -> Iterator[int]:
    """How far left and right of the image each tap of a line reaches."""
    for tap in range(g.kernel[2]):
        at = tap * g.dilation[2] - g.pad[2]
        yield max(0, -at)
        yield max(0, at + (g.out[2] - 1) * g.stride[2] - (g.size[2] - 1))


def group_spans(g: Geometry, tile_channels: int) -> list[tuple[int, int]]:
    """First and end of the input channels that each output tile reads: those of the groups it has a part of."""
    per_group_out, per_group_in = g.out_channels // g.group, g.channels // g.group
    spans = []
    for low in range(0, g.out_channels, tile_channels):
        high = min(low + tile_channels, g.out_channels) - 1
        spans.append((low // per_group_out * per_group_in, (high // per_group_out + 1) * per_group_in))
    return spans


def channel_blocks(g: Geometry, tiles: int, tile_channels: int, width: int, blocks: int) -> tuple[np.ndarray, int]:
    """First input-channel block of each output tile, and how many blocks every tile reads (the union of its groups)."""
    spans = group_spans(g, tile_channels)
    used = max((b - 1) // width - a // width + 1 for a, b in spans)
    return np.minimum(np.array([a // width for a, _ in spans], np.int64), blocks - used), used
