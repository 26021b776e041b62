"""Group and instance normalisation, channels last: one block has one group of channels of one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import numel, product, static
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Target
from cnngraph.ops.group_norm import GroupNorm
from cnngraph_cuda.language import (
    DataPointer,
    F32Pointer,
    add,
    apply_epilogue,
    block_x,
    div,
    fma,
    lds1,
    load_float,
    load_one,
    mul,
    registers,
    shared_base,
    shuffle_xor,
    sqrt,
    store_one,
    sts1,
    sub,
    sync,
    thread,
    to_float,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import (
    epilogue_arguments,
    floats,
    kernel_call,
    launch,
    operand_layouts,
    reading,
    refuse_epilogue,
    refuse_types,
    tensors,
    writing,
)

THREADS = 0


def sum_block(place: int) -> None:
    """``total`` summed over the block's threads, in a fixed order."""
    for k in unroll(5):
        total = add(total, shuffle_xor(total, 16 >> k))
    if tid % 32 == 0:
        sts1(base + place + (tid >> 5) * 4, total)
    sync()
    total = lds1(base + place)
    for k in unroll(1, THREADS // 32):
        total = add(total, lds1(base + place + 4 * k))


def group_norm(
    x: DataPointer, y: DataPointer, scale: F32Pointer, shift: F32Pointer, settings: F32Pointer, groups: int, width: int, plane: int,
    x_batch: int, x_pixel: int, y_batch: int, y_pixel: int,
) -> None:  # fmt: skip
    """``y = (x - mean) / sqrt(variance + epsilon) * scale + shift``; a group has ``width`` channels."""
    v = registers(1)
    tid = thread()
    image = block_x() // groups
    first = (block_x() - image * groups) * width
    base = shared_base()
    size = width * plane
    total = 0.0
    for i in range(tid, size, THREADS):
        total = add(total, load_one(x, image * x_batch + i // width * x_pixel + first + i % width))
    sum_block(0)
    mean = div(total, to_float(size))
    total = 0.0
    for i in range(tid, size, THREADS):
        centred = sub(load_one(x, image * x_batch + i // width * x_pixel + first + i % width), mean)
        total = fma(centred, centred, total)
    sum_block(128)
    spread = sqrt(add(div(total, to_float(size)), load_float(settings, 0)))
    for i in range(tid, size, THREADS):
        pixel = i // width
        channel = first + i - pixel * width
        v[0] = div(sub(load_one(x, image * x_batch + pixel * x_pixel + channel), mean), spread)
        v[0] = add(mul(v[0], load_float(scale, channel)), load_float(shift, channel))
        apply_epilogue(v, image, pixel, channel)
        store_one(y, image * y_batch + pixel * y_pixel + channel, v[0])


class GroupNormLast:
    """GroupNorm with constant parameters."""

    name = "group_norm"
    reorders_arithmetic = False
    code = Code(group_norm, {"sum_block": sum_block}, "Normalisation of groups of channels, channels last.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters computed at run time."""
        if not isinstance(node.op, GroupNorm):
            return "not a group normalisation"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if any(v is not None and not v.is_constant for v in node.inputs[1:3]):
            return "the parameters are computed at run time"
        return refuse_epilogue(node.inputs[3:], node.output.type)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last."""
        rest = operand_layouts(node.inputs[3:], node.output.type)
        return [LayoutRequest((reading(node.input(0)), None, None, *rest), (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block an image and group."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, GroupNorm)
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        scale, shift = node.inputs[1], node.inputs[2]
        units, threads = numel((x.type.shape[0], op.groups)), 256
        kinds, operands = epilogue_arguments(op.epilogue, node.inputs[3:], y.type)
        ones = np.ones(channels, np.float32)
        arguments: dict[str, Argument] = {
            **launch(units, 1, threads, shared=256, values=(x, y, *node.inputs[3:])), **tensors(x, y),
            "scale": floats(ones if scale is None else scale.data, channels, channels),
            "shift": floats(None if shift is None else shift.data, channels, channels),
            "settings": Packed(np.array([op.epsilon], np.float32)), "groups": Extent(op.groups), "width": Extent(channels // op.groups),
            "plane": Extent(product(static(x.type.shape[2:]))), **operands,
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("VL", 1),), kinds, op.epilogue)
