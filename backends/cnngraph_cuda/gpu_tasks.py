"""What :mod:`cnngraph_cuda.gpu_check` measures, one task at a time, in a process that a fault or a hang of the GPU may end.

A task is a JSON object with ``kind`` and the arguments of one function below; the answer is another. Run as
``python -m cnngraph_cuda.gpu_tasks`` it reads tasks as JSON lines and answers each with a line.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import static
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph.runtime.artifact import read, save
from cnngraph.runtime.program import FIRST_IO, KernelStep, ProgramData
from cnngraph.runtime.session import Program
from cnngraph_cuda.device import Device
from cnngraph_cuda.driver import CudaDevice, CudaError
from cnngraph_cuda.executor import CudaExecutor, plan_launch
from cnngraph_cuda.problems import PROBLEMS, network
from cnngraph_cuda.target import resolve
from cnngraph_cuda.templates.conv_plan import tiles_of
from cnngraph_cuda.templates.winograd_plan import blocks_of

TOLERANCE = {"f32": 1e-5, "tf32": 4e-3, "f16": 6e-3, "bf16": 5e-2}
"""Largest difference relative to the largest element, against float64."""

VARIANTS = {"channels_last": (True, False), "compiled": (True, True), "eager": (False, False)}
"""How PyTorch runs a network: channels last, ``torch.compile(mode="max-autotune")``."""


def options_of(arch: str, precision: str, batch: int, *more: str) -> CompileOptions:
    """Options with which everything here is compiled; ``more`` words of the target are a tile or a way to copy, if not empty."""
    isa = ":".join([arch, precision, str(batch), *filter(None, more)])
    return CompileOptions(backend="cuda", isa=isa, precision=precision)


def compile_problem(name: str, arch: str, precision: str, seed: int, *more: str) -> Program:
    """The program of a problem."""
    program = compile_graph(network(name, seed), options_of(arch, precision, 8, *more))
    assert isinstance(program, Program)
    return program


def compile_network(name: str, arch: str, precision: str, batch: int, *more: str) -> Program:
    """The program of a network of :mod:`cnngraph_models`, its tiles chosen for ``batch``."""
    import cnngraph
    import cnngraph_models

    program = cnngraph.compile(cnngraph_models.build(name).SerializeToString(), options=options_of(arch, precision, batch, *more))
    assert isinstance(program, Program)
    return program


def file_of(task: Mapping[str, Any]) -> str:
    """File name of the artifact of a task."""
    words = [re.sub("[^a-z0-9]+", "_", task["name"].lower()), task["arch"], *filter(None, [task.get("copies"), task.get("tile")])]
    return "-".join([*words, task["precision"], str(task.get("compiled_for", 0))]) + ".cnng"


def program_of(task: Mapping[str, Any]) -> ProgramData:
    """The program of a task, from the folder of artifacts or compiled here; ``batch`` 0 is a problem's."""
    name, arch, precision, batch = task["name"], task["arch"], task["precision"], task.get("compiled_for", 0)
    if task.get("artifacts"):
        return read(Path(task["artifacts"]) / file_of(task))
    return _compiled(name, arch, precision, batch, task["seed"], task.get("copies", ""), task.get("tile", "")).data


@lru_cache(2)
def _compiled(name: str, arch: str, precision: str, batch: int, seed: int, *more: str) -> Program:
    return compile_network(name, arch, precision, batch, *more) if batch else compile_problem(name, arch, precision, seed, *more)


def store(task: Mapping[str, Any], folder: Path) -> None:
    """Compile the program of a task into a folder of artifacts."""
    save(program_of(task), folder / file_of(task))


def difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest expected element; infinite where a number is not finite."""
    scale = max(float(np.abs(expected).max()), 1e-30)
    return float(np.abs(got - expected).max() / scale) if np.isfinite(got).all() else float("inf")


def check_problem(name: str, data: ProgramData, precision: str, batch: int, seed: int, open_device: Callable[[], Device]) -> dict[str, Any]:
    """Run one problem on poisoned memory and compare it with float64."""
    shape = PROBLEMS[name][0]
    x = np.random.default_rng([seed, batch]).standard_normal((batch, *shape)).astype(np.float32)
    (expected,) = interpret(network(name, seed), {"x": x}, np.float64).values()
    got = np.full(expected.shape, np.nan, np.float32)
    executor = CudaExecutor(data, open_device)
    executor.poison(executor.bind(batch))
    executor.run([x], [got], batch, 1)
    error = difference(got, expected)
    again = np.full(expected.shape, np.nan, np.float32)
    executor.run([x], [again], batch, 1)
    return {
        "problem": name, "precision": precision, "batch": batch, "error": error, "repeatable": bool(np.array_equal(got, again)),
        "passed": error <= TOLERANCE[precision], "kernels": sorted({k.name.split("_sm_")[0] for k in data.kernels}),
    }  # fmt: skip


def check_network(name: str, data: ProgramData, precision: str, batch: int, seed: int, open_device: Callable[[], Device]) -> dict[str, Any]:
    """Run a whole network and compare it with float64; the tolerance is three times that of one layer."""
    import cnngraph_models
    from cnngraph.frontend import import_model

    graph = import_model(cnngraph_models.build(name).SerializeToString())
    shape = static(graph.inputs[0][1].type.shape[1:])
    x = np.random.default_rng(seed).uniform(-1, 1, (batch, *shape)).astype(np.float32)
    (expected,) = interpret(graph, {graph.inputs[0][0]: x}, np.float64).values()
    got = np.full(expected.shape, np.nan, np.float32)
    executor = CudaExecutor(data, open_device)
    executor.poison(executor.bind(batch))
    executor.run([x], [got], batch, 1)
    error = difference(got, expected)
    return {"network": name, "precision": precision, "batch": batch, "error": error, "passed": error <= 3 * TOLERANCE[precision]}


def time_network(data: ProgramData, batch: int, device: CudaDevice, repeat: int, steps: bool) -> dict[str, Any]:
    """Seconds of a whole network on random images, and of each step, as device times over graph replays."""
    executor = CudaExecutor(data, lambda: device)
    bound = executor.bind(batch)
    graphs = [part for kind, part in bound.parts if kind == "graph"]
    if len(graphs) != 1 or len(bound.parts) != 1:
        raise ValueError("the network is not one graph")
    for i, spec in enumerate(data.inputs):  # zeros would draw less power, and run faster
        shape = [a * batch + b for a, b in spec.factors()]
        device.upload(bound.bases[FIRST_IO + i], np.random.default_rng(i).uniform(-1, 1, shape).astype(np.float32))
    start = time.perf_counter()
    device.replay(graphs[0])
    device.synchronize()
    first = time.perf_counter() - start
    device.time(graphs[0], repeat)  # clocks settle
    row: dict[str, Any] = {"batch": batch, "seconds": device.time(graphs[0], repeat), "first": first}
    row["images_per_second"] = batch / row["seconds"]
    if steps:
        row["steps"] = time_steps(data, batch, device, repeat, executor)
    return row


def time_steps(data: ProgramData, batch: int, device: CudaDevice, repeat: int, executor: CudaExecutor) -> list[dict[str, Any]]:
    """Seconds of each step alone, on what the last run left in memory."""
    bound, table = executor.bind(batch), []
    for step in data.steps:
        if not isinstance(step, KernelStep):
            continue
        launch = plan_launch(step, batch, bound.bases)
        graph = device.record([launch], executor._kernels)
        seconds = device.time(graph, repeat)
        device.forget(graph)
        table.append({"kernel": data.kernels[launch.kernel].name, "nodes": launch.label, "grid": launch.grid, "seconds": seconds})
    return table


def time_torch(name: str, precision: str, batch: int, repeat: int, variant: str) -> dict[str, Any]:
    """Seconds of the same network in PyTorch with cuDNN, where torch and torchvision are installed."""
    try:
        import torch
        import torchvision
    except ImportError as error:
        return {"absent": str(error)}
    builder = getattr(torchvision.models, re.sub("_v1_5$", "", name), None)
    if builder is None:
        return {"absent": f"torchvision has no {name}"}
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    last, compiled = VARIANTS[variant]
    kind = torch.channels_last if last else torch.contiguous_format
    model = builder().eval().cuda().to(dtype).to(memory_format=kind)
    x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype).to(memory_format=kind)
    run = torch.compile(model, mode="max-autotune") if compiled else model
    with torch.inference_mode():
        for _ in range(10):
            run(x)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeat):
            run(x)
        end.record()
        torch.cuda.synchronize()
    seconds = begin.elapsed_time(end) / 1000 / repeat
    return {"seconds": seconds, "images_per_second": batch / seconds, "torch": torch.__version__}


def compare_tiles(name: str, arch: str, precision: str, batch: int, device: CudaDevice, repeat: int) -> list[dict[str, Any]]:
    """Seconds of every matrix product of a network with every tile, beside what is chosen without being told.

    In precision f32 also those of every convolution that Winograd's method can compute, by each of its kinds of blocks.
    """
    chosen = {}
    for step in compile_network(name, arch, precision, batch).data.report["selection"]:
        chosen[step["node"]] = step["notes"][0] if step["notes"] else ""
    target = resolve(arch, precision)
    variants = [("conv_gemm", f"{bm}x{bn}") for bm, bn in sorted({(t.bm, t.bn) for t in tiles_of(target)})]
    variants += [("winograd", f"winograd{block.outputs}") for block in blocks_of(target)]
    rows: dict[str, dict[str, Any]] = {}
    for family, variant in variants:
        data = compile_network(name, arch, precision, batch, variant).data
        for step in time_network(data, batch, device, repeat, True)["steps"]:
            if step["kernel"].startswith(family):
                row = rows.setdefault(step["nodes"], {"nodes": step["nodes"], "chosen": chosen.get(step["nodes"], "")})
                row[variant] = step["seconds"]
    return list(rows.values())


def run_task(task: Mapping[str, Any], open_device: Callable[[], CudaDevice]) -> dict[str, Any]:
    """The answer to a task; whatever goes wrong is raised."""
    kind = task["kind"]
    if kind == "device":
        device = open_device()
        return {"capability": list(device.capability), "name": device.name(), "driver": device.driver_version()}
    if kind == "compile":
        program_of(task)
        return {}
    if kind == "torch":
        return time_torch(task["name"], task["precision"], task["batch"], task["repeat"], task["variant"])
    if kind == "tiles":
        return {"tiles": compare_tiles(task["name"], task["arch"], task["precision"], task["batch"], open_device(), task["repeat"])}
    data = program_of(task)
    if kind == "speed":
        return time_network(data, task["batch"], open_device(), task["repeat"], task["steps"])
    check = check_problem if kind == "conformance" else check_network
    return check(task["name"], data, task["precision"], task["batch"], task["seed"], open_device)


def answer(task: Mapping[str, Any], open_device: Callable[[], CudaDevice]) -> dict[str, Any]:
    """:func:`run_task`, with what goes wrong as ``error``, and ``broken`` if this process's GPU context may be unusable now."""
    start = time.perf_counter()
    try:
        out = run_task(task, open_device)
    except Exception as failure:  # whatever it is, the next task comes
        text = traceback.format_exc()[-2000:]
        out = {"error": f"{type(failure).__name__}: {failure}"[:500], "trace": text, "broken": isinstance(failure, CudaError)}
    return {**out, "wall": round(time.perf_counter() - start, 3)}


def main(lines: Sequence[str] | None = None) -> int:
    """Answer tasks from standard input (or ``lines``) until it ends, or a task leaves the GPU unusable."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes elsewhere
    opened: list[CudaDevice] = []

    def device() -> CudaDevice:
        if not opened:
            opened.append(CudaDevice())
        return opened[0]

    for line in sys.stdin if lines is None else lines:
        out = answer(json.loads(line), device)
        answers.write(json.dumps(out) + "\n")
        answers.flush()
        if out.get("broken"):
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
