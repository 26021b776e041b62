"""Programs in a service: many callers, no oversubscription, forks, other processes, asyncio, few CPUs; idle means idle."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnngraph
from cnngraph.runtime import execute, slots, team
from cnngraph.runtime.execute import Executor
from cnngraph.runtime.session import Program
from cnngraph.runtime.slots import Slots
from tests.runtime.support import expected, feed, program_data


def test_slots_are_granted_in_order() -> None:
    places = Slots(4)
    assert places.take(6) == 6  # alone, beyond the capacity
    order: list[tuple[str, int]] = []

    def wait(name: str, wanted: int) -> threading.Thread:
        waiting = len(places._queue)
        thread = threading.Thread(target=lambda: order.append((name, places.take(wanted))))
        thread.start()
        while len(places._queue) == waiting:
            time.sleep(0.001)
        return thread

    threads = [wait("a", 3), wait("b", 3), wait("c", 1)]
    places.give(6)
    for thread in threads[:2]:
        thread.join()
    assert sorted(order) == [("a", 3), ("b", 1)]
    assert places.busy == 4
    places.give(1)
    threads[2].join()
    assert order[2] == ("c", 1)
    places.give(3)
    places.give(1)
    assert places.busy == 0


def test_an_interrupted_caller_leaves_the_queue() -> None:
    places = Slots(1)
    places.take(1)
    failed = threading.Event()

    class Interrupted:
        def __init__(self) -> None:
            self.real = threading.Lock()

        def acquire(self) -> None:
            if self.real.locked():
                failed.set()
                raise KeyboardInterrupt
            self.real.acquire()

    real = slots._Waiting.__init__

    def change(self: Any, wanted: int) -> None:
        real(self, wanted)
        self.gate = Interrupted()
        self.gate.acquire()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots._Waiting, "__init__", change)
        with pytest.raises(KeyboardInterrupt):
            places.take(1)
    assert failed.is_set()
    assert not places._queue
    places.give(1)
    assert places.take(1) == 1


class Watched:
    """Counts the threads that compute at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capacity: int) -> None:
        self.now = self.most = 0
        self.granted: list[int] = []
        self._lock = threading.Lock()
        places = Slots(capacity)
        monkeypatch.setattr(execute, "process_slots", lambda: places)
        real = Executor._run

        def run(executor: Executor, inputs: Sequence[Any], outputs: Sequence[Any], batch: int, threads: int, team: Any) -> None:
            with self._lock:
                self.now += threads
                self.most = max(self.most, self.now)
                self.granted.append(threads)
            try:
                real(executor, inputs, outputs, batch, threads, team)
            finally:
                with self._lock:
                    self.now -= threads

        monkeypatch.setattr(Executor, "_run", run)


@pytest.mark.parametrize(("capacity", "threads"), [(1, 1), (1, 2), (2, 2), (4, 2), (3, 2)])
def test_callers_together_use_no_more_threads_than_there_are_cpus(monkeypatch: pytest.MonkeyPatch, capacity: int, threads: int) -> None:
    watched = Watched(monkeypatch, capacity)
    programs = [Program(program_data(steps), threads=threads) for steps in (4, 6)]
    wrong: list[int] = []

    def call(number: int) -> None:
        for i in range(30):
            x = feed(1 + i % 5, number + i)
            if not np.array_equal(programs[number % 2].run({"x": x})["y"], expected(x, (4, 6)[number % 2])):
                wrong.append(number)

    callers = [threading.Thread(target=call, args=(n,)) for n in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not wrong
    assert len(watched.granted) == 240
    assert watched.most <= max(capacity, threads)
    assert all(len(program._executor._free) <= capacity for program in programs)  # memory is kept for no more runs than fit


def test_two_teams_work_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, 4)
    program = Program(program_data(), threads=2)
    meeting = threading.Barrier(2)
    teams = []
    real = execute.lease_team

    def lease() -> team.Team:
        found = real()
        teams.append(found)
        meeting.wait(60)  # both callers hold a team now
        return found

    monkeypatch.setattr(execute, "lease_team", lease)
    results: list[Any] = [None, None]

    def call(number: int) -> None:
        results[number] = program.run({"x": feed(3)})["y"]

    callers = [threading.Thread(target=call, args=(n,)) for n in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert watched.granted == [2, 2]
    assert teams[0] is not teams[1]
    for result in results:
        np.testing.assert_array_equal(result, expected(feed(3)))


def test_threads_of_a_program_and_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, 2)
    program = Program(program_data(), threads=2)
    x = feed(2)
    for threads in (None, 1, 3):
        np.testing.assert_array_equal(program.run({"x": x}, threads=threads)["y"], expected(x))
    assert watched.granted == [2, 1, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a futex")
@pytest.mark.parametrize(("cycles", "batch", "threads", "shared"), [
    (27e3, 1, 2, False), (27e3, 8, 2, True), (27e3, 8, 1, False), (60e3, 1, 2, False), (60e3, 1, 8, True), (1e9, 1, 1, False),
])  # fmt: skip
def test_small_runs_are_shared_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, cycles: float, batch: int, threads: int, shared: bool
) -> None:
    monkeypatch.setattr(execute, "usable_cpus", lambda: 8)
    monkeypatch.setattr(slots, "_slots", Slots(8))
    leased: list[team.Team] = []

    def lease() -> team.Team:
        leased.append(team.lease_team())
        return leased[-1]

    monkeypatch.setattr(execute, "lease_team", lease)
    program = Program(dataclasses.replace(program_data(), report={"cycles": cycles}))
    x = feed(batch)
    np.testing.assert_array_equal(program.run({"x": x}, threads=threads)["y"], expected(x))
    assert bool(leased) is shared


def test_an_idle_team_uses_no_cpu() -> None:
    program = Program(program_data(), threads=4)
    program.run({"x": feed(2)})
    time.sleep(0.2)
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.1  # three spinning workers would use far more


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork_while_others_compute() -> None:
    program = Program(program_data(), threads=2)
    x = feed(4)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            program.run({"x": x})

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                same = all(np.array_equal(program.run({"x": x})["y"], expected(x)) for _ in range(5))
                same = same and np.array_equal(Program(program_data(3), threads=2).run({"x": x})["y"], expected(x, 3))
                os._exit(0 if same else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def in_child(path: str) -> bytes:
    """Run the artifact at ``path`` in a spawned process."""
    result: bytes = cnngraph.load(path, threads=2).run({"x": feed(3)})["y"].tobytes()
    return result


def test_spawned_processes(tmp_path: Path) -> None:
    Program(program_data()).save(tmp_path / "p.cnng")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(in_child, [str(tmp_path / "p.cnng")] * 4)
    assert set(results) == {expected(feed(3)).tobytes()}


def test_a_program_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="save it and load the file"):
        pickle.dumps(Program(program_data()))


def test_asyncio() -> None:
    program = Program(program_data(), threads=2)

    async def main() -> tuple[list[Any], int]:
        ticks = 0
        runs = asyncio.gather(*(program.arun({"x": feed(n)}, threads=1 + n % 2) for n in range(1, 9)))
        while not runs.done():
            ticks += 1
            await asyncio.sleep(0)
        return list(await runs), ticks

    results, ticks = asyncio.run(main())
    for n, result in enumerate(results, 1):
        np.testing.assert_array_equal(result["y"], expected(feed(n)))
    assert ticks > 0


def test_a_run_that_fails_in_asyncio_fails_there() -> None:
    with pytest.raises(cnngraph.errors.InvalidInputError):
        asyncio.run(Program(program_data()).arun({"z": feed(1)}))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity mask")
def test_a_process_confined_to_one_cpu(tmp_path: Path) -> None:
    Program(program_data()).save(tmp_path / "p.cnng")
    code = (
        "import os, sys, threading\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import cnngraph\nfrom cnngraph.runtime.slots import process_slots\nfrom tests.runtime.support import expected, feed\n"
        "program = cnngraph.load(sys.argv[1])\n"
        "assert (program.run({'x': feed(2)})['y'] == expected(feed(2))).all()\n"
        "assert program.threads == process_slots().capacity == threading.active_count() == 1\n"
        "assert (program.run({'x': feed(2)}, threads=3)['y'] == expected(feed(2))).all()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("CNNGRAPH_THREADS", None)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.cnng")], check=True, env=environment, timeout=120)
