"""int64 arithmetic and its casts, emulated and compiled, against the operators' references, which they must equal."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, Dim, DType
from cnngraph.ops import Cast, Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from cnngraph_cpu.templates.eltwise_long import FUNCTIONS
from tests.backends.int8_cases import Computed, IntCase, build, plan, requests, run_compiled, run_emulated
from tests.backends.template_cases import Compiled

MAP: tuple[Dim, ...] = (BATCH, 19, 3, 7)
SCALE = Elementwise(Expression(3, (Instr("mul", (1, 2)), Instr("div", (3, 0)))))
ENDS = np.array([0, 1, -1, 7, -7, (1 << 63) - 1, -(1 << 63), 1 << 40], np.int64)
LEFT, RIGHT = (np.ascontiguousarray(a) for a in np.broadcast_arrays(ENDS[:, None], ENDS[None, :]))
FLOATS = np.array([0.0, -0.0, 1.5, -1.5, 2.5e9, -9.3e18, 1e30, np.inf, -np.inf, 16777217.0], np.float32)


def pair(fn: str) -> IntCase:
    arity = 1 if fn in ("neg", "abs", "relu") else 2
    inputs = tuple(Computed(DType.I64, LEFT.shape, a) for a in (LEFT, RIGHT)[:arity])
    return IntCase("eltwise_long", Elementwise(Expression.of(fn, arity)), inputs)


CASES = {
    "scale": IntCase("eltwise_long", SCALE, (np.array(16, np.int64), Computed(DType.I64, MAP), np.array([[-37]], np.int64))),
    "image": IntCase("eltwise_long", SCALE, (Computed(DType.I64, (1,)), Computed(DType.I64, (BATCH, 5)), Computed(DType.I64, (BATCH, 5)))),
    **{
        f"quotient_{divisor}": IntCase(
            "eltwise_long", Elementwise(Expression.of("div", 2)), (Computed(DType.I64, LEFT.shape, LEFT), np.array([divisor], np.int64))
        )
        for divisor in (1, 2, 1 << 24, 1 << 62, -(1 << 63), 0, 24, -8)
    },
    "own_divisor": IntCase(
        "eltwise_long",
        Elementwise(Expression(2, (Instr("div", (1, 1)), Instr("add", (0, 2))))),
        (
            Computed(DType.I64, MAP),
            np.array(4, np.int64),
        ),
    ),
    **{fn: pair(fn) for fn in sorted(FUNCTIONS)},
    "to_long": IntCase("cast_to_long", Cast(DType.I64), (Computed(DType.F32, MAP),)),
    "to_long_ends": IntCase("cast_to_long", Cast(DType.I64), (Computed(DType.F32, FLOATS.shape, FLOATS),)),
    "from_long": IntCase("cast_from_long", Cast(DType.F32), (Computed(DType.I64, MAP),)),
    "from_long_ends": IntCase("cast_from_long", Cast(DType.F32), (Computed(DType.I64, ENDS.shape, ENDS),)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_emulated_kernel_equals_reference(name: str) -> None:
    for isa in ("avx512", "sse4"):
        for request in requests(CASES[name], isa):
            run_emulated(CASES[name], isa, request)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_compiled_kernels_equal_reference() -> None:
    isa = "avx2" if "avx2" in backend.isas() else backend.isas()[-1]
    pairs = [(case, request) for case in CASES.values() for request in requests(case, isa)]
    kernels = Compiled([plan(case, isa, request)[1] for case, request in pairs], isa)
    for case, request in pairs:
        run_compiled(case, request, isa, kernels)


@pytest.mark.parametrize(("name", "halved"), [("scale", True), ("quotient_2", True), ("quotient_24", False), ("own_divisor", False)])
def test_quotients_by_powers_of_two_are_shifts(name: str, halved: bool) -> None:
    case = CASES[name]
    functions = {i.fn for i in plan(case, "avx512", requests(case, "avx512")[0])[1].spec.expression.instrs}
    assert ("halved" in functions, "div" in functions) == (halved, not halved)


def test_refusals() -> None:
    target, template = backend.target("avx2"), TEMPLATES["eltwise_long"]
    by_channel = IntCase("eltwise_long", Elementwise(Expression.of("add", 2)), (Computed(DType.I64, MAP), Computed(DType.I64, (19, 1, 1))))
    floats = IntCase("eltwise_long", Elementwise(Expression.of("neg", 1)), (Computed(DType.F32, MAP),))
    root = IntCase("eltwise_long", Elementwise(Expression.of("sqrt", 1)), (Computed(DType.I64, MAP),))
    for case, word in ((by_channel, "broadcast"), (floats, "int64"), (root, "sqrt")):
        assert word in (template.accepts(build(case), target) or "")
