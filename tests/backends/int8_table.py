"""The cases of the templates of 8-bit tensors: every option of every template, channels that do not fill their blocks."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import BATCH, DType, Layout
from cnngraph.ops import Cast, Concat, Expand, Pad, Pool, Reorder, Slice, Transpose
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.quantized import DequantizeLinear, MatMulInteger, QGemm, QLinearMatMul, QuantizeLinear
from cnngraph.ops.quantized_conv import ConvInteger, QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool, QLinearSoftmax
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary
from cnngraph.ops.resize import Resize
from tests.backends.int8_cases import Computed, IntCase

Pair = tuple[int, int]
TYPES = {"u": DType.U8, "s": DType.I8}
_CHANNELS = TakeChannels((30, 2, 3, 41, 0, 1, *range(7, 29), 40))
_TAKEN = (
    Resize((2, 3), (10, 14), (10.0, 14.0), "nearest", "asymmetric", "floor"),
    Resize((3,), (18,), (18.0,), "nearest"),
    Resize((1, 2), (30, 3), (30.0, 3.0), "nearest"),
    Pad((0, 0, 1, 2, 0, 0, 0, 3), "constant", 200.0),
    Pad((0, 0, 1, 2, 0, 0, 4, 0), "reflect"),
    Slice((0, 0, 1, 0), (1, 1, 2, 2), (BATCH, 19, 2, 4)),
)
F32 = np.float32


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def integers(rng: np.random.Generator, dtype: DType, *shape: int) -> np.ndarray:
    return rng.integers(*dtype.range, shape, endpoint=True).astype(dtype.numpy)


def qconv(
    x: tuple[int, ...], m: int, kernel: tuple[int, ...], strides: tuple[int, ...] = (1, 1), pads: tuple[int, ...] = (0, 0, 0, 0),
    dilations: tuple[int, ...] = (1, 1), group: int = 1, types: str = "usu", *, bias: bool = True, zeros: tuple[int, int, int] = (3, 0, 9),
    per_channel: bool = True, bounds: Pair = (-128, 255), batch: int = 2, template: str = "qconv",
) -> IntCase:  # fmt: skip
    """``types``: of x, the weights and y, u or s."""
    rng = np.random.default_rng(len(types) + m)
    x_type, w_type, y_type = (TYPES[t] for t in types)
    w = integers(rng, w_type, m, x[0] // group, *kernel)
    count = m if per_channel else 1
    depth = w[0].size
    w_scale = (0.5 + rng.random(count)).astype(np.float32) * F32(0.01)
    y_scale = scalar(0.01 * 0.05 * 90 * 90 * np.sqrt(depth) / 60)
    op = QLinearConv(kernel, strides, pads, dilations, group, y_type, *bounds)
    parameters = (scalar(0.05), np.array(zeros[0], x_type.numpy))
    weights = (w, w_scale if per_channel else w_scale.reshape(()), np.full(count, zeros[1], w_type.numpy) if zeros[1] else None)
    b = rng.integers(-9000, 9000, m).astype(np.int32) if bias else None
    inputs = (Computed(x_type, (BATCH, *x)), *parameters, *weights, y_scale, np.array(zeros[2], y_type.numpy), b)
    return IntCase(template, op, inputs, batch)


def conv_cases() -> list[IntCase]:
    """Convolutions: kernels, borders, groups, types, zero points."""
    same = (1, 1, 1, 1)
    return [
        qconv((19, 6, 7), 21, (3, 3), pads=same),
        qconv((19, 6, 7), 21, (3, 3), pads=same, types="sss", zeros=(-5, 0, -7)),
        qconv((32, 9, 9), 48, (1, 1)),
        qconv((32, 9, 9), 48, (1, 1), types="ssu", zeros=(-128, 0, 0), bounds=(0, 255)),
        qconv((33, 7, 8), 17, (1, 1), (2, 2), types="ssu", zeros=(11, 0, 128)),
        qconv((3, 13, 12), 20, (3, 3), (2, 2), (0, 0, 1, 1)),
        qconv((32, 7, 7), 48, (3, 3), pads=same, zeros=(0, 0, 3)),
        qconv((36, 8, 14), 40, (3, 3), pads=same, types="sss", zeros=(-128, 0, -7)),
        qconv((20, 9, 9), 48, (5, 5), (2, 2), (2, 2, 2, 2), zeros=(0, 0, 3)),
        qconv((36, 7, 8), 40, (3, 3), pads=(2, 2, 2, 2), dilations=(2, 2), types="uuu", zeros=(0, 77, 0)),
        qconv((3, 13, 12), 20, (3, 3), (2, 2), same, types="sss", zeros=(7, 0, 1), bias=False),
        qconv((1, 9, 10), 8, (5, 3), (1, 2), (2, 1, 2, 1), (1, 2)),
        qconv((6, 9, 10), 9, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), per_channel=False, bounds=(9, 60)),
        qconv((40, 15), 24, (3,), (1,), (1, 1), (1,)),
        qconv((19, 6, 7), 21, (3, 3), pads=same, types="uuu", zeros=(100, 77, 30)),
        qconv((19, 6, 7), 40, (1, 1), types="uuu", zeros=(100, 200, 30), per_channel=False),
        qconv((3, 9, 9), 40, (3, 3), types="suu", zeros=(-9, 128, 30), pads=same),
        qconv((12, 6, 7), 18, (3, 3), pads=same, group=3),
        qconv((64, 5, 5), 64, (3, 3), pads=same, group=2, types="sss", zeros=(3, 0, 0)),
        qconv((48, 6, 6), 96, (1, 1), group=3, types="uus", zeros=(3, 128, 0)),
        qconv((18, 8, 7), 36, (3, 3), (2, 1), same, group=18),
    ]  # fmt: skip


def grouped_cases() -> list[IntCase]:
    """Groups whose weights leave a signed byte: each lane needs the sums of its own group's inputs."""
    rng, same = np.random.default_rng(9), (1, 1, 1, 1)
    x, given = Computed(DType.U8, (BATCH, 8, 7, 8)), Computed(DType.U8, (), np.array(77, np.uint8))
    dynamic = ConvInteger((3, 3), (2, 1), same, (1, 1), 2)
    return [
        qconv((18, 8, 7), 36, (3, 3), (2, 1), same, group=18, types="uuu", zeros=(3, 250, 9)),
        qconv((12, 6, 7), 18, (3, 3), pads=same, group=3, types="suu", zeros=(3, 77, 9)),
        qconv((64, 9, 9), 64, (3, 3), pads=same, group=4, types="uuu", zeros=(100, 140, 9), batch=1),
        qconv((48, 9, 9), 96, (1, 1), group=3, types="uus", zeros=(3, 60, 0)),
        IntCase("qconv", dynamic, (x, integers(rng, DType.U8, 20, 4, 3, 3), given, np.array(150, np.uint8))),
        *(qconv((c, 4, 6, 7), 20, (3, 3, 3), (1,) * 3, (1,) * 6, (1,) * 3, types=types, batch=1) for c, types in ((3, "usu"), (19, "sss"))),
        qconv((1, 5, 7, 9), 18, (2, 3, 3), (2, 1, 2), (1, 0, 1, 0, 2, 1), (1, 2, 1)),
        qconv((20, 3, 6, 7), 40, (1, 1, 1), (1,) * 3, (0,) * 6, (1,) * 3),
        qconv((20, 4, 6, 7), 40, (2, 3, 3), (1,) * 3, (0,) * 6, (1,) * 3),
        qconv((20, 4, 6, 7), 40, (1, 1, 1), (2,) * 3, (0,) * 6, (1,) * 3),
        qconv((16, 4, 7, 12), 32, (3, 1, 3), (2, 1, 1), (1, 0, 1) * 2, (1,) * 3, types="uuu", zeros=(0, 100, 3), batch=1),
        qconv((24, 1, 9, 9), 32, (1, 3, 3), (1, 2, 2), (0, 1, 1) * 2, (1,) * 3, group=2, batch=1),
    ]


def large_cases() -> list[IntCase]:
    """What takes long to emulate: whole register tiles, several blocks of rows."""
    same = (1, 1, 1, 1)
    return [
        qconv((16, 12, 20), 64, (3, 3), pads=same, batch=1),
        qconv((128, 14, 14), 128, (3, 3), pads=same, batch=1, types="sss"),
        qconv((64, 12, 30), 200, (1, 1), batch=1, types="uss"),
    ]  # fmt: skip


def integer_cases() -> list[IntCase]:
    """Convolutions to int32, and to float32 with an epilogue; zero points known at run time only."""
    rng = np.random.default_rng(7)
    u8, s8 = DType.U8, DType.I8
    scale_bias_clip = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2)), Instr("clip", (4,), (0.0, 6.0))))
    given = Computed(u8, (), np.array(77, np.uint8))
    window = ((3, 3), (2, 1), (1, 1, 1, 1), (1, 1))
    w = integers(rng, s8, 20, 19, 3, 3)
    x = Computed(u8, (BATCH, 19, 7, 8))
    small, minus_three = Computed(DType.F32, (), np.array(1e-4, F32)), Computed(s8, (1,), np.array([-3], np.int8))
    bias = rng.standard_normal((1, 20, 1, 1)).astype(F32)
    return [
        IntCase("qconv", ConvInteger(*window), (x, w, given, None)),
        IntCase("qconv", ConvInteger(*window), (x, w, None, None)),
        IntCase("qconv", ConvInteger(*window, to=DType.F32), (x, w, np.array(3, np.uint8), None)),
        IntCase("qconv", ConvInteger(*window, to=DType.F32, epilogue=scale_bias_clip), (x, w, given, None, small, bias), tolerance=1e-6),
        IntCase(
            "qconv", ConvInteger((1, 1), (1, 1), (0,) * 4, (1, 1)),
            (Computed(s8, (BATCH, 20, 5, 6)), integers(rng, u8, 33, 20, 1, 1), minus_three, np.array(50, np.uint8)),
        ),
    ]  # fmt: skip


def depthwise_cases() -> list[IntCase]:
    """One filter a channel; the types, any zero point of the weights, epilogues."""
    rng = np.random.default_rng(8)
    same = (1, 1, 1, 1)
    scale_bias = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2))))
    given, small = Computed(DType.U8, (), np.array(77, np.uint8)), Computed(DType.F32, (), np.array(1e-4, F32))
    x, w = Computed(DType.U8, (BATCH, 19, 7, 13)), integers(rng, DType.I8, 19, 1, 3, 3)
    bias = rng.standard_normal((1, 19, 1, 1)).astype(F32)
    return [
        qconv((19, 7, 21), 19, (3, 3), pads=same, group=19, template="qdepthwise"),
        qconv((32, 9, 12), 32, (3, 3), (2, 2), same, group=32, types="sss", zeros=(-7, 0, 5), template="qdepthwise"),
        qconv((5, 9, 12), 5, (5, 7), (1, 2), (2, 3, 2, 3), (1, 1), 5, "uuu", zeros=(9, 200, 5), template="qdepthwise"),
        qconv((18, 9, 12), 18, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 18, "ssu", zeros=(9, 3, 5), bounds=(5, 80), template="qdepthwise"),
        qconv((20, 30), 20, (3,), (1,), (1, 1), (1,), 20, template="qdepthwise"),
        IntCase("qdepthwise", ConvInteger((3, 3), (2, 1), same, (1, 1), 19), (x, w, given, None)),
        IntCase(
            "qdepthwise", ConvInteger((3, 3), (1, 1), same, (1, 1), 19, DType.F32, scale_bias), (x, w, given, None, small, bias),
            tolerance=1e-6,
        ),
    ]  # fmt: skip


def qmatmul(rows: tuple[int, ...], depth: int, outputs: int, types: str, zeros: tuple[int, int, int], batch: int = 3) -> IntCase:
    rng = np.random.default_rng(depth)
    a, b, y = (TYPES[t] for t in types)
    scales = (scalar(0.02), (rng.random(outputs) * 0.01 + 0.005).astype(F32), scalar(0.015 * np.sqrt(depth)))
    z = [np.array(v, t.numpy) for v, t in zip(zeros, (a, b, y), strict=True)]
    w_zero = np.full(outputs, zeros[1], b.numpy)
    inputs = (Computed(a, (BATCH, *rows, depth)), scales[0], z[0], integers(rng, b, depth, outputs), scales[1], w_zero, scales[2], z[2])
    return IntCase("qdense", QLinearMatMul(y), inputs, batch)


def dense_cases() -> list[IntCase]:
    """Matrix products: depths that are no multiple of four, ragged outputs, every result type."""
    rng = np.random.default_rng(9)
    u8, s8 = DType.U8, DType.I8
    c = rng.integers(-5000, 5000, 33).astype(np.int32)
    gemm = (Computed(u8, (BATCH, 37)), scalar(0.03), np.array(100, np.uint8), integers(rng, s8, 37, 33), scalar(0.02), None, c)
    given = Computed(s8, (), np.array(-77, np.int8))
    return [
        qmatmul((), 64, 70, "usu", (7, 0, 100)),
        qmatmul((4,), 31, 10, "sss", (7, 0, -3)),
        qmatmul((), 3, 40, "uuu", (7, 100, 128), batch=1),
        qmatmul((), 130, 21, "suu", (-7, 255, 128), batch=13),
        IntCase("qdense", QGemm(u8), (*gemm, scalar(0.9), np.array(3, np.uint8)), 7),
        IntCase("qdense", QGemm(DType.F32, 0.5), (*gemm, None, None), 2),
        IntCase("qdense", MatMulInteger(), (Computed(s8, (BATCH, 5, 18)), integers(rng, s8, 18, 70), given, None)),
        IntCase("qdense", MatMulInteger(), (Computed(u8, (BATCH, 18)), integers(rng, u8, 18, 6), None, np.array([60], np.uint8))),
    ]  # fmt: skip


SUMS_AND_PRODUCTS = (
    ("add", DType.U8, (0.1, 0.07, 0.15)), ("add", DType.I8, (0.1, 0.03, 0.05)), ("mul", DType.U8, (0.1, 0.07, 0.9)),
    ("mul", DType.I8, (0.1, 0.1, 0.5)),
)  # fmt: skip


def pointwise_cases() -> list[IntCase]:
    """Quantisation and back, sums and products, tables, casts; odd sizes, no image axis."""
    rng = np.random.default_rng(10)
    u8, s8, f32 = DType.U8, DType.I8, DType.F32
    cases = []
    for shape in ((BATCH, 19, 5, 7), (BATCH, 37), (33,), (2, 3, 2500)):
        ties = (rng.integers(-700, 700, [2 if not isinstance(d, int) else d for d in shape]) * 0.25).astype(F32)
        given, least = Computed(s8, (), np.array(-9, np.int8)), np.array(-128, np.int8)
        cases += [
            IntCase("quantize", QuantizeLinear(u8), (Computed(f32, shape), scalar(0.037), np.array(131, np.uint8))),
            IntCase("quantize", QuantizeLinear(s8), (Computed(f32, shape, ties), Computed(f32, (), scalar(0.5)), given)),
            IntCase("quantize", QuantizeLinear(u8), (Computed(f32, shape, ties), scalar(1e-30), None)),
            IntCase("dequantize", DequantizeLinear(f32), (Computed(u8, shape), scalar(0.1), np.array([3], np.uint8))),
            IntCase("dequantize", DequantizeLinear(f32), (Computed(s8, shape), Computed(f32, (), scalar(0.1)), given)),
            IntCase("dequantize", DequantizeLinear(f32), (Computed(DType.I32, shape), scalar(0.1), None)),
            IntCase("dequantize", Cast(f32), (Computed(DType.I32, shape),)),
            IntCase("dequantize", Cast(f32), (Computed(DType.U8, shape),)),
            IntCase("dequantize", Cast(f32), (Computed(DType.I8, shape),)),
            IntCase("lookup", QLinearUnary("sigmoid"), (Computed(s8, shape), scalar(0.05), np.array(5, np.int8), scalar(1 / 256), least)),
            IntCase("lookup", QLinearUnary("leaky_relu"), (Computed(u8, shape), scalar(0.05), np.array(128, np.uint8), scalar(0.04), None)),
        ]  # fmt: skip
        for kind, dtype, scales in SUMS_AND_PRODUCTS:
            za, zb, zy = (np.array(v, dtype.numpy) for v in (3, 100, 27))
            a, b, y = (scalar(v) for v in scales)
            bounds = (0, 100) if dtype is u8 and kind == "add" else (-128, 255)
            cases.append(
                IntCase("qbinary", QLinearBinary(kind, *bounds), (Computed(dtype, shape), a, za, Computed(dtype, shape), b, zb, y, zy))
            )
    return cases


def broadcast_cases() -> list[IntCase]:
    """One operand by channel, by row, by both orders."""
    cases = []
    for kind, dtype, scales in SUMS_AND_PRODUCTS:
        za, zb, zy = (np.array(v, dtype.numpy) for v in (3, 100, 27))
        a, b, y = (scalar(v) for v in scales)
        full, channel = Computed(dtype, (BATCH, 19, 3, 5)), Computed(dtype, (BATCH, 19, 1, 1))
        rows, row = Computed(dtype, (BATCH, 4, 21)), integers(np.random.default_rng(3), dtype, 1, 21)
        for template, pairs in (("qbinary_channel", ((full, channel), (channel, full))), ("qbinary_rows", ((rows, row), (row, rows)))):
            cases += [IntCase(template, QLinearBinary(kind), (p, a, za, q, b, zb, y, zy)) for p, q in pairs]
        for shape, given in (((BATCH, 19, 3, 5), (19, 1, 1)), ((2, 19, 21), (1, 19, 1)), ((2, 19, 21), (2, 19, 1))):
            wide, constant = Computed(dtype, shape), integers(np.random.default_rng(3), dtype, *given)
            pair = (wide, constant) if kind == "add" else (constant, wide)
            cases.append(IntCase("qbinary_channel", QLinearBinary(kind), (pair[0], a, za, pair[1], b, zb, y, zy)))
    return cases


def pool_cases() -> list[IntCase]:
    """Maxima and averages, borders, ceil_mode, one and two axes."""
    u8, s8 = DType.U8, DType.I8
    cases = []
    for dtype in (u8, s8):
        x = Computed(dtype, (BATCH, 19, 9, 14))
        p = (scalar(0.07), np.array(5, dtype.numpy), scalar(0.05), np.array(17, dtype.numpy))
        cases += [
            IntCase("qpool", Pool("max", (3, 3), (2, 2), (1,) * 4, (1, 1)), (x,)),
            IntCase("qpool", Pool("max", (2, 3), (1, 1), (0, 2, 1, 2), (2, 2), True), (x,)),
            IntCase("qpool", QLinearAveragePool((3, 2), (1, 1), (1, 0, 1, 1)), (x, *p)),
            IntCase("qpool", QLinearAveragePool((2, 2), (2, 2), (0, 0, 0, 0), True, True), (x, *p)),
            IntCase("qpool", QLinearAveragePool((3,), (2,), (1, 1)), (Computed(dtype, (BATCH, 35, 9)), *p)),
            IntCase("qaverage_image", QLinearGlobalAveragePool(), (x, *p)),
            IntCase("qaverage_image", QLinearGlobalAveragePool(), (Computed(dtype, (BATCH, 35, 3)), *p[:3], None)),
        ]
    return cases


def softmax_cases() -> list[IntCase]:
    """Along the last axis and another one; rows shorter than a vector, one number, and scales that flatten or sharpen."""
    cases = []
    for dtype in (DType.U8, DType.I8):
        for shape, axis, x_scale, y_scale in (
            ((BATCH, 35), 1, 0.06, 1 / 256), ((BATCH, 3), 1, 0.9, 1 / 256), ((BATCH, 19, 3, 5), 1, 0.05, 1 / 255),
            ((BATCH, 4, 33), 2, 0.002, 0.001), ((BATCH, 1), 1, 0.1, 0.05),
        ):  # fmt: skip
            zeros = (np.array(3, dtype.numpy), np.array(dtype.range[0], dtype.numpy))
            inputs = (Computed(dtype, shape), scalar(x_scale), zeros[0], scalar(y_scale), zeros[1])
            cases.append(IntCase("qsoftmax", QLinearSoftmax(axis), inputs))
    return cases


def movement_cases() -> list[IntCase]:
    """Concatenation, transposition, slices, expansion."""
    u8 = DType.U8
    return [
        IntCase("concat_bytes", Concat(1), tuple(Computed(u8, (BATCH, c, 3, 5)) for c in (16, 32, 3))),
        IntCase("concat_bytes", Concat(1), tuple(Computed(DType.I8, (BATCH, c, 4)) for c in (3, 5))),
        IntCase("concat_bytes", Concat(3), tuple(Computed(u8, (BATCH, 3, 4, c)) for c in (5, 90, 1))),
        IntCase("concat_bytes", Concat(0), (Computed(u8, (4, 3)), Computed(u8, (1, 3)))),
        IntCase("concat_bytes", Concat(2), tuple(Computed(u8, (BATCH, 70, c)) for c in (2, 3, 1))),
        *(IntCase("take_bytes", op, (Computed(u8, (BATCH, 19, 5, 7)),)) for op in _TAKEN),
        IntCase("take_bytes", Pad((0, 2, 1, 0, 0, 1), "constant", 9.0), (Computed(u8, (BATCH, 5, 21)),)),
        *(
            IntCase(
                name, TakeChannels((30, 2, 3, 41, 0, 1, *range(7, 29), 40)), tuple(Computed(DType.I8, (BATCH, c, 5, 7)) for c in (29, 13))
            )
            for name in ("take_channels_bytes", "take_channels_plain_bytes")
        ),
        IntCase("strided_bytes", Transpose((0, 2, 3, 1)), (Computed(u8, (BATCH, 19, 5, 7)),)),
        IntCase("strided_bytes", Transpose((1, 0, 2)), (Computed(u8, (BATCH, 3, 21)),)),
        IntCase("strided_bytes", Transpose((0, 2, 3, 1)), (Computed(u8, (BATCH, 32, 3, 5)),)),
        IntCase("strided_bytes", Transpose((0, 3, 1, 2)), (Computed(u8, (BATCH, 3, 5, 32)),)),
        IntCase("strided_bytes", Transpose((0, 3, 5, 2, 4, 1)), (Computed(DType.I8, (BATCH, 32, 4, 2, 3, 2)),)),
        IntCase("strided_bytes", Transpose((0, 2, 1)), (Computed(u8, (BATCH, 3, 90)),)),
        IntCase("strided_bytes", Slice((0, 1, 0, 2), (1, 1, 1, 2), (BATCH, 2, 5, 3)), (Computed(u8, (BATCH, 4, 5, 7)),)),
        IntCase("strided_bytes", Slice((0, 16, 0, 0), (1, 1, 1, 1), (BATCH, 19, 3, 5)), (Computed(u8, (BATCH, 48, 3, 5)),)),
        IntCase("strided_bytes", Slice((0, 16, 1, 2), (1, 1, 2, 3), (BATCH, 19, 3, 4)), (Computed(u8, (BATCH, 48, 7, 12)),)),
        IntCase("strided_bytes", Expand((BATCH, 3, 5, 7)), (Computed(DType.I8, (3, 1, 7)),)),
    ]


def reorder_cases(width: int) -> list[IntCase]:
    """Into the blocks of ``width`` lanes."""
    shapes = ((BATCH, 35, 5, 7), (BATCH, 3, 9), (BATCH, 32, 1, 1), (BATCH, 21), (1, 16, 40, 30))
    return [IntCase("reorder_bytes", Reorder(Layout(width)), (Computed(DType.I8, shape),)) for shape in shapes]


FAMILIES = (
    conv_cases, integer_cases, depthwise_cases, dense_cases, pointwise_cases, broadcast_cases, pool_cases, movement_cases,
    softmax_cases, grouped_cases,
)  # fmt: skip
ALL = {f"{i}-{case.template}-{case.op.name}": case for i, case in enumerate(case for family in FAMILIES for case in family())}
LARGE = {f"{i}-large-{case.template}": case for i, case in enumerate(large_cases())}
