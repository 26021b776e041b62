"""Group and instance normalisation of a blocked tensor.

A task is one image and the least run of channel blocks that no group leaves. The mean and the squared deviations of every
channel are collected from chunks of pixels that stay in the first cache, each chunk around its own mean, and combined by the
rule of Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample variances", 1979), so that the
input is read from memory once and nothing cancels. The channels of a group are combined by the same rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import ceil_div, numel, per_image
from cnngraph.kernels.template import (
    Argument,
    BatchStride,
    Extent,
    KernelCall,
    KernelSpec,
    LayoutRequest,
    Packed,
    Pointer,
    Scratch,
    Target,
)
from cnngraph.ops.group_norm import GroupNorm
from cnngraph_cpu.language import (
    F32Pointer,
    add,
    broadcast,
    div,
    epilogue,
    fma,
    get,
    load,
    mul,
    put,
    registers,
    splat,
    sqrt,
    store,
    sub,
    to_float,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import (
    blocked,
    epilogue_arguments,
    only_floats,
    operand_layouts,
    overwritable,
    per_channel,
    refuse_epilogue,
)

W = 0  # fixed by the plan
_CHUNK = 256


def moments(at: int, to: int) -> None:
    """Mean and sum of squared deviations of each lane over the pixels of one channel block, into scratch."""
    mean = splat(0.0)
    square = splat(0.0)
    for piece in range((pixels + chunk - 1) // chunk):
        first = piece * chunk
        count = min(chunk, pixels - first)
        here = at + first * W
        whole = count // 4 * 4
        for k in unroll(4):
            part[k] = splat(0.0)
        for p in range(0, whole, 4):
            for k in unroll(4):
                part[k] = add(part[k], load(x, here + (p + k) * W))
        for p in range(whole, count):
            part[0] = add(part[0], load(x, here + p * W))
        centre = div(add(add(part[0], part[1]), add(part[2], part[3])), splat(to_float(count)))
        for k in unroll(4):
            part[k] = splat(0.0)
        for p in range(0, whole, 4):
            for k in unroll(4):
                away[k] = sub(load(x, here + (p + k) * W), centre)
                part[k] = fma(away[k], away[k], part[k])
        for p in range(whole, count):
            away[0] = sub(load(x, here + p * W), centre)
            part[0] = fma(away[0], away[0], part[0])
        step = sub(centre, mean)
        share = div(splat(to_float(count)), splat(to_float(first + count)))
        mean = fma(step, share, mean)
        square = add(square, add(add(part[0], part[1]), add(part[2], part[3])))
        square = fma(mul(step, step), mul(share, splat(to_float(first))), square)
    store(means, to, mean)
    store(squares, to, square)


def combine_group(first: int) -> None:
    """The mean and the variance of the group whose channels stand from ``first`` on, in place of theirs."""
    centre_of_group = to_float(0)
    for c in range(first, first + group_channels):
        centre_of_group = centre_of_group + get(means, c)
    centre_of_group = centre_of_group * get(numbers, 1)
    total = to_float(0)
    for c in range(first, first + group_channels):
        distance = get(means, c) - centre_of_group
        total = total + get(squares, c) + distance * distance * to_float(pixels)
    variance = total * get(numbers, 2)
    for c in range(first, first + group_channels):
        put(means, c, centre_of_group)
        put(squares, c, variance)


def group_norm(
    x: F32Pointer, factors: F32Pointer, bias: F32Pointer, numbers: F32Pointer, y: F32Pointer, means: F32Pointer, squares: F32Pointer,
    images: int, x_batch: int, y_batch: int, blocks: int, channels: int, pixels: int, run: int, group_channels: int, chunk: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """``y = (x - mean) * (factors / deviation) + bias`` over [images, blocks, pixels, W]; ``run`` blocks a task.

    ``numbers`` are epsilon and the reciprocals of the channels and of the elements of a group.
    """
    part = registers(4)
    away = registers(4)
    runs = (blocks + run - 1) // run
    tasks = images * runs
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // runs
        block0 = task % runs * run
        stop = min(block0 + run, blocks)
        for cb in range(block0, stop):
            moments(image * x_batch + cb * pixels * W, (cb - block0) * W)
        for group in range((min(stop * W, channels) - block0 * W) // group_channels):
            combine_group(group * group_channels)
        for cb in range(block0, stop):
            middle = load(means, (cb - block0) * W)
            slope = div(load(factors, cb * W), sqrt(add(load(squares, (cb - block0) * W), broadcast(numbers, 0))))
            addend = load(bias, cb * W)
            for p in range(pixels):
                inner = (cb * pixels + p) * W
                value = fma(sub(load(x, image * x_batch + inner), middle), slope, addend)
                out = epilogue(value, image, inner, cb * W)
                store(y, image * y_batch + inner, out)


class GroupNormBlocked:
    """Group normalisation with constant scale and bias."""

    name = "group_norm"
    reorders_arithmetic = False
    code = Code(group_norm, {"moments": moments, "combine_group": combine_group}, "Group or instance normalisation of a blocked tensor.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters computed at run time and tensors without pixels."""
        if not isinstance(node.op, GroupNorm):
            return "not group normalisation"
        refusal = only_floats(node)
        if refusal:
            return refusal
        x = node.input(0).type
        if not 3 <= x.rank <= 5 or not all(isinstance(d, int) and d > 0 for d in x.shape[1:]):
            return "not a tensor of 3 to 5 axes"
        if any(v is not None and not v.is_constant for v in node.inputs[1:3]):
            return "the scale or the bias is computed at run time"
        return refuse_epilogue(node.inputs[3:], node.output.type)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked."""
        layout = blocked(target)
        rest = operand_layouts(node.inputs[3:], node.output.type, layout)
        return [LayoutRequest((layout, None, None, *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """The elements are read three times, twice from the first cache."""
        return 3.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Runs of blocks that hold whole groups."""
        op, x, y, width = node.op, node.input(0), node.output, target.width
        assert isinstance(op, GroupNorm)
        channels = per_image(x.type.shape[1])
        scale, bias = node.inputs[1], node.inputs[2]
        blocks, group_channels = ceil_div(channels, width), channels // op.groups
        pixels = per_image(numel(x.type.shape[2:]))
        run = min(blocks, lcm(group_channels, width) // width)
        ones = np.ones(channels, np.float32)
        numbers = np.array([op.epsilon, 1 / group_channels, 1 / (group_channels * pixels)], np.float32)
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type, width)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "factors": per_channel(ones if scale is None else scale.data, channels, width),
            "bias": per_channel(None if bias is None else bias.data, channels, width),
            "numbers": Packed(numbers), "y": Pointer(y), "means": Scratch(run * width * 4),
            "squares": Scratch(run * width * 4), "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x), "y_batch": BatchStride(y),
            "blocks": Extent(blocks), "channels": Extent(channels), "pixels": Extent(pixels), "run": Extent(run),
            "group_channels": Extent(group_channels), "chunk": Extent(_CHUNK), **operands,
        }  # fmt: skip
        spec = KernelSpec(self.name, target.isa, tuple(kinds), op.epilogue)
        return KernelCall(spec, arguments, (f"{run} blocks a task",), overwritable((x, *node.inputs[3:]), y))
