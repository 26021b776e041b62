"""The cases of the templates of 8-bit tensors: every option of every template, channels that do not fill their blocks."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import BATCH, DType
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from tests.backends.int8_cases import Computed, IntCase

Pair = tuple[int, int]
TYPES = {"u": DType.U8, "s": DType.I8}
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
        qconv((3, 13, 12), 20, (3, 3), (2, 2), same, types="sss", zeros=(7, 0, 1), bias=False),
        qconv((1, 9, 10), 8, (5, 3), (1, 2), (2, 1, 2, 1), (1, 2)),
        qconv((6, 9, 10), 9, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), per_channel=False, bounds=(9, 60)),
        qconv((16, 12, 20), 64, (3, 3), pads=same, batch=1),
        qconv((40, 15), 24, (3,), (1,), (1, 1), (1,)),
        qconv((19, 6, 7), 21, (3, 3), pads=same, types="uuu", zeros=(100, 77, 30)),
        qconv((19, 6, 7), 40, (1, 1), types="uuu", zeros=(100, 200, 30), per_channel=False),
        qconv((3, 9, 9), 40, (3, 3), types="suu", zeros=(-9, 128, 30), pads=same),
        qconv((12, 6, 7), 18, (3, 3), pads=same, group=3),
        qconv((64, 5, 5), 64, (3, 3), pads=same, group=2, types="sss", zeros=(3, 0, 0)),
        qconv((48, 6, 6), 96, (1, 1), group=3, types="uus", zeros=(3, 128, 0)),
        qconv((18, 8, 7), 36, (3, 3), (2, 1), same, group=18),
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
    small = Computed(DType.F32, (), np.array(1e-4, F32))
    bias = rng.standard_normal((1, 20, 1, 1)).astype(F32)
    return [
        IntCase("qconv", ConvInteger(*window), (x, w, given, None)),
        IntCase("qconv", ConvInteger(*window), (x, w, None, None)),
        IntCase("qconv", ConvInteger(*window, to=DType.F32), (x, w, np.array(3, np.uint8), None)),
        IntCase("qconv", ConvInteger(*window, to=DType.F32, epilogue=scale_bias_clip), (x, w, given, None, small, bias), tolerance=1e-6),
        IntCase(
            "qconv", ConvInteger((1, 1), (1, 1), (0,) * 4, (1, 1)),
            (Computed(s8, (BATCH, 20, 5, 6)), integers(rng, u8, 33, 20, 1, 1), Computed(s8, (1,), np.array([-3], np.int8)), np.array(50, np.uint8)),
        ),
    ]  # fmt: skip


ALL = {f"{i}-{case.template}-{case.op.name}": case for i, case in enumerate(conv_cases() + integer_cases())}
