"""What a program accepts and returns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cnngraph.errors import InvalidInputError
from cnngraph.ops import Reduce, Reshape
from cnngraph.runtime.execute import address_of
from cnngraph.runtime.host import encode
from cnngraph.runtime.program import ARENA, FIRST_IO, STATIC, WEIGHTS, HostStep, KernelStep, ProgramData, TensorRef, TensorSpec
from cnngraph.runtime.session import Program
from tests.runtime.support import LENGTH, expected, feed, program_data


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(program_data(), threads=1)


def test_descriptions(program: Program) -> None:
    assert [(s.name, s.dtype, s.shape) for s in program.inputs] == [("x", "float32", ("N", LENGTH))]
    (kernel,) = program.kernels
    assert kernel.name == "rotate"
    assert kernel.steps == tuple(range(6))
    assert program.memory_report() == {"weights": 64, "peak": 2 * LENGTH * 4}


def test_call_and_chosen_outputs(program: Program) -> None:
    x = feed(2)
    assert list(program.run({"x": x}, ["y"])) == ["y"]
    np.testing.assert_array_equal(program({"x": x})["y"], expected(x))
    with pytest.raises(InvalidInputError, match="no output is called z; there is y"):
        program.run({"x": x}, ["z"])


def test_results_belong_to_the_caller(program: Program) -> None:
    first = program.run({"x": feed(2)})["y"]
    kept = first.copy()
    second = program.run({"x": feed(2, 1)})["y"]
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("seen", [1, 2])
@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input x is missing"),
        (None, "input x is missing"),
        ({"x": feed(1), "z": feed(1)}, "no input is called z; there is x"),
        ({"z": feed(1)}, "no input is called z; there is x"),
        ({"x": feed(1).astype(np.float64)}, "input x must be float32, got float64"),
        ({"x": feed(1).astype(">f4")}, "input x must be float32"),
        ({"x": [[1.0] * LENGTH]}, "input x must be float32, got float64"),
        ({"x": feed(1)[0]}, f"input x must have shape Nx{LENGTH}, got {LENGTH}"),
        ({"x": feed(1)[:, :5]}, f"input x must have shape Nx{LENGTH}, got 1x5"),
    ],
)
def test_refused_feeds(program: Program, feeds: dict[str, np.ndarray] | None, message: str, seen: int) -> None:
    program.run({"x": feed(seen)})  # feeds with the shapes of the latest run are recognised
    with pytest.raises(InvalidInputError, match=message):
        program.run(feeds)


@pytest.mark.parametrize("seen", [2, 3])
def test_strided_and_unaligned_feeds_are_copied(program: Program, seen: int) -> None:
    wide = np.zeros((3, 2 * LENGTH), np.float32)
    wide[:, ::2] = feed(3)
    program.run({"x": feed(seen)})
    np.testing.assert_array_equal(program.run({"x": wide[:, ::2]})["y"], expected(feed(3)))
    fortran = np.asfortranarray(feed(3))
    np.testing.assert_array_equal(program.run({"x": fortran})["y"], expected(feed(3)))
    raw = np.zeros(3 * LENGTH * 4 + 1, np.uint8)
    raw[1:] = feed(3).reshape(-1).view(np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(3, LENGTH)
    assert not unaligned.flags.aligned
    np.testing.assert_array_equal(program.run({"x": unaligned})["y"], expected(feed(3)))


@pytest.mark.parametrize("cycles", [1.0, 1e9])
def test_batches_and_threads_take_turns(cycles: float) -> None:
    program = Program(dataclasses.replace(program_data(), report={"cycles": cycles}))
    for batch, threads in ((1, 1), (3, 1), (3, 2), (1, 1), (1, 2), (0, 1), (2, 1), (2, 1)):
        x = feed(batch, batch)
        np.testing.assert_array_equal(program.run({"x": x}, threads=threads)["y"], expected(x))
        np.testing.assert_array_equal(program.run({"x": x.view(Kind)})["y"], expected(x))


class Kind(np.ndarray):
    """An array of another class."""


def test_addresses() -> None:
    for array in (feed(3), feed(3)[1:], feed(3)[:, 5:], np.zeros(0), np.broadcast_to(np.float32(1), (2, 2)), np.zeros(3)[::-1]):
        assert address_of(array) == array.ctypes.data


def test_empty_batch(program: Program) -> None:
    assert program.run({"x": feed(0)})["y"].shape == (0, LENGTH)


def replace_arguments(step: KernelStep, arguments: list[tuple[int, int, int]]) -> KernelStep:
    return KernelStep(step.kernel, tuple(arguments), step.label)


def host_data() -> ProgramData:
    """Two inputs; NumPy steps before and after kernels; outputs that are copies of an input and of a constant."""
    data = program_data(2)
    n, image = (1, 0), (0, LENGTH)
    x, y = TensorRef(FIRST_IO, 0, 0, "float32", (n, image)), TensorRef(FIRST_IO + 2, 0, 0, "float32", (n, image))
    mean = TensorRef(FIRST_IO + 3, 0, 0, "float32", (n, (0, 1)))
    fixed = TensorRef(STATIC, 0, 0, "float32", ((0, 2), (0, 2)))
    weight = TensorRef(WEIGHTS, 0, 0, "float32", ((0, 4),))
    kernels = [step for step in data.steps if isinstance(step, KernelStep)]
    moved = [replace_arguments(k, [(base + (base == FIRST_IO + 1), a, b) for base, a, b in k.arguments]) for k in kernels]
    steps: list[KernelStep | HostStep] = [
        HostStep(encode(Reshape((2, 2))), (weight,), (fixed,), "first"),
        *moved,
        HostStep(encode(Reduce("mean", (1,), True)), (y,), (mean,), "last"),
    ]
    return dataclasses.replace(
        data, steps=steps, static_bytes=64, copies=[(2, x), (3, fixed)],
        inputs=[*data.inputs, TensorSpec("twice", "int64", ("2N",))],
        outputs=[*data.outputs, TensorSpec("mean", "float32", ("N", 1)), TensorSpec("same", "float32", ("N", LENGTH)),
                 TensorSpec("fixed", "float32", (2, 2))],
    )  # fmt: skip


def test_numpy_steps_and_copied_outputs() -> None:
    program = Program(host_data(), threads=2)
    for batch in (3, 1):
        x = feed(batch)
        got = program.run({"x": x, "twice": np.zeros(2 * batch, np.int64)})
        y = expected(x, 2)
        np.testing.assert_array_equal(got["y"], y)
        np.testing.assert_allclose(got["mean"], y.mean(1, keepdims=True), rtol=1e-6)
        np.testing.assert_array_equal(got["same"], x)
        assert not np.shares_memory(got["same"], x)
        np.testing.assert_array_equal(got["fixed"], [[1, 0], [0, 0]])
    labels = [row["nodes"] for row in program.profile({"x": x, "twice": np.zeros(2 * batch, np.int64)}, repeat=1)]
    assert labels == ["first", "step0", "step1", "last"]


def test_batches_must_agree() -> None:
    program = Program(host_data())
    with pytest.raises(InvalidInputError, match="batch"):
        program.run({"x": feed(3), "twice": np.zeros(4, np.int64)})
    with pytest.raises(InvalidInputError, match="input twice must have shape 2N, got 5"):
        program.run({"x": feed(3), "twice": np.zeros(5, np.int64)})
    with pytest.raises(InvalidInputError, match="the batch is 0"):
        program.run({"x": feed(0), "twice": np.zeros(0, np.int64)})


def test_arena_place_of_a_numpy_step_scales_with_the_batch() -> None:
    data = program_data(2)
    mean = TensorRef(ARENA, LENGTH * 4, 0, "float32", ((1, 0), (0, LENGTH)))
    back = TensorRef(FIRST_IO + 1, 0, 0, "float32", ((1, 0), (0, LENGTH)))
    x = TensorRef(FIRST_IO, 0, 0, "float32", ((1, 0), (0, LENGTH)))
    same = encode(Reshape((2, LENGTH)))
    data = dataclasses.replace(data, steps=[HostStep(same, (x,), (mean,), "in"), HostStep(same, (mean,), (back,), "out")])
    np.testing.assert_array_equal(Program(data).run({"x": feed(2)})["y"], feed(2))
