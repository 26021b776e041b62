"""``cnngraph doctor``: what this machine and this installation offer."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import click

import cnngraph
from cnngraph.cli.output import emit, json_option, table
from cnngraph.errors import CnngraphError

PACKAGES = ("numpy", "numba", "llvmlite", "onnx", "networkx", "ml_dtypes", "click", "rich", "pillow", "onnxruntime", "openvino")


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show versions, backends, instruction sets, threads, the tile unit (AMX), the kernel cache and environment variables."""
    from cnngraph.options import VARIABLES

    packages = {name: _version(name) for name in PACKAGES}
    backends = _backends()
    data: dict[str, Any] = {
        "cnngraph": cnngraph.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus_online": os.cpu_count(),
        "threads": _threads(),
        "tiles": _tiles(),
        "packages": packages,
        "backends": backends,
        "variables": {variable.name: os.environ.get(variable.name) for variable in VARIABLES},
    }

    def show() -> None:
        rows: list[list[object]] = [
            [key, str(data[key])] for key in ("cnngraph", "python", "platform", "processor", "cpus_online", "threads", "tiles")
        ]
        rows += [[name, version or "not installed"] for name, version in packages.items()]
        table(None, ["what", "here"], rows)
        table(
            None,
            ["backend", "instruction sets, best first", "kernel cache", "writable", "problem"],
            [[b["name"], ", ".join(b["isas"]), b["cache"], b["cache_writable"], b["problem"]] for b in backends],
        )
        table(None, ["variable", "value", "meaning"], [[v.name, os.environ.get(v.name, "not set"), v.meaning] for v in VARIABLES])

    emit("doctor", data, as_json, show)


def _backends() -> list[dict[str, Any]]:
    from cnngraph.backends import available_backends, get_backend

    rows = []
    for name in available_backends():
        row: dict[str, Any] = {"name": name, "isas": [], "cache": None, "cache_writable": None, "problem": None}
        try:
            backend = get_backend(name)
            folder = backend.cache().cache_dir()
            row |= {"isas": list(backend.isas()), "cache": str(folder), "cache_writable": _writable(str(folder))}
        except (CnngraphError, ImportError) as error:
            row["problem"] = str(error)
        rows.append(row)
    return rows


def _writable(path: str) -> bool:
    while not os.path.exists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _threads() -> int:
    from cnngraph.runtime.cpus import default_threads

    return default_threads()


def _tiles() -> str:
    """Whether there is a tile unit (AMX), and the system lets this process use it."""
    from cnngraph.runtime.features import tile_state

    return tile_state()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
