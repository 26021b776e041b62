"""The runner relies on no global interpreter lock."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cnngraph
from cnngraph.runtime.session import Program
from tests.runtime.support import program_data

STEPS = 6
VARIABLE = "CNNGRAPH_FREE_THREADED_PYTHON"
NAMES = ("python3.13t", "python3.14t", "python3.15t")


@pytest.fixture
def artifacts(tmp_path: Path) -> list[str]:
    """The same network as one that is shared among threads, and as one too small for that."""
    paths = []
    for name, cycles in (("large", 1e9), ("small", 1.0)):
        Program(dataclasses.replace(program_data(STEPS), report={"cycles": cycles})).save(tmp_path / f"{name}.cnng")
        paths.append(str(tmp_path / f"{name}.cnng"))
    return paths


def stress(interpreter: str, artifacts: list[str], **environment: str) -> None:
    result = subprocess.run(
        [interpreter, str(Path(__file__).with_name("stress.py")), str(STEPS), *artifacts], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(cnngraph.__file__).parent.parent), **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


def test_many_callers_with_the_lock_handed_on_all_the_time(artifacts: list[str]) -> None:
    stress(sys.executable, artifacts)


def free_threaded() -> str:
    """An interpreter without a global lock that has NumPy; skips the test where there is none."""
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no free-threaded interpreter: none of {', '.join(NAMES)} is on the path, and {VARIABLE} names none")
    code = "import sysconfig, numpy\nassert sysconfig.get_config_var('Py_GIL_DISABLED')"
    if subprocess.run([found, "-c", code], capture_output=True, timeout=60).returncode:
        pytest.skip(f"{found} is not free-threaded or has no NumPy")
    return found


def test_many_callers_without_a_lock(artifacts: list[str]) -> None:
    stress(free_threaded(), artifacts, PYTHON_GIL="0")
