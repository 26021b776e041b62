"""How many threads a process may use."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
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


def own_group(controller: str) -> Path | None:
    """Folder of this process's control group, where there is one for the CPU: ``controller`` is "cpu" for version 1, "" for 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path("/sys/fs/cgroup", names, path.lstrip("/"))
    return None


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group below this process's own, with one CPU's worth of time; skips the test where none can be made."""
    if sys.platform != "linux":
        pytest.skip("control groups are Linux's")
    tried = []
    for controller, setting, text in (("", "cpu.max", "100000 100000"), ("cpu", "cpu.cfs_quota_us", "100000")):
        parent = own_group(controller)
        if parent is None or not (parent / "cgroup.procs").exists():
            continue
        folder = parent / f"cnngraph-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            tried.append(f"{folder}: {error.strerror}")
            continue
        try:
            try:
                if not (folder / setting).exists():
                    raise FileNotFoundError(2, f"it has no {setting}")
                (folder / setting).write_text(text)
            except OSError as error:
                tried.append(f"{folder}: {error.strerror}")
                continue
            yield folder
            return
        finally:
            folder.rmdir()
    pytest.skip(f"no control group with a quota can be made here: {'; '.join(tried) or 'there is none for the CPU'}")


def test_a_real_control_group(group: Path) -> None:
    code = (
        "import os, sys\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from cnngraph.runtime.cpus import cpu_quota, usable_cpus\n"
        "from cnngraph.runtime.slots import process_slots\n"
        "print(cpu_quota(), usable_cpus(), process_slots().capacity)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(group / "cgroup.procs")], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.split() == ["1.0", "1", "1"]


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="no control groups")
def test_the_quota_of_this_machine() -> None:
    quota = cpu_quota()
    assert quota is None or quota > 0
    assert 1 <= usable_cpus() <= (256 if quota is None else math.ceil(quota))
