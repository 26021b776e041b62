"""How many threads a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cnngraph.errors import UsageError
from cnngraph.runtime.cpus import cpu_quota, default_threads, usable_cpus


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 0.5),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3.0),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, None),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/job\n3:memory:/job",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        ({"proc/self/cgroup": "0::/../../etc", "sys/fs/cgroup/cpu.max": "garbage"}, None),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    write(tmp_path, files)
    assert cpu_quota(tmp_path) == quota


def test_quota_is_rounded_up_and_bounded_by_affinity(tmp_path: Path) -> None:
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "10000 100000"})
    assert usable_cpus(tmp_path) == 1
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "100000000 100000"})
    assert usable_cpus(tmp_path) == min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 256)


def test_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNGRAPH_THREADS", "3")
    assert default_threads() == 3
    for wrong in ("0", "-1", "two", "1000", "1.5"):
        monkeypatch.setenv("CNNGRAPH_THREADS", wrong)
        with pytest.raises(UsageError, match="CNNGRAPH_THREADS"):
            default_threads()
    monkeypatch.setenv("CNNGRAPH_THREADS", "")
    assert default_threads() == usable_cpus()
