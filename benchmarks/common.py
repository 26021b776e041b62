"""What the benchmark programs share: the machine, the models, interleaved timing, JSON and plots."""

from __future__ import annotations

import glob
import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cnngraph_models
from cnngraph.cli.output import plain
from cnngraph.runtime.cpus import usable_cpus
from cnngraph.runtime.features import cpu_model, host_features

PACKAGES = ("cnngraph", "numpy", "numba", "llvmlite", "onnx", "onnxruntime", "openvino", "torch")
_TELLING = ("amx-bf16", "amx-int8", "avx512f", "avx512bf16", "avx512vnni", "avxvnni", "avx2", "fma", "sse4.2", "neon", "sme")


def facts() -> dict[str, Any]:
    """The machine and the versions that a table of times must name."""
    known = {name.replace("_", "-") for name in host_features()}  # amx_bf16 is Linux' spelling, amx-bf16 LLVM's
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu_model(), "cpus": usable_cpus(), "features": [name for name in _TELLING if name in known],
        "system": platform.platform(), "python": platform.python_version(), "versions": versions, "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip


def print_facts(found: Mapping[str, Any]) -> None:
    """Three lines above a table."""
    print(f"{found['date']}; {found['cpu']}, {found['cpus']} CPUs, {' '.join(found['features'])}; load {found['load']:.1f}")
    print(f"{found['system']}, Python {found['python']}")
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))


def models(names: str, folder: str) -> list[tuple[str, str]]:
    """(name, file) of each network of a list: a name of the zoo, written to ``folder``; a file; or a pattern as of the shell.

    Raises:
        SystemExit: a pattern matches nothing.
    """
    found = []
    for name in names.split(","):
        if not name.endswith(".onnx"):
            path = Path(folder) / f"{name}.onnx"
            if not path.exists():
                path.write_bytes(cnngraph_models.build(name).SerializeToString())
            found.append((name, str(path)))
            continue
        matches = sorted(glob.glob(name)) if glob.has_magic(name) else [name]
        if not matches:
            raise SystemExit(f"no file matches {name}")
        found += [(Path(match).parent.name if Path(match).stem == "model" else Path(match).stem, match) for match in matches]
    return found


def interleaved(runs: Mapping[str, Callable[[], object]], seconds: float, least: int = 5) -> dict[str, list[float]]:
    """Wall times of every run, in turn, for about ``seconds`` and at least ``least`` rounds after one that does not count.

    The order is another in every round, for a run also depends on what the one before left in the caches.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    names, order = list(runs), random.Random(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        order.shuffle(names)
        for name in names:
            run = runs[name]
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def write_json(path: Path | None, data: Mapping[str, Any]) -> None:
    """Write the results to ``path``, if one is given."""
    if path is not None:
        path.write_text(json.dumps(plain(data), indent=1) + "\n", encoding="utf-8")


def plot(path: Path, draw: Callable[[Any], None], size: tuple[float, float] = (9, 5)) -> bool:
    """Let ``draw`` fill axes and save them, SVG or PNG by the suffix; without matplotlib says so and returns False."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print(f"{path} is not drawn: matplotlib is not installed (pip install 'cnngraph[bench]')")
        return False
    figure, axes = pyplot.subplots(figsize=size, constrained_layout=True)
    draw(axes)
    figure.savefig(path)
    pyplot.close(figure)
    return True


def lines(axes: Any, points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str, *, log: bool = False) -> None:
    """Draw one line a series with its name; axes are named ``x`` and ``y``, both logarithmic with ``log``."""
    for name, series in points.items():
        axes.plot(*zip(*series, strict=True), marker="o", label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
