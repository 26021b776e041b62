"""How many threads this process may really use: affinity, and the CPU quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

from cnngraph.errors import UsageError

MAX_THREADS = 256


def default_threads() -> int:
    """``CNNGRAPH_THREADS`` if set, else the number of usable CPUs; at least 1 and at most 256.

    Raises:
        UsageError: the variable is not a positive integer.
    """
    chosen = os.environ.get("CNNGRAPH_THREADS")
    if chosen:
        if not chosen.isascii() or not chosen.isdigit() or not 1 <= int(chosen) <= MAX_THREADS:
            raise UsageError(f"CNNGRAPH_THREADS is {chosen!r}; it must be an integer from 1 to {MAX_THREADS}")
        return int(chosen)
    return usable_cpus()


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs in the affinity mask, but no more than the control group's quota rounded up."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    if quota is not None:
        count = min(count, math.ceil(quota))
    return max(1, min(count, MAX_THREADS))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs' worth of time that control groups (version 2 or 1) allow this process, or None if unlimited.

    Args:
        root: where ``proc`` and ``sys`` are found.
    """
    quotas = []
    for folder in _groups(root):
        text = _read(folder / "cpu.max")
        if text is not None:
            fields = text.split()
            if len(fields) == 2:
                quotas.append(_ratio(fields[0], fields[1]))
            continue
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota is not None and period is not None:
            quotas.append(_ratio(quota, period))
    limits = [q for q in quotas if q is not None]
    return min(limits) if limits else None


def _groups(root: Path) -> list[Path]:
    """Folders of this process's control group and all its ancestors, for both versions."""
    base = root / "sys/fs/cgroup"
    folders = [base, base / "cpu", base / "cpu,cpuacct"]
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = base / controllers if controllers else base
        parts = [p for p in path.split("/") if p not in ("", "..")]
        folders += [mount.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def _ratio(quota: str, period: str) -> float | None:
    try:
        allowed, length = float(quota), float(period)
    except ValueError:
        return None  # "max": no limit
    return allowed / length if allowed > 0 and length > 0 else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
