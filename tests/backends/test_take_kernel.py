"""Pads of every mode and slices by tables: borders, runs, layouts, and which template a network gets."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, PLAIN, DType, Layout, TensorType
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Conv, Pad, Slice
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated


def pad(shape: tuple, pads: tuple[int, ...], mode: str, value: float = 0.0) -> Case:  # type: ignore[type-arg]
    return Case("take", Pad(pads, mode, value), (shape,), tolerance=0)


IMAGE = (BATCH, 19, 5, 7)
CASES = [
    *(pad(IMAGE, (0, 0, 1, 2, 0, 0, 3, 1), mode) for mode in ("reflect", "edge", "wrap")),
    pad(IMAGE, (0, 0, 0, 6, 0, 0, 0, 6), "reflect"),
    pad(IMAGE, (0, 0, -1, 2, 0, 0, 2, -3), "edge"),
    pad(IMAGE, (0, 0, 9, 20, 0, 0, 3, 17), "wrap"),
    pad((BATCH, 3, 9, 40), (0, 0, 4, 4, 0, 0, 4, 4), "reflect"),
    pad((BATCH, 5, 3, 4), (0, 2, 1, 0, 0, 1, 0, 2), "reflect"),  # channels too
    pad((BATCH, 17, 6), (0, 0, 2, 0, 0, 5), "edge"),
    pad((BATCH, 16, 3, 4, 5), (0, 0, 1, 1, 1, 0, 0, 0, 2, 1), "reflect"),
    pad(IMAGE, (0, 0, 1, 2, 0, 0, 3, 1), "constant", -1.5),
    pad(IMAGE, (0, 0, -1, 0, 0, 0, 0, 2), "constant", -(2.0**100)),
    pad((BATCH, 16, 1, 1), (0, 0, 2, 0, 0, 0, 0, 3), "constant", 2.0),
    Case("take", Slice((0, 0, 1, 2), (1, 1, 1, 1), (BATCH, 19, 3, 4)), (IMAGE,), tolerance=0),
    Case("take", Slice((0, 0, 4, 6), (1, 1, -2, -1), (BATCH, 19, 3, 7)), (IMAGE,), tolerance=0),
    Case("take", Slice((0, 0, 0, 1), (1, 1, 2, 2), (BATCH, 19, 3, 3)), (IMAGE,), tolerance=0),
    Case("take", Slice((0, 0, 3), (1, 1, 1), (BATCH, 16, 4)), ((BATCH, 16, 9),), tolerance=0),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_emulated_kernel_meets_reference(number: int) -> None:
    for isa in ("avx512", "avx2", "sse4"):
        for request in requests(CASES[number], isa):
            run_emulated(CASES[number], isa, request)


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_compiled_kernels_meet_references(isa: str) -> None:
    runs: list[tuple[Case, LayoutRequest]] = [(c, request) for c in CASES for request in requests(c, isa)]
    kernels = Compiled([plan(c, isa, request)[1] for c, request in runs], isa)
    for c, request in runs:
        run_compiled(c, request, isa, kernels)


def test_layouts() -> None:
    assert [r.inputs[0] for r in requests(CASES[0], "avx512")] == [Layout(16), PLAIN]
    assert [r.inputs[0] for r in requests(CASES[6], "avx512")] == [PLAIN, Layout(16)]
    assert [r.inputs[0] for r in requests(CASES[7], "avx512")] == [PLAIN]
    assert [r.inputs[0] for r in requests(CASES[13], "avx512")] == [Layout(16)]
    first_axis = Case("take", Pad((1, 0, 0, 0, 0, 0), "edge"), ((4, 3, 5),))
    assert TEMPLATES["take"].accepts(build(first_axis), backend.target("avx2")) == "the first axis or no axis changes"


@pytest.mark.slow
def test_a_blocked_input_is_padded_and_cut_in_blocks() -> None:
    rng = np.random.default_rng(0)
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 16, 6, 8)))
    weights = [graph.constant(rng.standard_normal((16, 16, 1, 1)).astype(np.float32)) for _ in range(2)]
    layer = Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 1, None)
    (value,) = graph.add(layer, [x, weights[0], None], origin=("conv1",))
    for op in (Pad((0, 0, 2, 2, 0, 0, 2, 2), "reflect"), Pad((0, 0, 0, 1, 0, 0, 0, 0), "constant", 3.0)):
        (value,) = graph.add(op, [value], origin=("pad",))
    (value,) = graph.add(Slice((0, 0, 1, 1), (1, 1, 1, 1), (BATCH, 16, 8, 10)), [value], origin=("cut",))
    (value,) = graph.add(layer, [value, weights[1], None], origin=("conv2",))
    graph.add_output("y", value)
    feeds = {"x": rng.standard_normal((2, 16, 6, 8)).astype(np.float32)}
    want = interpret(graph, feeds)["y"]
    program = compile_graph(graph, CompileOptions())
    (got,) = program.run(feeds).values()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    chosen = {entry["op"]: entry["chosen"] for entry in program.report["selection"]}
    assert chosen["Pad"] == "take" and chosen["Slice"] == "take"
