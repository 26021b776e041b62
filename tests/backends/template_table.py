"""Nodes on which every CPU template is tested: ragged sizes, borders, broadcasts, fixed and symbolic batches."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from cnngraph.ir.types import BATCH, Layout
from cnngraph.ops import (
    LRN,
    Concat,
    Conv,
    Dense,
    Elementwise,
    Expand,
    Expression,
    Gather,
    Instr,
    MatMul,
    Pad,
    Pool,
    Reduce,
    Reorder,
    Slice,
    Softmax,
    Transpose,
)
from tests.backends.template_cases import Case

_RNG = np.random.default_rng(7)


def _array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


ADD = Expression.of("add", 2)
RELU = Expression.of("relu")
MUL_ADD_RELU = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2)), Instr("relu", (4,))))
RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


def elementwise_cases() -> list[Case]:
    return [
        Case("eltwise_blocked", Elementwise(RELU), ((BATCH, 19, 3, 5),)),
        Case("eltwise_blocked", Elementwise(MUL_ADD_RELU), ((BATCH, 19, 5), _array(19, 1), (BATCH, 19, 5))),
        Case("eltwise_blocked", Elementwise(MUL_ADD_RELU), ((BATCH, 7, 3, 5), (BATCH, 7, 1, 1), _array(1))),
        Case("eltwise_plain", Elementwise(ADD), ((BATCH, 19, 3, 5), _array(19, 1, 1))),
        Case("eltwise_plain", Elementwise(ADD), ((BATCH, 21), _array(21))),
        Case("eltwise_plain", Elementwise(RELU), ((37,),)),
        Case("eltwise_plain", Elementwise(RELU), ((),)),
        Case("eltwise_plain", Elementwise(ADD), ((3, 5000), (3, 5000))),
        Case("eltwise_plain", Elementwise(MUL_ADD_RELU), ((BATCH, 3, 4, 5), (BATCH, 3, 1, 1), (BATCH, 3, 4, 5))),
        Case("eltwise_strided", Elementwise(ADD), ((BATCH, 3, 4, 5), (1, 1, 4, 5))),
        Case("eltwise_strided", Elementwise(ADD), ((BATCH, 1, 4, 1), (1, 3, 1, 21))),
        Case("eltwise_strided", Elementwise(ADD), ((BATCH, 3, 4, 5), (BATCH, 1, 4, 5))),
        Case("eltwise_strided", Elementwise(ADD), (_array(1, 3, 4, 5), (1, 3, 4, 5))),
        Case("eltwise_strided", Elementwise(MUL_ADD_RELU), ((BATCH, 3, 1, 5, 2, 3), (3, 4, 1, 1, 1), (1, 4, 5, 2, 3))),
        Case("eltwise_strided", Elementwise(ADD), ((5,), (1,))),
    ]  # fmt: skip


def pool_cases() -> list[Case]:
    shapes: list[tuple[Any, ...]] = [
        ((BATCH, 19, 9, 11), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False),
        ((BATCH, 4, 8, 26), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((BATCH, 4, 7, 8), (3, 2), (2, 3), (1, 0, 0, 1), (1, 1), True),
        ((BATCH, 17, 9, 10), (2, 3), (1, 1), (1, 3, 0, 2), (2, 2), True),
        ((BATCH, 5, 12, 13), (7, 7), (1, 1), (3, 3, 3, 3), (1, 1), False),
        ((1, 5, 9, 14), (5, 6), (2, 1), (2, 3, 1, 5), (1, 1), True),
        ((BATCH, 18, 13), (3,), (2,), (1, 1), (1,), True),
        ((BATCH, 3, 5, 6, 7), (2, 3, 2), (2, 1, 2), (1, 1, 0, 0, 1, 1), (1, 1, 2), False),
        ((BATCH, 3, 5, 8, 9), (3, 5, 5), (1, 1, 1), (1, 2, 2, 1, 2, 2), (1, 1, 1), False),
        ((BATCH, 3, 2, 2), (3, 3), (1, 1), (2, 2, 2, 2), (1, 1), False),
        ((BATCH, 3, 6, 9), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((BATCH, 3, 5, 2), (3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
    ]
    out = []
    for (shape, kernel, strides, pads, dilations, ceil), (kind, count) in itertools.product(
        shapes, (("max", False), ("average", False), ("average", True))
    ):
        out.append(Case("pool", Pool(kind, kernel, strides, pads, dilations, ceil, count), (shape,)))
    return out


def pool_plain_cases() -> list[Case]:
    shapes: list[tuple[Any, ...]] = [
        ((BATCH, 3, 8, 28), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((BATCH, 2, 7, 65), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((BATCH, 3, 9, 40), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), True),
        ((BATCH, 1, 6, 21), (3, 5), (1, 1), (1, 2, 1, 2), (1, 1), False),
        ((1, 2, 6, 38), (2, 4), (1, 2), (0, 0, 1, 0), (2, 1), False),
        ((BATCH, 3, 33), (3,), (1,), (0, 0), (1,), False),
        ((BATCH, 3, 7), (4,), (2,), (3, 2), (1,), True),
        ((BATCH, 2, 4, 5, 36), (2, 3, 2), (2, 1, 2), (1, 0, 0, 0, 1, 0), (1, 1, 1), False),
        ((BATCH, 2, 1, 6, 37), (2, 2, 3), (1, 2, 2), (1, 0, 0, 1, 0, 0), (1, 1, 1), False),
        ((BATCH, 3, 2, 2), (3, 3), (1, 1), (2, 2, 2, 2), (1, 1), False),
        ((BATCH, 3, 2, 5), (3, 3), (2, 2), (0, 0, 0, 0), (1, 1), True),
    ]
    return [
        Case("pool_plain", Pool(kind, kernel, strides, pads, dilations, ceil, count), (shape,))
        for shape, kernel, strides, pads, dilations, ceil in shapes
        for kind, count in (("max", False), ("average", False), ("average", True))
    ]


def depthwise_cases() -> list[Case]:
    shapes: list[tuple[Any, ...]] = [
        (19, (9, 13), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (8, (9, 24), (3, 3), (2, 2), (0, 0, 1, 1), (1, 1)),
        (17, (11, 12), (5, 3), (1, 2), (2, 1, 2, 1), (1, 1)),
        (5, (9, 9), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
        (5, (2, 2), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
        (20, (13,), (3,), (1,), (1, 1), (1,)),
        (3, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (6, (6, 26), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
        (6, (5, 39), (5, 5), (2, 2), (2, 2, 2, 2), (1, 1)),
        (6, (4, 20), (3, 3), (1, 1), (1, 9, 1, 9), (1, 1)),
        (6, (4, 3), (3, 3), (2, 1), (1, 3, 1, 3), (1, 1)),
    ]  # fmt: skip
    out = []
    for i, (channels, size, kernel, strides, pads, dilations) in enumerate(shapes):
        weights = _array(channels, 1, *kernel)
        shape = (BATCH, channels, *size)
        bias = _array(channels) if i % 2 else None
        out.append(Case("depthwise", Conv(kernel, strides, pads, dilations, channels, RELU), (shape, weights, bias)))
    weights = _array(18, 1, 3, 3)
    residual = Conv((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 18, RESIDUAL)
    out.append(Case("depthwise", residual, ((BATCH, 18, 6, 17), weights, _array(18), (BATCH, 18, 6, 17))))
    out.append(Case("depthwise", residual, ((BATCH, 18, 6, 17), weights, _array(18), (BATCH, 18, 1, 1))))
    return out


def conv_rows_cases() -> list[Case]:
    shapes: list[tuple[Any, ...]] = [
        (1, (12, 20), 6, (5, 5), (1, 1), (0, 0, 0, 0), (1, 1)),
        (3, (9, 19), 1, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (16, (7, 16), 2, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (19, (6, 21), 3, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (17, (5, 5), 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
        (3, (11, 23), 4, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
        (2, (10, 40), 7, (2, 4), (1, 3), (0, 2, 1, 5), (1, 1)),
        (16, (13, 17), 2, (3, 3), (2, 1), (2, 2, 2, 2), (2, 2)),
        (2, (20, 9), 1, (9, 3), (1, 1), (4, 1, 4, 1), (1, 1)),
        (16, (8, 12), 13, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
        (5, (4, 32), 2, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
        (3, (3, 7), 2, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
        (2, (2, 2), 3, (5, 5), (1, 1), (4, 4, 4, 4), (1, 1)),
        (3, (2, 3), 2, (3, 3), (1, 1), (20, 20, 1, 1), (1, 1)),
        (4, (40,), 3, (3,), (1,), (1, 1), (1,)),
        (16, (4, 5, 18), 2, (3, 3, 3), (1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1)),
        (2, (5, 6, 20), 3, (2, 3, 3), (2, 1, 2), (1, 0, 1, 0, 1, 1), (2, 1, 1)),
    ]  # fmt: skip
    out = []
    for i, (channels, size, outputs, kernel, strides, pads, dilations) in enumerate(shapes):
        op = Conv(kernel, strides, pads, dilations, 1, RELU if i % 2 else None)
        weights, bias = _array(outputs, channels, *kernel), _array(outputs) if i % 3 else None
        out.append(Case("conv_rows", op, ((BATCH, channels, *size), weights, bias), batch=1 + i % 3))
    head: tuple[Any, ...] = ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    return [
        *out,
        Case("conv_rows", Conv(*head, RESIDUAL), ((BATCH, 3, 5, 21), _array(2, 3, 3, 3), _array(2), (BATCH, 2, 5, 21))),
        Case(
            "conv_rows",
            Conv(*head, MUL_ADD_RELU),
            ((BATCH, 3, 5, 16), _array(4, 3, 3, 3), None, (BATCH, 4, 1, 1), _array(4, 1, 1)),
        ),
    ]


def dense_cases() -> list[Case]:
    out = [
        Case("dense", Dense(), ((BATCH, depth), _array(depth, outputs), _array(outputs)), batch=batch)
        for batch, depth, outputs in ((1, 20, 10), (3, 21, 70), (7, 12, 130), (65, 9, 33), (4, 8, 64))
    ]
    return out + [
        Case("dense", Dense(RESIDUAL), ((BATCH, 13), _array(13, 37), None, (BATCH, 37)), batch=5),
        Case("dense", Dense(RESIDUAL), ((6, 13), _array(13, 37), _array(37), _array(37))),
        Case("matmul", MatMul(), ((BATCH, 5, 7), (BATCH, 7, 19))),
        Case("matmul", MatMul(), ((BATCH, 3, 5, 7), (3, 7, 70))),
        Case("matmul", MatMul(), ((BATCH, 3, 5, 7), (BATCH, 1, 7, 9))),
        Case("matmul", MatMul(), ((BATCH, 5, 7), (7, 33))),
        Case("matmul", MatMul(), ((7,), (BATCH, 7, 33))),
        Case("matmul", MatMul(), ((BATCH, 5, 7), (7,))),
        Case("matmul", MatMul(), ((26, 7), (7, 130))),
    ]  # fmt: skip


def reduce_cases() -> list[Case]:
    out = []
    for kind in ("sum", "mean", "max", "min"):
        out.append(Case("reduce_spatial", Reduce(kind, (2, 3), True), ((BATCH, 19, 3, 5),)))
        out.append(Case("reduce_spatial", Reduce(kind, (2,), False), ((BATCH, 32, 3),)))
    for kind in ("mean", "sum", "max", "min", "prod", "l1", "l2", "log_sum", "log_sum_exp", "sum_square"):
        positive = kind == "log_sum"
        out.append(Case("reduce", Reduce(kind, (2, 3), False), ((BATCH, 2, 5, 31),), positive=positive, tolerance=1e-4))
        out.append(Case("reduce", Reduce(kind, (1,), True), ((BATCH, 5, 19),), positive=positive, tolerance=1e-4))
    out.append(Case("reduce", Reduce("sum", (1, 2), True), ((4, 5, 1, 9, 2),)))
    out.append(Case("reduce", Reduce("max", (1,), True), ((BATCH, 1, 9),)))
    for log in (False, True):
        out.append(Case("softmax", Softmax(1, log), ((BATCH, 37),), scale=5.0))
        out.append(Case("softmax", Softmax(1, log), ((BATCH, 5, 3, 7),), scale=5.0))
        out.append(Case("softmax", Softmax(2, log), ((BATCH, 3, 2, 1),), scale=50.0))
        out.extend(Case("softmax", Softmax(2, log), ((BATCH, rows, columns),), scale=20.0) for rows, columns in ((37, 2), (9, 8), (700, 4)))
    return out


def lrn_cases() -> list[Case]:
    return [
        Case("lrn", LRN(size, alpha, 0.75, bias), (shape,), scale=3.0)
        for size, alpha, bias, shape in (
            (5, 0.1, 1.0, (BATCH, 19, 3, 7)), (4, 0.5, 2.0, (BATCH, 3, 5, 4)), (1, 0.5, 0.3, (BATCH, 32, 17)), (9, 0.1, 1.0, (BATCH, 7)),
            (70, 0.7, 1.0, (BATCH, 6, 2, 2)), (11, 0.7, 1.0, (1, 6, 2, 1, 3)),
        )
    ]  # fmt: skip


def movement_cases() -> list[Case]:
    return [
        Case("copy_strided", Transpose((0, 2, 3, 1)), ((BATCH, 19, 5, 7),)),
        Case("copy_strided", Transpose((0, 3, 1, 2)), ((BATCH, 5, 7, 35),)),
        Case("copy_strided", Transpose((1, 0, 2)), ((BATCH, 3, 21),)),
        Case("copy_strided", Transpose((3, 1, 2, 0)), ((BATCH, 3, 4, 21),), batch=17),
        Case("copy_strided", Transpose((0, 2, 1, 3, 4)), ((BATCH, 4, 5, 3, 3),)),
        Case("copy_strided", Transpose((1, 0)), ((300, 33),)),
        Case("copy_strided", Transpose((4, 2, 0, 3, 1)), ((2, 3, 4, 5, 6),)),
        Case("copy_strided", Transpose(()), ((),)),
        Case("copy_strided", Transpose((0, 2, 3, 1)), ((BATCH, 32, 3, 5),)),
        Case("copy_strided", Transpose((0, 3, 1, 2)), ((BATCH, 3, 5, 32),)),
        Case("copy_strided", Transpose((0, 1, 3, 2)), ((BATCH, 16, 3, 20),)),
        Case("copy_strided", Transpose((0, 2, 1, 3)), ((BATCH, 48, 32, 5),)),
        Case("copy_strided", Transpose((1, 0, 2)), ((BATCH, 16, 32),)),
        Case("copy_strided", Transpose((0, 3, 5, 2, 4, 1)), ((BATCH, 32, 4, 2, 3, 2),)),
        Case("copy_strided", Transpose((0, 5, 3, 1, 4, 2)), ((BATCH, 2, 2, 4, 3, 32),)),
        Case("copy_strided", Transpose((0, 1, 4, 2, 5, 3)), ((BATCH, 3, 2, 2, 4, 5),)),
        Case("copy_strided", Transpose((0, 2, 1)), ((BATCH, 3, 90),)),
        Case("copy_strided", Transpose((0, 2, 1)), ((BATCH, 90, 3),)),
        Case("copy_strided", Transpose((0, 2, 1, 3)), ((BATCH, 70, 8, 2),)),
        Case("copy_strided", Transpose((1, 0, 2)), ((700, 3, 40),)),
        Case("copy_strided", Transpose((6, 4, 2, 0, 1, 3, 5)), ((2, 3, 2, 3, 2, 3, 2),)),
        Case("copy_strided", Slice((0, 1, 0, 2), (1, 1, 1, 2), (BATCH, 2, 5, 3)), ((BATCH, 4, 5, 7),)),
        Case("copy_strided", Slice((0, 16, 0, 0), (1, 1, 1, 1), (BATCH, 19, 3, 5)), ((BATCH, 48, 3, 5),)),
        Case("copy_strided", Slice((0, 16, 1, 2), (1, 1, 2, 3), (BATCH, 19, 3, 4)), ((BATCH, 48, 7, 12),)),
        Case("copy_strided", Slice((4, 6), (-1, -3), (5, 3)), ((6, 7),)),
        Case("copy_strided", Expand((BATCH, 3, 5, 7)), ((3, 1, 7),)),
        Case("copy_strided", Expand((BATCH, 3, 5, 19)), ((BATCH, 3, 5, 1),)),
        Case("copy_strided", Expand((4, 5)), ((),)),
        Case("pad", Pad((0, 0, 1, 2, 0, 0, 3, 1), "constant", -1.5), ((BATCH, 3, 4, 19),)),
        Case("pad", Pad((0, 2, 0, 0, 1, 0), "constant", 0.0), ((BATCH, 3, 5),)),
        Case("pad", Pad((0, 1, -1, -2, 0, 0, 2, -3), "constant", -np.inf), ((BATCH, 3, 4, 25),)),
        Case("pad", Pad((3, -2), "constant", 2.0), ((9,),)),
        Case("pad", Pad((1, 0, 2, 0, 0, 1), "constant", 2.0), ((2, 3, 4),)),
        Case("pad", Pad((0, -1, -1, 5), "constant", 2.0), ((3, 2),)),
        Case("gather", Gather(1), ((BATCH, 6, 5, 4), np.array([5, -6, 0, 2]))),
        Case("gather", Gather(2), ((3, 2, 7), np.array([[1, 1], [-1, 3]], np.int32))),
        Case("gather", Gather(1), ((BATCH, 6), np.array(2))),
        Case("concat", Concat(1), ((BATCH, 16, 3, 5), (BATCH, 32, 3, 5), (BATCH, 3, 3, 5))),
        Case("concat", Concat(1), ((BATCH, 3, 4), (BATCH, 5, 4))),
        Case("concat", Concat(3), ((BATCH, 3, 4, 5), (BATCH, 3, 4, 90), (BATCH, 3, 4, 1))),
        Case("concat", Concat(0), ((4, 3), (1, 3))),
        Case("concat", Concat(2), ((BATCH, 70, 2), (BATCH, 70, 3), (BATCH, 70, 1))),
        Case("concat", Concat(1), tuple((BATCH, 1 + i % 3, 7) for i in range(9))),
    ]  # fmt: skip


def reorder_cases(width: int) -> list[Case]:
    """Cases whose layouts depend on the lanes: blocked output of a plain input."""
    return [
        Case("reorder", Reorder(Layout(width)), (shape,), tolerance=0)
        for shape in ((BATCH, 35, 5, 7), (BATCH, 3, 9), (BATCH, 32, 1, 1), (BATCH, 21), (1, 16, 40, 30))
    ]


ALL = {
    f"{i}-{case.template}-{case.op.name}": case
    for i, case in enumerate(
        elementwise_cases()
        + pool_cases()
        + pool_plain_cases()
        + depthwise_cases()
        + conv_rows_cases()
        + dense_cases()
        + reduce_cases()
        + lrn_cases()
        + movement_cases()
    )
}
HALVES = {name: dataclasses.replace(case, half=True) for name, case in ALL.items() if case.template != "softmax"}
"""The same in bfloat16."""
