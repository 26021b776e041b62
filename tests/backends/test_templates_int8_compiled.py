"""Compiled kernels of 8-bit tensors on this machine's instruction sets, those with dot products of bytes included."""

from __future__ import annotations

import pytest

from cnngraph.kernels.template import LayoutRequest
from cnngraph_cpu import backend
from cnngraph_cpu.target import available
from tests.backends.int8_cases import IntCase, plan, requests, run_compiled
from tests.backends.int8_table import ALL, LARGE
from tests.backends.template_cases import Compiled

Loaded = tuple[str, list[tuple[str, IntCase, LayoutRequest]], Compiled]


@pytest.fixture(scope="module", params=available(special=True))
def loaded(request: pytest.FixtureRequest) -> Loaded:
    isa = request.param
    step = 1 if isa == available(special=True)[0] else 6
    chosen = {**{name: ALL[name] for name in list(ALL)[::step]}, **LARGE}
    runs = [(name, case, offer) for name, case in chosen.items() for offer in requests(case, isa)]
    return isa, runs, Compiled([plan(case, isa, offer)[1] for _, case, offer in runs], isa)


@pytest.mark.slow
def test_compiled_kernels_equal_references(loaded: Loaded) -> None:
    isa, runs, kernels = loaded
    failures = []
    for name, case, offer in runs:
        try:
            run_compiled(case, offer, isa, kernels)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_dot_products_are_one_instruction() -> None:
    """The code of both VNNI targets is made everywhere, run only where the machine has the instruction."""
    case = ALL["2-qconv-QLinearConv"]
    for isa in ("avx512vnni", "avx2vnni"):
        call = plan(case, isa, requests(case, isa)[0])[1]
        (kernel,) = backend.compile([call.spec], backend.target(isa)).values()
        assert kernel.code
