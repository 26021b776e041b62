"""Check and measure the CUDA backend on a GPU, in one command::

    python -m cnngraph_cuda.gpu_check --json result.json

* conformance: every problem of :mod:`cnngraph_cuda.problems` in every precision and several batches, fresh random inputs, all
  memory poisoned with NaN before the run, compared with float64;
* speed: whole networks (mean over graph replays, timed by events on the device) and their steps, and PyTorch with cuDNN beside them
  where it is installed: eager, channels last, ``torch.compile(mode="max-autotune")``.

``--prepare FOLDER`` compiles everything on a machine without a GPU; ``--artifacts FOLDER`` then runs it where no compiler is installed.
``--sanitize`` runs each problem once, without timing, for compute-sanitizer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnngraph.ir.interpret import interpret
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph.runtime.artifact import read, save
from cnngraph.runtime.program import ProgramData
from cnngraph.runtime.session import Program
from cnngraph_cuda.device import Device
from cnngraph_cuda.driver import CudaDevice
from cnngraph_cuda.executor import CudaExecutor, plan_launch
from cnngraph_cuda.problems import PROBLEMS, network
from cnngraph_cuda.templates.conv_plan import FMA_TILES, TENSOR_TILES

TOLERANCE = {"f32": 1e-5, "tf32": 4e-3, "f16": 6e-3, "bf16": 5e-2}
"""Largest difference relative to the largest element, against float64."""

BATCHES = (1, 8, 64, 128)


def options_of(arch: str, precision: str, batch: int, tile: str = "") -> CompileOptions:
    """Options with which everything here is compiled."""
    return CompileOptions(backend="cuda", isa=f"{arch}:{precision}:{batch}" + (f":{tile}" if tile else ""), precision=precision)


def compile_problem(name: str, arch: str, precision: str, seed: int) -> Program:
    """The program of a problem."""
    program = compile_graph(network(name, seed), options_of(arch, precision, 8))
    assert isinstance(program, Program)
    return program


def compile_network(name: str, arch: str, precision: str, batch: int, tile: str = "") -> Program:
    """The program of a network of :mod:`cnngraph_models`, its tiles chosen for ``batch``."""
    import cnngraph
    import cnngraph_models

    program = cnngraph.compile(cnngraph_models.build(name).SerializeToString(), options=options_of(arch, precision, batch, tile))
    assert isinstance(program, Program)
    return program


def check_problem(name: str, data: ProgramData, precision: str, batch: int, seed: int, open_device: Callable[[], Device]) -> dict[str, Any]:
    """Run one problem on poisoned memory and compare it with float64."""
    shape = PROBLEMS[name][0]
    x = np.random.default_rng([seed, batch]).standard_normal((batch, *shape)).astype(np.float32)
    (expected,) = interpret(network(name, seed), {"x": x}, np.float64).values()
    got = np.full(expected.shape, np.nan, np.float32)
    executor = CudaExecutor(data, open_device)
    executor.poison(executor.bind(batch))
    executor.run([x], [got], batch, 1)
    scale = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(got - expected).max() / scale) if np.isfinite(got).all() else float("inf")
    return {
        "problem": name, "precision": precision, "batch": batch, "error": error, "passed": error <= TOLERANCE[precision],
        "kernels": sorted({k.name.split("_sm_")[0] for k in data.kernels}),
    }  # fmt: skip


def time_network(data: ProgramData, batch: int, device: CudaDevice, repeat: int, steps: bool) -> dict[str, Any]:
    """Seconds of a whole network, and of each step, as device times over graph replays."""
    executor = CudaExecutor(data, lambda: device)
    bound = executor.bind(batch)
    graphs = [part for kind, part in bound.parts if kind == "graph"]
    if len(graphs) != 1 or len(bound.parts) != 1:
        raise ValueError("the network is not one graph")
    start = time.perf_counter()
    device.replay(graphs[0])
    device.synchronize()
    first = time.perf_counter() - start
    row: dict[str, Any] = {"batch": batch, "seconds": device.time(graphs[0], repeat), "first": first}
    row["images_per_second"] = batch / row["seconds"]
    if steps:
        kernels = executor._kernels
        table = []
        for step in data.steps:
            launch = plan_launch(step, batch, bound.bases)  # type: ignore[arg-type]
            graph = device.record([launch], kernels)
            table.append({"kernel": data.kernels[launch.kernel].name, "nodes": launch.label, "seconds": device.time(graph, repeat)})
            device.forget(graph)
        row["steps"] = table
    return row


def time_torch(name: str, precision: str, batch: int, repeat: int) -> dict[str, float | str]:
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
    model = builder().eval().cuda().to(dtype)
    x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype)
    out: dict[str, float | str] = {}
    with torch.inference_mode():
        for label, last, compiled in (("eager", False, False), ("channels_last", True, False), ("compiled", True, True)):
            kind = torch.channels_last if last else torch.contiguous_format
            network, feed = model.to(memory_format=kind), x.to(memory_format=kind)
            if compiled:
                network = torch.compile(network, mode="max-autotune")
            try:
                for _ in range(5):
                    network(feed)
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                for _ in range(repeat):
                    network(feed)
                end.record()
                torch.cuda.synchronize()
                out[label] = begin.elapsed_time(end) / 1000 / repeat
            except Exception as failure:  # a missing compiler on the machine must not end the check
                out[label] = f"{type(failure).__name__}: {failure}"[:200]
    return out


def compare_tiles(name: str, arch: str, precision: str, batch: int, device: CudaDevice, repeat: int) -> list[dict[str, Any]]:
    """Seconds of every matrix product of a network with every tile, beside the tile that is chosen without being told."""
    chosen = {}
    for step in compile_network(name, arch, precision, batch).data.report["selection"]:
        chosen[step["node"]] = step["notes"][0] if step["notes"] else ""
    rows: dict[str, dict[str, Any]] = {}
    for tile in sorted({(t.bm, t.bn) for t in (FMA_TILES if precision == "f32" else TENSOR_TILES)}):
        data = compile_network(name, arch, precision, batch, f"{tile[0]}x{tile[1]}").data
        for step in time_network(data, batch, device, repeat, True)["steps"]:
            if step["kernel"].startswith("conv_gemm"):
                row = rows.setdefault(step["nodes"], {"nodes": step["nodes"], "chosen": chosen.get(step["nodes"], "")})
                row[f"{tile[0]}x{tile[1]}"] = step["seconds"]
    return list(rows.values())


def prepare(folder: Path, arch: str, precisions: Sequence[str], names: Sequence[str], batches: Sequence[int], seed: int) -> None:
    """Compile everything into artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    for precision in precisions:
        for problem in PROBLEMS:
            save(compile_problem(problem, arch, precision, seed).data, folder / file_of(problem, precision, 0))
        for name in names:
            for batch in batches:
                save(compile_network(name, arch, precision, batch).data, folder / file_of(name, precision, batch))
    (folder / "settings.json").write_text(json.dumps({"arch": arch, "seed": seed}))


def file_of(name: str, precision: str, batch: int) -> str:
    """File name of an artifact."""
    return re.sub("[^a-z0-9]+", "_", name.lower()) + f"-{precision}-{batch}.cnng"


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
    out = argparse.ArgumentParser(prog="python -m cnngraph_cuda.gpu_check", description=__doc__.split("\n\n")[0])
    out.add_argument("--arch", help="architecture of the code; default: that of the GPU, or sm_90 with --prepare")
    out.add_argument("--precision", action="append", choices=list(TOLERANCE), help="default: all")
    out.add_argument("--network", action="append", default=[], help="a network to time; default: resnet50_v1_5")
    out.add_argument("--batch", action="append", type=int, default=[], help="default: 1, 8, 64, 128")
    out.add_argument("--prepare", type=Path, help="compile into this folder and stop; needs no GPU")
    out.add_argument("--artifacts", type=Path, help="a folder made by --prepare; nothing is compiled")
    out.add_argument("--seed", type=int, help="of weights and inputs; default: the clock")
    out.add_argument("--repeat", type=int, default=50, help="replays timed")
    out.add_argument("--json", type=Path, help="write all results there")
    out.add_argument("--sanitize", action="store_true", help="every problem once, no timing")
    out.add_argument("--tiles", action="store_true", help="also time every tile on every matrix product of the networks")
    out.add_argument("--no-steps", action="store_true", help="no times of single steps")
    out.add_argument("--no-torch", action="store_true", help="no comparison with PyTorch")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every problem passed."""
    given = parser().parse_args(arguments)
    precisions = given.precision or list(TOLERANCE)
    names, batches = given.network or ["resnet50_v1_5"], given.batch or list(BATCHES)
    seed = int(time.time()) if given.seed is None else given.seed
    if given.prepare:
        prepare(given.prepare, given.arch or "sm_90", precisions, names, batches, seed)
        return 0
    if given.artifacts:
        seed = json.loads((given.artifacts / "settings.json").read_text())["seed"]
    device = CudaDevice()
    arch = given.arch or f"sm_{device.capability[0]}{device.capability[1]}"
    result: dict[str, Any] = {"arch": arch, "seed": seed, "conformance": [], "speed": []}

    def program(name: str, precision: str, batch: int) -> ProgramData:
        if given.artifacts:
            return read(given.artifacts / file_of(name, precision, batch))
        made = compile_network(name, arch, precision, batch) if batch else compile_problem(name, arch, precision, seed)
        return made.data

    for precision in precisions:
        for problem in PROBLEMS:
            data = program(problem, precision, 0)
            for batch in (2,) if given.sanitize else (1, 3, 16):
                result["conformance"].append(check_problem(problem, data, precision, batch, seed, lambda: device))
    print(table(result["conformance"], ("problem", "precision", "batch", "error", "passed")))  # noqa: T201
    if not given.sanitize:
        for name in names:
            for precision in precisions:
                for batch in batches:
                    row = {"network": name, "precision": precision}
                    row |= time_network(program(name, precision, batch), batch, device, given.repeat, not given.no_steps)
                    if not given.no_torch:
                        row["torch"] = time_torch(name, precision, batch, given.repeat)
                    if given.tiles and not given.artifacts:
                        row["tiles"] = compare_tiles(name, arch, precision, batch, device, given.repeat)
                    result["speed"].append(row)
        print(table(result["speed"], ("network", "precision", "batch", "seconds", "images_per_second", "torch")))  # noqa: T201
    if given.json:
        given.json.write_text(json.dumps(result, indent=1))
    failed = [row for row in result["conformance"] if not row["passed"]]
    print(f"{len(result['conformance']) - len(failed)} of {len(result['conformance'])} checks passed")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
