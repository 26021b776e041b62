"""The resize kernel against the reference: modes, coordinate conventions, ranks, layouts, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN, Dim, Layout
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Resize
from cnngraph.ops.resize import TRANSFORMS
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated

ISAS = ("avx512", "avx2", "sse4")


def case(
    shape: tuple[Dim, ...], axes: tuple[int, ...], sizes: tuple[int, ...], mode: str, transform: str = "half_pixel", *,
    nearest: str = "round_prefer_floor", antialias: bool = False, exclude_outside: bool = False, batch: int = 2, length: float = 0.0,
) -> Case:  # fmt: skip
    lengths = tuple(float(s) + length for s in sizes)
    region = (0.1, 0.2, 0.9, 0.8) if transform == "tf_crop_and_resize" else ()
    op = Resize(axes, sizes, lengths, mode, transform, nearest, antialias, exclude_outside, roi=region)
    return Case("resize", op, (shape,), batch=batch, tolerance=0 if mode == "nearest" else 2e-6)


IMAGE: tuple[Dim, ...] = (BATCH, 19, 5, 7)
CASES = [
    case(IMAGE, (2, 3), (10, 14), "nearest", "asymmetric", nearest="floor"),
    case(IMAGE, (2, 3), (3, 4), "nearest"),
    case(IMAGE, (2, 3), (8, 20), "nearest", "align_corners", nearest="round_prefer_ceil"),
    case(IMAGE, (3,), (21,), "nearest", nearest="ceil"),
    *(case(IMAGE, (2, 3), (10, 14), "linear", t) for t in TRANSFORMS if t != "tf_half_pixel_for_nn"),
    case(IMAGE, (2, 3), (13, 10), "linear", length=0.6),
    case(IMAGE, (2, 3), (3, 4), "linear", antialias=True),
    case(IMAGE, (2, 3), (1, 1), "linear", antialias=True),
    case(IMAGE, (2,), (11,), "linear"),
    case(IMAGE, (3,), (18,), "linear"),
    case(IMAGE, (2, 3), (11, 17), "cubic"),
    case(IMAGE, (2, 3), (7, 3), "cubic", exclude_outside=True),
    case(IMAGE, (2, 3), (2, 3), "cubic", antialias=True),
    case((BATCH, 3, 40, 33), (2, 3), (80, 50), "linear"),
    case((BATCH, 5, 17), (2,), (34,), "linear"),
    case((BATCH, 16, 17), (2,), (12,), "nearest"),
    case((BATCH, 18, 2, 3, 4), (2, 3, 4), (4, 6, 8), "linear"),
    case((BATCH, 18, 2, 3, 4), (2, 4), (3, 7), "linear", "align_corners"),
    case((BATCH, 18, 2, 3, 4), (2, 3, 4), (4, 6, 8), "nearest", "asymmetric", nearest="floor"),
    case((BATCH, 4, 6, 3), (1, 2), (8, 9), "linear"),  # channels last
    case((4, 5, 6), (0, 1), (6, 3), "linear"),
    case((4, 5), (0, 1), (7, 9), "nearest"),
    case((9,), (0,), (21,), "linear"),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_emulated_kernel_meets_reference(number: int) -> None:
    for isa in ISAS:
        for request in requests(CASES[number], isa):
            run_emulated(CASES[number], isa, request)


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_compiled_kernels_meet_references(isa: str) -> None:
    runs: list[tuple[Case, LayoutRequest]] = [(c, request) for c in CASES for request in requests(c, isa)]
    kernels = Compiled([plan(c, isa, request)[1] for c, request in runs], isa)
    for c, request in runs:
        run_compiled(c, request, isa, kernels)


def test_layouts_follow_the_channels() -> None:
    assert [r.inputs[0] for r in requests(CASES[0], "avx512")] == [Layout(16), PLAIN]
    assert [r.inputs[0] for r in requests(case((BATCH, 3, 4, 5), (2, 3), (8, 10), "linear"), "avx512")] == [PLAIN]
    assert [r.inputs[0] for r in requests(case((BATCH, 16, 6, 3), (1, 2), (32, 9), "linear"), "avx512")] == [PLAIN]


def test_threads_do_not_change_a_bit() -> None:
    for number in (4, 13, 16):
        for request in requests(CASES[number], "avx2"):
            one, four = (run_emulated(CASES[number], "avx2", request, threads=t) for t in (1, 4))
            assert np.array_equal(one, four)


def test_extrapolation_is_refused() -> None:
    op = Resize((2, 3), (4, 4), (4.0, 4.0), "linear", "tf_crop_and_resize", roi=(-0.5, 0.0, 1.5, 1.0))
    refusal = TEMPLATES["resize"].accepts(build(Case("resize", op, ((BATCH, 3, 4, 4),))), backend.target("avx2"))
    assert refusal is not None and "extrapolation" in refusal
