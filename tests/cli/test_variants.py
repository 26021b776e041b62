"""``compile --isa`` with a list: one artifact, the best code that runs here."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import cnngraph
from tests.cli.conftest import Call


def test_several_instruction_sets(call: Call, lenet: Path, tmp_path: Path) -> None:
    path = tmp_path / "lenet.cnng"
    outcome = call("compile", lenet, "-o", path, "--isa", "avx512,avx2,sse4", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["isas"] == ["avx512", "avx2", "sse4"]
    facts = call("inspect", path, "--json").json
    assert facts["isas"] == ["avx512", "avx2", "sse4"]
    assert facts["versions"]["cnngraph"] == cnngraph.__version__
    assert {"numba", "llvmlite", "numpy"} < set(facts["versions"])
    assert "sse4.2" in facts["required_features"]
    program = cnngraph.load(path, isa="sse4")
    (spec,) = program.inputs
    x = np.random.default_rng(0).random((2, *spec.shape[1:]), np.float32)
    alone = cnngraph.compile(lenet, isa="sse4").run({spec.name: x})
    for name, array in program.run({spec.name: x}).items():
        np.testing.assert_array_equal(array, alone[name])


def test_wrong_lists(call: Call, lenet: Path, tmp_path: Path) -> None:
    for isas, words in (("avx2,avx2", "twice"), ("avx2,sse9", "unknown instruction set 'sse9'"), ("avx2,", "unknown instruction set ''")):
        outcome = call("compile", lenet, "-o", tmp_path / "l.cnng", "--isa", isas)
        assert outcome.code == 2
        assert words in outcome.err
    assert not list(tmp_path.iterdir())
