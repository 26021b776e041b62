"""Choices of channels: blocked by lanes and plain by rows, from one and several tensors."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, Dim
from cnngraph.kernels.template import LayoutRequest
from cnngraph.ops.channels import TakeChannels
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, build, plan, requests, run_compiled, run_emulated


def shuffled(channels: int, groups: int) -> tuple[int, ...]:
    return tuple(int(c) for c in np.arange(channels).reshape(groups, -1).T.reshape(-1))


def cases(name: str) -> list[Case]:
    pixels: tuple[Dim, ...] = (5, 7)
    chosen: list[tuple[tuple[int, ...], tuple[int, ...], tuple[Dim, ...]]] = [
        (shuffled(58, 2), (29, 29), pixels),
        (shuffled(24, 3), (24,), pixels),
        (shuffled(40, 2)[:20], (17, 23), pixels),
        (tuple(range(5, 30)), (40,), pixels),
        (tuple(range(21)), (3, 18), (13,)),
        ((4, 4, 0, 1, 2), (5,), (2, 3, 4)),
        (tuple(range(64)), (16, 48), pixels),
    ]
    return [Case(name, TakeChannels(channels), tuple((BATCH, c, *size) for c in inputs), tolerance=0) for channels, inputs, size in chosen]


@pytest.mark.parametrize("name", ["take_channels", "take_channels_plain"])
def test_emulated_kernel_meets_reference(name: str) -> None:
    for case in cases(name):
        for isa in ("avx512", "avx2", "sse4"):
            for request in requests(case, isa):
                run_emulated(case, isa, request)


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_compiled_kernels_meet_references(isa: str) -> None:
    chosen = cases("take_channels") + cases("take_channels_plain")
    runs: list[tuple[Case, LayoutRequest]] = [(c, request) for c in chosen for request in requests(c, isa)]
    kernels = Compiled([plan(c, isa, request)[1] for c, request in runs], isa)
    for c, request in runs:
        run_compiled(c, request, isa, kernels)


def test_a_block_from_many_blocks_is_left_to_the_plain_kernel() -> None:
    scattered = TakeChannels(tuple(16 * i for i in range(16)))
    node = build(Case("take_channels", scattered, ((BATCH, 256, 3, 3),)))
    assert TEMPLATES["take_channels"].accepts(node, backend.target("avx512")) == "a block takes its channels from 16 blocks"
    assert TEMPLATES["take_channels_plain"].accepts(node, backend.target("avx512")) is None
