"""Many threads run artifacts at once, with NumPy alone: ``python stress.py STEPS ARTIFACT...`` fails if a result is wrong.

Run as a program, also by interpreters without a global lock, which have neither Numba nor this package's tests. Where there is a lock, it
is handed on as often as possible.
"""

from __future__ import annotations

import sys
import threading

import numpy as np

import cnngraph

LENGTH, CALLERS, ROUNDS = 96, 8, 60


def wanted(x: np.ndarray, steps: int) -> np.ndarray:
    """What the artifacts compute; see :mod:`tests.runtime.support`."""
    flat = x.reshape(-1)
    for _ in range(steps):
        flat = np.roll(flat, -1) * np.float32(0.5) + np.float32(1)
    return flat.reshape(x.shape)


def main(steps: int, paths: list[str]) -> None:
    """Load each artifact in several threads at the same time, then run all of them from all threads, with every number of threads."""
    sys.setswitchinterval(1e-6)
    failures: list[BaseException] = []
    start = threading.Barrier(CALLERS)
    programs = [cnngraph.load(path, threads=2) for path in paths]

    def call(number: int) -> None:
        try:
            rng = np.random.default_rng(number)
            start.wait()
            own = [cnngraph.load(path, threads=2) for path in paths]
            for i in range(ROUNDS):
                x = rng.integers(0, 1024, (1 + int(rng.integers(4)), LENGTH)).astype(np.float32)
                program = (*programs, *own)[i % (2 * len(paths))]
                y = program.run({"x": x}, threads=1 + i % 3)["y"]
                if not np.array_equal(y, wanted(x, steps)):
                    raise AssertionError(f"caller {number}, round {i}: a wrong result")
        except BaseException as error:  # handed to the main thread
            failures.append(error)

    callers = [threading.Thread(target=call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
