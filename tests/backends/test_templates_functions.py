"""The compiled vector functions against NumPy in float64, over all magnitudes and the special values."""

from __future__ import annotations

import ast
import inspect
import textwrap

import numpy as np
import pytest

from cnngraph.kernels.specialize import EXPRESSIONS, VECTOR_NAMES
from cnngraph.ops import Elementwise, Expression
from cnngraph.ops.scalar import FUNCTIONS
from cnngraph_cpu import backend
from cnngraph_cpu.registry import TEMPLATES
from tests.backends.template_cases import Case, Compiled, arguments, plan, requests

PARAMETERS = {"clip": (-1.5, 6.0), "scale": (1.7,), "shift": (0.5,), "leaky_relu": (0.1,), "elu": (1.3,), "selu": (1.6732632, 1.050701),
              "hard_sigmoid": (0.2, 0.5), "celu": (0.7,), "thresholded_relu": (0.8,), "shrink": (0.75, 0.25)}  # fmt: skip
CANCELLING = {"shift": 1e-7, "hard_sigmoid": 1e-7, "hard_swish": 1e-6}
"""Absolute errors allowed where a sum may cancel, which no float32 evaluation avoids."""
SMALLEST_NORMAL = 1.2e-38


def _inputs() -> np.ndarray:
    rng = np.random.default_rng(0)
    special = [
        0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754944e-38, 1e-39, 3.4028235e38, -3.4028235e38, 88.72, 88.73, -87.3,
        -87.4, -103.9, -104.0, 0.625, -0.625, 1.0, -1.0,
    ]  # fmt: skip
    wide = np.exp(rng.uniform(-100, 88, 20000))
    parts = [np.linspace(-120, 120, 20001), rng.standard_normal(20000) * 3, wide, -wide, np.array(special)]
    return np.concatenate(parts).astype(np.float32)


def _error(name: str, got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Relative error, 0 where both are the same infinity or NaN, infinite where only one is."""
    want = np.where(np.abs(want) > np.finfo(np.float32).max, np.sign(want) * np.inf, want)
    difference = np.maximum(np.abs(got - want) - CANCELLING.get(name, SMALLEST_NORMAL), 0)
    error = difference / np.maximum(np.abs(want), SMALLEST_NORMAL)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


@pytest.mark.slow
@pytest.mark.parametrize("isa", backend.isas())
def test_every_scalar_function(isa: str) -> None:
    first = _inputs()
    operands = [first, *(np.random.default_rng(seed).permutation(first) for seed in (1, 2, 3))]
    second = operands[1]
    cases = {}
    for name, function in FUNCTIONS.items():
        expression = Expression.of(name, function.arity, PARAMETERS.get(name, ()))
        cases[name] = Case("eltwise_plain", Elementwise(expression), ((first.size,),) * function.arity)
    plans = {name: plan(case, isa, requests(case, isa)[0]) for name, case in cases.items()}
    kernels = Compiled([call for _, call in plans.values()], isa)
    worst = {}
    for name, (node, call) in plans.items():
        feeds = {value: array for value, array in zip(node.inputs, operands, strict=False) if value is not None}
        given, output, _ = arguments(cases[name], call, node, feeds)
        kernels.call(call, given, 1)
        with np.errstate(all="ignore"):
            want = cases[name].op.reference(*(array.astype(np.float64) for array in feeds.values()))[0]
            error = _error(name, output.read().astype(np.float64), want)
        if error.max() > 1e-6:
            at = int(error.argmax())
            worst[name] = (error.max(), first[at], second[at], output.read()[at], want[at])
    assert not worst


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_variable_of_a_template_hides_a_function_of_its_expression(name: str) -> None:
    code = TEMPLATES[name].code
    nodes = [
        node
        for function in (code.function, *code.helpers.values())
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
    ]
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    registers = {
        node.targets[0].id
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "registers"
        if isinstance(node.targets[0], ast.Name)
    }
    variables = {node.arg for node in nodes if isinstance(node, ast.arg)}
    variables |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    if called & {"epilogue", *EXPRESSIONS}:
        assert not (variables - registers) & (set(FUNCTIONS) | set(VECTOR_NAMES.values()))
