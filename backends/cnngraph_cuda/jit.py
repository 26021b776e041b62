"""Compile generated kernels in parallel worker processes, through the cache."""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cnngraph
from cnngraph.errors import InternalError, UsageError
from cnngraph.kernels.template import CompiledKernel, KernelSource
from cnngraph_cuda import cache

logger = logging.getLogger(__name__)
EXTRA = "the CUDA compiler is not installed; pip install 'cnngraph[cuda]'"


def missing_packages() -> str | None:
    """What the compiler lacks, or None."""
    for module in ("numba_cuda", "cuda.bindings.nvjitlink"):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return f"{EXTRA} (no module {module})"
    return None


class _Worker:
    """One compiler process."""

    def __init__(self) -> None:
        roots = [str(Path(cnngraph.__file__).parent.parent), str(Path(__file__).parent.parent)]
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([*roots, *filter(None, [environment.get("PYTHONPATH")])])
        environment.pop("NUMBA_DISABLE_JIT", None)
        environment.pop("NUMBA_ENABLE_CUDASIM", None)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "cnngraph_cuda.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment, text=True,
        )  # fmt: skip

    def compile(self, path: str, name: str, arch: str) -> CompiledKernel:
        """Compile kernel ``name`` of the module at ``path``."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"path": path, "name": name, "arch": arch}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise InternalError(f"the compiler process died on kernel {name}: {error}") from error
        if not line:
            raise InternalError(f"the compiler process died on kernel {name}, exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise InternalError(f"kernel {name} does not compile:\n{answer['error']}")
        logger.info("%s: %d registers, %d bytes spilled", name, answer["registers"], answer["spills"])
        return CompiledKernel(name, name, base64.b64decode(answer["code"]), answer["seconds"])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


def compile_sources(
    sources: Sequence[KernelSource], arch: str, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, CompiledKernel]:
    """Cubins of every source, from the cache where possible, else compiled in parallel.

    Raises:
        UsageError: the packages of ``cnngraph[cuda]`` are missing.
        InternalError: a kernel does not compile (the message holds the compiler's report).
    """
    done: dict[str, CompiledKernel] = {}
    pending: queue.SimpleQueue[tuple[KernelSource, str]] = queue.SimpleQueue()
    lock, failures = threading.Lock(), list[BaseException]()

    def ready(kernel: CompiledKernel) -> None:
        with lock:
            done[kernel.name] = kernel
            if progress:
                progress(len(done), len(sources), kernel.name)

    missing = 0
    for source in sources:
        entry = cache.key(source.text, arch)
        found = cache.load(entry)
        if found is not None:
            ready(CompiledKernel(source.name, found[0], found[1], cached=True))
        else:
            pending.put((source, entry))
            missing += 1

    def serve(folder: str) -> None:
        worker = None
        try:
            worker = _Worker()
            while not failures:
                try:
                    source, entry = pending.get_nowait()
                except queue.Empty:
                    return
                path = os.path.join(folder, f"{entry}.py")
                Path(path).write_text(source.text, encoding="utf-8")
                kernel = worker.compile(path, source.name, arch)
                cache.store(entry, kernel.symbol, kernel.code)
                ready(kernel)
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)
        finally:
            if worker is not None:
                worker.close()

    if missing:
        lacking = missing_packages()
        if lacking:
            raise UsageError(lacking)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with tempfile.TemporaryDirectory(prefix="cnngraph-") as folder:
            threads = [threading.Thread(target=serve, args=(folder,)) for _ in range(max(1, min(cores, missing)))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
    return done
