"""Every template as bounds-checked Python, in the three x86 instruction sets, against the operators' references."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import PLAIN
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Reorder
from cnngraph_cpu import backend
from tests.backends.template_cases import Case, requests, run_emulated
from tests.backends.template_table import ALL, HALVES, reorder_cases

ISAS = ("avx512", "avx2", "sse4")


@pytest.mark.parametrize("name", ALL)
def test_emulated_kernel_meets_reference(name: str) -> None:
    for isa in ISAS:
        for request in requests(ALL[name], isa):
            run_emulated(ALL[name], isa, request)


@pytest.mark.parametrize("name", [n for n in ALL if ALL[n].template in ("dense", "pool", "reduce", "softmax")][::5])
def test_threads_do_not_change_a_bit(name: str) -> None:
    for request in requests(ALL[name], "avx2"):
        one, four = (run_emulated(ALL[name], "avx2", request, threads=t) for t in (1, 4))
        assert np.array_equal(one, four)


@pytest.mark.parametrize("name", HALVES)
def test_emulated_kernel_in_bfloat16_meets_reference(name: str) -> None:
    for isa in ("avx512bf16", "avx2"):
        for request in requests(HALVES[name], isa):
            run_emulated(HALVES[name], isa, request)


@pytest.mark.parametrize("isa", ISAS)
def test_reorder_to_and_from_blocks(isa: str) -> None:
    for case in reorder_cases(backend.target(isa).width):
        for request in requests(case, isa):
            run_emulated(case, isa, request)
            back = Case("reorder", Reorder(PLAIN), case.inputs, tolerance=0)
            reverse = LayoutRequest(request.outputs, (PLAIN,))
            run_emulated(back, isa, reverse)
