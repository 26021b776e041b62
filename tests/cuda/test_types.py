"""Kernels of integers, truth values and bits, and between types, in the emulator against the operators' definitions."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import UnsupportedError
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Cast, Elementwise
from cnngraph.ops.cast import BitCast
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.logic import BINARY, PREDICATES, Bits, Predicate, Where
from cnngraph_cuda.jit import missing_packages

from .support import build, emulate

INTEGERS = (DType.I8, DType.U8, DType.I16, DType.U16, DType.I32, DType.U32, DType.I64, DType.U64)
FLOATS = (DType.F32, DType.F16)


def numbers(dtype, shape, seed):
    """Numbers over the whole range of a type, with its ends, zeros and ones among them; floats also with infinities and NaN."""
    rng = np.random.default_rng(seed)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_float:
        x = rng.integers(-40, 41, shape).astype(dtype.numpy) / dtype.numpy.type(4)
        special = np.array([np.nan, np.inf, -np.inf, -0.0], dtype.numpy)
        return np.where(rng.random(shape) < 0.2, rng.choice(special, shape), x)
    low, high = dtype.range
    x = rng.integers(low, high, shape, dtype.numpy, endpoint=True)
    small = rng.integers(0 if low == 0 else -3, 4, shape).astype(dtype.numpy)
    return np.where(
        rng.random(shape) < 0.4, small, np.where(rng.random(shape) < 0.2, rng.choice(np.array([low, high], dtype.numpy), shape), x)
    )


def graph_of(op, *types):
    """A network of one operator, and the graph's inputs."""
    graph = Graph("test")
    values = [graph.add_input(f"x{i}", TensorType(dtype, shape)) for i, (dtype, shape) in enumerate(types)]
    graph.add_output("y", graph.add(op, values, origin=("node",))[0])
    return graph


def check(op, *types, template, feeds=None, isa="sm_90"):
    """Compile, emulate, and compare every bit with the reference."""
    graph = graph_of(op, *types)
    shapes = [[3 if d is BATCH else d for d in shape] for _, shape in types]
    arrays = feeds or [numbers(dtype, shape, i) for i, ((dtype, _), shape) in enumerate(zip(types, shapes, strict=True))]
    given = {f"x{i}": a for i, a in enumerate(arrays)}
    with np.errstate(all="ignore"):
        expected = interpret(graph, given)["y"]
    program, choice = build(graph, isa=isa)
    assert [s.chosen for s in choice.selections if s.chosen != "relayout"] == [template]
    got = emulate(program, given)[0]["y"]
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    return program


SHAPES = ((BATCH, 5, 1, 4), (5, 7, 1))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, DType.BOOL])
@pytest.mark.parametrize("function", PREDICATES)
def test_predicates(function, dtype):
    of_truths, of_floats = function in ("and", "or", "xor", "not"), function.startswith("is_") or function == "never"
    if (of_truths != (dtype is DType.BOOL) and function != "equal") or (of_floats and not dtype.is_float):
        return
    check(Predicate(function), *[(dtype, s) for s in SHAPES[: PREDICATES[function][0]]], template="predicate")


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, DType.BOOL, DType.F64])
def test_where(dtype):
    program = check(Where(), (DType.BOOL, (BATCH, 5, 7, 1)), (dtype, (5, 1, 4)), (dtype, (BATCH, 1, 7, 4)), template="where")
    assert len(program.data.kernels) == 1


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("function", BINARY)
def test_bits(function, dtype):
    arrays = [numbers(dtype, (3, 5, 1, 4), 1), numbers(dtype, (5, 7, 1), 2)]
    if function.startswith("shift"):
        arrays[1] = np.random.default_rng(0).integers(0, 70, (5, 7, 1)).astype(dtype.numpy)
    types = [(dtype, s) for s in SHAPES[: BINARY[function][0]]]
    check(Bits(function), *types, template="bits", feeds=arrays[: BINARY[function][0]])


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("function", ["add", "sub", "mul", "div", "min", "max", "neg", "abs", "relu"])
def test_integer_arithmetic(function, dtype):
    count = 1 if function in ("neg", "abs", "relu") else 2
    if count == 1 and not dtype.range[0]:
        return
    check(Elementwise(Expression.of(function, count)), *[(dtype, s) for s in SHAPES[:count]], template="eltwise_integers")


def test_chains_of_integers():
    chain = Expression(3, (Instr("mul", (0, 1)), Instr("add", (3, 2))))
    check(Elementwise(chain), *[(DType.I8, (BATCH, 9))] * 3, template="eltwise_integers")
    clamp = Expression(3, (Instr("add", (0, 1)), Instr("min", (3, 2))))
    check(Elementwise(clamp), *[(DType.I64, (BATCH, 9))] * 3, template="eltwise_integers")
    with pytest.raises(UnsupportedError, match="wrap around"):
        build(graph_of(Elementwise(clamp), *[(DType.I8, (BATCH, 9))] * 3))


@pytest.mark.parametrize("to", [*INTEGERS, *FLOATS, DType.BF16, DType.BOOL])
@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, DType.BOOL])
def test_casts(dtype, to):
    x = numbers(dtype, (3, 5, 4), 1)
    if dtype.is_float and not to.is_float and to is not DType.BOOL:
        x = np.nan_to_num(x, posinf=9, neginf=-7)  # what is out of range has no defined result
        x = np.abs(x) if not to.range[0] else x
    arguments = Cast(to), (dtype, (BATCH, 5, 4))
    if (to is DType.BF16 and dtype in INTEGERS and dtype.itemsize > 2) or (dtype.is_float and to is DType.U64):
        with pytest.raises(UnsupportedError, match="from"):
            build(graph_of(*arguments))
    elif dtype.is_float and to.is_float:
        return  # the kernel between layouts, tested with it
    else:
        check(*arguments, template="convert", feeds=[x])


@pytest.mark.parametrize(("x", "y"), [(DType.F32, DType.I32), (DType.I64, DType.F64), (DType.U8, DType.BOOL), (DType.I16, DType.F16)])
def test_bit_casts(x, y):
    check(BitCast(y), (x, (BATCH, 5, 4)), template="bit_cast")


def test_a_cast_to_float32_follows_the_precision():
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.I64, (BATCH, 6)))
    w = graph.add_input("w", TensorType(DType.F32, (BATCH, 6)))
    y = graph.add(Cast(DType.F32), [x], origin=("cast",))[0]
    graph.add_output("y", graph.add(Elementwise(Expression.of("add", 2)), [y, w], origin=("add",))[0])
    given = {"x": np.arange(12).reshape(2, 6), "w": np.ones((2, 6), np.float32)}
    program, _ = build(graph, isa="sm_90:f16")
    got = emulate(program, given)[0]["y"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, given["x"] + 1)


def test_an_empty_result():
    graph = graph_of(Where(), (DType.BOOL, (0, 4)), (DType.F32, (0, 4)), (DType.F32, (4,)))
    program, choice = build(graph)
    assert [s.chosen for s in choice.selections] == ["nothing"]
    got = emulate(program, {"x0": np.ones((0, 4), bool), "x1": np.ones((0, 4), np.float32), "x2": np.ones(4, np.float32)})[0]["y"]
    assert got.shape == (0, 4)


COMPILED = {
    "where": (Where(), (DType.BOOL, (BATCH, 5, 1)), (DType.I64, (5, 4)), (DType.I64, (BATCH, 5, 4))),
    "predicate": (Predicate("less"), (DType.U64, (BATCH, 5, 4)), (DType.U64, (4,))),
    "predicate_f16": (Predicate("is_inf"), (DType.F16, (BATCH, 5, 4))),
    "mod": (Bits("mod"), (DType.I8, (BATCH, 5, 4)), (DType.I8, (4,))),
    "shift": (Bits("shift_right"), (DType.U64, (BATCH, 5, 4)), (DType.U64, (4,))),
    "integers": (
        Elementwise(Expression(3, (Instr("div", (0, 1)), Instr("max", (3, 2)), Instr("abs", (4,))))), *[(DType.I64, (BATCH, 4))] * 3,
    ),
    "to_integers": (Cast(DType.U8), (DType.F32, (BATCH, 5))),
    "to_bool": (Cast(DType.BOOL), (DType.F16, (BATCH, 5))),
    "bits_of": (BitCast(DType.I64), (DType.F64, (BATCH, 5))),
    "nothing": (Where(), (DType.BOOL, (0, 4)), (DType.F32, (0, 4)), (DType.F32, (4,))),
    "to_floats": (Cast(DType.F16), (DType.U64, (BATCH, 5))),
}  # fmt: skip


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "sm_120"))])
def test_compiled(arch):
    from .test_compiled import assemble

    for op, *types in COMPILED.values():
        for name, _, report in assemble(graph_of(op, *types), arch):
            assert report.spill_stores == report.spill_loads == report.stack == 0, name
            assert report.registers <= 48, name
