"""``compile --tune-budget`` and ``--tune-records``: what ends in the artifact, and that it stays when weights are exchanged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnngraph
import cnngraph_models
from cnngraph.cli.tuning import remaining, tuning_progress
from cnngraph.tuning import measure
from cnngraph.tuning.layers import Layer
from cnngraph.tuning.search import State, Variant
from tests.cli.conftest import Call


class FewVectors:
    """In place of the timer: whatever name holds ``x1`` is twice as fast as anything else (register tiles of one vector)."""

    def __init__(self, *_: Any) -> None:
        pass

    def prepare(self, wanted: Sequence[tuple[Layer, Variant]]) -> None:
        pass

    def single(self, layer: Layer, default: Variant) -> float:
        return 1e-3

    def pair(self, layer: Layer, default: Variant, other: Variant) -> tuple[float, float]:
        return 1e-3, 0.5e-3 if other.name.endswith("x1") else 1e-3


def test_tuned_artifacts(call: Call, lenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, tuned, same = tmp_path / "records.json", tmp_path / "tuned.cnng", tmp_path / "same.cnng"
    with monkeypatch.context() as patch:
        patch.setattr(measure, "LayerTimer", FewVectors)
        outcome = call("compile", lenet, "-o", tuned, "--isa", "avx2", "--tune-budget", "1h", "--tune-records", records, "--json")
    assert outcome.code == 0, outcome.err
    report = outcome.json["tuning"]
    assert report["measured"] == report["variants"] > len(report["choices"]) > 0
    assert all(row["variant"].endswith("x1") for row in report["choices"])
    text = call("compile", lenet, "-o", same, "--isa", "avx2", "--tune-records", records)
    assert text.code == 0, text.err
    assert f"{len(report['choices'])} layers have faster kernels" in text.out
    one, two = cnngraph.load(tuned), cnngraph.load(same)
    assert [k.name for k in one.kernels] == [k.name for k in two.kernels]
    assert one.report["tuning"]["choices"] == two.report["tuning"]["choices"] == report["choices"]
    usual = cnngraph.compile(lenet, isa="avx2")
    assert {k.name for k in usual.kernels} != {k.name for k in one.kernels}
    (spec,) = one.inputs
    x = np.random.default_rng(0).random((2, *spec.shape[1:]), np.float32)
    for name, array in one.run({spec.name: x}).items():
        np.testing.assert_array_equal(array, two.run({spec.name: x})[name])
        np.testing.assert_allclose(array, usual.run({spec.name: x})[name], atol=5e-6)  # of results up to 2

    other = cnngraph_models.build("lenet5", seed=5)
    for _ in range(2):
        one.load_weights(other)
        assert [k.name for k in one.kernels] == [k.name for k in two.kernels]
    expected = cnngraph.compile(other, isa="avx2").run({spec.name: x})
    for name, array in one.run({spec.name: x}).items():
        np.testing.assert_allclose(array, expected[name], atol=5e-6)


def test_what_cannot_be_honoured(call: Call, lenet: Path, tmp_path: Path) -> None:
    target = tmp_path / "l.cnng"
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    for arguments, code, words in (
        (("--tune-budget", "5x"), 2, "not a duration"),
        (("--tune-records", tmp_path / "absent.json"), 2, "No such file"),
        (("--tune-records", wrong), 1, "holds no tuning records"),
        (("--tune-budget", "1s", "--backend", "cuda"), 2, "tuned for the CPU"),
    ):
        outcome = call("compile", lenet, "-o", target, *arguments)
        assert outcome.code == code, outcome.err
        assert words in outcome.err
    assert not target.exists()


def test_the_bar_shows_what_is_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with tuning_progress(60.0) as progress:
        assert progress is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with tuning_progress(60.0) as progress:
        assert progress is not None
        progress(State(10.0, 60.0, 5, 100, 1, "Conv 3x3"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "0:50 left" in captured.err
    assert remaining(State(10.0, 60.0, 5, 10, 1, "")) == 10.0
    assert remaining(State(0.0, 60.0, 0, 10, 0, "")) == 60.0
