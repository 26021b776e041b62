"""The templates of 8-bit tensors as bounds-checked Python, in the x86 instruction sets, against the operators' references."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import PLAIN
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops import Reorder
from cnngraph_cpu import backend
from tests.backends.int8_cases import IntCase, requests, run_emulated
from tests.backends.int8_table import ALL, reorder_cases

ISAS = ("avx512vnni", "avx2", "sse4")


@pytest.mark.parametrize("name", ALL)
def test_emulated_kernel_equals_reference(name: str) -> None:
    for isa in ISAS if int(name.split("-")[0]) % 3 == 0 else ISAS[:2]:
        for request in requests(ALL[name], isa):
            run_emulated(ALL[name], isa, request)


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
