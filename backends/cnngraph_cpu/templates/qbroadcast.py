"""Sums and products of 8-bit tensors of which one is broadcast, along leading axes or over the pixels of a channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, DType, ceil_div, numel, per_image, round_up
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops.quantized_elementwise import QLinearBinary
from cnngraph.passes.lower_integers import channels_of_images
from cnngraph_cpu.language import BytePointer, F32Pointer, get, load_bytes, load_signed_bytes, splat, store_bytes, to_float
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked
from cnngraph_cpu.templates.qpointwise import QBinary, binary_factors, binary_vector
from cnngraph_cpu.templates.quantized import number

W = SIGNED = PRODUCT = FIRST = 0


def qbinary_channel(
    a: BytePointer, b: BytePointer, y: BytePointer, factors: F32Pointer, images: int, blocks: int, pixels: int, a_batch: int,
    b_batch: int, y_batch: int, a_zero: int, b_zero: int, low: int, high: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """Blocked; one operand (a with FIRST, else b) has one number for all the pixels of a channel."""
    factor = splat(get(factors, 0))
    other = splat(get(factors, 1))
    constant = splat(get(factors, 2))
    lowest = splat(to_float(low))
    highest = splat(to_float(high))
    tasks = images * blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // blocks
        cb = task % blocks
        at_a = image * a_batch + cb * (1 if FIRST else pixels) * W
        at_b = image * b_batch + cb * (pixels if FIRST else 1) * W
        to = image * y_batch + cb * pixels * W
        if SIGNED:
            left = load_signed_bytes(a, at_a)
            right = load_signed_bytes(b, at_b)
        else:
            left = load_bytes(a, at_a)
            right = load_bytes(b, at_b)
        for p in range(pixels):
            if FIRST:
                right = load_signed_bytes(b, at_b + p * W) if SIGNED else load_bytes(b, at_b + p * W)
            else:
                left = load_signed_bytes(a, at_a + p * W) if SIGNED else load_bytes(a, at_a + p * W)
            binary_vector()
            store_bytes(y, to + p * W, out)


def _narrow(node: Node) -> tuple[Value, Value, bool] | None:
    """(operand of the full shape, the other, whether the other is the first), or None if both are broadcast."""
    a, b, shape = node.input(0), node.input(3), node.output.type.shape
    if a.type.shape == shape:
        return a, b, False
    return (b, a, True) if b.type.shape == shape else None


def _refuse(node: Node) -> str | None:
    if not isinstance(node.op, QLinearBinary):
        return "not an 8-bit sum or product"
    if any(node.inputs[i] is not None and node.input(i).data is None for i in (1, 2, 4, 5, 6, 7)):
        return "a scale is computed at run time"
    if any(d == 0 for d in node.output.type.shape):
        return "an empty tensor"
    if not np.isfinite(binary_factors(node)).all():
        return "a factor that is not finite"
    return None if _narrow(node) else "both operands are broadcast"


def _spec(name: str, node: Node, target: Target, *more: tuple[str, int]) -> KernelSpec:
    op = node.op
    assert isinstance(op, QLinearBinary)
    signed = int(node.input(0).type.dtype is DType.I8)
    return KernelSpec(name, target.isa, (("SIGNED", signed), ("PRODUCT", int(op.kind == "mul")), *more))


def _bounds(node: Node) -> dict[str, Argument]:
    op = node.op
    assert isinstance(op, QLinearBinary)
    low, high = op.bounds(node.input(0).type.dtype)
    zeros = {"a_zero": number(node.inputs[2]), "b_zero": number(node.inputs[5]), "low": low, "high": high}
    return {name: Extent(value) for name, value in zeros.items()}


class QBinaryChannel:
    """One operand is [N, C, 1, ...], or a constant [C, 1, ...] for all images."""

    name = "qbinary_channel"
    reorders_arithmetic = False
    code = Code(qbinary_channel, {"binary_vector": binary_vector}, "Sum or product of an 8-bit tensor and one number a channel.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other ways of broadcasting."""
        refusal = _refuse(node)
        if refusal:
            return refusal
        shape, narrow = node.output.type.shape, _narrow(node)
        assert narrow is not None
        wide, value, _ = narrow
        if not 3 <= len(shape) <= 5 or not all(isinstance(d, int) for d in shape[1:]) or wide.is_constant:
            return "not a tensor of 3 to 5 axes"
        if channels_of_images(value.type.shape, shape, value.is_constant) != value.type.shape and not value.is_constant:
            return "not one number a channel of each image"
        return None if channels_of_images(value.type.shape, shape, value.is_constant) else "not one number a channel"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked, but for a constant."""
        layout = blocked(target)
        computed = [i for i in (0, 3) if not node.input(i).is_constant]
        return [LayoutRequest(tuple(layout if i in computed else None for i in range(8)), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Vectors."""
        return 2.0 * per_image(node.output.type.physical_elements) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a channel block of an image."""
        a, b, y, narrow = node.input(0), node.input(3), node.output, _narrow(node)
        assert narrow is not None
        channels = y.type.shape[1]
        assert isinstance(channels, int)
        arguments: dict[str, Argument] = {
            "a": Pointer(a), "b": Pointer(b), "y": Pointer(y), "factors": Packed(binary_factors(node)), "images": Extent(y.type.shape[0]),
            "blocks": Extent(ceil_div(channels, target.width)), "pixels": Extent(numel(y.type.shape[2:])), "a_batch": BatchStride(a),
            "b_batch": BatchStride(b), "y_batch": BatchStride(y), **_bounds(node),
        }  # fmt: skip
        constant = narrow[1].data
        if constant is not None:
            rows = constant.reshape(-1, channels).view(np.uint8)
            lanes = np.pad(rows, ((0, 0), (0, round_up(channels, target.width) - channels)))
            name = "a" if narrow[2] else "b"
            arguments |= {name: Packed(lanes), f"{name}_batch": Extent(lanes.shape[1] if len(lanes) > 1 else 0)}
        return KernelCall(_spec(self.name, node, target, ("FIRST", int(narrow[2]))), arguments)


class QBinaryRows:
    """One operand lacks leading axes: the rows of the other meet it one after another."""

    name = "qbinary_rows"
    reorders_arithmetic = False
    any_batch_axis = True
    code = QBinary.code

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other ways of broadcasting."""
        refusal = _refuse(node)
        return refusal or (None if _columns(node) else "the operands' last axes differ")

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest(tuple(PLAIN if i in (0, 3) else None for i in range(8)), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Vectors, and a little for each row."""
        return 4.0 * per_image(node.output.type.physical_elements) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Rows as if they were images, those of one operand lying on each other."""
        a, b, y, narrow, columns = node.input(0), node.input(3), node.output, _narrow(node), _columns(node)
        assert narrow is not None
        arguments: dict[str, Argument] = {
            "a": Pointer(a), "b": Pointer(b), "y": Pointer(y), "factors": Packed(binary_factors(node)),
            "images": Extent(numel(y.type.shape) // columns), "elements": Extent(columns), "a_batch": Extent(0 if narrow[2] else columns),
            "b_batch": Extent(columns if narrow[2] else 0), "y_batch": Extent(columns), "chunk": Extent(4096), **_bounds(node),
        }  # fmt: skip
        return KernelCall(_spec(self.name, node, target), arguments)


def _columns(node: Node) -> int:
    """Elements of the operand that lacks leading axes; 0 if it varies in another way."""
    narrow, shape = _narrow(node), node.output.type.shape
    assert narrow is not None
    rest = list(narrow[1].type.shape)
    while rest and rest[0] == 1:
        rest.pop(0)
    if rest and (tuple(rest) != shape[len(shape) - len(rest) :] or not all(isinstance(d, int) for d in rest)):
        return 0
    columns = numel(rest)
    return columns if isinstance(columns, int) else 0
