"""How each operator of the graph is written in ONNX, operator set 21."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnngraph.emit.onnx_model import Inexpressible, Writer, element
from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import Dim, DType, Sym
from cnngraph.ops.expression import Expression, Instr

_PLAIN = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "min": "Min", "max": "Max", "pow": "Pow", "relu": "Relu",
    "sigmoid": "Sigmoid", "hard_swish": "HardSwish", "tanh": "Tanh", "softplus": "Softplus", "sqrt": "Sqrt", "exp": "Exp", "log": "Log",
    "abs": "Abs", "neg": "Neg", "reciprocal": "Reciprocal", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "erf": "Erf",
}  # fmt: skip
"""Functions that are an ONNX operator as they are."""

_WITH_ATTRIBUTES = {
    "leaky_relu": ("LeakyRelu", ("alpha",)), "elu": ("Elu", ("alpha",)), "selu": ("Selu", ("alpha", "gamma")),
    "hard_sigmoid": ("HardSigmoid", ("alpha", "beta")), "celu": ("Celu", ("alpha",)), "thresholded_relu": ("ThresholdedRelu", ("alpha",)),
    "shrink": ("Shrink", ("lambd", "bias")),
}  # fmt: skip
"""Functions whose parameters are the operator's attributes."""

_COMPARISONS = {"where_less": "Less", "where_less_equal": "LessOrEqual", "where_equal": "Equal"}
_REDUCTIONS = {
    "mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd", "l1": "ReduceL1",
    "l2": "ReduceL2", "log_sum": "ReduceLogSum", "log_sum_exp": "ReduceLogSumExp", "sum_square": "ReduceSumSquare",
}  # fmt: skip


def instruction(writer: Writer, instr: Instr, operands: Sequence[str], dtype: DType, output: str, label: str) -> str:
    """Write one instruction of an expression; returns ``output``."""
    if instr.fn in _PLAIN:
        return writer.emit(_PLAIN[instr.fn], operands, output, label)
    if instr.fn in _WITH_ATTRIBUTES:
        op, names = _WITH_ATTRIBUTES[instr.fn]
        return writer.emit(op, operands, output, label, **dict(zip(names, map(float, instr.params), strict=True)))
    if instr.fn in ("scale", "shift"):
        number = writer.like(dtype, instr.params[0])
        return writer.emit("Mul" if instr.fn == "scale" else "Add", [operands[0], number], output, label)
    if instr.fn == "clip":
        bounds = [writer.like(dtype, p) if math.isfinite(p) else "" for p in instr.params]
        return writer.emit("Clip", [operands[0], *bounds], output, label)
    if instr.fn == "prelu":  # ONNX's own slope may not widen its input, an expression's may
        negative = writer.emit("Less", [operands[0], writer.like(dtype, 0)])
        return writer.emit("Where", [negative, writer.emit("Mul", operands), operands[0]], output, label)
    if instr.fn in _COMPARISONS:
        return writer.emit("Where", [writer.emit(_COMPARISONS[instr.fn], operands[:2]), *operands[2:]], output, label)
    raise Inexpressible(f"the function {instr.fn} has no operator")


def _extent(dim: Dim, what: str) -> int:
    if isinstance(dim, Sym):
        raise Inexpressible(f"{what} depends on the batch")
    return int(dim)


def _optional(writer: Writer, value: Value | None) -> str:
    return "" if value is None else writer.name(value)


def _finish(writer: Writer, node: Node, epilogue: Expression | None, first: int, write: Callable[[str], None]) -> None:
    """Write a node by ``write(output)``, and its epilogue, whose operands are the inputs from ``first`` on."""
    result = writer.name(node.output)
    if epilogue is None or not epilogue.instrs:
        write(result)
        return
    inner = writer.fresh()
    write(inner)
    operands = [writer.name(value) for value in node.inputs[first:] if value is not None]
    writer.apply(epilogue, [inner, *operands], node.output.type.dtype, result, node.label)


def _elementwise(writer: Writer, node: Node, op: Any) -> None:
    operands = [writer.name(node.input(i)) for i in range(len(node.inputs))]
    writer.apply(op.expression, operands, node.output.type.dtype, writer.name(node.output), node.label)


def _conv(writer: Writer, node: Node, op: Any) -> None:
    inputs = [writer.name(node.input(0)), writer.name(node.input(1)), _optional(writer, node.inputs[2])]
    if min(op.pads) < 0:
        raise Inexpressible("negative padding")
    attributes = {"kernel_shape": op.kernel, "strides": op.strides, "pads": op.pads, "dilations": op.dilations, "group": op.group}
    _finish(writer, node, op.epilogue, 3, lambda y: void(writer.emit("Conv", inputs, y, node.label, **attributes)))


def _correlate(writer: Writer, node: Node, op: Any) -> None:
    if min(op.pads) < 0:
        raise Inexpressible("negative padding")
    channels = _extent(node.input(0).type.shape[1], "the number of channels")
    filters = writer.emit("Reshape", [writer.name(node.input(1)), writer.integers((channels, 1, *op.kernel))])
    attributes = {"kernel_shape": op.kernel, "strides": op.strides, "pads": op.pads, "dilations": op.dilations, "group": channels}
    writer.emit("Conv", [writer.name(node.input(0)), filters], writer.name(node.output), node.label, **attributes)


def _conv_transpose(writer: Writer, node: Node, op: Any) -> None:
    inputs = [writer.name(node.input(0)), writer.name(node.input(1)), _optional(writer, node.inputs[2])]
    ends, more = [], []
    for i, size in enumerate(op.out):
        extent = _extent(node.input(0).type.shape[2 + i], "an extent")
        full = op.strides[i] * (extent - 1) + op.dilations[i] * (op.kernel[i] - 1) + 1
        end = full - op.begins[i] - size
        if op.begins[i] < 0 or -end >= max(op.strides[i], op.dilations[i]):
            raise Inexpressible("padding beyond what ONNX allows")
        ends.append(max(end, 0))
        more.append(max(-end, 0))
    attributes = {
        "kernel_shape": op.kernel, "strides": op.strides, "pads": (*op.begins, *ends), "dilations": op.dilations, "group": op.group,
        "output_padding": more,
    }  # fmt: skip
    _finish(writer, node, op.epilogue, 3, lambda y: void(writer.emit("ConvTranspose", inputs, y, node.label, **attributes)))


def _dense(writer: Writer, node: Node, op: Any) -> None:
    inputs = [writer.name(node.input(0)), writer.name(node.input(1)), _optional(writer, node.inputs[2])]
    _finish(writer, node, op.epilogue, 3, lambda y: void(writer.emit("Gemm", inputs, y, node.label)))


def _group_norm(writer: Writer, node: Node, op: Any) -> None:
    x = node.input(0)
    channels, dtype = _extent(x.type.shape[1], "the number of channels"), x.type.dtype
    inputs = [writer.name(x)]
    for value, neutral in ((node.inputs[1], 1), (node.inputs[2], 0)):
        inputs.append(writer.constant(np.full(channels, neutral, dtype.numpy)) if value is None else writer.name(value))
    name, attributes = ("InstanceNormalization", {}) if op.groups == channels else ("GroupNormalization", {"num_groups": op.groups})
    _finish(writer, node, op.epilogue, 3, lambda y: void(writer.emit(name, inputs, y, node.label, epsilon=op.epsilon, **attributes)))


def void(_: object) -> None:
    """Forget a result."""


def _simple(name: str, **fields: str) -> Callable[[Writer, Node, Any], None]:
    """An operator of the same inputs; ``fields`` maps ONNX's attributes to those of the op."""

    def write(writer: Writer, node: Node, op: Any) -> None:
        attributes = {attribute: getattr(op, field) for attribute, field in fields.items()}
        attributes = {key: int(value) if isinstance(value, bool) else value for key, value in attributes.items()}
        outputs = [writer.name(value) for value in node.outputs]
        writer.emit(name, [_optional(writer, value) for value in node.inputs], outputs, node.label, **attributes)

    return write


def _pool(writer: Writer, node: Node, op: Any) -> None:
    attributes: dict[str, Any] = {"kernel_shape": op.kernel, "strides": op.strides, "pads": op.pads, "dilations": op.dilations}
    attributes |= {"ceil_mode": int(op.ceil_mode)}
    attributes |= {"storage_order": op.storage_order} if op.kind == "max" else {"count_include_pad": int(op.count_include_pad)}
    outputs = [writer.name(value) for value in node.outputs]
    writer.emit("MaxPool" if op.kind == "max" else "AveragePool", [writer.name(node.input(0))], outputs, node.label, **attributes)


def _reduce(writer: Writer, node: Node, op: Any) -> None:
    if not op.axes:
        raise Inexpressible("a reduction of no axes")
    inputs = [writer.name(node.input(0)), writer.integers(op.axes)]
    writer.emit(_REDUCTIONS[op.kind], inputs, writer.name(node.output), node.label, keepdims=int(op.keepdims))


def _arg_reduce(writer: Writer, node: Node, op: Any) -> None:
    writer.emit(
        "ArgMax" if op.kind == "max" else "ArgMin", [writer.name(node.input(0))], writer.name(node.output), node.label, axis=op.axis,
        keepdims=int(op.keepdims), select_last_index=int(op.last),
    )  # fmt: skip


def _softmax(writer: Writer, node: Node, op: Any) -> None:
    name = "LogSoftmax" if op.log else "Softmax"
    writer.emit(name, [writer.name(node.input(0))], writer.name(node.output), node.label, axis=op.axis)


def _batch_norm(writer: Writer, node: Node, op: Any) -> None:
    if op.training:
        raise Inexpressible("training mode")
    inputs = [writer.name(node.input(i)) for i in range(5)]
    writer.emit("BatchNormalization", inputs, writer.name(node.output), node.label, epsilon=op.epsilon)


def _reshape(writer: Writer, node: Node, op: Any) -> None:
    if 0 in op.shape:
        raise Inexpressible("an empty tensor")
    shape = writer.integers([-1 if isinstance(dim, Sym) else int(dim) for dim in op.shape])
    writer.emit("Reshape", [writer.name(node.input(0)), shape], writer.name(node.output), node.label)


def _slice(writer: Writer, node: Node, op: Any) -> None:
    axes = [i for i, dim in enumerate(op.shape) if not isinstance(dim, Sym)]
    starts, steps = [op.starts[i] for i in axes], [op.steps[i] for i in axes]
    ends = [op.starts[i] + op.steps[i] * int(op.shape[i]) for i in axes]
    ends = [end if end >= 0 else -(1 << 62) for end in ends]
    inputs = [writer.integers(numbers) for numbers in (starts, ends, axes, steps)]
    writer.emit("Slice", [writer.name(node.input(0)), *inputs], writer.name(node.output), node.label)


def _pad(writer: Writer, node: Node, op: Any) -> None:
    x = node.input(0)
    value = writer.like(x.type.dtype, op.value) if op.mode == "constant" else ""
    writer.emit("Pad", [writer.name(x), writer.integers(op.pads), value], writer.name(node.output), node.label, mode=op.mode)


def _expand(writer: Writer, node: Node, op: Any) -> None:
    given = [1] * (len(op.shape) - node.input(0).type.rank) + list(node.input(0).type.shape)
    if any(isinstance(dim, Sym) and dim != had for dim, had in zip(op.shape, given, strict=True)):
        raise Inexpressible("the shape depends on the batch")
    shape = writer.integers([1 if isinstance(dim, Sym) else int(dim) for dim in op.shape])
    writer.emit("Expand", [writer.name(node.input(0)), shape], writer.name(node.output), node.label)


def _cast(writer: Writer, node: Node, op: Any) -> None:
    if op.round_mode != "up" or not op.saturate:
        raise Inexpressible("this kind of rounding")
    writer.emit("Cast", [writer.name(node.input(0))], writer.name(node.output), node.label, to=element(op.to))


def _take_channels(writer: Writer, node: Node, op: Any) -> None:
    parts = [writer.name(node.input(i)) for i in range(len(node.inputs))]
    joined = parts[0] if len(parts) == 1 else writer.emit("Concat", parts, axis=1)
    writer.emit("Gather", [joined, writer.integers(op.channels)], writer.name(node.output), node.label, axis=1)


def _resize(writer: Writer, node: Node, op: Any) -> None:
    extents = [_extent(node.input(0).type.shape[axis], "a resized extent") for axis in op.axes]
    if op.nearest == "simple" or op.roi:
        raise Inexpressible("a convention of an older Resize")
    inputs = [writer.name(node.input(0)), "", "", ""]
    if all(length == size for length, size in zip(op.lengths, op.sizes, strict=True)):
        inputs[3] = writer.integers(op.sizes)
    else:
        scales = np.array([length / extent for length, extent in zip(op.lengths, extents, strict=True)], np.float32)
        if any(math.floor(extent * float(scale)) != size for extent, scale, size in zip(extents, scales, op.sizes, strict=True)):
            raise Inexpressible("scales that float32 numbers do not hold")
        inputs[2] = writer.constant(scales)
    writer.emit(
        "Resize", inputs, writer.name(node.output), node.label, axes=op.axes, mode=op.mode, coordinate_transformation_mode=op.transform,
        nearest_mode=op.nearest, antialias=int(op.antialias), exclude_outside=int(op.exclude_outside), cubic_coeff_a=op.cubic_a,
        extrapolation_value=op.extrapolation,
    )  # fmt: skip


_PREDICATES = {
    "equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual", "and": "And",
    "or": "Or", "xor": "Xor", "not": "Not", "is_nan": "IsNaN", "is_inf": "IsInf",
}  # fmt: skip


def _predicate(writer: Writer, node: Node, op: Any) -> None:
    if op.function not in _PREDICATES:
        raise Inexpressible(f"the predicate {op.function}")
    operands = [writer.name(node.input(i)) for i in range(len(node.inputs))]
    writer.emit(_PREDICATES[op.function], operands, writer.name(node.output), node.label)


RULES: dict[str, Callable[[Writer, Node, Any], None]] = {
    "Elementwise": _elementwise, "Conv": _conv, "ConvTranspose": _conv_transpose, "Dense": _dense, "GroupNorm": _group_norm, "Pool": _pool,
    "Correlate": _correlate,
    "Reduce": _reduce, "ArgReduce": _arg_reduce, "Softmax": _softmax, "BatchNorm": _batch_norm, "Reshape": _reshape, "Slice": _slice,
    "Pad": _pad, "Expand": _expand, "Cast": _cast, "TakeChannels": _take_channels, "Resize": _resize,
    "MatMul": _simple("MatMul"), "Where": _simple("Where"), "Identity": _simple("Identity"),
    "LRN": _simple("LRN", size="size", alpha="alpha", beta="beta", bias="bias"), "Transpose": _simple("Transpose", perm="perm"),
    "Concat": _simple("Concat", axis="axis"), "Gather": _simple("Gather", axis="axis"),
    "GatherElements": _simple("GatherElements", axis="axis"), "GatherND": _simple("GatherND", batch_dims="batch_dims"),
    "ScatterND": _simple("ScatterND", reduction="reduction"), "Predicate": _predicate,
    "GridSample": _simple("GridSample", mode="mode", padding_mode="padding", align_corners="align_corners"),
}  # fmt: skip
"""Rules by the name of the op's class."""
