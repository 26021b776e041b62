"""When two results agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.fuzz.case import Array, Case
from tests.fuzz.engines import comparable

RELATIVE = {"float16": 2e-3, "bfloat16": 1.6e-2}
"""Relative error allowed of types with few bits: two units in the last place."""


LEAST = {"float16": 1e-6, "bfloat16": 1e-37, "float32": 1e-37}
"""Difference allowed of the smallest numbers of a type."""


@dataclass(frozen=True)
class Difference:
    """How two results disagree.

    Attributes:
        sides: which implementations, e.g. ``references and onnxruntime``.
        what: ``refused``, ``type``, ``shape``, ``integers``, ``floats`` or ``crash``.
        message: for people.
        got: the first side's output that differs, if both are there.
        wanted: the second side's.
    """

    sides: str
    what: str
    message: str
    got: Array | None = None
    wanted: Array | None = None

    def __str__(self) -> str:
        return f"{self.sides}: {self.what}: {self.message}"


class Disagreement(AssertionError):
    """Two implementations disagree about a case."""

    def __init__(self, case: Case, difference: Difference) -> None:
        self.case = case
        self.difference = difference
        super().__init__(f"{case.describe()}: {difference}")


def difference(case: Case, sides: str, got: Sequence[Array], wanted: Sequence[Array], any_type: bool = False) -> Difference | None:
    """How the outputs differ, or None. With ``any_type``, ``wanted`` may hold a wider type instead of one that NumPy lacks."""
    for index, (a, b) in enumerate(zip(got, wanted, strict=True)):
        found = _one(case, a, b, any_type)
        if found is not None:
            what, message = found
            return Difference(sides, what, f"output {index}: {message}", a, b)
    return None


def _one(case: Case, got: Array, wanted: Array, any_type: bool) -> tuple[str, str] | None:
    plain = got.dtype.isbuiltin == 1 or got.dtype.name == "bool"
    if got.dtype != wanted.dtype and (plain or not any_type):
        return "type", f"{got.dtype.name} instead of {wanted.dtype.name}"
    if got.shape != wanted.shape:
        return "shape", f"{list(got.shape)} instead of {list(wanted.shape)}"
    a, b = comparable(got), comparable(wanted)
    if a.dtype.kind == "O":
        return None if bool(np.all(a == b)) else ("integers", "the strings differ")
    if a.dtype.kind in "biu":
        wrong = a != b
        if case.steps and a.dtype.kind != "b":
            wrong = np.maximum(a, b).astype(object) - np.minimum(a, b).astype(object) > case.steps
        return _report("integers", np.asarray(wrong, bool), a, b)
    with np.errstate(invalid="ignore", over="ignore"):
        return _report("floats", _wrong(case, got.dtype.name, a, b), a, b)


def _wrong(case: Case, name: str, a: Array, b: Array) -> Array:
    """Where floats differ by more than the case allows."""
    double = name == "float64" and not case.single
    relative = max(case.tolerance, RELATIVE.get(name, 0.0)) * (1e-4 if double else 1.0)
    absolute = case.absolute * (1e-6 if double else 1.0) + LEAST.get(name, 0.0)
    finite = np.abs(b[np.isfinite(b)])
    size = np.maximum(np.abs(b), float(finite.max()) if case.scaled and finite.size else 0.0)
    near = np.abs(a - b) <= relative * size + absolute
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(~(same | (near & np.isfinite(a) & np.isfinite(b))))


def _report(what: str, wrong: Array, a: Array, b: Array) -> tuple[str, str] | None:
    if not bool(wrong.any()):
        return None
    place = tuple(int(v[0]) for v in np.nonzero(np.atleast_1d(wrong)))
    first = np.atleast_1d(a)[place], np.atleast_1d(b)[place]
    return what, f"{int(wrong.sum())} of {wrong.size} elements, at {list(place)} {first[0]!s} instead of {first[1]!s}"
