"""Importers of quantised operators: those of the standard domain, and of com.microsoft as onnxruntime defines them."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.importers.nn import window_pads
from cnngraph.frontend.registry import importer
from cnngraph.frontend.tensors import element_type
from cnngraph.ir.graph import Value
from cnngraph.ir.types import DType, static
from cnngraph.ops import Cast, Concat, Elementwise, Expression, Reshape, Transpose
from cnngraph.ops.base import normalize_axis
from cnngraph.ops.common import show
from cnngraph.ops.quantized import (
    DequantizeLinear,
    DynamicQuantizeLinear,
    MatMulInteger,
    QGemm,
    QLinearMatMul,
    QuantizeLinear,
)
from cnngraph.ops.quantized_conv import ConvInteger, QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool, QLinearSoftmax
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary

MS = "com.microsoft::"
_SCALES = (DType.F32, DType.F16, DType.BF16)


def _count(ctx: NodeContext, least: int, most: int) -> None:
    if not least <= ctx.input_count <= most:
        ctx.invalid(f"{ctx.input_count} inputs, but the operator takes {least} to {most}")


def _float_scales(ctx: NodeContext, *indices: int) -> None:
    for index in indices:
        if ctx.present(index) and ctx.type(index).dtype is not DType.F32:
            ctx.unsupported(f"input {index} is {ctx.type(index).dtype.value}; scales are supported as float32")


def _axis(ctx: NodeContext, rank: int, default: int = 1) -> int:
    """The axis resolved; irrelevant for one scale, and then not checked, because the default may be outside the tensor."""
    axis = ctx.attr_int("axis", default)
    per_tensor = ctx.type(1).rank == 0 or (ctx.type(1).rank == 1 and ctx.type(1).shape == (1,))
    if per_tensor and not -rank <= axis < rank:
        return 0
    return normalize_axis(axis, rank)


def _block(ctx: NodeContext) -> int:
    block = ctx.attr_int("block_size", 0)
    if block < 0:
        ctx.invalid(f"block_size {block} is negative")
    return block


@importer("QuantizeLinear", MS + "QuantizeLinear")
def quantize_linear(ctx: NodeContext) -> Value:
    """The type of the result is the zero point's, or ``output_dtype``, or uint8."""
    _count(ctx, 2, 3)
    x, scale, zero = ctx.value(0), ctx.value(1), ctx.optional(2)
    given = ctx.attr_int("output_dtype", 0)
    to = zero.type.dtype if zero is not None else element_type(given) if given else DType.U8
    if given and element_type(given) is not to:
        ctx.invalid(f"output_dtype is {element_type(given).value}, but the zero point is {to.value}")
    wanted = ctx.attr_int("precision", 0)
    precision = element_type(wanted) if wanted else scale.type.dtype
    if precision not in _SCALES:
        precision = DType.F32
    op = QuantizeLinear(to, _axis(ctx, x.type.rank), _block(ctx), ctx.attr_bool("saturate", True), precision)
    return ctx.emit(op, x, scale, zero)


@importer("DequantizeLinear", MS + "DequantizeLinear")
def dequantize_linear(ctx: NodeContext) -> Value:
    """The type of the result is the scale's, or ``output_dtype``."""
    _count(ctx, 2, 3)
    x, scale, zero = ctx.value(0), ctx.value(1), ctx.optional(2)
    given = ctx.attr_int("output_dtype", 0)
    to = element_type(given) if given else scale.type.dtype
    if not to.is_float:
        ctx.invalid(f"the result is {to.value}, not a float")
    return ctx.emit(DequantizeLinear(to, _axis(ctx, x.type.rank), _block(ctx)), x, scale, zero)


@importer("DynamicQuantizeLinear")
def dynamic_quantize_linear(ctx: NodeContext) -> tuple[Value | None, ...]:
    """Scale and zero point from the whole tensor."""
    return ctx.emit_all(DynamicQuantizeLinear(), ctx.value(0))


def _window(ctx: NodeContext, x: Value, w: Value) -> tuple[tuple[int, ...], ...]:
    """Kernel, strides, pads and dilations of a convolution."""
    if x.type.rank < 3 or w.type.rank != x.type.rank:
        ctx.invalid(f"the weights {w.type} do not suit the input {x.type}")
    kernel = static(w.type.shape[2:])
    if ctx.attr_ints("kernel_shape", kernel) != kernel:
        ctx.invalid(f"kernel_shape {list(ctx.attr_ints('kernel_shape'))} contradicts the weights {w.type}")
    ones = (1,) * len(kernel)
    strides, dilations = ctx.attr_ints("strides", ones), ctx.attr_ints("dilations", ones)
    if len(kernel) > 3:
        ctx.unsupported(f"{len(kernel)} spatial axes are not supported, only 1 to 3")
    for name, values in (("strides", strides), ("dilations", dilations)):
        if len(values) != len(kernel) or min(values) < 1:
            ctx.invalid(f"{name} {list(values)} do not suit {len(kernel)} spatial axes")
    return kernel, strides, window_pads(ctx, x.type.shape[2:], kernel, strides, dilations), dilations


@importer("ConvInteger")
def conv_integer(ctx: NodeContext) -> Value:
    """Integer convolution to int32."""
    x, w = ctx.value(0), ctx.value(1)
    kernel, strides, pads, dilations = _window(ctx, x, w)
    op = ConvInteger(kernel, strides, pads, dilations, ctx.attr_int("group", 1))
    return ctx.emit(op, x, w, ctx.optional(2), ctx.optional(3))


def _nchw(ctx: NodeContext, x: Value) -> Value:
    """``x`` with channels on axis 1, if ``channels_last`` says that they are last."""
    rank = x.type.rank
    if not ctx.attr_bool("channels_last") or rank < 3:
        return x
    return ctx.emit(Transpose((0, rank - 1, *range(1, rank - 1))), x)


def _restored(ctx: NodeContext, y: Value) -> Value:
    rank = y.type.rank
    if not ctx.attr_bool("channels_last") or rank < 3:
        return y
    return ctx.emit(Transpose((0, *range(2, rank), 1)), y)


@importer("QLinearConv", MS + "QLinearConv")
def qlinear_conv(ctx: NodeContext) -> Value:
    """The result has the type of y's zero point; com.microsoft's has channels_last."""
    _count(ctx, 8, 9)
    _float_scales(ctx, 1, 4, 6)
    x, w = _nchw(ctx, ctx.value(0)), ctx.value(3)
    kernel, strides, pads, dilations = _window(ctx, x, w)
    op = QLinearConv(kernel, strides, pads, dilations, ctx.attr_int("group", 1), _output_type(ctx, 7, x.type.dtype))
    return _restored(ctx, ctx.emit(op, x, *(ctx.optional(i) for i in (1, 2)), w, *(ctx.optional(i) for i in range(4, 9))))


def _output_type(ctx: NodeContext, zero: int, default: DType) -> DType:
    return ctx.type(zero).dtype if ctx.present(zero) else default


@importer("MatMulInteger")
def matmul_integer(ctx: NodeContext) -> Value:
    """Integer product to int32."""
    return ctx.emit(MatMulInteger(), ctx.value(0), ctx.value(1), ctx.optional(2), ctx.optional(3))


@importer("QLinearMatMul")
def qlinear_matmul(ctx: NodeContext) -> Value:
    """The result has the type of y's zero point."""
    to = ctx.type(7).dtype
    values = [ctx.value(i) for i in range(8)]
    for i in (1, 4, 6):
        if values[i].type.dtype is not DType.F32:
            values[i] = ctx.emit(Cast(DType.F32), values[i])
    return ctx.emit(QLinearMatMul(to), *values)


@importer(MS + "QLinearAdd", MS + "QLinearMul")
def qlinear_binary(ctx: NodeContext) -> Value:
    """Element-wise with broadcasting."""
    _count(ctx, 7, 8)
    _float_scales(ctx, 1, 4, 6)
    return ctx.emit(QLinearBinary(ctx.op.rpartition("::QLinear")[2].lower()), *(ctx.optional(i) for i in range(8)))


@importer(MS + "QLinearSigmoid", MS + "QLinearLeakyRelu")
def qlinear_unary(ctx: NodeContext) -> Value:
    """By a table of 256 results."""
    _count(ctx, 4, 5)
    _float_scales(ctx, 1, 3)
    kind = "sigmoid" if ctx.op.endswith("Sigmoid") else "leaky_relu"
    return ctx.emit(QLinearUnary(kind, ctx.attr_float("alpha", 0.01)), *(ctx.optional(i) for i in range(5)))


@importer(MS + "QLinearSoftmax")
def qlinear_softmax(ctx: NodeContext) -> Value:
    """Along an axis; before opset 13 over all axes from ``axis`` on."""
    _count(ctx, 5, 5)
    _float_scales(ctx, 1, 3)
    x, opset = ctx.value(0), ctx.attr_int("opset", 13)
    axis = normalize_axis(ctx.attr_int("axis", -1 if opset >= 13 else 1), x.type.rank)
    rest = [ctx.optional(i) for i in range(1, 5)]
    if opset >= 13 or axis == x.type.rank - 1:
        return ctx.emit(QLinearSoftmax(axis), x, *rest)
    columns = 1
    for dim in static(x.type.shape[axis:]):
        columns *= dim
    flat = ctx.emit(Reshape((*x.type.shape[:axis], columns)), x)
    return ctx.emit(Reshape(x.type.shape), ctx.emit(QLinearSoftmax(axis), flat, *rest))


@importer(MS + "QLinearAveragePool")
def qlinear_average_pool(ctx: NodeContext) -> Value:
    """Average of dequantised numbers, quantised again."""
    _count(ctx, 4, 5)
    _float_scales(ctx, 1, 3)
    x = _nchw(ctx, ctx.value(0))
    kernel = ctx.attr_ints("kernel_shape")
    ones = (1,) * len(kernel)
    if len(kernel) != x.type.rank - 2 or not 1 <= len(kernel) <= 3:
        ctx.invalid(f"kernel_shape {list(kernel)} does not suit {show(x.type.shape)}")
    if ctx.attr_ints("dilations", ones) != ones:
        ctx.unsupported("dilations are not supported")
    strides = ctx.attr_ints("strides", ones)
    if len(strides) != len(kernel) or min(strides) < 1:
        ctx.invalid(f"strides {list(strides)} do not suit {len(kernel)} spatial axes")
    pads = window_pads(ctx, x.type.shape[2:], kernel, strides, ones)
    op = QLinearAveragePool(kernel, strides, pads, ctx.attr_bool("ceil_mode"), ctx.attr_bool("count_include_pad"))
    return _restored(ctx, ctx.emit(op, x, *(ctx.optional(i) for i in range(1, 5))))


@importer(MS + "QLinearGlobalAveragePool")
def qlinear_global_average_pool(ctx: NodeContext) -> Value:
    """Average over all spatial axes."""
    _count(ctx, 4, 5)
    _float_scales(ctx, 1, 3)
    x = _nchw(ctx, ctx.value(0))
    return _restored(ctx, ctx.emit(QLinearGlobalAveragePool(), x, *(ctx.optional(i) for i in range(1, 5))))


@importer(MS + "QLinearConcat")
def qlinear_concat(ctx: NodeContext) -> Value:
    """Inputs are y's scale and zero point, then (tensor, scale, zero point) of each part; parts of another scale are requantised."""
    if ctx.input_count < 5 or (ctx.input_count - 2) % 3:
        ctx.invalid(f"{ctx.input_count} inputs, but each part is a tensor, a scale and a zero point")
    y_scale, y_zero = ctx.value(0), ctx.value(1)
    parts = []
    for index in range(2, ctx.input_count, 3):
        _float_scales(ctx, index + 1)
        x, scale, zero = ctx.value(index), ctx.value(index + 1), ctx.value(index + 2)
        parts.append(x if _same(scale, y_scale) and _same(zero, y_zero) else _requantized(ctx, x, scale, zero, y_scale, y_zero))
    if len(parts) == 1:
        return parts[0]
    return ctx.emit(Concat(normalize_axis(ctx.attr_int("axis", 1), parts[0].type.rank)), *parts)


def _requantized(ctx: NodeContext, x: Value, scale: Value, zero: Value, y_scale: Value, y_zero: Value) -> Value:
    return ctx.emit(QLinearUnary("identity"), x, scale, zero, y_scale, y_zero)


def _same(a: Value, b: Value) -> bool:
    if a is b:
        return True
    return a.data is not None and b.data is not None and a.data.size == b.data.size == 1 and bool(a.data.reshape(()) == b.data.reshape(()))


@importer(MS + "QGemm")
def qgemm(ctx: NodeContext) -> Value:
    """``alpha * A' @ B' + C`` requantised, or float32 without a scale of y."""
    _count(ctx, 6, 9)
    _float_scales(ctx, 1, 4, 7)
    a, b = ctx.value(0), ctx.value(3)
    if a.type.rank != 2 or b.type.rank != 2:
        ctx.invalid(f"QGemm multiplies matrices, not {a.type} and {b.type}")
    if ctx.attr_bool("transA"):
        a = ctx.emit(Transpose((1, 0)), a)
    if ctx.attr_bool("transB"):
        b = ctx.emit(Transpose((1, 0)), b)
    to = _output_type(ctx, 8, a.type.dtype) if ctx.present(7) else DType.F32
    op = QGemm(to, ctx.attr_float("alpha", 1.0))
    return ctx.emit(op, a, *(ctx.optional(i) for i in (1, 2)), b, *(ctx.optional(i) for i in range(4, 9)))


def _binary(ctx: NodeContext, function: str, a: Value, b: Value) -> Value:
    return ctx.emit(Elementwise(Expression.of(function, 2)), a, b)


def _scaled_product(
    ctx: NodeContext, a: Value, b: Value, zeros: tuple[Value | None, Value | None], scale: Value, bias: Value | None
) -> Value:
    """``float32((a - zero) @ (b - zero)) * scale + bias``."""
    product = ctx.emit(Cast(DType.F32), ctx.emit(MatMulInteger(), a, b, *zeros))
    y = _binary(ctx, "mul", product, scale)
    return y if bias is None else _binary(ctx, "add", y, bias)


@importer(MS + "DynamicQuantizeMatMul")
def dynamic_quantize_matmul(ctx: NodeContext) -> Value:
    """A is quantised to uint8 by its range, B is quantised already; the result is float32."""
    _count(ctx, 3, 5)
    _float_scales(ctx, 0, 2, 4)
    a, a_scale, a_zero = ctx.emit_all(DynamicQuantizeLinear(), ctx.value(0))
    scale = _binary(ctx, "mul", a_scale, ctx.value(2))
    return _scaled_product(ctx, a, ctx.value(1), (a_zero, ctx.optional(3)), scale, ctx.optional(4))


@importer(MS + "MatMulIntegerToFloat")
def matmul_integer_to_float(ctx: NodeContext) -> Value:
    """Integer product times both scales, plus a bias, as float32."""
    _count(ctx, 4, 7)
    _float_scales(ctx, 2, 3, 6)
    scale = _binary(ctx, "mul", ctx.value(2), ctx.value(3))
    return _scaled_product(ctx, ctx.value(0), ctx.value(1), (ctx.optional(4), ctx.optional(5)), scale, ctx.optional(6))
