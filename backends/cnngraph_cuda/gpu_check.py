"""Check and measure the CUDA backend on a GPU, in one command::

    python -m cnngraph_cuda.gpu_check --json result.json

Sections, in order: kernels are compiled on all cores; ``conformance`` runs every problem of :mod:`cnngraph_cuda.problems` in every
precision and several batches on fresh random inputs and memory poisoned with NaN, against float64, and some by Winograd's method once
more; ``networks`` does so with whole networks; ``speed`` times them and their steps over graph replays; ``torch`` times PyTorch with
cuDNN beside them where it is installed; ``tiles`` (only if asked for) times every tile on every matrix product, and in f32 Winograd's
method on every convolution that it can compute.

No case ends the check: each runs in a process of its own kind, which is ended and replaced when it faults, hangs, or loses the
GPU; each section stops at its time limit. The file of results is written after every case; ``--resume`` goes on from it.

``--prepare FOLDER`` compiles everything on a machine without a GPU; ``--artifacts FOLDER`` then runs it where no compiler is installed.
``--sanitize`` runs each problem once in this process, without timing, for compute-sanitizer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cnngraph
from cnngraph_cuda import gpu_tasks
from cnngraph_cuda.driver import CudaDevice, CudaError
from cnngraph_cuda.problems import PROBLEMS, WINOGRAD
from cnngraph_cuda.target import COPIES, resolve
from cnngraph_cuda.templates.winograd_plan import blocks_of

BATCHES = (128, 1, 8, 64)
PRECISIONS = ("f16", "tf32", "f32", "bf16")
DISTINCT = ("name", "arch", "copies", "precision", "batch", "tile", "variant")
"""What tells tasks of a section apart; ``copies`` is there where it is not the usual way."""

SECTIONS = ("conformance", "networks", "speed", "torch", "tiles")

Task = dict[str, Any]


class Worker:
    """A process that answers tasks; a new one takes over when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _start(self) -> subprocess.Popen[str]:
        roots = [str(Path(cnngraph.__file__).parent.parent), str(Path(__file__).parent.parent)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])}
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "cnngraph_cuda.gpu_tasks"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env=environment, text=True,
        )  # fmt: skip
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lines = lines
        stream = self._process.stdout
        assert stream is not None

        def read() -> None:
            for line in stream:
                lines.put(line)
            lines.put("")

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        return self._process

    def ask(self, task: Task, seconds: float) -> dict[str, Any]:
        """The answer to a task, or what became of the process: ``error`` says so."""
        process = self._process if self._process is not None and self._process.poll() is None else self._start()
        assert process.stdin is not None
        start = time.monotonic()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.close()
            return {"error": f"no answer in {seconds:.0f} s; the process was ended", "wall": seconds}
        except OSError:
            line = ""
        if not line:
            status = process.wait()
            self._errors.seek(0)
            tail = self._errors.read()[-1000:]
            self.close()
            return {"error": f"the process ended with status {status}", "trace": tail, "wall": round(time.monotonic() - start, 3)}
        out: dict[str, Any] = json.loads(line)
        if out.get("broken"):
            self.close()
        return out

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        self._reader.join()
        process.stdout.close()
        self._errors.close()


def tasks_of(section: str, given: argparse.Namespace, arch: str, seed: int) -> Iterator[Task]:
    """What a section runs, the most telling cases first."""
    names, precisions, batches = given.network, given.precision, given.batch
    common: Task = {"seed": seed, "repeat": given.repeat, "artifacts": str(given.artifacts) if given.artifacts else None}
    codes: list[Task] = [{"arch": arch}]
    if arch == "sm_90a":
        codes = [{"arch": arch, "copies": how} if how != COPIES[0] else {"arch": arch} for how in given.copies]
    codes += [{"arch": code} for code in given.also if code != arch]
    if section == "conformance":
        for code in codes:
            for precision in precisions:
                for name in PROBLEMS:
                    for batch in (2,) if given.sanitize else (3, 1, 16):
                        yield {**common, **code, "kind": section, "name": name, "precision": precision, "batch": batch}
                for tile in [f"winograd{b.outputs}" for b in blocks_of(resolve(code["arch"], precision))] if "copies" not in code else []:
                    for name in (n for n in WINOGRAD if n in PROBLEMS):
                        batch = 2 if given.sanitize else 3
                        yield {**common, **code, "kind": section, "name": name, "precision": precision, "batch": batch, "tile": tile}
    elif section == "networks":
        for precision in precisions:
            for name in names:
                yield {
                    **common, "kind": section, "name": name, "arch": arch, "precision": precision, "batch": 2, "compiled_for": batches[0],
                }  # fmt: skip
    elif section == "speed":
        for code in codes:
            for precision in precisions:
                for name in names:
                    for batch in batches:
                        yield {
                            **common, **code, "kind": section, "name": name, "precision": precision, "batch": batch,
                            "compiled_for": batch, "steps": not given.no_steps and code["arch"] == arch,
                        }  # fmt: skip
    elif section == "torch" and not given.no_torch:
        for variant in gpu_tasks.VARIANTS:
            for precision in precisions:
                for name in names:
                    for batch in batches:
                        yield {**common, "kind": section, "name": name, "precision": precision, "batch": batch, "variant": variant}
    elif section == "tiles" and given.tiles and not given.artifacts:
        for precision in precisions:
            for name in names:
                for batch in batches:
                    yield {**common, "kind": section, "name": name, "arch": arch, "precision": precision, "batch": batch}


def label(task: Mapping[str, Any]) -> str:
    """A task in a line, which also tells it from all others."""
    return " ".join(str(task[k]) for k in ("kind", *DISTINCT) if k in task)


class Results:
    """Everything found so far, written to a file after every case."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        self.path = path
        self.data: dict[str, Any] = {"sections": {}, "finished": False}
        if resume and path is not None and path.exists():
            self.data = json.loads(path.read_text())
        self.data["finished"] = False

    def rows(self, section: str) -> list[dict[str, Any]]:
        """The rows of a section."""
        found: list[dict[str, Any]] = self.data["sections"].setdefault(section, [])
        return found

    def known(self, section: str, task: Task) -> bool:
        """Whether a row of this task is there, without an error."""
        return any(row["case"] == label(task) and "error" not in row.get("failure", {}) for row in self.rows(section))

    def add(self, section: str, task: Task, out: dict[str, Any]) -> dict[str, Any]:
        """Keep an answer."""
        row = {"case": label(task), **{k: task[k] for k in DISTINCT if k in task}, "status": status_of(section, out)}
        failure = {k: out.pop(k) for k in ("error", "trace") if isinstance(out.get(k), str)}
        row |= {k: v for k, v in out.items() if k != "broken"}
        if failure:
            row["failure"] = failure
        rows = self.rows(section)
        rows[:] = [r for r in rows if r["case"] != row["case"]] + [row]
        self.write()
        return row

    def write(self) -> None:
        """Write the file; a reader never finds half of it."""
        if self.path is not None:
            new = self.path.with_name(self.path.name + ".new")
            new.write_text(json.dumps(self.data, indent=1))
            new.replace(self.path)


def status_of(section: str, out: Mapping[str, Any]) -> str:
    """What came of a case: error, absent, passed, wrong or done."""
    if isinstance(out.get("error"), str):
        return "error"
    if "absent" in out:
        return "absent"
    if "passed" in out:
        return "passed" if out["passed"] else "wrong"
    return "done"


def compile_ahead(tasks: Sequence[Task], seconds: float) -> dict[str, Any]:
    """Compile the programs of tasks into the cache, on all cores; what does not compile is reported by the task itself later."""
    end = time.monotonic() + seconds
    unique = {gpu_tasks.file_of(t): t for t in tasks}
    failures: list[str] = []

    def one(task: Task) -> None:
        if time.monotonic() > end:
            failures.append(f"{label(task)}: no time left")
            return
        try:
            gpu_tasks.program_of(task)
        except Exception as error:
            failures.append(f"{label(task)}: {type(error).__name__}: {error}"[:500])

    start = time.monotonic()
    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as pool:
        list(pool.map(one, unique.values()))
    return {"programs": len(unique), "failures": failures, "wall": round(time.monotonic() - start, 1)}


def prepare(folder: Path, given: argparse.Namespace, arch: str, seed: int) -> None:
    """Compile everything into artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    done = set()
    for section in ("conformance", "networks", "speed"):
        for task in tasks_of(section, given, arch, seed):
            file = gpu_tasks.file_of(task)
            if file not in done:
                gpu_tasks.store(task, folder)
                done.add(file)
    (folder / "settings.json").write_text(json.dumps({"arch": arch, "seed": seed}))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as text."""
    cells = [[_shown(row.get(c, "")) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) if cells else len(c) for i, c in enumerate(columns)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in [list(columns), *cells]]
    return "\n".join(line.rstrip() for line in lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    out = argparse.ArgumentParser(prog="python -m cnngraph_cuda.gpu_check", description=(__doc__ or "").split("\n\n")[0])
    out.add_argument("--arch", help="architecture of the code; default: that of the GPU, or sm_90a with --prepare")
    out.add_argument("--also", action="append", default=[], help="another architecture of this GPU to compare with, such as sm_90")
    out.add_argument("--copies", action="append", choices=COPIES, help=f"how sm_90a copies tiles; both to compare; default: {COPIES[0]}")
    out.add_argument("--precision", action="append", choices=PRECISIONS, help="default: all")
    out.add_argument("--network", action="append", help="a network to run; default: resnet50_v1_5")
    out.add_argument("--batch", action="append", type=int, help="default: 128, 1, 8, 64")
    out.add_argument("--section", action="append", choices=SECTIONS, help="default: all")
    out.add_argument("--prepare", type=Path, help="compile into this folder and stop; needs no GPU")
    out.add_argument("--artifacts", type=Path, help="a folder made by --prepare; nothing is compiled")
    out.add_argument("--seed", type=int, help="of weights and inputs; default: the clock")
    out.add_argument("--repeat", type=int, default=50, help="replays timed")
    out.add_argument("--json", type=Path, help="write all results there, after every case")
    out.add_argument("--resume", action="store_true", help="keep the results in the file of --json and run what it lacks")
    out.add_argument("--section-seconds", type=float, default=600, help="time limit of a section")
    out.add_argument("--case-seconds", type=float, default=120, help="time limit of a case; four times that where PyTorch compiles")
    out.add_argument("--sanitize", action="store_true", help="every problem once in this process, no timing")
    out.add_argument("--tiles", action="store_true", help="also time every tile, and Winograd, on every layer of the networks")
    out.add_argument("--no-steps", action="store_true", help="no times of single steps")
    out.add_argument("--no-torch", action="store_true", help="no comparison with PyTorch")
    return out


def run_section(section: str, tasks: Sequence[Task], given: argparse.Namespace, results: Results, worker: Worker) -> None:
    """Run the tasks of a section until its time is over."""
    end = time.monotonic() + given.section_seconds
    for task in tasks:
        if given.resume and results.known(section, task):
            continue
        left = end - time.monotonic()
        if left <= 0:
            results.data.setdefault("left_out", []).append(label(task))
            continue
        limit = given.case_seconds * (4 if task.get("variant") == "compiled" else 1)
        row = results.add(section, task, worker.ask(task, min(limit, left)))
        told = {k: row[k] for k in ("error", "seconds", "images_per_second", "absent") if k in row}
        told |= {k: v for k, v in row.get("failure", {}).items() if k == "error"}
        print(row["status"], row["case"], " ".join(f"{k}={_shown(v)}" for k, v in told.items()), flush=True)  # noqa: T201
    results.write()


def sanitize(given: argparse.Namespace, results: Results, arch: str, seed: int) -> None:
    """Every problem in this process."""
    device: list[CudaDevice] = []

    def opened() -> CudaDevice:
        if not device:
            device.append(CudaDevice())
        return device[0]

    for task in tasks_of("conformance", given, arch, seed):
        row = results.add("conformance", task, gpu_tasks.answer(task, opened))
        print(row["status"], row["case"], flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every check passed.

    Raises:
        CudaError: there is no usable GPU.
    """
    given = parser().parse_args(arguments)
    given.precision, given.copies = given.precision or list(PRECISIONS), given.copies or [COPIES[0]]
    given.network, given.batch = given.network or ["resnet50_v1_5"], given.batch or list(BATCHES)
    seed = int(time.time()) if given.seed is None else given.seed
    if given.prepare:
        prepare(given.prepare, given, given.arch or "sm_90a", seed)
        return 0
    results = Results(given.json, given.resume)
    arch = given.arch
    if given.artifacts:
        settings = json.loads((given.artifacts / "settings.json").read_text())
        seed, arch = settings["seed"], arch or settings["arch"]
    elif given.resume and "seed" in results.data:
        seed = results.data["seed"]
    worker = Worker()
    try:
        found = worker.ask({"kind": "device"}, given.case_seconds)
        results.data |= {"device": found, "seed": seed, "command": list(sys.argv[1:] if arguments is None else arguments)}
        results.write()
        if "error" in found:
            raise CudaError(str(found["error"]))
        major, minor = found["capability"]
        arch = arch or f"sm_{major}{minor}" + ("a" if (major, minor) == (9, 0) else "")
        results.data["arch"] = arch
        if given.sanitize:
            worker.close()
            sanitize(given, results, arch, seed)
        else:
            sections = {s: list(tasks_of(s, given, arch, seed)) for s in given.section or SECTIONS}
            if not given.artifacts:
                ahead = [t for s in ("conformance", "networks", "speed") for t in sections.get(s, ())]
                results.data["compile"] = compile_ahead(ahead, given.section_seconds)
                results.write()
            for section, tasks in sections.items():
                run_section(section, tasks, given, results, worker)
                worker.close()  # the next section begins with all of the GPU's memory
        results.data["finished"] = True
    finally:
        worker.close()
        results.write()
    return report(results)


def report(results: Results) -> int:
    """Print the tables; 0 if every check passed and none failed to run."""
    checked = [*results.rows("conformance"), *results.rows("networks")]
    bad = [row for row in checked if row["status"] != "passed"]
    print(table(bad, ("status", "name", "arch", "copies", "precision", "batch", "tile", "error")))  # noqa: T201
    speed = [{**row, "variant": row.get("variant", "cnngraph")} for s in ("speed", "torch") for row in results.rows(s)]
    print(table(speed, ("name", "precision", "batch", "variant", "arch", "copies", "seconds", "images_per_second", "status")))  # noqa: T201
    left = results.data.get("left_out", [])
    print(f"{len(checked) - len(bad)} of {len(checked)} checks passed; {len(left)} cases left out for lack of time")  # noqa: T201
    return 1 if bad or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
