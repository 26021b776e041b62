"""Runs hypothesis for one operator, in rounds, within a time limit; keeps the smallest case of each disagreement."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from tests.fuzz.case import STRATEGIES, Array, Case, Draw
from tests.fuzz.compare import Difference, Disagreement, difference
from tests.fuzz.engines import Refused, compiled, isas, onnxruntime_result, references
from tests.fuzz.known_differences import known

BOTH = "references and onnxruntime"


class OutOfTime(BaseException):
    """The time of a run is over; not an Exception, so that hypothesis does not take it for a failure."""


@dataclass
class Report:
    """What happened to the cases of one operator.

    Attributes:
        op: the operator.
        cases: drawn and run by the references.
        against: compared with onnxruntime.
        compiled: compiled and compared, by instruction set.
        explained: disagreements that are onnxruntime's own, by reason.
        refused: cases that cnngraph does not take, by reason.
        found: the smallest disagreement of each run.
    """

    op: str
    cases: int = 0
    against: int = 0
    compiled: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    lacking: Counter[str] = field(default_factory=Counter)
    found: list[Disagreement] = field(default_factory=list)


def case_strategy(op: str, for_compiling: bool = False) -> st.SearchStrategy[Case]:
    """What draws a case of ``op``."""

    @st.composite
    def drawn(draw: Callable[[st.SearchStrategy[object]], object]) -> Case:
        if not for_compiling:
            return STRATEGIES[op](Draw(draw, op))
        isa = draw(st.sampled_from(isas()))
        return replace(STRATEGIES[op](Draw(draw, op, True)), isa=str(isa))

    return drawn()


def check_references(case: Case, report: Report) -> None:
    """Compare the references with onnxruntime.

    Raises:
        Disagreement: they differ, and no known difference of onnxruntime explains it.
    """
    report.cases += 1
    ours: list[Array] | Refused
    theirs: list[Array] | Refused
    try:
        ours = references(case)
    except Refused as error:
        ours = error
    except Exception as error:
        raise Disagreement(case, Difference("references", "crash", f"{type(error).__name__}: {error}")) from error
    try:
        theirs = onnxruntime_result(case)
    except Refused as error:
        theirs = error
    found = _verdict(case, ours, theirs, report)
    if found is None:
        return
    entry = known(case, found)
    if entry is None:
        raise Disagreement(case, found)
    report.explained[entry.reason] += 1


def _verdict(case: Case, ours: list[Array] | Refused, theirs: list[Array] | Refused, report: Report) -> Difference | None:
    if isinstance(ours, Refused):
        if ours.valid or isinstance(theirs, Refused):
            report.refused[_short(ours)] += 1
            return None
        return Difference(BOTH, "refused", f"only cnngraph refuses: {ours}"[:600])
    if isinstance(theirs, Refused):
        report.lacking[_short(theirs)] += 1
        return None if theirs.valid else Difference(BOTH, "lacking", f"only onnxruntime refuses: {theirs}"[:600])
    report.against += 1
    return difference(case, BOTH, ours, theirs, any_type=True)


def _short(error: Refused) -> str:
    return str(error).strip().splitlines()[-1][-150:]


def check_compiled(case: Case, report: Report) -> None:
    """Compare the program for the instruction set of the case with the references.

    Raises:
        Disagreement: they differ, or only one of them takes the case.
    """
    report.cases += 1
    try:
        wanted = references(case)
    except Refused as error:
        report.refused[_short(error)] += 1
        return
    sides = f"{case.isa} and references"
    try:
        got = compiled(case, case.isa)
    except Refused as error:
        raise Disagreement(case, Difference(sides, "refused", str(error)[:600])) from error
    except Exception as error:
        raise Disagreement(case, Difference(sides, "crash", f"{type(error).__name__}: {error}"[:600])) from error
    report.compiled[case.isa] += 1
    found = difference(case, sides, got, wanted)
    if found is not None:
        raise Disagreement(case, found)


def fuzz(
    op: str, examples: int, seconds: float, number: int, report: Report, check: Callable[[Case, Report], None], for_compiling: bool = False
) -> bool:
    """Draw up to ``examples`` cases for up to ``seconds``; appends to ``report.found``. Returns whether time ran out.

    After a disagreement as much time again may go into shrinking it.
    """
    deadline = time.monotonic() + seconds
    smallest: dict[str, Disagreement] = {}

    @seed(number + zlib.crc32(op.encode()))
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(case_strategy(op, for_compiling))
    def one(case: Case) -> None:
        if time.monotonic() > deadline + (max(seconds, 5.0) if smallest else 0.0):
            raise OutOfTime
        try:
            check(case, report)
        except Disagreement as error:
            before = smallest.get(op)
            if before is None or _size(error.case) <= _size(before.case):
                smallest[op] = error
            raise

    over = False
    try:
        one()
    except OutOfTime:
        over = True
    except Disagreement:
        pass
    except (HypothesisException, ExceptionGroup):
        if not smallest:
            raise
    report.found.extend(smallest.values())
    return over


def _size(case: Case) -> int:
    return sum(a.size for a in case.inputs if a is not None) + len(case.attributes) + 4 * len(case.model.graph.node)


def save(found: Disagreement, folder: str, number: int) -> str:
    """Write the model and the arrays of a disagreement; returns the path of the model."""
    import os

    os.makedirs(folder, exist_ok=True)
    stem = os.path.join(folder, f"{found.case.op.replace('::', '_')}_{number}")
    onnx.save(found.case.model, f"{stem}.onnx")
    arrays = {name: a if a.dtype.isbuiltin == 1 else a.astype(np.float64) for name, a in found.case.feeds.items()}
    for name, array in (("got", found.difference.got), ("wanted", found.difference.wanted)):
        if array is not None:
            arrays[name] = array if array.dtype.isbuiltin == 1 else array.astype(np.float64)
    np.savez(f"{stem}.npz", **arrays)  # type: ignore[arg-type]
    return f"{stem}.onnx"
