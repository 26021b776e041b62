"""How operators on quantised numbers, comparisons and searches are written in ONNX; some are of onnxruntime's domain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnngraph.emit.onnx_model import Inexpressible, Writer, element
from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import DType

MICROSOFT = "com.microsoft"

_PREDICATES = {
    "equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual", "and": "And",
    "or": "Or", "xor": "Xor", "not": "Not", "is_nan": "IsNaN", "is_inf": "IsInf",
}  # fmt: skip
_BITS = {"bit_and": "BitwiseAnd", "bit_or": "BitwiseOr", "bit_xor": "BitwiseXor", "bit_not": "BitwiseNot"}


def _zero(writer: Writer, value: Value | None, dtype: DType) -> str:
    """A zero point; one that is absent is 0."""
    return writer.constant(np.zeros((), dtype.numpy)) if value is None else writer.name(value)


def _parameters(writer: Writer, node: Node, groups: Sequence[tuple[int, int, DType]]) -> list[str]:
    """Names of (scale, zero point) of each group (position of the scale, position of the zero point, type of the zero point)."""
    names = []
    for scale, zero, dtype in groups:
        names += [writer.name(node.input(scale)), _zero(writer, node.inputs[zero], dtype)]
    return names


def _bounded(writer: Writer, node: Node, op: Any, write: Callable[[str], None]) -> None:
    """Write a node whose 8-bit result has bounds, which become a Clip if they are not the type's own."""
    dtype = node.output.type.dtype
    low, high = dtype.range
    result = writer.name(node.output)
    if op.low <= low and op.high >= high:
        write(result)
        return
    inner = writer.fresh()
    write(inner)
    bounds = [writer.like(dtype, max(low, op.low)), writer.like(dtype, min(high, op.high))]
    writer.emit("Clip", [inner, *bounds], result, node.label)


def _quantize(writer: Writer, node: Node, op: Any) -> None:
    x = node.input(0)
    if op.precision is not DType.F32 or x.type.dtype is not DType.F32:
        raise Inexpressible("this precision of the quotient")
    zero = "" if node.inputs[2] is None else writer.name(node.inputs[2])
    writer.emit(
        "QuantizeLinear", [writer.name(x), writer.name(node.input(1)), zero], writer.name(node.output), node.label, axis=op.axis,
        block_size=op.block_size or None, saturate=int(op.saturate), output_dtype=None if zero else element(op.to),
    )  # fmt: skip


def _dequantize(writer: Writer, node: Node, op: Any) -> None:
    if node.input(1).type.dtype is not op.to:
        raise Inexpressible("a result of another type than the scale's")
    zero = "" if node.inputs[2] is None else writer.name(node.inputs[2])
    inputs = [writer.name(node.input(0)), writer.name(node.input(1)), zero]
    writer.emit("DequantizeLinear", inputs, writer.name(node.output), node.label, axis=op.axis, block_size=op.block_size or None)


def _window(op: Any) -> dict[str, Any]:
    return {"kernel_shape": op.kernel, "strides": op.strides, "pads": op.pads, "dilations": op.dilations, "group": op.group}


def _qlinear_conv(writer: Writer, node: Node, op: Any) -> None:
    x, w = node.input(0), node.input(3)
    first, second, third = _parameters(writer, node, [(1, 2, x.type.dtype)]), [(4, 5, w.type.dtype)], [(6, 7, op.to)]
    inputs = [writer.name(x), *first, writer.name(w), *_parameters(writer, node, second), *_parameters(writer, node, third)]
    inputs.append("" if node.inputs[8] is None else writer.name(node.inputs[8]))
    _bounded(writer, node, op, lambda y: _forget(writer.emit("QLinearConv", inputs, y, node.label, **_window(op))))


def _forget(_: object) -> None:
    """Nothing."""


def _qlinear_matmul(writer: Writer, node: Node, op: Any) -> None:
    a, b = node.input(0), node.input(3)
    inputs = [writer.name(a), *_parameters(writer, node, [(1, 2, a.type.dtype)]), writer.name(b)]
    inputs += _parameters(writer, node, [(4, 5, b.type.dtype), (6, 7, op.to)])
    _bounded(writer, node, op, lambda y: _forget(writer.emit("QLinearMatMul", inputs, y, node.label)))


def _qgemm(writer: Writer, node: Node, op: Any) -> None:
    a, b = node.input(0), node.input(3)
    inputs = [writer.name(a), *_parameters(writer, node, [(1, 2, a.type.dtype)]), writer.name(b)]
    inputs += _parameters(writer, node, [(4, 5, b.type.dtype)])
    inputs.append("" if node.inputs[6] is None else writer.name(node.inputs[6]))
    if node.inputs[7] is not None:
        inputs += _parameters(writer, node, [(7, 8, op.to)])

    def write(y: str) -> None:
        writer.emit("QGemm", inputs, y, node.label, domain=MICROSOFT, alpha=op.alpha)

    if op.to is DType.F32:
        write(writer.name(node.output))
    else:
        _bounded(writer, node, op, write)


def _qlinear_binary(writer: Writer, node: Node, op: Any) -> None:
    a, b = node.input(0), node.input(3)
    inputs = [writer.name(a), *_parameters(writer, node, [(1, 2, a.type.dtype)]), writer.name(b)]
    inputs += _parameters(writer, node, [(4, 5, b.type.dtype), (6, 7, node.output.type.dtype)])
    name = "QLinearAdd" if op.kind == "add" else "QLinearMul"
    _bounded(writer, node, op, lambda y: _forget(writer.emit(name, inputs, y, node.label, domain=MICROSOFT)))


def _qlinear_pool(writer: Writer, node: Node, op: Any) -> None:
    x = node.input(0)
    inputs = [writer.name(x), *_parameters(writer, node, [(1, 2, x.type.dtype), (3, 4, x.type.dtype)])]
    attributes: dict[str, Any] = {}
    if op.name == "QLinearAveragePool":
        attributes = {"kernel_shape": op.kernel, "strides": op.strides, "pads": op.pads, "ceil_mode": int(op.ceil_mode)}
        attributes["count_include_pad"] = int(op.count_include_pad)
    writer.emit(op.name, inputs, writer.name(node.output), node.label, domain=MICROSOFT, **attributes)


def _integer_product(name: str) -> Callable[[Writer, Node, Any], None]:
    def write(writer: Writer, node: Node, op: Any) -> None:
        inputs = [writer.name(node.input(0)), writer.name(node.input(1))]
        inputs += [_zero(writer, node.inputs[2 + i], node.input(i).type.dtype) for i in (0, 1)]
        attributes = _window(op) if name == "ConvInteger" else {}
        result = writer.name(node.output)
        if getattr(op, "to", DType.I32) is DType.I32:
            writer.emit(name, inputs, result, node.label, **attributes)
            return
        sums = writer.emit(name, inputs, label=node.label, **attributes)
        if op.epilogue is None:
            writer.emit("Cast", [sums], result, node.label, to=element(op.to))
            return
        operands = [writer.emit("Cast", [sums], to=element(op.to)), *(writer.name(value) for value in node.inputs[4:] if value is not None)]
        writer.apply(op.epilogue, operands, op.to, result, node.label)

    return write


def _dynamic_quantize(writer: Writer, node: Node, op: Any) -> None:
    writer.emit("DynamicQuantizeLinear", [writer.name(node.input(0))], [writer.name(value) for value in node.outputs], node.label)


def _table(names: dict[str, str]) -> Callable[[Writer, Node, Any], None]:
    def write(writer: Writer, node: Node, op: Any) -> None:
        if op.function not in names:
            raise Inexpressible(f"the function {op.function} has no operator")
        writer.emit(names[op.function], [writer.name(node.input(i)) for i in range(len(node.inputs))], writer.name(node.output), node.label)

    return write


def _lookup(writer: Writer, node: Node, op: Any) -> None:
    """A table of 256 entries: ONNX counts negative indices from its end, which is where the bits of negative numbers point."""
    index = writer.emit("Cast", [writer.name(node.input(0))], to=element(DType.I32))
    writer.emit("Gather", [writer.name(node.input(1)), index], writer.name(node.output), node.label, axis=0)


def _top_k(writer: Writer, node: Node, op: Any) -> None:
    inputs = [writer.name(node.input(0)), writer.integers([op.k])]
    writer.emit("TopK", inputs, [writer.name(value) for value in node.outputs], node.label, axis=op.axis, largest=int(op.largest))


RULES: dict[str, Callable[[Writer, Node, Any], None]] = {
    "QuantizeLinear": _quantize, "DequantizeLinear": _dequantize, "DynamicQuantizeLinear": _dynamic_quantize, "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul, "QGemm": _qgemm, "QLinearBinary": _qlinear_binary, "QLinearAveragePool": _qlinear_pool,
    "QLinearGlobalAveragePool": _qlinear_pool, "ConvInteger": _integer_product("ConvInteger"),
    "MatMulInteger": _integer_product("MatMulInteger"), "Predicate": _table(_PREDICATES), "Bits": _table(_BITS), "TopK": _top_k,
    "QTable": _lookup,
}  # fmt: skip
"""Rules by the name of the op's class."""
