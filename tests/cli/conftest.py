"""A small model on disk and a way to call the command line as a process would."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cnngraph_models
from cnngraph.cli import cli


@dataclass
class Outcome:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Outcome]


@pytest.fixture
def call() -> Call:
    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(cli, [str(a) for a in arguments])
        assert "Traceback" not in result.output
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "lenet5.onnx"
    path.write_bytes(cnngraph_models.build("lenet5", seed=3).SerializeToString())
    return path


@pytest.fixture(scope="session")
def artifact(lenet: Path) -> Path:
    path = lenet.with_suffix(".cnng")
    result = CliRunner().invoke(cli, ["compile", str(lenet), "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path
