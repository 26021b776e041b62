"""Quantised operators of the standard domain and of com.microsoft."""

from __future__ import annotations

import numpy as np
from onnx import helper

from cnngraph.ir.types import DType
from tests.fuzz.case import Array, Case, Draw, strategy
from tests.fuzz.families.convolution import extents, pool_window, window
from tests.fuzz.families.dense import operands

EIGHT = (DType.U8, DType.I8)
MS = "com.microsoft::"


def scale(d: Draw, shape: tuple[int, ...] = (), dtype: DType = DType.F32) -> Array:
    """Positive scales."""
    return d.array(shape, dtype, 0.01, 0.2)


def zero(d: Draw, dtype: DType, shape: tuple[int, ...] = ()) -> Array:
    """Zero points anywhere in the range of an 8-bit type, or zeros."""
    if dtype.is_float or dtype is DType.I32 or d.flag(0.3):
        return np.zeros(shape, dtype.numpy)
    return d.array(shape, dtype, *dtype.range)


def eight(d: Draw, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers from the whole range of an integer type."""
    return d.array(shape, dtype, *dtype.range)


def number(d: Draw) -> tuple[int, ...]:
    """The shape of a single number: 0-D or one element."""
    return d.pick((), (), (1,))


def _granularity(d: Draw, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict[str, int]]:
    """Shape of the scales, and the attributes that say so."""
    kind = (
        d.pick("tensor", "axis", "block")
        if shape and d.opset >= 21 and "::" not in d.op
        else d.pick("tensor", "axis")
        if shape
        else "tensor"
    )
    if "::" not in d.op and d.opset < 13:
        kind = "tensor"
    if kind == "tensor":
        return number(d) if d.opset >= 13 else (), {}
    axis = d.int(0, len(shape) - 1)
    signed = axis - len(shape) if d.flag(0.3) else axis
    if kind == "axis":
        return (shape[axis],), {"axis": signed}
    size = d.int(1, 3)
    return (*shape[:axis], -(-shape[axis] // size), *shape[axis + 1 :]), {"axis": signed, "block_size": size}


@strategy("QuantizeLinear", MS + "QuantizeLinear")
def quantize_linear(d: Draw) -> Case:
    shape = d.shape(0, 4)
    granularity, given = _granularity(d, shape)
    standard = "::" not in d.op
    targets = list(d.dtypes(2)) if standard else [DType.U8, DType.I8, DType.U16, DType.I16]
    to = d.one_of([t for t in (DType.U8, *targets) if t in targets])
    source = d.dtype(0, (DType.F32, DType.F16)) if standard else d.one_of([DType.F32, DType.F16])
    kind = source if not standard or d.opset < 23 else d.dtype(1, (DType.F32, DType.F16))
    attributes: dict[str, object] = dict(given)
    point: Array | None = zero(d, to, granularity)
    if to is DType.U8 and d.flag(0.3):
        point = None
    elif standard and d.opset >= 21 and d.flag(0.3):
        point, attributes["output_dtype"] = None, int(helper.np_dtype_to_tensor_dtype(to.numpy))
    if to.is_float and d.flag(0.3):
        attributes["saturate"] = d.int(0, 1)
    x = d.array(shape, source, -40, 40)
    return d.case(
        [x, scale(d, granularity, kind), point], fixed=(1, 2), steps=1 if source is DType.F16 or kind is DType.F16 else 0, **attributes
    )


@strategy("DequantizeLinear", MS + "DequantizeLinear")
def dequantize_linear(d: Draw) -> Case:
    shape = d.shape(0, 4)
    granularity, given = _granularity(d, shape)
    standard = "::" not in d.op
    sources = list(d.dtypes(0)) if standard else [DType.U8, DType.I8, DType.U16, DType.I16, DType.I32]
    source = d.one_of([t for t in (DType.U8, *sources) if t in sources])
    kind = d.dtype(1, (DType.F32, DType.F16)) if standard and d.opset >= 19 else DType.F32
    x = eight(d, shape, source) if not source.is_float else d.array(shape, source, -3, 3)
    point = zero(d, source, granularity) if d.flag(0.8) else None
    return d.case([x, scale(d, granularity, kind), point], fixed=(1, 2), **given)


@strategy("DynamicQuantizeLinear")
def dynamic_quantize_linear(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 3), DType.F32, d.pick(-4.0, 1.0), d.pick(4.0, 2.0))], 3)


@strategy("MatMulInteger")
def matmul_integer(d: Draw) -> Case:
    a_type, b_type = d.pick(*EIGHT), d.pick(*EIGHT)
    a, b = _operands(d, a_type, b_type)
    a_zero = zero(d, a_type, _per(d, a.shape, -2)) if d.flag() else None
    b_zero = zero(d, b_type, _per(d, b.shape, -1)) if d.flag() else None
    return d.case([a, b, a_zero, b_zero], fixed=(1, 2, 3))


def _per(d: Draw, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The shape of a parameter: a single number, or at times one for each column of a matrix."""
    return (shape[axis],) if axis == -1 and len(shape) == 2 and d.flag(0.3) else number(d)


def _operands(d: Draw, first: DType, second: DType) -> tuple[Array, Array]:
    a, b = operands(d, DType.F32, DType.F32)
    return eight(d, a.shape, first), eight(d, b.shape, second)


@strategy("QLinearMatMul")
def qlinear_matmul(d: Draw) -> Case:
    a_type, b_type, y_type = d.pick(*EIGHT), d.pick(*EIGHT), d.pick(*EIGHT)
    if d.flag(0.7):
        a_type = y_type
    a, b = _operands(d, a_type, b_type)
    per = _per(d, b.shape, -1)
    inputs = [a, scale(d), zero(d, a_type), b, scale(d, per), zero(d, b_type, per), scale(d) * 20, zero(d, y_type)]
    return d.case(inputs, constants=(3, 4, 5) if d.flag() else (), fixed=range(1, 8))


def _convolved(d: Draw, with_bias: bool) -> tuple[Array, Array, Array | None, dict[str, object]]:
    """Input, weights, bias and attributes of an integer convolution."""
    spatial = extents(d, 3, 7)
    kernel, group = tuple(d.int(1, 3) for _ in spatial), d.pick(1, 1, 2)
    channels, filters = group * d.int(1, 5), group * d.int(1, 5)
    if d.flag(0.2):
        group = channels = filters = d.pick(4, 8, 17)
    if d.compiled and d.flag(0.4):
        group, channels, filters = 1, d.pick(8, 16, 19), d.pick(8, 16, 33)
    given = window(d, spatial, kernel)
    x_type = d.pick(*EIGHT)
    x = eight(d, (d.int(1, 2), channels, *spatial), x_type)
    w = eight(d, (filters, channels // group, *kernel), d.pick(DType.I8, DType.U8) if x_type is DType.U8 else DType.I8)
    bias = d.array((filters,), DType.I32, -999, 999) if with_bias and d.flag() else None
    return x, w, bias, {"group": group, **given}


@strategy("ConvInteger")
def conv_integer(d: Draw) -> Case:
    x, w, _, given = _convolved(d, False)
    x_zero = zero(d, DType.of(x), number(d)) if d.flag(0.7) else None
    w_zero = zero(d, DType.of(w), (w.shape[0],) if d.flag(0.2) else ()) if d.flag(0.4) else None
    return d.case([x, w, x_zero, w_zero], constants=(1,) if d.flag(0.8) else (), fixed=(1, 2, 3), **given)


@strategy("QLinearConv", MS + "QLinearConv")
def qlinear_conv(d: Draw) -> Case:
    x, w, bias, given = _convolved(d, True)
    y_type = DType.of(x)
    per = (w.shape[0],) if d.flag(0.4) else ()
    w_zero = np.zeros(per, w.dtype) if w.dtype == np.int8 and d.flag(0.7) else zero(d, DType.of(w), ())
    if per and w_zero.shape != per:
        w_zero = np.full(per, w_zero)
    inputs = [x, scale(d), zero(d, DType.of(x)), w, scale(d, per), w_zero, scale(d) * d.pick(20.0, 5.0), zero(d, y_type), bias]
    inputs[6] = np.asarray(inputs[6], np.float32)
    if "::" in d.op and d.flag(0.4):
        inputs[0] = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        given["channels_last"] = 1
    return d.case(inputs, constants=(3, 4, 5, 8) if d.flag(0.8) else (), fixed=range(1, 9), **given)


@strategy(MS + "QLinearAdd", MS + "QLinearMul")
def qlinear_binary(d: Draw) -> Case:
    shape, dtype = d.shape(1, 4), d.pick(*EIGHT)
    a, b = eight(d, d.broadcast(shape), dtype), eight(d, d.broadcast(shape), dtype)
    inputs = [a, scale(d), zero(d, dtype), b, scale(d), zero(d, dtype), scale(d), zero(d, dtype)]
    return d.case(inputs, constants=range(1, 8) if d.flag(0.9) else (), fixed=range(1, 8))


@strategy(MS + "QLinearSigmoid", MS + "QLinearLeakyRelu")
def qlinear_unary(d: Draw) -> Case:
    dtype = d.pick(*EIGHT)
    given = {"alpha": d.number(0, 1)} if d.op.endswith("Relu") else {}
    y_scale = np.array(1 / 256, np.float32) if d.op.endswith("Sigmoid") else scale(d)
    inputs = [eight(d, d.shape(1, 4), dtype), scale(d), zero(d, dtype), y_scale, zero(d, dtype)]
    return d.case(inputs, constants=(1, 2, 3, 4) if d.flag(0.8) else (), fixed=(1, 2, 3, 4), **given)


@strategy(MS + "QLinearSoftmax")
def qlinear_softmax(d: Draw) -> Case:
    dtype, shape, opset = d.pick(*EIGHT), d.shape(1, 4), d.pick(13, 12)
    inputs = [eight(d, shape, dtype), scale(d), zero(d, dtype), np.array(1 / 256, np.float32), np.array(dtype.range[0], dtype.numpy)]
    axis = d.axis(len(shape)) if opset >= 13 else d.int(0, len(shape) - 1)
    return d.case(inputs, constants=(1, 2, 3, 4), fixed=(1, 2, 3, 4), axis=axis, opset=opset)


@strategy(MS + "QLinearAveragePool", MS + "QLinearGlobalAveragePool")
def qlinear_average_pool(d: Draw) -> Case:
    dtype, spatial = d.pick(*EIGHT), extents(d, 3, 7)
    shape: tuple[int, ...] = (d.int(1, 2), d.int(1, 5), *spatial)
    last = d.flag(0.3)
    given: dict[str, object] = {}
    if not d.op.endswith("GlobalAveragePool"):
        given, _ = pool_window(d, spatial, False)
        given |= d.some(ceil_mode=lambda: d.int(0, 1), count_include_pad=lambda: d.int(0, 1))
    if last:
        shape = (shape[0], *shape[2:], shape[1])
    given["channels_last"] = int(last)
    inputs = [eight(d, shape, dtype), scale(d), zero(d, dtype), scale(d), zero(d, dtype)]
    return d.case(inputs, constants=(1, 2, 3, 4), fixed=(1, 2, 3, 4), **given)


@strategy(MS + "QLinearConcat")
def qlinear_concat(d: Draw) -> Case:
    dtype, shape = d.pick(*EIGHT), list(d.shape(1, 4))
    axis = d.axis(len(shape))
    y_scale, y_zero = scale(d), zero(d, dtype)
    inputs = [y_scale, y_zero]
    for _ in range(d.int(1, 3)):
        shape[axis] = d.int(1, 4)
        own = d.flag()
        inputs += [eight(d, tuple(shape), dtype), scale(d) if own else y_scale, zero(d, dtype) if own else y_zero]
    constants = [i for i in range(len(inputs)) if i < 2 or i % 3 != 2]
    return d.case(inputs, constants=constants, fixed=constants, axis=axis)


@strategy(MS + "QGemm")
def qgemm(d: Draw) -> Case:
    m, k, n = d.int(1, 4), d.int(1, 9), d.int(1, 9)
    a_type = d.pick(*EIGHT)
    b_type = d.pick(*EIGHT) if a_type is DType.U8 else DType.I8
    flip_a, flip_b = d.flag(0.3), d.flag(0.5)
    a, b = eight(d, (k, m) if flip_a else (m, k), a_type), eight(d, (n, k) if flip_b else (k, n), b_type)
    per = (n,) if d.flag(0.3) else ()
    c = d.array(d.pick((n,), (m, n), (1, n)), DType.I32, -999, 999) if d.flag() else None
    quantised = d.flag(0.7)
    y_scale, y_zero = ((scale(d) * 20).astype(np.float32), zero(d, a_type)) if quantised else (None, None)
    given = {"transA": int(flip_a), "transB": int(flip_b)} | d.some(alpha=lambda: d.number(0.5, 2))
    inputs = [a, scale(d), zero(d, a_type), b, scale(d, per), zero(d, b_type, per), c, y_scale, y_zero]
    return d.case(inputs, constants=(1, 2, 3, 4, 5, 7, 8), fixed=range(1, 9), scaled=True, **given)


@strategy(MS + "DynamicQuantizeMatMul")
def dynamic_quantize_matmul(d: Draw) -> Case:
    a = d.floats((*d.shape(1, 2, 1, 4), d.int(1, 9)))
    b_type, n = d.pick(*EIGHT), d.int(1, 9)
    per = (n,) if d.flag(0.4) else (1,) if d.flag(0.3) else ()
    bias = d.floats((n,)) if d.flag() else None
    inputs = [a, eight(d, (a.shape[-1], n), b_type), scale(d, per), zero(d, b_type, per) if d.flag(0.8) else None, bias]
    return d.case(inputs, constants=(1, 2, 3, 4), fixed=(1, 2, 3, 4), scaled=True)


@strategy(MS + "MatMulIntegerToFloat")
def matmul_integer_to_float(d: Draw) -> Case:
    k, n = d.int(1, 9), d.int(1, 9)
    a_type = d.pick(*EIGHT)
    b_type = d.pick(*EIGHT) if a_type is DType.U8 else DType.I8
    a, b = eight(d, (*d.shape(1, 2, 1, 4), k), a_type), eight(d, (k, n), b_type)
    per = (n,) if d.flag(0.4) else (1,)
    bias = d.floats((n,)) if d.flag() else None
    points = (zero(d, a_type, (1,)) if d.flag(0.7) else None, zero(d, b_type, per) if d.flag(0.7) else None)
    inputs = [a, b, scale(d, (1,)), scale(d, per), *points, bias]
    return d.case(inputs, constants=(1, 3, 5, 6), fixed=range(1, 7), scaled=True)
