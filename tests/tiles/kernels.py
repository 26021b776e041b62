"""The tile kernels' real code on the case tables of tests/backends, in a process with the emulated unit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cnngraph.ir.types import BATCH
from cnngraph.kernels.template import KernelCall
from cnngraph.ops import Conv
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.target import ISAS
from cnngraph_cpu.templates import conv_tiles_plan
from tests.backends import int8_cases, template_cases
from tests.backends.int8_cases import IntCase
from tests.backends.int8_table import qconv
from tests.backends.template_cases import Case, Compiled
from tests.backends.test_conv_tiles_kernel import CASES, HALVES, INTEGER_CASES
from tests.tiles.counts import Counting
from tests.tiles.planned import planned

conv_tiles_plan.LEAST_SPLIT_CHANNELS = 0  # as in the tables' own tests
REAL, IN_MEMORY = "avx512amx", "tiles_in_memory"
THREADS = 3


def _checked(counting: Counting, call: KernelCall, batch: int) -> int:
    """Products executed, which with all other instructions must be those of the plan: nothing spilled, one configuration a thread."""
    made, plan = counting.made, planned(call, batch)
    assert made["configure"] == THREADS
    assert {name: made[name] for name in plan} == dict(plan), f"{dict(made)}, planned are {dict(plan)}"
    assert made["dot_bf16"] + made["dot_bytes"] == plan["dot_bf16"] + plan["dot_bytes"]
    return made["dot_bf16"] + made["dot_bytes"]


def _floats(case: Case, real: Compiled, memory: Compiled | None) -> int:
    """``memory``: the kernels with tiles in memory, whose bits are compared, or the plain-Python ones'."""
    products = 0
    for request in template_cases.requests(case, REAL):
        with Counting() as counting:
            got = template_cases.run_compiled(case, request, REAL, real, threads=THREADS)
        if memory is None:
            want = template_cases.run_emulated(case, REAL, request)
        else:
            want = template_cases.run_compiled(case, request, IN_MEMORY, memory, threads=THREADS)
        assert np.array_equal(got, want), f"{case.template} differs, by {np.abs(got - want).max()}"
        products += _checked(counting, template_cases.plan(case, REAL, request)[1], case.batch)
    return products


def _integers(case: IntCase, real: Compiled) -> int:
    """Results are compared with the operator's reference, which they equal."""
    products = 0
    for request in int8_cases.requests(case, REAL):
        with Counting() as counting:
            int8_cases.run_compiled(case, request, REAL, real, threads=THREADS)
        products += _checked(counting, int8_cases.plan(case, REAL, request)[1], case.batch)
    return products


def _calls(floats: list[Case], integers: list[IntCase], isa: str) -> list[KernelCall]:
    return [
        *(template_cases.plan(case, isa, request)[1] for case in floats for request in template_cases.requests(case, isa)),
        *(int8_cases.plan(case, isa, request)[1] for case in integers for request in int8_cases.requests(case, isa)),
    ]


def _executed(floats: list[Case], integers: list[IntCase], in_memory: bool) -> dict[str, Any]:
    real = Compiled(_calls(floats, integers, REAL), REAL)
    memory = Compiled(_calls(floats, [], IN_MEMORY), IN_MEMORY) if in_memory else None
    products = sum(_floats(case, real, memory) for case in floats) + sum(_integers(case, real) for case in integers)
    return {"cases": len(floats) + len(integers), "products": products}


def some() -> dict[str, Any]:
    """One case of each of the four kernels, floats against the plain-Python unit; and numbers below the smallest normal one."""
    small = dataclasses.replace(CASES["1x1"], scale=1e-38)
    floats = [HALVES["3x3 residual, three images"], HALVES["an image, one pixel"], CASES["1x1"], small]
    integers = [case for name in ("qconv_tiles", "qconv_tiles_plain") for case in [c for c in INTEGER_CASES if c.template == name][:1]]
    return _executed(floats, integers, in_memory=False)


def every() -> dict[str, Any]:
    """Every case of the tables; floats against the kernels with tiles in memory."""
    return _executed([*CASES.values(), *HALVES.values()], INTEGER_CASES, in_memory=True)


def drawn(seed: int, count: int) -> dict[str, Any]:
    """``count`` convolutions with sizes, kernels, strides, dilations, padding and batches drawn at random; kernels are few, for sizes are
    run-time arguments.
    """
    rng, target = np.random.default_rng(seed), ISAS[REAL].target
    floats: list[Case] = []
    integers: list[IntCase] = []
    while len(floats) + len(integers) < count:
        plain = bool(rng.integers(2))
        kernel, strides = rng.integers(1, 6, 2).tolist(), rng.integers(1, 4, 2).tolist()
        dilations = [int(rng.integers(1, 3)), 1 if plain else int(rng.integers(1, 3))]
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        size, pads = [int(rng.integers(3, 20)), int(rng.integers(3, 40))], [int(rng.integers(0, span + 1)) for span in spans * 2]
        if any(extent + pads[axis] + pads[axis + 2] < spans[axis] for axis, extent in enumerate(size)):
            continue
        shape = (int(rng.choice([1, 3, 4, 5, 15] if plain else [16, 20, 32, 48, 64, 70, 130])), *size)
        outputs, batch = 48, int(rng.integers(1, 4))
        geometry = (tuple(kernel), tuple(strides), tuple(pads), tuple(dilations))
        if rng.integers(2):
            name, zeros = "qconv_tiles_plain" if plain else "qconv_tiles", (int(rng.integers(-128, 128)), 0, 3)
            integer = qconv(shape, outputs, *geometry, types="sss", zeros=zeros, batch=batch, template=name)  # type: ignore[arg-type]
            if TEMPLATES[name].accepts(int8_cases.build(integer), target) is None:
                integers.append(integer)
            continue
        name, taps = "conv_tiles_plain" if plain else "conv_tiles", shape[0] * int(np.prod(kernel))
        weights = rng.standard_normal((outputs, shape[0], *kernel)).astype(np.float32) * np.float32(taps**-0.5)
        inputs = ((BATCH, *shape), weights, None)
        case = Case(name, Conv(*geometry, 1, None), inputs, batch=batch, tolerance=1e-4, half=bool(rng.integers(2)))
        if TEMPLATES[name].accepts(template_cases.build(case), target) is None:
            floats.append(case)
    return _executed(floats, integers, in_memory=True)
