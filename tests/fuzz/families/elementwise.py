"""Element-wise operators: functions of one number, arithmetic, comparisons, truth values, bits, casts."""

from __future__ import annotations

import numpy as np
from onnx import helper

from cnngraph.ir.types import DType
from tests.fuzz.case import PACKED, PLAIN, SMALL_FLOATS, Case, Draw, strategy

APPROXIMATED = ("Sigmoid", "Tanh", "Erf", "Softplus", "Mish", "Softsign")
STEEP = ("Tan", "Acosh", "Atanh", "Acos", "Asin", "Log", "Cosh", "Sinh")


@strategy(
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "HardSwish", "IsNaN", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh",
)  # fmt: skip
def unary(d: Draw) -> Case:
    x = d.array(d.shape(0, 4, 0), d.dtype())
    return d.case(
        [x], tolerance=2e-5 if d.op in STEEP else 1e-5, absolute=1e-6 if d.op in APPROXIMATED else 1e-8, single=d.op == "HardSwish"
    )


@strategy("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")
def with_alpha(d: Draw) -> Case:
    low = 0.125 if d.op == "Celu" else -2
    return d.case([d.array(d.shape(0, 4, 0), d.dtype())], absolute=1e-6, **d.some(alpha=lambda: d.number(low, 2)))


@strategy("Selu")
def selu(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4), d.dtype())], absolute=1e-6, **d.some(alpha=lambda: d.number(0, 2), gamma=lambda: d.number(0, 2)))


@strategy("HardSigmoid")
def hard_sigmoid(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4), d.dtype())], **d.some(alpha=lambda: d.number(-1, 2), beta=lambda: d.number(-1, 1)))


@strategy("Shrink")
def shrink(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4), d.dtype())], **d.some(lambd=lambda: d.number(0, 3), bias=lambda: d.number(-2, 2)))


@strategy("Swish")
def swish(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4), d.dtype())], absolute=2e-6, **d.some(alpha=lambda: d.number(-1, 2)))


@strategy("Gelu")
def gelu(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4), d.dtype())], absolute=1e-6, single=True, **d.some(approximate=lambda: d.pick("none", "tanh")))


@strategy("IsInf")
def is_inf(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4), d.dtype())], **d.some(detect_negative=lambda: d.int(0, 1), detect_positive=lambda: d.int(0, 1)))


@strategy("PRelu")
def prelu(d: Draw) -> Case:
    shape = d.shape(1, 4)
    return d.case([d.array(shape, d.dtype()), d.array(d.broadcast(shape), d.dtype())])


@strategy("Identity", "Dropout")
def identity(d: Draw) -> Case:
    x = d.array(d.shape(0, 4, 0), d.dtype())
    if d.op == "Identity":
        return d.case([x])
    outputs = d.pick([0], [0, 1])
    if d.opset < 12:
        return d.case([x], outputs, **d.some(ratio=lambda: d.number(0, 0.9)))
    ratio = np.array(d.number(0, 0.9), d.dtype(1).numpy) if d.flag() else None
    training = np.array(False) if d.flag() else None
    return d.case([x, ratio, training], outputs, constants=(2,), **d.some(seed=lambda: d.int(0, 9)))


@strategy("Add", "Sub", "Mul", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor",
          "BitwiseAnd", "BitwiseOr", "BitwiseXor")  # fmt: skip
def binary(d: Draw) -> Case:
    shape = d.shape(0, 4, 0)
    shapes = d.broadcast(shape), d.broadcast(shape)
    return d.case([d.array(s, d.dtype()) for s in shapes])


@strategy("BitwiseNot")
def bitwise_not(d: Draw) -> Case:
    return d.case([d.array(d.shape(0, 4, 0), d.dtype())])


@strategy("BitShift")
def bit_shift(d: Draw) -> Case:
    shape, dtype = d.shape(0, 4), d.dtype()
    y = d.array(d.broadcast(shape), dtype, 0, dtype.bits - 1)
    return d.case([d.array(d.broadcast(shape), dtype), y], direction=d.pick("LEFT", "RIGHT"))


@strategy("Div")
def div(d: Draw) -> Case:
    shape, dtype = d.shape(0, 4, 0), d.dtype()
    x, y = d.array(d.broadcast(shape), dtype), d.array(d.broadcast(shape), dtype)
    if not dtype.is_float:
        y = np.where(y == 0, np.ones_like(y), y)
        y = np.where(y == dtype.numpy.type(-1), np.ones_like(y), y) if dtype.range[0] < 0 else y
    return d.case([x, y])


@strategy("Mod")
def mod(d: Draw) -> Case:
    shape, dtype = d.shape(0, 4), d.dtype()
    x, y = d.array(d.broadcast(shape), dtype), d.array(d.broadcast(shape), dtype, special=False)
    if not dtype.is_float:
        y = np.where((y == 0) | (y == dtype.numpy.type(-1) if dtype.range[0] < 0 else y == 0), np.ones_like(y), y)
    fmod = 1 if dtype.is_float else d.pick(None, 0, 1)
    return d.case([x, y], fmod=fmod)


@strategy("Pow")
def power(d: Draw) -> Case:
    shape = d.shape(0, 4)
    base, exponent = d.dtype(0), d.dtype(1)
    shapes = d.broadcast(shape), d.broadcast(shape)
    if base.is_float:
        x = d.array(shapes[0], base, 0, 3) if d.flag() else d.array(shapes[0], base, special=False)
        y = d.array(shapes[1], exponent, -2 if exponent.is_float else 0, 4)
        if x.size and not bool((x >= 0).all()) and exponent.is_float:
            y = np.round(y.astype(np.float64)).astype(exponent.numpy)
    else:
        x = d.array(shapes[0], base, -4, 4)
        y = np.round(d.array(shapes[1], exponent, 0, 4).astype(np.float64)).astype(exponent.numpy)
    return d.case([x, y], tolerance=5e-5)


@strategy("Sum", "Max", "Min", "Mean")
def variadic(d: Draw) -> Case:
    shape, dtype = d.shape(0, 4, 0), d.dtype()
    special = d.op in ("Max", "Min")
    shapes = [d.broadcast(shape) if d.opset >= 8 else shape for _ in range(d.int(1, 4))]
    return d.case([d.array(s, dtype, special=special) for s in shapes], scaled=not special)


@strategy("Clip")
def clip(d: Draw) -> Case:
    dtype = d.dtype()
    x = d.array(d.shape(0, 4, 0), dtype)
    if d.opset < 11:
        return d.case([x], **d.some(min=lambda: d.number(-3, 3), max=lambda: d.number(-3, 3)))
    bounds: list[np.ndarray | None] = []
    for _ in range(2):
        small = d.pick(0, 1, 3, 100, -2) if dtype.is_float or dtype.range[0] < 0 else d.pick(0, 1, 3, 100)
        bounds.append(np.array(small, dtype.numpy) if d.flag(0.7) else None)
    return d.case([x, *bounds])


@strategy("Where")
def where(d: Draw) -> Case:
    shape, dtype = d.shape(0, 4, 0), d.dtype(1)
    return d.case([d.array(d.broadcast(shape), DType.BOOL), d.array(d.broadcast(shape), dtype), d.array(d.broadcast(shape), dtype)])


def _castable(d: Draw, source: DType, target: DType) -> np.ndarray:
    """Numbers whose conversion C++ defines: within the range of integer targets."""
    shape = d.shape(0, 3, 0)
    if target is DType.F8E8M0:
        return d.array(shape, source, 1, 100)
    if target.is_float or target is DType.BOOL:
        return d.array(shape, source, special=source.is_float and target.is_float)
    low, high = target.range
    if source.is_float:
        return d.array(shape, source, max(low, -100), min(high, 100))
    return d.array(shape, source)


@strategy("Cast", "CastLike")
def cast(d: Draw) -> Case:
    sources = [t for t in (*PLAIN, *SMALL_FLOATS, *PACKED) if t in d.dtypes(0)]
    source, target = d.one_of(sources), d.one_of(sources)
    x = _castable(d, source, target)
    saturate = {"saturate": d.int(0, 1)} if target in SMALL_FLOATS and d.opset >= 19 and d.flag() else {}
    if d.op == "CastLike":
        return d.case([x, d.array(d.shape(0, 2), target)], **saturate)
    rounding = {"round_mode": d.pick("up", "down", "nearest")} if target is DType.F8E8M0 and d.flag() else {}
    return d.case([x], to=int(helper.np_dtype_to_tensor_dtype(target.numpy)), **saturate, **rounding)


@strategy("BitCast")
def bit_cast(d: Draw) -> Case:
    source = d.dtype(0)
    same = [t for t in d.dtypes(0) if t.bits == source.bits and t is not DType.BOOL]
    target = same[d.int(0, len(same) - 1)] if same else source
    return d.case([d.array(d.shape(0, 3), source)], to=int(helper.np_dtype_to_tensor_dtype(target.numpy)))
