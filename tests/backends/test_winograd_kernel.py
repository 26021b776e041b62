"""Winograd F(4x4, 3x3) and F(2x2, 3x3) against the reference, whichever of them the cost model would take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cnngraph.ir.types import BATCH
from cnngraph.kernels.template import Packed
from cnngraph.ops import Conv
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.templates import winograd_blocking, winograd_plan
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.winograd_blocking import F32, choose_blocking
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated

RESIDUAL = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


def case(channels: int, filters: int, size: tuple[int, int], pads: tuple[int, ...] = (1,) * 4, residual: bool = False) -> Case:
    rng = np.random.default_rng(channels)
    w = rng.standard_normal((filters, channels, 3, 3)).astype(np.float32)
    op = Conv((3, 3), (1, 1), pads, (1, 1), 1, RESIDUAL if residual else Expression.of("relu"))
    inputs: list[object] = [(BATCH, channels, *size), w, rng.standard_normal(filters).astype(np.float32)]
    if residual:
        inputs.append((BATCH, filters, size[0] + pads[0] + pads[2] - 2, size[1] + pads[1] + pads[3] - 2))
    return Case("winograd", op, tuple(inputs), batch=2, tolerance=1e-4)  # type: ignore[arg-type]


CASES = [
    case(17, 9, (7, 7), residual=True),
    case(16, 33, (4, 9)),
    case(19, 16, (8, 3), (0, 1, 1, 0), residual=True),
    case(33, 70, (2, 2)),
    case(16, 5, (13, 1), (2, 2, 0, 0)),
]


KINDS = [(tile.outputs, raw) for tile in reversed(F32.tiles) for raw in (False, True)]


@pytest.fixture(params=KINDS, ids=str)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bool]:
    """Let the plan choose among blockings of one tile size; and transform no weights, so that kernels do, a block of channels at a time."""
    outputs, raw = request.param
    tiles = tuple(tile for tile in F32.tiles if tile.outputs == outputs)
    monkeypatch.setattr(winograd_plan.Winograd, "arithmetic", replace(F32, tiles=tiles, most_bytes=0 if raw else F32.most_bytes))
    if raw:
        monkeypatch.setattr(winograd_blocking, "blocks_at_once", lambda *_: 1)
    return outputs, raw


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse4"])
def test_emulated_kernel_meets_reference(number: int, isa: str, kind: tuple[int, bool]) -> None:
    if TEMPLATES["winograd"].accepts(build(CASES[number]), backend.target(isa)) is not None:
        pytest.skip("not with vectors of this width")
    (request,) = requests(CASES[number], isa)
    constants = dict(plan(CASES[number], isa, request)[1].spec.constants)
    assert (constants["M"], bool(constants.get("RAW"))) == kind
    one, three = (run_emulated(CASES[number], isa, request, threads=threads) for threads in (1, 3))
    assert np.array_equal(one, three)


@pytest.mark.parametrize(
    "kind", [k if k in ((2, False), (4, True)) else pytest.param(k, marks=pytest.mark.slow) for k in KINDS], indirect=True, ids=str
)
def test_compiled_kernel_meets_reference(kind: tuple[int, bool]) -> None:
    isa = backend.isas()[0].replace("vnni", "").replace("bf16", "")
    cases = CASES[:3]
    calls = [plan(c, isa, requests(c, isa)[0])[1] for c in cases]
    kernels = Compiled(calls, isa)
    for c in cases:
        run_compiled(c, requests(c, isa)[0], isa, kernels)


def test_deep_layers_on_small_maps_take_the_small_tile() -> None:
    """There the 36 weights of a 6x6 tile would be read from memory for four tiles only."""
    target, layers = backend.target("avx512"), ((64, 56), (256, 14), (512, 7))
    chosen = [choose_blocking(geometry(build(case(c, c, (size, size)))), target).outputs for c, size in layers]
    assert chosen == [4, 4, 2]


def test_large_weights_are_transformed_by_the_kernel() -> None:
    """Not to keep four times the filters in memory: the plan's data are as many as the filters, and all tiles of an image share them."""
    target, winograd = backend.target("avx512"), TEMPLATES["winograd"]
    for c, f, size, raw in ((256, 256, 56, False), (256, 512, 28, True), (512, 512, 14, True)):
        call = plan(case(c, f, (size, size)), "avx512", requests(case(c, f, (size, size)), "avx512")[0])[1]
        blocking = choose_blocking(geometry(build(case(c, f, (size, size)))), target)
        packed = call.arguments["w"]
        assert isinstance(packed, Packed) and winograd.name == call.spec.template
        assert (blocking.raw, packed.data.size // (c * f)) == (raw, 9 if raw else 36)
        assert not raw or blocking.tile_rows == -(-size // 4)
