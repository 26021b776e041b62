"""Driver and thread team: right results and the same bits for any threads, callers, forks; nothing leaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.runtime import execute
from cnngraph.runtime.session import Program
from cnngraph.runtime.team import Team
from tests.runtime.support import LENGTH, expected, feed, program_data

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_steps_are_separated_by_barriers(threads: int) -> None:
    program = Program(program_data(), threads=threads)
    for batch in (1, 7, 2):
        x = feed(batch, batch)
        for _ in range(20):
            np.testing.assert_array_equal(program.run({"x": x})["y"], expected(x))


def test_single_step_program() -> None:
    x = feed(2)
    for threads in (1, 2):
        np.testing.assert_array_equal(Program(program_data(1), threads=threads).run({"x": x})["y"], expected(x, 1))


def test_programs_come_and_go_while_the_team_stays() -> None:
    x = feed(3)
    for steps in (2, 4, 6, 8):
        np.testing.assert_array_equal(Program(program_data(steps), threads=3).run({"x": x})["y"], expected(x, steps))


def test_workers_that_sleep_on_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team(futex=False)
    monkeypatch.setattr(execute, "lease_team", lambda: team.lock.acquire() and team)
    program = Program(program_data(), threads=3)
    x = feed(4)
    for _ in range(20):
        np.testing.assert_array_equal(program.run({"x": x})["y"], expected(x))
    workers = [t for t in threading.enumerate() if t in team._threads]
    assert len(workers) == 2
    team.stop()
    assert not any(t.is_alive() for t in workers)
    np.testing.assert_array_equal(program.run({"x": x})["y"], expected(x))  # alone, without a team


def test_stopped_team_ends_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    team = Team()
    monkeypatch.setattr(execute, "lease_team", lambda: team.lock.acquire() and team)
    Program(program_data(), threads=4).run({"x": feed(1)})
    assert len(team._threads) == 3
    team.stop()
    assert not any(t.is_alive() for t in team._threads)


def test_many_callers_at_once() -> None:
    program = Program(program_data(), threads=2)
    wrong: list[int] = []
    done: list[int] = []

    def call(number: int) -> None:
        for i in range(50):
            x = feed(1 + (number + i) % 4, 100 * number + i)
            if not np.array_equal(program.run({"x": x})["y"], expected(x)):
                wrong.append(number)
        done.append(number)

    callers = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert sorted(done) == list(range(8))
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forked_child_has_its_own_team() -> None:
    program = Program(program_data(), threads=2)
    x = feed(2)
    program.run({"x": x})
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a hang kills the child
        same = all(np.array_equal(program.run({"x": x})["y"], expected(x)) for _ in range(10))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(program.run({"x": x})["y"], expected(x))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow(tmp_path: Path) -> None:
    """In a process of its own: what other tests left to Python's and glibc's allocators moves a resident size by megabytes."""
    Program(program_data(), threads=2).save(tmp_path / "p.cnng")
    script = (
        "import os, sys, numpy, cnngraph\n"
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "program = cnngraph.load(sys.argv[1], threads=2)\n"
        "feeds = [numpy.ones((batch, int(sys.argv[2])), numpy.float32) for batch in (1, 64, 256)]\n"
        "def run(times):\n"
        "    for _ in range(times):\n"
        "        for array in feeds:\n"
        "            program.run({'x': array})\n"
        "run(100)\n"
        "before = resident()\n"
        "run(1000)\n"
        "print(resident() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "p.cnng"), str(LENGTH)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 * 256 * LENGTH * 4  # a leak of one output in a hundred would show


def test_process_ends_and_needs_no_compiler(tmp_path: Path) -> None:
    """A program is loaded and run by numpy alone, and its sleeping workers do not keep the process."""
    Program(program_data()).save(tmp_path / "p.cnng")
    np.save(tmp_path / "x.npy", feed(2))
    script = (
        "import sys, numpy, cnngraph\n"
        "program = cnngraph.load(sys.argv[1], threads=3)\n"
        "numpy.save(sys.argv[3], program.run({'x': numpy.load(sys.argv[2])})['y'])\n"
        "loaded = {'numba', 'onnx', 'google.protobuf', 'networkx'} & set(sys.modules)\n"
        "sys.exit(repr(loaded) if loaded else 0)\n"
    )
    arguments = [str(tmp_path / name) for name in ("p.cnng", "x.npy", "y.npy")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, capture_output=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected(feed(2)))


def test_profile_covers_every_step() -> None:
    rows = Program(program_data(5)).profile({"x": feed(2)}, repeat=2)
    assert [row["nodes"] for row in rows] == [f"step{i}" for i in range(5)]
    assert all(row["seconds"] > 0 and row["kernel"] == "rotate" for row in rows)


def test_number_of_threads_is_checked() -> None:
    program = Program(program_data())
    for threads in (0, -1, 257):
        with pytest.raises(UsageError, match="threads"):
            program.run({"x": feed(1)}, threads=threads)
        with pytest.raises(UsageError, match="threads"):
            Program(program_data(), threads=threads)
