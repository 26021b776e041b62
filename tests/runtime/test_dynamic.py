"""Programs whose input shapes are free: one compilation for each shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnngraph.errors import InvalidInputError, UsageError
from cnngraph.frontend.errors import BatchNotSymbolicError
from cnngraph.runtime.dynamic import MAX_VARIANTS, DynamicProgram


class Recorder:
    """Stands for the compiler: remembers what it was asked for."""

    def __init__(self, *, symbolic: bool = True) -> None:
        self.calls: list[tuple[Any, int | None]] = []
        self.symbolic = symbolic

    def __call__(self, shapes: Any, batch: int | None = None, contents: Any = None) -> Any:
        self.calls.append((shapes, batch))
        if not self.symbolic and batch is None:
            raise BatchNotSymbolicError("a node needs the batch")
        return FakeProgram()


class FakeProgram:
    def run(self, feeds: dict[str, np.ndarray], outputs: Any, threads: int | None) -> dict[str, np.ndarray]:
        return {"y": feeds["x"] + 1}


def dynamic(build: Recorder, **options: Any) -> DynamicProgram:
    declared = {"x": ("float32", ("n", 3, None)), "mask": ("float32", (2,))}
    return DynamicProgram(declared, {"y": ("float32", ("n", None))}, build, **options)


def feeds(batch: int, width: int) -> dict[str, np.ndarray]:
    return {"x": np.zeros((batch, 3, width), np.float32), "mask": np.zeros(2, np.float32)}


def test_batch_stays_free_within_a_variant() -> None:
    build = Recorder()
    program = dynamic(build)
    for batch, width in ((1, 4), (2, 4), (7, 4), (1, 5)):
        assert program.run(feeds(batch, width))["y"].shape == (batch, 3, width)
    assert build.calls == [({"x": (None, 3, 4), "mask": (2,)}, None), ({"x": (None, 3, 5), "mask": (2,)}, None)]
    assert program.variants == 2


def test_batch_becomes_part_of_the_shape_when_it_must() -> None:
    build = Recorder(symbolic=False)
    program = dynamic(build)
    for batch in (1, 2, 1):
        program.run(feeds(batch, 4))
    assert [batch for _, batch in build.calls] == [None, 1, 2]
    assert build.calls[-1][0] == {"x": (2, 3, 4), "mask": (2,)}


def test_least_recently_used_variant_is_dropped() -> None:
    build = Recorder()
    program = dynamic(build)
    for width in range(1, MAX_VARIANTS + 1):
        program.run(feeds(1, width))
    program.run(feeds(1, 1))
    program.run(feeds(1, 100))  # drops width 2
    assert program.variants == MAX_VARIANTS
    count = len(build.calls)
    program.run(feeds(1, 1))
    assert len(build.calls) == count
    program.run(feeds(1, 2))
    assert len(build.calls) == count + 1


def test_descriptions_before_the_first_run() -> None:
    program = dynamic(Recorder())
    assert [(s.name, s.shape) for s in program.inputs] == [("x", ("N", 3, "?")), ("mask", (2,))]
    assert [(s.name, s.shape) for s in program.outputs] == [("y", ("N", "?"))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"input shapes are free, 'x' declares \[n, 3, \?\]; run it once, or compile with shapes=\{'x': \[1, 3, 224\]\}$"),
        (
            {"contents": ["mask"]},
            r"'x' declares \[n, 3, \?\], and shapes depend on the contents of 'mask'; run .* shapes=\{.*\}, constants=\{'mask': ...\}$",
        ),
    ],
)
@pytest.mark.parametrize("what", ["kernels", "report", "memory plan"])
def test_what_needs_a_run_says_which_inputs_are_free(what: str, options: dict[str, Any], message: str) -> None:
    program = dynamic(Recorder(), **options)
    with pytest.raises(UsageError, match=f"the program has no {what} before its first run: .*{message}"):
        program.memory_report() if what == "memory plan" else getattr(program, what)


def test_a_batch_that_does_not_stay_free_is_named() -> None:
    build = Recorder()
    program = DynamicProgram({"x": ("float32", ("n", 3))}, {"y": None}, build, symbolic_batch=False)
    with pytest.raises(UsageError, match=r"no output types before its first run: input shapes are free, 'x' declares \[n, 3\]"):
        _ = program.outputs
    with pytest.raises(UsageError, match=r"to exchange the weights, compile with shapes=\{'x': \[1, 3\]\}"):
        program.load_weights(b"")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input x is missing"),
        ({**feeds(1, 2), "z": np.zeros(1)}, "no input is called z; there is x, mask"),
        ({**feeds(1, 2), "mask": np.zeros(3)}, "input mask must have shape 2, got 3"),
        ({**feeds(1, 2), "x": np.zeros((1, 3))}, r"input x must have shape Nx3x\?, got 1x3"),
    ],
)
def test_refused_feeds_compile_nothing(given: dict[str, np.ndarray], message: str) -> None:
    build = Recorder()
    with pytest.raises(InvalidInputError, match=message):
        dynamic(build).run(given)
    assert not build.calls


def test_save_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shapes"):
        dynamic(Recorder()).save(tmp_path / "p.cnng")
    assert not list(tmp_path.iterdir())
