"""Where onnxruntime departs from ONNX, or cannot be compared: each entry says when, as narrowly as possible, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz.case import Case
from tests.fuzz.compare import Difference


@dataclass(frozen=True)
class Known:
    """A difference that is onnxruntime's own.

    Attributes:
        ops: operators concerned.
        what: kind of the difference (see Difference).
        when: whether it is this one.
        reason: what onnxruntime does instead of what ONNX says.
    """

    ops: tuple[str, ...]
    what: str
    when: Callable[[Case, Difference], bool]
    reason: str


KNOWN: list[Known] = []


def known(case: Case, difference: Difference) -> Known | None:
    """The entry that explains a difference between references and onnxruntime, or None."""
    for entry in KNOWN:
        if case.op in entry.ops and entry.what == difference.what and entry.when(case, difference):
            return entry
    return None
