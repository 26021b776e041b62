"""Element-wise int64 arithmetic, and casts between int64 and float32: integerised networks scale their sums so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, DType, numel, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Cast, Elementwise
from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    get,
    get_int,
    int_pointer_argument,
    long_expression,
    put,
    put_int,
    registers,
    to_float,
    truncated,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked

K = VARIES = 0
_CHUNK = 4096
_MOST_OPERANDS = 16
FUNCTIONS = frozenset({"add", "sub", "mul", "div", "min", "max", "neg", "abs", "relu"})


def eltwise_long(y: I64Pointer, count: int, chunk: int, args: F32Pointer, tid: int, threads: int) -> None:
    """``y = f(operands)`` over ``count`` elements; operand k stands at argument 3+k and, unless bit k of VARIES is set, is one number."""
    value = registers(K)
    pointer = registers(K)
    for k in unroll(K):
        pointer[k] = int_pointer_argument(args, 3 + k)
        if not VARIES >> k & 1:
            value[k] = get_int(pointer[k], 0)
    tasks = (count + chunk - 1) // chunk
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        for i in range(task * chunk, min(task * chunk + chunk, count)):
            for k in unroll(K):
                if VARIES >> k & 1:
                    value[k] = get_int(pointer[k], i)
            out = long_expression(value)
            put_int(y, i, out)


def cast_to_long(x: F32Pointer, y: I64Pointer, count: int, chunk: int, tid: int, threads: int) -> None:
    """float32 to int64, towards zero."""
    tasks = (count + chunk - 1) // chunk
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        for i in range(task * chunk, min(task * chunk + chunk, count)):
            put_int(y, i, truncated(get(x, i)))


def cast_from_long(x: I64Pointer, y: F32Pointer, count: int, chunk: int, tid: int, threads: int) -> None:
    """int64 to the nearest float32."""
    tasks = (count + chunk - 1) // chunk
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        for i in range(task * chunk, min(task * chunk + chunk, count)):
            put(y, i, to_float(get_int(x, i)))


def _layouts(node: Node, varying: Sequence[bool], target: Target) -> list[LayoutRequest]:
    """Plain, or all elements in blocks: element meets element in either."""
    shape, layout = node.output.type.shape, blocked(target)
    out = [LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))]
    if len(shape) >= 3 and all(isinstance(d, int) for d in shape[1:]):
        out.append(LayoutRequest(tuple(layout if varies else None for varies in varying), (layout,)))
    return out


def _refuse_shape(value: Value) -> str | None:
    return "an empty tensor" if any(d == 0 for d in value.type.shape) else None


class EltwiseLong:
    """Element-wise on int64: each operand has the shape of the result or is one number."""

    name = "eltwise_long"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(eltwise_long, {}, "Element-wise int64 expression.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, functions and broadcasts."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        if any(v.type.dtype is not DType.I64 for v in values):
            return "not all tensors are int64"
        unknown = {i.fn for i in node.op.expression.instrs} - FUNCTIONS
        if unknown or not node.op.expression.instrs:
            return f"{', '.join(sorted(unknown)) or 'nothing'} to compute on integers"
        if len(node.inputs) > _MOST_OPERANDS:
            return f"more than {_MOST_OPERANDS} operands"
        if any(v.type.shape != node.output.type.shape and numel(v.type.shape) != 1 for v in values):
            return "an operand is broadcast and not one number"
        return _refuse_shape(node.output)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """As the operands are."""
        return _layouts(node, _varying(node), target)

    def cost(self, node: Node, target: Target) -> float:
        """A few cycles an instruction, as quotients are not vectors."""
        assert isinstance(node.op, Elementwise)
        return per_image(node.output.type.physical_elements) * (1.0 + 3.0 * len(node.op.expression.instrs))

    def plan(self, node: Node, target: Target) -> KernelCall:
        """A task a chunk of the elements."""
        op, y = node.op, node.output
        assert isinstance(op, Elementwise)
        arguments: dict[str, Argument] = {"y": Pointer(y), "count": Extent(numel(y.type.physical_shape)), "chunk": Extent(_CHUNK)}
        bits, expression = 0, op.expression
        for k, (value, varies) in enumerate(zip(node.inputs, _varying(node), strict=True)):
            assert value is not None
            arguments[f"x{k}"] = Pointer(value)
            bits |= varies << k
            exponent = _exponent(value)
            if exponent and all(k not in i.args or (i.fn == "div" and i.args[1] == k != i.args[0]) for i in expression.instrs):
                arguments[f"x{k}"] = Packed(np.array([exponent], np.int64))
                expression = replace(expression, instrs=tuple(replace(i, fn="halved") if k in i.args else i for i in expression.instrs))
        spec = KernelSpec(self.name, target.isa, (("K", len(node.inputs)), ("VARIES", bits)), expression)
        return KernelCall(spec, arguments)  # never over an operand: the compiler makes vectors only where pointers lie apart


def _exponent(value: Value) -> int:
    """Of a constant that is a power of two, else 0; a quotient by it takes shifts of whole vectors (nemo_tcn: 14.5 -> 1.1 us a layer)."""
    if value.data is None or value.data.size != 1:
        return 0
    number = int(value.data.reshape(-1)[0])
    return number.bit_length() - 1 if number > 0 and number & (number - 1) == 0 else 0


def _varying(node: Node) -> list[bool]:
    """Which operands advance with the result; a result of one number counts as advancing."""
    return [v is not None and v.type.shape == node.output.type.shape for v in node.inputs]


class _CastLong:
    """One direction of the cast."""

    reorders_arithmetic = False
    any_batch_axis = True
    name: str
    types: tuple[DType, DType]

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types."""
        if not isinstance(node.op, Cast):
            return "not a cast"
        if (node.input(0).type.dtype, node.op.to) != self.types:
            return f"not from {self.types[0].value} to {self.types[1].value}"
        return _refuse_shape(node.output)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """As the operand is."""
        return _layouts(node, [True], target)

    def cost(self, node: Node, target: Target) -> float:
        """Elements moved."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """A task a chunk of the elements."""
        x, y = node.input(0), node.output
        count = Extent(numel(y.type.physical_shape))
        arguments: dict[str, Argument] = {"x": Pointer(x), "y": Pointer(y), "count": count, "chunk": Extent(_CHUNK)}
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)


class CastToLong(_CastLong):
    """Cast from float32 to int64."""

    name = "cast_to_long"
    types = (DType.F32, DType.I64)
    code = Code(cast_to_long, {}, "From float32 to int64.")


class CastFromLong(_CastLong):
    """Cast from int64 to float32."""

    name = "cast_from_long"
    types = (DType.I64, DType.F32)
    code = Code(cast_from_long, {}, "From int64 to float32.")
