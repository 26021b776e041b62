"""The emulated tile unit for tests: its library, and Python processes that take this machine for one that has the unit."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnngraph.runtime.features import host_features
from cnngraph_cpu.target import ISAS, TILE_FEATURES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMPILER = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden")


def hindrance() -> str | None:
    """Why the unit cannot be emulated here, if so."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the instructions are those of x86-64, and the signals Linux's"
    if COMPILER is None:
        return "needs a C compiler"
    present = host_features()
    if set(TILE_FEATURES) & present:
        return "this machine has the tile unit itself"
    lacking = set(ISAS["avx512amx"].required) - present - set(TILE_FEATURES)
    return f"the CPU lacks {', '.join(sorted(lacking))}" if lacking else None


needs_emulation = pytest.mark.skipif(hindrance() is not None, reason=str(hindrance()))


def build(source: str, folder: Path, *flags: str) -> Path:
    """``source`` of this folder as a shared library in ``folder``."""
    made = folder / source.replace(".c", ".so")
    assert COMPILER is not None
    subprocess.run([COMPILER, *FLAGS, *flags, "-o", str(made), str(HERE / source)], check=True)
    return made


class Unit:
    """The built library, and processes in which it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.library = build("unit.c", folder)

    def environment(self, mode: str = "granted") -> dict[str, str]:
        """For a process that has the unit: ``mode`` is "granted" or "refused", what it is answered that asks for the tiles."""
        roots = [str(ROOT / part) for part in (".", "backends", "models")]
        path = os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "LD_PRELOAD": str(self.library), "TILE_UNIT": mode, "PYTHONPATH": path}

    def call(self, task: str, *arguments: Any, mode: str = "granted") -> dict[str, Any]:
        """The answer of function ``task`` of :mod:`tests.tiles.child` in such a process; its failure is one here, with its report."""
        command = [sys.executable, "-m", "tests.tiles.child", task, json.dumps(arguments)]
        result = subprocess.run(command, cwd=ROOT, env=self.environment(mode), capture_output=True, text=True)
        assert result.returncode == 0, f"{task} ended with {result.returncode}:\n{result.stderr[-6000:]}"
        answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return answer
