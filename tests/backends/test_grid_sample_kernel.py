"""The kernel of bilinear GridSample against the reference: conventions, layouts, points outside, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import cnngraph
from cnngraph.ir.types import BATCH, PLAIN, Dim, Layout, Sym
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import GridSample
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated
from tests.frontend.support import floats, model, node

ISAS = ("avx512", "avx2", "sse4")


def case(shape: tuple[Dim, ...], out: tuple[int, int], padding: str, align_corners: bool, batch: int = 2) -> Case:
    return Case("grid_sample", GridSample("linear", padding, align_corners), (shape, (shape[0], *out, 2)), batch=batch, tolerance=5e-6)


CASES = [
    case((BATCH, 19, 5, 7), (4, 9), "zeros", False),
    case((BATCH, 19, 5, 7), (4, 9), "border", True),
    case((BATCH, 3, 6, 4), (11, 13), "zeros", True),
    case((BATCH, 3, 6, 4), (11, 13), "border", False),
    case((Sym(4), 12, 3, 3), (2, 5), "zeros", False),
    case((2, 33, 1, 1), (3, 2), "border", False),
    case((2, 5, 1, 9), (70, 1), "zeros", False),
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
    assert [r.inputs for r in requests(CASES[0], "avx512")] == [(Layout(16), PLAIN), (PLAIN, PLAIN)]
    assert [r.inputs for r in requests(CASES[2], "avx512")] == [(PLAIN, PLAIN)]


def test_threads_do_not_change_a_bit() -> None:
    for request in requests(CASES[6], "avx2"):
        one, four = (run_emulated(CASES[6], "avx2", request, threads=t) for t in (1, 4))
        assert np.array_equal(one, four)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("channels", [3, 16])
def test_points_at_and_far_outside_the_edges_stay_in_the_image(channels: int, padding: str) -> None:
    """NaN, infinity and the numbers next to the edges read no other memory; outside there are zeros."""
    proto = model([node("GridSample", "x g", "y", padding_mode=padding)], {"x": ["n", channels, 4, 3], "g": ["n", 4, 4, 2]}, opset=16)
    edges = [-1.0, 1.0, np.nextafter(np.float32(1.25), np.float32(0)), -1.25, 1.25, np.nan, np.inf, -np.inf, 1e30, -1e30, 5.0, -5.0]
    grid = np.zeros((1, 4, 4, 2), np.float32)
    grid.reshape(-1, 2)[:12, 1] = edges
    x = np.abs(floats(1, channels, 4, 3)) + 1
    y = cnngraph.compile(proto.SerializeToString()).run({"x": x, "g": grid})["y"].reshape(channels, -1)
    assert np.isfinite(y).all()
    if padding == "zeros":
        assert (y[:, 3:12] == 0).all() and (y[:, 12:] > 0).all()
    else:
        centre = x[0, :, :, 1]
        for place, row in ((0, 0), (1, 3), (2, 3), (3, 0), (4, 3), (6, 3), (7, 0), (8, 3), (9, 0), (10, 3), (11, 0)):
            np.testing.assert_allclose(y[:, place], centre[:, row], rtol=1e-6)


def test_the_last_points_before_the_edge_are_all_but_outside() -> None:
    """A pixel behind the last one, of 4, nearly: one more than its place is rounded to 5, the place itself is not to 4."""
    proto = model([node("GridSample", "x g", "y", align_corners=1)], {"x": ["n", 3, 4, 3], "g": ["n", 8, 8, 2]}, opset=16)
    grid = np.zeros((1, 8, 8, 2), np.float32)
    edge = np.float32(5 / 3)
    grid.reshape(-1, 2)[:, 1] = edge + np.arange(-32, 32, dtype=np.float32) * np.spacing(edge)
    y = cnngraph.compile(proto.SerializeToString()).run({"x": np.ones((1, 3, 4, 3), np.float32), "g": grid})["y"]
    assert y.max() < 1e-4


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (GridSample("cubic", "zeros", False), (2, 3, 4, 5)),
        (GridSample("nearest", "zeros", False), (2, 3, 4, 5)),
        (GridSample("linear", "reflection", False), (2, 3, 4, 5)),
        (GridSample("linear", "zeros", False), (2, 3, 4, 5, 6)),
    ],
)
def test_other_modes_and_ranks_are_refused(op: GridSample, shape: tuple[int, ...]) -> None:
    refused = build(Case("grid_sample", op, (shape, (2, *(2,) * (len(shape) - 2), len(shape) - 2))))
    refusal = TEMPLATES["grid_sample"].accepts(refused, backend.target("avx2"))
    assert refusal is not None and "bilinear" in refusal
