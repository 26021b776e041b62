"""Compile generated kernels in parallel worker processes, through the cache."""

from __future__ import annotations

import atexit
import base64
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import cnngraph
from cnngraph.errors import InternalError
from cnngraph.kernels.template import CompiledKernel, KernelSource
from cnngraph_cpu import cache
from cnngraph_cpu.target import ISAS, require_architecture


def _workers() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class _Worker:
    """One compiler process for one instruction set."""

    def __init__(self, isa: str) -> None:
        info = ISAS[isa]
        roots = [str(Path(cnngraph.__file__).parent.parent), str(Path(__file__).parent.parent)]
        environment = dict(os.environ)
        environment.update(
            NUMBA_CPU_NAME=info.cpu,
            NUMBA_CPU_FEATURES=info.features,
            NUMBA_OPT="3",
            PYTHONPATH=os.pathsep.join([*roots, *filter(None, [environment.get("PYTHONPATH")])]),
        )
        environment.pop("NUMBA_DISABLE_JIT", None)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnngraph_cpu.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def compile(self, path: str, name: str) -> CompiledKernel:
        """Compile function ``name`` of the module at ``path``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"path": path, "name": name}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise InternalError(f"the compiler process died on kernel {name}: {error}") from error
        if not line:
            raise InternalError(f"the compiler process died on kernel {name}, exit status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise InternalError(f"kernel {name} does not compile:\n{answer['error']}")
        return CompiledKernel(name, answer["symbol"], base64.b64decode(answer["code"]), answer["seconds"])

    @property
    def usable(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


class _Idle:
    """Compiler processes that wait for more work: starting one, which imports Numba, takes as long as compiling a small kernel."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[_Worker]] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def take(self, isa: str) -> _Worker:
        """A process for ``isa``, started if none waits."""
        with self._lock:
            waiting = self._waiting.get(isa, [])
            while waiting:
                worker = waiting.pop()
                if worker.usable:
                    return worker
                worker.close()
        return _Worker(isa)

    def give(self, isa: str, worker: _Worker) -> None:
        """Keep ``worker`` for :data:`_IDLE_SECONDS`; processes for other instruction sets end."""
        with self._lock:
            leaving = [w for other, waiting in self._waiting.items() if other != isa for w in waiting]
            self._waiting = {isa: [*self._waiting.get(isa, []), worker]}
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(_IDLE_SECONDS, self.close)
            self._timer.daemon = True
            self._timer.start()
        for old in leaving:
            old.close()

    def close(self) -> None:
        """End every waiting process."""
        with self._lock:
            leaving = [worker for waiting in self._waiting.values() for worker in waiting]
            self._waiting.clear()
            if self._timer is not None:
                self._timer.cancel()
        for worker in leaving:
            worker.close()

    def forget(self) -> None:
        """In a forked child: the processes are the parent's."""
        self._waiting, self._lock, self._timer = {}, threading.Lock(), None


_IDLE_SECONDS = 10.0
_idle = _Idle()


def compile_sources(
    sources: Sequence[KernelSource], isa: str, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, CompiledKernel]:
    """Object code of every source, from the cache where possible, else compiled in parallel.

    Raises:
        InternalError: a kernel does not compile (the message holds Numba's report).
        UsageError: ``isa`` is of another architecture than this machine.
    """
    require_architecture(isa)
    info = ISAS[isa]
    done: dict[str, CompiledKernel] = {}
    missing: list[tuple[KernelSource, str]] = []
    for source in sources:
        entry = cache.key(source.text, f"{info.cpu} {info.features}")
        found = cache.load(entry)
        if found is None:
            missing.append((source, entry))
        else:
            done[source.name] = CompiledKernel(source.name, found[0], found[1], cached=True)
            if progress:
                progress(len(done), len(sources), source.name)
    if not missing:
        return done

    pending: queue.SimpleQueue[tuple[KernelSource, str]] = queue.SimpleQueue()
    for item in sorted(missing, key=lambda item: -len(item[0].text)):  # the longest first, lest one of them is left to a single process
        pending.put(item)
    lock, failures = threading.Lock(), list[BaseException]()

    def serve(folder: str) -> None:
        worker = None
        try:
            worker = _idle.take(isa)
            while not failures:
                try:
                    source, entry = pending.get_nowait()
                except queue.Empty:
                    return
                path = os.path.join(folder, f"{entry}.py")
                Path(path).write_text(source.text, encoding="utf-8")
                kernel = worker.compile(path, source.name)
                cache.store(entry, kernel.symbol, kernel.code)
                with lock:
                    done[source.name] = kernel
                    if progress:
                        progress(len(done), len(sources), source.name)
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)
        finally:
            if worker is not None and worker.usable:
                _idle.give(isa, worker)
            elif worker is not None:
                worker.close()

    with tempfile.TemporaryDirectory(prefix="cnngraph-") as folder:
        threads = [threading.Thread(target=serve, args=(folder,)) for _ in range(min(_workers(), len(missing)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    cache.keep_below_limit()
    return done
