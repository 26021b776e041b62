"""Element-wise expressions: on channels-last tensors 16 bytes a thread, on row-major ones an element a thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, TensorType, ceil_div, numel
from cnngraph.kernels.operands import IMAGE_CHANNEL, PER_CHANNEL, operand_kind
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Elementwise
from cnngraph.ops.expression import Expression
from cnngraph_cuda.language import DataPointer, apply_epilogue, block_x, load_vector, registers, store_vector, thread
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import (
    cuda,
    epilogue_arguments,
    kernel_call,
    launch,
    operand_layouts,
    reading,
    refuse_types,
    tensors,
    writing,
)
from cnngraph_cuda.templates.relayout import has_images, split

VL = THREADS = 0


def eltwise_last(
    x: DataPointer, y: DataPointer, vectors: int, plane: int, groups: int, x_batch: int, x_pixel: int, y_batch: int, y_pixel: int
) -> None:
    """``y = f(x, operands)``; one thread has VL channels of one pixel."""
    v = registers(VL)
    at = block_x() * THREADS + thread()
    if at < vectors:
        rest = at // groups
        channel = (at - rest * groups) * VL
        image = rest // plane
        pixel = rest - image * plane
        (*v,) = load_vector(x, image * x_batch + pixel * x_pixel + channel)
        apply_epilogue(v, image, pixel, channel)
        store_vector(y, image * y_batch + pixel * y_pixel + channel, *v)


def eltwise_plain(x: DataPointer, y: DataPointer, elements: int, size: int, plane: int, x_batch: int, y_batch: int) -> None:
    """``y = f(x, operands)``; one thread has one element. ``size`` is that of an image, ``plane`` of a channel."""
    v = registers(VL)
    at = block_x() * THREADS + thread()
    if at < elements:
        image = at // size
        place = at - image * size
        channel = place // plane
        (*v,) = load_vector(x, image * x_batch + place)
        apply_epilogue(v, image, 0, channel, place)
        store_vector(y, image * y_batch + place, *v)


@dataclass(frozen=True)
class _Split:
    """The operand the loop walks, the others, and the expression with that operand first."""

    main: Value
    others: tuple[Value, ...]
    expression: Expression


def _split(node: Node) -> _Split | None:
    assert isinstance(node.op, Elementwise)
    output = node.output.type
    values = [v for v in node.inputs if v is not None]
    for i, value in enumerate(values):
        if value.type.shape == output.shape:
            order = [1 + j if j < i else 0 if j == i else j for j in range(len(values))]
            return _Split(value, tuple(values[:i] + values[i + 1 :]), node.op.expression.select(order, len(values)))
    return None


class _Base:
    reorders_arithmetic = False

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses operands that broadcast otherwise than by scalar, channel or element."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        parts = _split(node)
        if parts is None:
            return "no operand has the shape of the result"
        kinds = []
        for value in parts.others:
            kind = operand_kind(value.type, node.output.type, constant=value.is_constant)
            if kind is None or (kind == IMAGE_CHANNEL and node.output.type.rank < 2):
                return f"operand {value.type} is broadcast in a way this kernel does not load"
            kinds.append(kind)
        return self._refuse(node.output.type, kinds)

    def _refuse(self, output: TensorType, kinds: Sequence[int]) -> str | None:
        return None


class EltwiseLast(_Base):
    """Element-wise on channels-last tensors."""

    name = "eltwise_last"
    code = Code(eltwise_last, {}, "Element-wise expression over a channels-last tensor.")

    def _refuse(self, output: TensorType, kinds: Sequence[int]) -> str | None:
        if not has_images(output):
            return "not a tensor with channels"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Channels last throughout, but for numbers by scalar or channel."""
        parts, y = _split(node), node.output.type
        assert parts is not None
        wanted = dict(zip(parts.others, operand_layouts(parts.others, y), strict=True))
        wanted[parts.main] = reading(parts.main)
        return [LayoutRequest(tuple(None if v is None else wanted[v] for v in node.inputs), (writing(node.output),))]

    def cost(self, node: Node, target: Target) -> float:
        """Cheaper than the row-major kernel unless the operand lies row-major."""
        parts = _split(node)
        assert parts is not None
        return 1.0 if parts.main.type.layout == reading(parts.main) else 3.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a vector."""
        parts, y = _split(node), node.output
        assert parts is not None
        images, channels, plane = split(y.type)
        groups = ceil_div(channels, cuda(target).lanes)
        units, threads = numel((images, plane, groups)), 256
        kinds, operands = epilogue_arguments(parts.expression, parts.others, y.type)
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(parts.main, y, *parts.others)), **tensors(parts.main, y),
            "vectors": Extent(units), "plane": Extent(plane), "groups": Extent(groups), **operands,
        }  # fmt: skip
        lanes = (("VL", cuda(target).lanes),)
        return kernel_call(self, target, arguments, y, threads, lanes, kinds, parts.expression, (), _dying(parts))


class EltwisePlain(_Base):
    """Element-wise on row-major tensors."""

    name = "eltwise_plain"
    any_batch_axis = True
    code = Code(eltwise_plain, {}, "Element-wise expression over a row-major tensor.")

    def _refuse(self, output: TensorType, kinds: Sequence[int]) -> str | None:
        if not has_images(output) and any(k in (PER_CHANNEL, IMAGE_CHANNEL) for k in kinds):
            return "channels of a vector"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Everything row-major."""
        return [LayoutRequest(tuple(None if v is None else PLAIN for v in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """See :meth:`EltwiseLast.cost`."""
        return 2.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        parts, y = _split(node), node.output
        assert parts is not None
        _, _, plane = split(y.type)
        size: Dim = numel(y.type.shape[1:]) if has_images(y.type) else numel(y.type.shape)
        units, threads = numel(y.type.shape), 256
        kinds, operands = epilogue_arguments(parts.expression, parts.others, y.type)
        flat = not has_images(y.type)
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(parts.main, y, *parts.others)), "x": Pointer(parts.main), "y": Pointer(y),
            "elements": Extent(units), "size": Extent(size), "plane": Extent(plane), "x_batch": BatchStride(parts.main),
            "y_batch": BatchStride(y), **operands,
        }  # fmt: skip
        if flat:
            arguments = {k: Extent(0) if k.endswith("_batch") else a for k, a in arguments.items()}
        arguments = {k: Extent(1) if k.endswith("_pixel") else a for k, a in arguments.items()}
        return kernel_call(self, target, arguments, y, threads, (("VL", 1),), kinds, parts.expression, (), _dying(parts))


def _dying(parts: _Split) -> tuple[Value, ...]:
    """Operands that the result may overwrite: each thread reads what it writes, and nothing else of them."""
    return (parts.main,) if not parts.main.is_constant else ()
