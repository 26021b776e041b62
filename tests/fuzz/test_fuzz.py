"""The fuzzer itself, and a small slice of it with a fixed seed; ``make fuzz-ops`` runs it longer."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from cnngraph.frontend.registry import supported_ops
from tests.fuzz import __main__ as command
from tests.fuzz import families, runner
from tests.fuzz.case import STRATEGIES, Array, Case, opsets
from tests.fuzz.compare import Difference, difference
from tests.fuzz.known_differences import KNOWN, known
from tests.fuzz.runner import Report, check_compiled, check_references, fuzz

pytest.importorskip("onnxruntime")

SLICE = 12
"""Cases of each operator in the default test run."""

COMPILED = ("Add", "AveragePool", "Conv", "Gemm", "LSTM", "MaxPool", "QLinearConv", "ReduceMean", "Resize", "Softmax", "Transpose")


def test_every_operator_is_drawn_or_says_why_not() -> None:
    supported = {row.op for row in supported_ops() if row.until >= 7}
    assert supported - set(STRATEGIES) == set(families.NOT_DRAWN) & supported
    assert not set(STRATEGIES) - supported
    assert all(families.NOT_DRAWN.values())


@pytest.mark.parametrize("op", sorted(STRATEGIES))
def test_references_against_onnxruntime(op: str) -> None:
    report = Report(op)
    fuzz(op, SLICE, 1e6, 0, report, check_references)
    assert not report.found, str(report.found[0])
    assert report.cases >= 1


@pytest.mark.parametrize("op", COMPILED)
def test_compiled_against_references(op: str) -> None:
    report = Report(op)
    fuzz(op, 2, 1e6, 0, report, check_compiled, for_compiling=True)
    assert not report.found, str(report.found[0])


def test_each_opset_can_be_drawn() -> None:
    for op in STRATEGIES:
        assert opsets(op) and opsets(op)[0] >= 7


def broken(case: Case) -> list[Array]:
    """References that give one too much where a tensor has more than two elements."""
    return [y + 1 if y.size > 2 else y for y in (np.array(case.inputs[0]),)]


def test_a_disagreement_is_shrunk_and_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "references", broken)
    report = Report("Identity")
    fuzz("Identity", 200, 1e6, 0, report, check_references)
    (found,) = report.found
    x = found.case.input(0)
    assert x is not None and x.size <= 4 and found.difference.what in ("floats", "integers")
    path = runner.save(found, str(tmp_path / "new"), 0)
    assert onnx.load(path).graph.node[0].op_type == "Identity"
    arrays = np.load(path.replace(".onnx", ".npz"))
    assert {"x0", "got", "wanted"} <= set(arrays.files)


def test_the_same_seed_draws_the_same_cases() -> None:
    drawn: list[list[str]] = []
    for _ in range(2):
        seen: list[str] = []
        fuzz("Conv", 10, 1e6, 3, Report("Conv"), lambda case, report, seen=seen: seen.append(case.describe()))  # type: ignore[misc]
        drawn.append(seen)
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 3


def made(op: str, y: Array, **attributes: object) -> Case:
    """A case without a model, to compare results for."""
    return Case(op, onnx.ModelProto(opset_import=[onnx.helper.make_opsetid("", 17)]), {}, attributes=dict(attributes), inputs=(y,))


def test_what_counts_as_a_difference() -> None:
    y = np.array([1.0, np.nan, np.inf, 100.0], np.float32)
    case = made("Add", y)

    def what(other: Array, of: Case = case) -> str | None:
        found = difference(of, "a and b", [y], [other])
        return None if found is None else found.what

    assert what(y.copy()) is None and what(y * np.float32(1 + 5e-6)) is None
    assert what(y + np.float32(1e-4)) == "floats" and what(y + np.float32(1e-4), replace(case, scaled=True)) is None
    assert what(np.where(np.isnan(y), 0, y).astype(np.float32)) == "floats"
    assert what(y.astype(np.float64)) == "type" and what(y[None]) == "shape"
    whole = np.array([1, 2], np.int32)
    assert difference(case, "", [whole], [whole + 1]) is not None
    assert difference(replace(case, steps=1), "", [whole], [whole + 1]) is None


def test_known_differences_are_matched_narrowly() -> None:
    """No entry explains a wrong number in a plain case of its operator."""
    y = np.array([1.0, 2.0], np.float32)
    for entry in KNOWN:
        assert entry.reason and set(entry.ops) <= set(STRATEGIES)
        for op in entry.ops:
            case = made(op, y)
            assert known(case, Difference("", "floats", "output 0: wrong", y + 1, y)) is None, entry.reason
            assert known(case, Difference("", "shape", "output 0: wrong", y[:1], y)) is None, entry.reason


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz", "--op", "Relu", "--op", "Unsq*", "--seconds", "60", "--compiled", "0", "--cases", "5"])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert "Relu" in printed and "Unsqueeze" in printed and "0 disagreements" in printed
    monkeypatch.setattr(runner, "references", broken)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--op", "Relu", "--seconds", "60", "--compiled", "0", "--cases", "50"])
    assert command.main() == 1
