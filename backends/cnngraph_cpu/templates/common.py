"""What several templates share: epilogue arguments, padding of per-channel constants, specifications."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import DType, Layout, TensorType, round_up
from cnngraph.kernels.operands import FULL, IMAGE_CHANNEL, PER_CHANNEL, SCALAR, operand_kind
from cnngraph.kernels.template import Argument, BatchStride, KernelSpec, Packed, Pointer, Target
from cnngraph.ops.expression import Expression


def blocked(target: Target) -> Layout:
    """The blocked layout of a target, NCHW[width]c."""
    return Layout(target.width)


def only_f32(node: Node) -> str | None:
    """A refusal unless every tensor of the node is float32."""
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.type.dtype is not DType.F32:
            return f"{value.type.dtype.value} tensors run by the reference; kernels are float32"
    return None


def only_floats(node: Node) -> str | None:
    """A refusal unless every tensor of the node is float32, or bfloat16, which is widened by loads and rounded by stores."""
    return refuse_types((*node.inputs, *node.outputs))


def refuse_types(values: Iterable[Value | None]) -> str | None:
    """The same of some tensors."""
    for value in values:
        if value is not None and value.type.dtype not in (DType.F32, DType.BF16):
            return f"{value.type.dtype.value} tensors run by the reference; kernels are float32"
    return None


def refuse_weights(node: Node) -> str | None:
    """A refusal of a layer (x, weights, bias, operands of the epilogue) unless it is of floats and its weights are constant."""
    bias = node.inputs[2]
    if not node.input(1).is_constant or (bias is not None and not bias.is_constant):
        return only_floats(node) or "the weights are computed at run time"
    return only_floats(node)


def refuse_layer(node: Node) -> str | None:
    """What :func:`refuse_weights` refuses, and extents that are not known."""
    refusal = refuse_weights(node)
    if refusal:
        return refusal
    if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
        return "an extent is zero or depends on the batch"
    return refuse_epilogue(node.inputs[3:], node.output.type)


def refuse_epilogue(operands: Sequence[Value | None], output: TensorType) -> str | None:
    """A refusal if an epilogue operand varies in a way no kernel loads."""
    for operand in operands:
        if operand is not None and operand_kind(operand.type, output, constant=operand.is_constant) is None:
            return f"epilogue operand {operand.type} is not broadcast by scalar, channel or element"
    return None


def operand_layouts(operands: Sequence[Value | None], output: TensorType, layout: Layout) -> tuple[Layout | None, ...]:
    """Layouts an epilogue wants of its operands: that of the output, or any for constants by scalar or channel."""
    wanted: list[Layout | None] = []
    for operand in operands:
        assert operand is not None
        kind = operand_kind(operand.type, output, constant=operand.is_constant)
        wanted.append(layout if kind in (FULL, IMAGE_CHANNEL) else None)
    return tuple(wanted)


def per_channel(data: np.ndarray | None, channels: int, width: int, vectors: int = 1) -> Packed:
    """A constant with one number per channel (or None: zeros), padded to whole register tiles."""
    out = np.zeros(round_up(channels, width * vectors), np.float32)
    if data is not None:
        out[:channels] = np.broadcast_to(data.reshape(-1), (channels,))
    return Packed(out)


def epilogue_arguments(
    expression: Expression | None, operands: Sequence[Value | None], output: TensorType, width: int, vectors: int = 1
) -> tuple[list[tuple[str, int]], dict[str, Argument]]:
    """Constants E0.. (operand kinds) of the specification, and the matching arguments in parameter order."""
    constants: list[tuple[str, int]] = []
    arguments: dict[str, Argument] = {}
    if expression is None:
        return constants, arguments
    for i, operand in enumerate(operands):
        assert operand is not None
        kind = operand_kind(operand.type, output, constant=operand.is_constant)
        assert kind is not None
        constants.append((f"E{i}", kind))
        if kind == PER_CHANNEL:
            channels = output.shape[1] if output.rank > 1 else 1
            assert isinstance(channels, int)  # a free extent is never indexed by a constant
            arguments[f"e{i}"] = per_channel(operand.data, channels, width, vectors)
        elif kind == SCALAR:
            arguments[f"e{i}"] = Pointer(operand)
        else:
            arguments[f"e{i}"] = Pointer(operand)
            arguments[f"e{i}_batch"] = BatchStride(operand)
    return constants, arguments


def with_provisions(constants: list[tuple[str, int]], like: KernelSpec | None, names: Sequence[str]) -> list[tuple[str, int]]:
    """Constants of a call that takes the kernel ``like`` where it is given: provisions ``names``, whose 1 is right for all, as there."""
    if like is None:
        return constants
    return [(name, max(value, like.constant(name)) if name in names else value) for name, value in constants]


def overwritable(operands: Sequence[Value | None], output: Value) -> tuple[Value, ...]:
    """Operands read element by element at the place that is written next: the output may take over their storage."""
    return tuple(v for v in operands if v is not None and not v.is_constant and v.type == output.type)
