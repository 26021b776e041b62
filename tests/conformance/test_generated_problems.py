"""Problems drawn at random: every kernel that accepts one, emulated with bounds checks on each instruction set, against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cnngraph.errors import InvalidModelError
from cnngraph.ops import Conv, Dense, Elementwise, Op, Pool, Reduce
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, build, requests, run_emulated

ISAS = ("avx512", "avx2", "sse4")
SETTINGS = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
RESIDUAL_RELU = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))


def check(op: Op, inputs: tuple, isa: str, tolerance: float = 2e-5) -> None:
    """Run every template that accepts the node, in every layout it offers."""
    try:
        node = build(Case("", op, inputs))
    except InvalidModelError:
        assume(False)
    accepting = [t.name for t in TEMPLATES.values() if t.accepts(node, backend.target(isa)) is None]
    assert accepting, f"no kernel takes {op}"
    for name in accepting:
        case = Case(name, op, inputs, tolerance=max(tolerance, 1e-4 if name == "winograd" else 0.0))
        for request in requests(case, isa):
            run_emulated(case, isa, request)


def weights(*shape: int) -> np.ndarray:
    """Seeded constants."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@SETTINGS
@given(data=st.data())
def test_convolution(isa: str, data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2, 2, 2, 3]))

    def ints(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    kernel = data.draw(st.sampled_from([(3,) * rank, (1,) * rank, None])) or ints(1, 4)
    strides = data.draw(st.sampled_from([(1,) * rank, None])) or ints(1, 3)
    dilations = data.draw(st.sampled_from([(1,) * rank, None])) or ints(1, 2)
    group = data.draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = group * data.draw(st.integers(1, 12)), group * data.draw(st.integers(1, 12))
    if data.draw(st.booleans()) and group > 1:
        channels = filters = group
    epilogue = data.draw(st.sampled_from([None, Expression.of("relu"), RESIDUAL_RELU]))
    op = Conv(kernel=kernel, strides=strides, pads=ints(0, 2, 2 * rank), dilations=dilations, group=group)
    size = ints(3, 9 if rank < 3 else 5)
    inputs: tuple = ((2, channels, *size), weights(filters, channels // group, *kernel), weights(filters))
    try:
        shape = build(Case("", op, inputs)).output.type.shape
    except InvalidModelError:
        assume(False)
    op = Conv(op.kernel, op.strides, op.pads, op.dilations, op.group, epilogue)
    check(op, (*inputs, shape) if epilogue is RESIDUAL_RELU else inputs, isa)


@pytest.mark.parametrize("isa", ISAS)
@SETTINGS
@given(data=st.data())
def test_pooling(isa: str, data: st.DataObject) -> None:
    rank = data.draw(st.sampled_from([1, 2, 2, 3]))

    def ints(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    kernel = ints(1, 4)
    op = Pool(
        kind=data.draw(st.sampled_from(["max", "average"])), kernel=kernel, strides=ints(1, 3),
        pads=tuple(data.draw(st.integers(0, k - 1)) for k in kernel + kernel),
        dilations=data.draw(st.sampled_from([(1,) * rank, None])) or ints(1, 2),
        ceil_mode=data.draw(st.booleans()), count_include_pad=data.draw(st.booleans()), indices=False, storage_order=0,
    )  # fmt: skip
    check(op, ((2, data.draw(st.integers(1, 20)), *ints(2, 9)),), isa)


@pytest.mark.parametrize("isa", ISAS)
@SETTINGS
@given(rows=st.integers(1, 15), depth=st.integers(1, 40), columns=st.integers(1, 140), bias=st.booleans(), fused=st.booleans())
def test_dense(isa: str, rows: int, depth: int, columns: int, bias: bool, fused: bool) -> None:
    epilogue = RESIDUAL_RELU if fused else None
    inputs: tuple = ((rows, depth), weights(depth, columns), weights(columns) if bias else None)
    check(Dense(epilogue), (*inputs, (rows, columns)) if fused else inputs, isa)


@pytest.mark.parametrize("isa", ISAS)
@SETTINGS
@given(data=st.data())
def test_elementwise(isa: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5)))
    other = tuple(d if data.draw(st.booleans()) else 1 for d in shape)[data.draw(st.integers(0, len(shape))) :]
    fn = data.draw(st.sampled_from(["add", "sub", "mul", "min", "max"]))
    activation = data.draw(st.sampled_from(["relu", "sigmoid", "tanh", "hard_swish"]))
    expression = Expression(2, (Instr(fn, (0, 1)), Instr(activation, (2,))))
    check(Elementwise(expression), ((2, *shape), other if other else weights(1).reshape(())), isa)


@pytest.mark.parametrize("isa", ISAS)
@SETTINGS
@given(data=st.data())
def test_reduction(isa: str, data: st.DataObject) -> None:
    shape = (2, *data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    first = data.draw(st.integers(0, len(shape) - 1))
    axes = tuple(range(first, data.draw(st.integers(first + 1, len(shape)))))
    kind = data.draw(st.sampled_from(["mean", "sum", "max", "min", "l1", "l2", "sum_square", "log_sum_exp"]))
    check(Reduce(kind=kind, axes=axes, keepdims=data.draw(st.booleans())), (shape,), isa)
