"""The templates of 8-bit tensors as bounds-checked Python, in the x86 instruction sets, against the operators' references."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN, Dim, DType, Layout
from cnngraph.kernels import emulate
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Reorder
from cnngraph.ops.quantized_range import PARTS, RangeOfParts, RangeParameters
from cnngraph_cpu import backend
from tests.backends.int8_cases import Computed, IntCase, plan, prepare, requests, run_emulated
from tests.backends.int8_table import ALL, qconv, reorder_cases

ISAS = ("avx512vnni", "avx2", "sse4")


@pytest.mark.parametrize("name", ALL)
def test_emulated_kernel_equals_reference(name: str) -> None:
    for isa in ISAS if int(name.split("-")[0]) % 3 == 0 else ISAS[:2]:
        for request in requests(ALL[name], isa):
            run_emulated(ALL[name], isa, request)


@pytest.mark.parametrize(("types", "zero", "in_place"), [("usu", 0, True), ("sss", -128, True), ("usu", 3, False), ("sss", 0, False)])
def test_padded_images_are_read_in_place_where_padding_is_zero(types: str, zero: int, in_place: bool) -> None:
    case = qconv((20, 9, 40), 32, (3, 3), (1, 1), (1, 1, 1, 1), types=types, zeros=(zero, 0, 3), batch=1)
    (request,) = requests(case, "avx512vnni")
    _, call = plan(case, "avx512vnni", request)
    assert call.spec.constant("TR") == 1 and call.spec.constant("TC") > 1
    assert (call.spec.constant("SOURCE") == 0) is in_place
    run_emulated(case, "avx512vnni", request)


@pytest.mark.parametrize("name", [name for name in ALL if "conv" in name.lower()][::4])
def test_dot_products_of_short_vectors(name: str) -> None:
    for request in requests(ALL[name], "avx2vnni"):
        run_emulated(ALL[name], "avx2vnni", request)


@pytest.mark.parametrize("layout", [PLAIN, Layout(8)])
@pytest.mark.parametrize("shape", [(BATCH, 19, 5, 7), (BATCH, 3, 41), (BATCH, 16, 3, 3)])
def test_the_range_of_parts_is_that_of_the_tensor(shape: tuple[Dim, ...], layout: Layout) -> None:
    case = IntCase("range_of_parts", RangeOfParts(), (Computed(DType.F32, shape),), batch=3)
    node, call = plan(case, "avx2", LayoutRequest((layout,), (PLAIN,)))
    run = prepare(case, node, call)
    source = backend.source(call.spec)
    emulate.run(source.text, source.name, run.given, 8, threads=3)
    parts, x = run.memories[node.output].read(), run.feeds[node.input(0)]
    assert (parts[:, 0].min(), parts[:, 1].max()) == (x.min(), x.max())


def test_the_range_of_a_tensor_with_the_batch_behind_the_time() -> None:
    case = IntCase("range_of_parts", RangeOfParts(), (Computed(DType.F32, (6, BATCH, 21)),), batch=3)
    node, call = plan(case, "avx2", LayoutRequest((PLAIN,), (PLAIN,)))
    run = prepare(case, node, call)
    source = backend.source(call.spec)
    emulate.run(source.text, source.name, run.given, 8, threads=3)
    parts, x = run.memories[node.output].read(), run.feeds[node.input(0)]
    assert (parts[:, 0].min(), parts[:, 1].max()) == (x.min(), x.max())


@pytest.mark.parametrize(("low", "high"), [(-3.25, 9.5), (0.0, 0.0), (0.0, 2.0), (-7.0, 0.0), (-1e-3, 1e-30)])
def test_parameters_of_a_range(low: float, high: float) -> None:
    parts = np.zeros((PARTS, 2), np.float32)
    parts[3, 0], parts[PARTS - 1, 1] = low, high
    case = IntCase("range_parameters", RangeParameters(), (Computed(DType.F32, parts.shape, parts),))
    run_emulated(case, "sse4", requests(case, "sse4")[0])


@pytest.mark.parametrize("name", list(ALL)[::7])
def test_threads_do_not_change_a_bit(name: str) -> None:
    for request in requests(ALL[name], "avx2"):
        one, four = (run_emulated(ALL[name], "avx2", request, threads=t) for t in (1, 4))
        assert all(np.array_equal(a, b) for a, b in zip(one, four, strict=True))


@pytest.mark.parametrize("isa", ISAS)
def test_reorder_to_and_from_blocks(isa: str) -> None:
    for case in reorder_cases(backend.target(isa).width):
        for request in requests(case, isa):
            run_emulated(case, isa, request)
            back = IntCase("reorder_bytes", Reorder(PLAIN), case.inputs)
            run_emulated(back, isa, LayoutRequest(request.outputs, (PLAIN,)))


@pytest.mark.parametrize("name", ["0-qconv-QLinearConv", "29-qdepthwise-QLinearConv"])
def test_source_is_the_golden_one(name: str) -> None:
    """The files are rewritten with ``CNNGRAPH_UPDATE_GOLDEN=1``."""
    call = plan(ALL[name], "avx512vnni", requests(ALL[name], "avx512vnni")[0])[1]
    path = Path(__file__).parent / "golden" / f"{name.split('-')[1]}.txt"
    text = backend.source(call.spec, ["conv1: uint8[Nx19x6x7]:c16 -> uint8[Nx21x6x7]:c16"]).text
    if os.environ.get("CNNGRAPH_UPDATE_GOLDEN"):
        path.write_text(text)
    assert path.read_text() == text
