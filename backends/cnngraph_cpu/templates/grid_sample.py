"""Bilinear sampling at computed positions (GridSample): spatial transformers, optical flow, deformable attention.

A task is some points of an image. The four places and weights of a point are computed once, in the reference's order, and serve all
channels: a vector of channels at a time on blocked images, one at a time on plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, per_image, round_up
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import GridSample
from cnngraph_cpu.language import F32Pointer, fma, get, load, mul, put, splat, store, to_float, truncated
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_f32

W = BLOCKED = ALIGNED = BORDER = 0  # fixed by the plan
_CHUNK = 64


def locate(extent: int) -> None:
    """The two places next to ``at`` along an axis and their weights; places outside have weight 0 and become the nearest inside."""
    if ALIGNED:
        at = (at + one) * half * to_float(extent - 1)
    else:
        at = ((at + one) * to_float(extent) - one) * half
    if BORDER:
        if at > zero:
            if at > to_float(extent - 1):
                at = to_float(extent - 1)
        else:  # NaN too
            at = zero
    low = 0
    high = 0
    low_weight = zero
    high_weight = zero
    if at > minus_one and at < to_float(extent):
        low = truncated(at + one) - 1
        high = low + 1
        high_weight = at - to_float(low)
        low_weight = one - high_weight
        if low < 0:
            low = 0
            low_weight = zero
        if low >= extent:  # the sum above was rounded up
            low = extent - 1
            low_weight = zero
        if high >= extent:
            high = extent - 1
            high_weight = zero


def grid_sample(
    x: F32Pointer, grid: F32Pointer, y: F32Pointer, images: int, x_batch: int, grid_batch: int, y_batch: int,
    planes: int, x_plane: int, y_plane: int, height: int, width: int, points: int, chunk: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """[images, planes, height, width(, W)] at [images, points, 2] to [images, planes, points(, W)]."""
    zero = to_float(0)
    half = to_float(0.5)
    one = to_float(1)
    minus_one = to_float(-1)
    chunks = (points + chunk - 1) // chunk
    tasks = images * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // chunks
        first = task % chunks * chunk
        for point in range(first, min(first + chunk, points)):
            at = get(grid, image * grid_batch + 2 * point)
            locate(width)
            left = low
            right = high
            left_weight = low_weight
            right_weight = high_weight
            at = get(grid, image * grid_batch + 2 * point + 1)
            locate(height)
            source = image * x_batch
            to = image * y_batch
            if BLOCKED:
                a = splat(low_weight * left_weight)
                b = splat(low_weight * right_weight)
                c = splat(high_weight * left_weight)
                d = splat(high_weight * right_weight)
                for plane in range(planes):
                    value = mul(a, load(x, source + (low * width + left) * W))
                    value = fma(b, load(x, source + (low * width + right) * W), value)
                    value = fma(c, load(x, source + (high * width + left) * W), value)
                    store(y, to + point * W, fma(d, load(x, source + (high * width + right) * W), value))
                    source += x_plane
                    to += y_plane
            else:
                for plane in range(planes):
                    above = left_weight * get(x, source + low * width + left) + right_weight * get(x, source + low * width + right)
                    below = left_weight * get(x, source + high * width + left) + right_weight * get(x, source + high * width + right)
                    put(y, to + point, low_weight * above + high_weight * below)
                    source += x_plane
                    to += y_plane


class GridSampleBilinear:
    """Bilinear GridSample of images, zeros or the border outside."""

    name = "grid_sample"
    reorders_arithmetic = False
    code = Code(grid_sample, {"locate": locate}, "Bilinear samples at computed positions.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other modes, reflection, other ranks and types, and extents that are not known."""
        op = node.op
        if not isinstance(op, GridSample):
            return "not a grid sample"
        if op.mode != "linear" or op.padding == "reflection" or node.input(0).type.rank != 4:
            return "not bilinear with zeros or the border outside"
        if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
            return "an extent is zero or depends on the batch"
        return only_f32(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked, unless half of the lanes would be padding; or plain."""
        plain, layout = LayoutRequest((PLAIN, PLAIN), (PLAIN,)), blocked(target)
        channels = per_image(node.input(0).type.shape[1])
        if round_up(channels, target.width) >= 2 * channels:
            return [plain]
        return [LayoutRequest((layout, PLAIN), (layout,)), plain]

    def cost(self, node: Node, target: Target) -> float:
        """Elements written, one vector or one number at a time."""
        return per_image(node.output.type.physical_elements) * (8.0 if node.input(0).type.layout.plain else 1.0)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Chunks of points."""
        op, x, grid, y = node.op, node.input(0), node.input(1), node.output
        assert isinstance(op, GridSample)
        in_blocks = not y.type.layout.plain
        channels, height, width = (per_image(d) for d in x.type.shape[1:])
        points, lanes = numel(y.type.shape[2:]), target.width if in_blocks else 1
        numbers = {
            "planes": -(-channels // lanes), "x_plane": height * width * lanes, "y_plane": per_image(points) * lanes, "height": height,
            "width": width, "points": points, "chunk": _CHUNK,
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "grid": Pointer(grid), "y": Pointer(y), "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x),
            "grid_batch": BatchStride(grid), "y_batch": BatchStride(y),
        }  # fmt: skip
        arguments |= {name: Extent(number) for name, number in numbers.items()}
        constants = (("BLOCKED", int(in_blocks)), ("ALIGNED", int(op.align_corners)), ("BORDER", int(op.padding == "border")))
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)
