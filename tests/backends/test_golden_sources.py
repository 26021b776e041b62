"""Generated sources, compared with the files in ``golden/``. Rewrite those with ``CNNGRAPH_UPDATE_GOLDEN=1``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnngraph.ops import Conv, ConvTranspose, Elementwise, Pool, Resize
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cpu import backend
from tests.backends.template_cases import Case, plan, requests

GOLDEN = Path(__file__).parent / "golden"
RESIDUAL_RELU = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


def weights(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


CASES = {
    "conv_direct_residual_relu": Case(
        "conv_direct",
        Conv((3, 3), (2, 2), (1,) * 4, (1, 1), 1, RESIDUAL_RELU),
        ((1, 16, 56, 56), weights(32, 16, 3, 3), weights(32), (1, 32, 28, 28)),
    ),
    "winograd": Case(
        "winograd", Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 1, Expression.of("relu")), ((1, 16, 28, 28), weights(16, 16, 3, 3), None)
    ),
    "winograd_block_float": Case(
        "winograd_block_float",
        Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 1, Expression.of("relu")),
        ((1, 32, 7, 7), weights(16, 32, 3, 3), None),
        half=True,
    ),
    "strassen": Case(
        "strassen", Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 1, Expression.of("relu")), ((1, 16, 3, 3), weights(32, 16, 1, 1), weights(32))
    ),
    "conv_tiles_relu": Case(
        "conv_tiles", Conv((3, 3), (2, 2), (1,) * 4, (1, 1), 1, Expression.of("relu")), ((1, 64, 56, 56), weights(64, 64, 3, 3), None)
    ),
    "conv_transpose_relu": Case(
        "conv_transpose",
        ConvTranspose((4, 4), (2, 2), (1, 1), (1, 1), (56, 56), 1, Expression.of("relu")),
        ((1, 16, 28, 28), weights(16, 16, 4, 4), weights(16)),
    ),
    "resize_linear": Case("resize", Resize((2, 3), (56, 56), (56.0, 56.0), "linear"), ((1, 16, 28, 28),)),
    "pool_max": Case("pool", Pool("max", (3, 3), (2, 2), (1,) * 4, (1, 1), False, False, False, 0), ((1, 16, 56, 56),)),
    "eltwise_silu": Case("eltwise_blocked", Elementwise(Expression(1, (Instr("sigmoid", (0,)), Instr("mul", (0, 1))))), ((1, 16, 8, 8),)),
}


@pytest.mark.parametrize("name", CASES)
def test_source_is_the_golden_one(name: str) -> None:
    case = CASES[name]
    isa = {"conv_tiles": "avx512amx", "winograd_block_float": "avx512bf16"}.get(case.template, "avx2")
    _, call = plan(case, isa, requests(case, isa)[0])
    source = backend.source(call.spec, ["conv1: float32[1x16x56x56]:c8 -> float32[1x32x28x28]:c8"])
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("CNNGRAPH_UPDATE_GOLDEN"):
        path.write_text(source.text)
    assert path.read_text() == source.text
    assert f"def {source.name}(args, tid, threads):" in source.text
