"""The geometry of convolutions: three spatial axes, groups and the channels they read, taps on padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import Dim, ceil_div, static
from cnngraph.ops.conv import Conv
from cnngraph.ops.correlate import Correlate
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv

_FAR_ROWS = 4
_LEAST_SKIPPED = 100
_WAY = 128 * 1024
_WAYS = 8
"""The private cache: bytes that lie in different sets, and how many such ranges it holds (Zen 4; Sapphire Rapids has 16)."""


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


def three(values: Iterable[Dim], fill: int) -> tuple[int, int, int]:
    """Numbers of one to three axes, none of them the batch, as those of three; ``fill`` stands for the first."""
    numbers = static(values)
    a, b, c = (fill,) * (3 - len(numbers)) + numbers
    return a, b, c


def geometry(node: Node) -> Geometry:
    """The geometry of a convolution of floats or integers."""
    op = node.op
    assert isinstance(op, (Conv, ConvInteger, Correlate, QLinearConv))
    x, y, rank = node.input(0).type, node.output.type, len(op.kernel)
    channels, out_channels = x.shape[1], y.shape[1]
    assert isinstance(channels, int) and isinstance(out_channels, int)
    return Geometry(
        images=x.shape[0], channels=channels, out_channels=out_channels, group=channels if isinstance(op, Correlate) else op.group,
        size=three(x.shape[2:], 1), out=three(y.shape[2:], 1), kernel=three(op.kernel, 1), stride=three(op.strides, 1),
        dilation=three(op.dilations, 1), pad=three(op.pads[:rank], 0), pad_end=three(op.pads[rank:], 0),
    )  # fmt: skip


def skips(g: Geometry, merged: bool, in_place: bool) -> list[tuple[str, int]]:
    """The constants SKIP_ROWS and SKIP_COLUMNS of :mod:`cnngraph_cpu.templates.tile_loops`, where they are needed or pay.

    Columns do where of the taps of a row of pixels at least a hundredth lie on padding, since they take more code. An image that is
    read in place has no padding to read.
    """
    share = _on_padding(g, 2)
    columns = share > 0 if in_place else not merged and share * _LEAST_SKIPPED >= 1
    return [(name, 1) for name, pays in (("SKIP_ROWS", any(g.pad[:2] + g.pad_end[:2])), ("SKIP_COLUMNS", columns)) if pays]


def padding_share(g: Geometry) -> float:
    """Which part of the products of a plane is one with padding."""
    return 1 - (1 - _on_padding(g, 1)) * (1 - _on_padding(g, 2))


def _on_padding(g: Geometry, axis: int) -> float:
    """Which part of the taps along an axis lies on padding."""
    pixels = sum(min(g.out[axis], ceil_div(outside, g.stride[axis])) for tap in _outside(g, axis) for outside in tap)
    return pixels / (g.kernel[axis] * g.out[axis])


def padding_unread(g: Geometry, rows: int, cols: int) -> bool:
    """Whether a kernel with SKIP_ROWS and SKIP_COLUMNS reads no padding in register tiles of ``rows`` x ``cols`` pixels.

    It leaves out the first or the last of a tile's rows, or else of its columns; so no more may lie on padding, and not both for a tap.
    """
    if g.kernel[0] > 1 or g.out[0] > 1 or g.pad[0]:
        return False
    several = [axis for axis, extent in ((1, rows), (2, cols)) if extent > 1 and any(map(any, _outside(g, axis)))]
    return len(several) < 2 and all(max(tap) <= g.stride[axis] and min(tap) == 0 for axis in several for tap in _outside(g, axis))


def collide(blocks: int, pitch: int, region: int) -> bool:
    """Whether ``region`` bytes of each of ``blocks`` channel blocks, ``pitch`` bytes apart, do not fit side by side in the private cache.

    Blocks of maps whose sides are powers of two all begin in the same set (256 channels at 64x64, stride 2, in place: 11.9 ms, or 11.3
    from a copy of the rows).
    """
    starts = [block * pitch % _WAY for block in range(blocks)]
    return any(sum((start - other) % _WAY < region for other in starts) > _WAYS for start in starts)


def _outside(g: Geometry, axis: int) -> Iterator[tuple[int, int]]:
    """How far before and behind the image each tap along an axis reaches."""
    for tap in range(g.kernel[axis]):
        at = tap * g.dilation[axis] - g.pad[axis]
        yield max(0, -at), max(0, at + (g.out[axis] - 1) * g.stride[axis] - (g.size[axis] - 1))


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
