"""Convolutions on the tile unit: emulated with checked tiles, compiled with tiles in memory, and the instructions of the real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnngraph.ir.types import BATCH
from cnngraph.ops import Conv
from cnngraph.ops.expression import Expression, Instr
from tests.backends.template_cases import Case, build, expected, feeds_of, requests, run_emulated

_RNG = np.random.default_rng(11)
RELU = Expression.of("relu")
RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


def _array(*shape: int) -> np.ndarray:
    return _RNG.standard_normal(shape).astype(np.float32)


def _conv(
    size: tuple[int, ...], channels: int, outputs: int, kernel: tuple[int, ...], stride: int = 1, pads: tuple[int, ...] | None = None,
    dilation: int = 1, group: int = 1, epilogue: Expression | None = None, batch: int = 1, bias: bool = True, images: Any = BATCH,
) -> Case:  # fmt: skip
    rank = len(size)
    op = Conv(kernel, (stride,) * rank, pads or (0,) * 2 * rank, (dilation,) * rank, group, epilogue)
    weights = _array(outputs, channels // group, *kernel) * np.float32((channels // group * np.prod(kernel)) ** -0.5)
    inputs: list[Any] = [(images, channels, *size), weights, _array(outputs) if bias else None]
    if epilogue is RESIDUAL:
        plain = Conv(kernel, (stride,) * rank, pads or (0,) * 2 * rank, (dilation,) * rank, group, None)
        inputs.append((images, *plain.reference(np.zeros((1, channels, *size)), weights, None)[0].shape[1:]))
    return Case("conv_tiles", op, tuple(inputs), batch=batch, tolerance=1e-4)


def _within_bound(case: Case, got: np.ndarray) -> None:
    """The promise of ``math="f32"``: 2e-5 of the layer's output scale, against float64."""
    node = build(case)
    want = expected(case, node, feeds_of(case, node))
    assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


CASES = {
    "1x1": _conv((5, 7), 32, 32, (1, 1)),
    "1x1 ragged, three images": _conv((7, 7), 40, 48, (1, 1), batch=3, epilogue=RELU),
    "1x1 stride 2": _conv((9, 11), 32, 16, (1, 1), 2, batch=2),
    "3x3 padded": _conv((6, 9), 32, 33, (3, 3), pads=(1,) * 4, epilogue=RELU),
    "3x3 residual, three images": _conv((7, 7), 48, 32, (3, 3), pads=(1,) * 4, epilogue=RESIDUAL, batch=3),
    "3x3 stride 2": _conv((9, 13), 20, 40, (3, 3), 2, (1,) * 4, batch=2),
    "3x3 dilated": _conv((9, 8), 32, 32, (3, 3), pads=(2,) * 4, dilation=2, bias=False),
    "5x2 stride 3 dilated 2, uneven pads": _conv((12, 17), 17, 20, (5, 2), 3, (3, 0, 1, 4), 2),
    "groups of 16": _conv((5, 6), 48, 64, (3, 3), pads=(1,) * 4, group=2 + 1 - 1, batch=2),
    "groups of 16 to 24": _conv((4, 5), 48, 72, (3, 3), pads=(1,) * 4, group=3),
    "one dimension": _conv((41,), 32, 32, (5,), 2, (2, 2)),
    "fixed batch": _conv((4, 4), 32, 16, (3, 3), pads=(1,) * 4, images=2, batch=2),
    "padding all around": _conv((2, 2), 16, 16, (3, 3), pads=(4, 3, 2, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_emulated_kernel_meets_reference(name: str) -> None:
    for request in requests(CASES[name], "avx512amx"):
        _within_bound(CASES[name], run_emulated(CASES[name], "avx512amx", request))
