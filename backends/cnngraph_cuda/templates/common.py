"""What several templates share: channels-last layouts, launch words, epilogue operands, packing of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cnngraph.errors import InternalError
from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, DType, Layout, Sym, TensorType, round_up
from cnngraph.kernels.operands import FULL, IMAGE_CHANNEL, PER_CHANNEL, operand_kind
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Concat
from cnngraph.ops.expression import Expression
from cnngraph_cuda.device import LAUNCH_WORDS
from cnngraph_cuda.source import BF16, F16, F32, FMA, HALF, KINDS, TF32, Code, signature
from cnngraph_cuda.target import CudaTarget
from cnngraph_cuda.tensor_maps import MAP_WORDS, Window

DATA_TYPES = {DType.F32: F32, DType.F16: F16, DType.BF16: BF16}
INTEGERS = {
    DType.BOOL: "u8", DType.U8: "u8", DType.I8: "i8", DType.U16: "u16", DType.I16: "i16", DType.U32: "u32", DType.I32: "i32",
    DType.I64: "i64", DType.U64: "u64",
}  # fmt: skip
"""Integer types that kernels know, by their names in memory."""
_BY_SIZE = {1: "u8", 2: "u16", 4: "u32", 8: "i64"}


def cuda(target: Target) -> CudaTarget:
    """``target``, which is a GPU."""
    assert isinstance(target, CudaTarget)
    return target


def lanes_of(dtype: DType) -> int:
    """Elements of 16 bytes."""
    return 16 // dtype.itemsize


def channels_last(type_: TensorType) -> Layout:
    """The layout [N, *spatial, C] of a tensor, channels padded to 16 bytes; row-major where that is the same thing."""
    channels = type_.shape[1]
    assert isinstance(channels, int)
    lanes = lanes_of(type_.dtype)
    if type_.rank == 2 and channels % lanes == 0:
        return PLAIN
    return Layout(round_up(max(channels, 2), lanes), last=True)


def reading(value: Value) -> Layout:
    """The layout to read a value in: as it lies if channels are last, else that of :func:`channels_last`."""
    return value.type.layout if value.type.layout.last else channels_last(value.type)


def writing(value: Value) -> Layout:
    """The layout to write a result in: channels last, with room for all parts if it is to be part of a concatenation."""
    whole = value
    while True:
        outer = _joined(whole)
        if outer is None:
            return channels_last(whole.type)
        whole = outer


def _joined(value: Value) -> Value | None:
    """The concatenation along the channels that ``value`` can lie in without a copy: the last that reads it."""
    for node in reversed(value.users):
        if isinstance(node.op, Concat) and node.op.axis == 1 and joins_in_place(node):
            return node.output
    return None


def joins_in_place(node: Node) -> bool:
    """Whether the parts of a Concat along the channels can be written where they belong."""
    parts = [v for v in node.inputs if v is not None]
    lanes = lanes_of(node.output.type.dtype)
    aligned = all(isinstance(v.type.shape[1], int) and v.type.shape[1] % lanes == 0 for v in parts)
    return aligned and node.output.type.rank > 2 and len(set(parts)) == len(parts) and all(v.producer is not None for v in parts)


def pitch(type_: TensorType) -> int:
    """Elements between pixels of a channels-last tensor; of a matrix, between rows."""
    if not type_.layout.plain:
        return type_.layout.block
    channels = type_.shape[1] if type_.rank > 1 else 1
    return channels if isinstance(channels, int) else 1


def data_type(dtype: DType) -> int:
    """The constant DT of a kernel on tensors of ``dtype``; of types that no kernel computes with, an integer of the same size."""
    found = DATA_TYPES.get(dtype)
    return KINDS.index(INTEGERS.get(dtype) or _BY_SIZE[dtype.itemsize]) if found is None else found


def math_of(target: CudaTarget) -> int:
    """The constant MATH of a precision."""
    return {"f32": FMA, "tf32": TF32, "f16": HALF, "bf16": HALF}[target.precision]


def refuse_types(node: Node, target: Target) -> str | None:
    """A refusal unless every tensor of the node has the target's data type and elements."""
    wanted = cuda(target).dtype
    for value in (*node.inputs, *node.outputs):
        if value is None:
            continue
        if value.type.dtype is not wanted:
            return f"{value.type.dtype.value} tensors have no kernel in precision {cuda(target).precision}"
    return refuse_empty(node)


def refuse_empty(node: Node) -> str | None:
    """A refusal if some tensor of the node has no elements."""
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return "an empty tensor" if any(isinstance(d, int) and d == 0 for v in values for d in v.type.shape) else None


def refuse_epilogue(operands: Sequence[Value | None], output: TensorType) -> str | None:
    """A refusal if an epilogue operand varies in a way no kernel loads."""
    for operand in operands:
        if operand is None or operand_kind(operand.type, output, constant=operand.is_constant) is None:
            return f"epilogue operand {operand.type if operand else None} is not broadcast by scalar, channel or element"
    return None


def operand_layouts(operands: Sequence[Value | None], output: TensorType) -> tuple[Layout | None, ...]:
    """Layouts an epilogue wants of its operands: channels-last, or any for numbers by scalar or channel."""
    wanted: list[Layout | None] = []
    for operand in operands:
        assert operand is not None
        kind = operand_kind(operand.type, output, constant=operand.is_constant)
        wanted.append(reading(operand) if kind in (FULL, IMAGE_CHANNEL) else None)
    return tuple(wanted)


def floats(data: np.ndarray | None, count: int, padded: int) -> Packed:
    """``count`` float32 numbers (or None: zeros), padded with zeros."""
    out = np.zeros(padded, np.float32)
    if data is not None:
        out[:count] = np.broadcast_to(data.reshape(-1).astype(np.float32), (count,))
    return Packed(out)


def epilogue_arguments(
    expression: Expression | None, operands: Sequence[Value | None], output: TensorType
) -> tuple[list[tuple[str, int]], dict[str, Argument]]:
    """Constants E0.. (operand kinds) of the specification, and the matching arguments in parameter order."""
    constants: list[tuple[str, int]] = []
    arguments: dict[str, Argument] = {}
    if expression is None:
        return constants, arguments
    channels = output.shape[1] if output.rank > 1 else 1
    assert isinstance(channels, int)
    for i, operand in enumerate(operands):
        assert operand is not None
        kind = operand_kind(operand.type, output, constant=operand.is_constant)
        assert kind is not None
        constants.append((f"E{i}", kind))
        if kind == PER_CHANNEL:
            arguments[f"e{i}"] = floats(operand.data, channels, round_up(channels, 16))
            continue
        arguments[f"e{i}"] = Pointer(operand)
        if kind in (FULL, IMAGE_CHANNEL):
            arguments[f"e{i}_batch"] = BatchStride(operand)
        if kind == FULL:
            arguments[f"e{i}_pixel"] = Extent(pitch(operand.type))
    return constants, arguments


def launch(
    units: Dim,
    per: int,
    threads: int,
    *,
    y: int = 1,
    z: int = 1,
    shared: int = 0,
    values: Sequence[Value | None] = (),
    split: int = 1,
    slots: int = 0,
    maps: int = 0,
) -> dict[str, Argument]:
    """The launch words of a call; ``values`` are the tensors whose elements it counts in 32 bits."""
    spans = [v.type.physical_elements for v in values if v is not None]
    batched = max((d.scale for d in spans if isinstance(d, Sym)), default=0)
    words: Mapping[str, Dim] = {
        "launch_units": units, "launch_per": per, "launch_y": y, "launch_z": z, "launch_threads": threads, "launch_shared": shared,
        "launch_split": split, "launch_slots": slots, "launch_maps": maps,
        "launch_span": Sym(batched) if batched else max((d for d in spans if isinstance(d, int)), default=0),
    }  # fmt: skip
    return {name: Extent(words[name]) for name in LAUNCH_WORDS}


def pair(values: Sequence[int], lead: int) -> tuple[int, int]:
    """Numbers of one or two spatial axes as those of two; ``lead`` stands for the first where there is one."""
    return (lead, values[0]) if len(values) == 1 else (values[0], values[1])


def tensors(x: Value, y: Value) -> dict[str, Argument]:
    """The arguments of every kernel from ``x`` to ``y``, both channels last: addresses, elements from image to image and pixel to pixel."""
    return {
        "x": Pointer(x), "x_batch": BatchStride(x), "x_pixel": Extent(pitch(x.type)),
        "y": Pointer(y), "y_batch": BatchStride(y), "y_pixel": Extent(pitch(y.type)),
    }  # fmt: skip


def tensor_map(
    name: str, argument: int, dtype: DType, sizes: Sequence[Dim], pitches: Sequence[int], box: tuple[int, int], window: Window | None = None
) -> dict[str, Dim]:
    """The words of the tensor map of the pointer argument ``name``, which is number ``argument`` of the kernel's parameters.

    ``sizes`` are elements along each axis, innermost first, ``pitches`` elements from one to the next along the others.
    """
    words: dict[str, Dim] = {"argument": argument, "type": data_type(dtype), "rank": len(sizes)}
    for i in range(2):
        words[f"box_{i}"] = box[i]
        words[f"low_{i}"], words[f"high_{i}"], words[f"step_{i}"] = (
            (0, 0, 1) if window is None else (window.lower[i], window.upper[i], window.steps[i])
        )
    for i in range(4):
        words[f"size_{i}"] = sizes[i] if i < len(sizes) else 1
        if i:
            words[f"pitch_{i}"] = pitches[i - 1] if i < len(sizes) else 1
    return {f"{name}_{word}": words[word] for word in MAP_WORDS}


def extents(numbers: Mapping[str, Dim]) -> dict[str, Argument]:
    """Integer arguments by name."""
    return {name: Extent(value) for name, value in numbers.items()}


def refuse_weights(node: Node) -> str | None:
    """A refusal unless weights and bias, operands 1 and 2, are constants and the epilogue's operands can be loaded."""
    bias = node.inputs[2]
    if not node.input(1).is_constant or (bias is not None and not bias.is_constant):
        return "the weights are computed at run time"
    return refuse_epilogue(node.inputs[3:], node.output.type)


def layer_layouts(node: Node) -> list[LayoutRequest]:
    """What a layer with constant weights asks for: channels last."""
    rest = operand_layouts(node.inputs[3:], node.output.type)
    return [LayoutRequest((reading(node.input(0)), None, None, *rest), (writing(node.output),))]


@dataclass(frozen=True)
class Work:
    """How a kernel of one thread a unit is launched: units (and the parameter that counts them), threads of a block, elements of a unit."""

    units: Dim
    counted: str
    threads: int
    lanes: int


class Family(Protocol):
    """A template: its name and its code."""

    name: str
    code: Code


def layer_call(
    family: Family, node: Node, target: Target, epilogue: Expression | None, work: Work, weights: np.ndarray | Value, padded: int,
    numbers: Mapping[str, Dim], constants: Sequence[tuple[str, int]] = (), notes: tuple[str, ...] = (),
) -> KernelCall:  # fmt: skip
    """The call of a layer, one thread a unit; ``weights`` packed, or a value as it is; ``padded`` is the length of the bias."""
    x, y, bias = node.input(0), node.output, node.inputs[2]
    kinds, operands = epilogue_arguments(epilogue, node.inputs[3:], y.type)
    outputs = y.type.shape[1]
    assert isinstance(outputs, int)
    arguments: dict[str, Argument] = {
        **launch(work.units, work.threads, work.threads, values=(x, y, *node.inputs[3:])), **tensors(x, y),
        "w": Pointer(weights) if isinstance(weights, Value) else Packed(weights),
        "b": floats(None if bias is None else bias.data, outputs, padded) if bias is None or bias.is_constant else Pointer(bias),
        **extents({work.counted: work.units, **numbers}), **operands,
    }  # fmt: skip
    return kernel_call(family, target, arguments, y, work.threads, (*constants, ("VL", work.lanes)), kinds, epilogue, notes)


def kernel_call(
    family: Family, target: Target, arguments: Mapping[str, Argument], y: Value, threads: int, constants: Sequence[tuple[str, int]] = (),
    kinds: Sequence[tuple[str, int]] = (), expression: Expression | None = None, notes: tuple[str, ...] = (),
    overwrites: tuple[Value, ...] = (), data: DType | None = None,
) -> KernelCall:  # fmt: skip
    """The call of a kernel that writes ``y``: its own constants, the type of the data, the threads of a block, kinds of operands.

    Arguments are put in the order of the kernel's parameters.

    Raises:
        InternalError: an argument is missing, or one too many.
    """
    every = (*constants, ("DT", data_type(data or y.type.dtype)), ("THREADS", threads), *kinds)
    spec = KernelSpec(family.name, target.isa, every, expression)
    kernel = signature(family.code, spec)
    mapped = [name for name, kind in zip(kernel.names, kernel.types, strict=True) if kind == "map"]
    names = (*LAUNCH_WORDS, *(f"{name}_{word}" for name in mapped for word in MAP_WORDS), *kernel.names)
    if set(names) != set(arguments):
        raise InternalError(f"arguments of {family.name}: {sorted(set(names) ^ set(arguments))} missing or too many")
    return KernelCall(spec, {name: arguments[name] for name in names}, notes, overwrites)


def round_tf32(data: np.ndarray) -> np.ndarray:
    """float32 numbers to the nearest tf32, ties away from zero."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    special = (bits & 0x7F800000) == 0x7F800000
    return np.where(special, bits, (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).astype(np.uint32).view(np.float32)
