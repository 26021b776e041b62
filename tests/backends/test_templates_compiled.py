"""Compiled kernels on this machine's instruction sets against the operators' references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cnngraph.kernels.template import LayoutRequest
from cnngraph_cpu import backend
from cnngraph_cpu.target import available
from tests.backends.template_cases import Case, Compiled, plan, requests, run_compiled, sample
from tests.backends.template_table import ALL, HALVES, reorder_cases

Loaded = tuple[str, list[tuple[Case, LayoutRequest]], Compiled]


@pytest.fixture(scope="module", params=[*backend.isas(), "avx512bf16"])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    isa = request.param
    if isa not in available(special=True):
        pytest.skip(f"this machine has no {isa}")
    lanes = backend.target(isa).width
    chosen = [*sample(ALL.values(), 1 if isa == backend.isas()[0] else 8), *reorder_cases(lanes)]
    halves = [
        *sample(HALVES.values(), 4 if isa == "avx512bf16" else 12),
        *(dataclasses.replace(c, half=True) for c in reorder_cases(lanes)),
    ]
    chosen = halves if isa == "avx512bf16" else [*chosen, *halves]
    runs = [(case, offer) for case in chosen for offer in requests(case, isa)]
    return isa, runs, Compiled([plan(case, isa, offer)[1] for case, offer in runs], isa)


@pytest.mark.slow
def test_compiled_kernels_meet_references(loaded: Loaded) -> None:
    isa, runs, kernels = loaded
    failures = []
    for case, offer in runs:
        try:
            run_compiled(case, offer, isa, kernels)
        except AssertionError as error:
            failures.append(f"{case}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_a_row_of_a_dense_layer_does_not_depend_on_the_batch(loaded: Loaded) -> None:
    isa, runs, kernels = loaded
    for case, offer in runs:
        if case.template != "dense" or not case.batch > 2:
            continue
        whole = run_compiled(case, offer, isa, kernels)
        for batch in range(1, case.batch):
            part = dataclasses.replace(case, batch=batch)
            shared = run_compiled(part, offer, isa, kernels)
            # the random inputs of fewer rows begin like those of more
            if len([i for i in case.inputs if isinstance(i, tuple)]) == 1:
                assert np.array_equal(shared, whole[:batch])
