"""A compiled program runs with NumPy alone, and its code is linked without LLVM."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cnngraph
from cnngraph.errors import ArtifactError
from cnngraph.runtime import features, loader
from cnngraph.runtime.elf import ObjectFile
from cnngraph.runtime.features import host_features
from cnngraph.runtime.program import Kernel
from cnngraph.runtime.session import Program
from tests.runtime.support import compiled, expected, feed, program_data

HEAVY = ("numba", "llvmlite", "onnx", "google", "networkx", "ml_dtypes", "click", "rich", "scipy", "cnngraph_cpu", "cnngraph_cuda")


def test_running_imports_numpy_alone(tmp_path: Path) -> None:
    Program(program_data()).save(tmp_path / "p.cnng")
    np.save(tmp_path / "x.npy", feed(3))
    code = (
        "import json, sys, numpy as np, cnngraph.runtime\n"
        f"program = cnngraph.load({str(tmp_path / 'p.cnng')!r}, threads=2)\n"
        f"y = program.run({{'x': np.load({str(tmp_path / 'x.npy')!r})}})['y']\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, y)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(result.stdout)) & (set(HEAVY) - ({"llvmlite"} if not loader.simple() else set()))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected(feed(3)))


def test_linked_here_and_by_llvm_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = feed(3)
    here = Program(program_data()).run({"x": x}, threads=2)["y"]
    monkeypatch.setattr(loader, "_addresses", {})
    monkeypatch.setattr(loader, "simple", lambda: False)
    np.testing.assert_array_equal(Program(program_data()).run({"x": x}, threads=2)["y"], here)


def test_systems_other_than_linux_offer_everything_to_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_addresses", {})
    monkeypatch.setattr(loader, "sys", SimpleNamespace(platform="elsewhere"))
    x = feed(2)
    np.testing.assert_array_equal(Program(program_data(), threads=1).run({"x": x})["y"], expected(x))


@pytest.mark.skipif(not loader.simple() or sys.platform != "linux", reason="code is linked by LLVM, or the map of memory is not to be had")
def test_no_memory_is_writable_and_executable() -> None:
    (address,) = loader.load_kernels(compiled()[:1])
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        start, stop = (int(end, 16) for end in span.split("-"))
        if start <= address < stop:
            assert rights == "r-xp"
            break
    else:
        raise AssertionError("the kernel is not in memory")


@pytest.mark.skipif(not loader.simple(), reason="code is linked by LLVM")
def test_a_system_that_allows_no_new_code(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = compiled()[0]
    fresh = Kernel(kernel.name, kernel.symbol, kernel.code + b"\0")

    class Refusing:
        def __init__(self, real: object) -> None:
            self._real = real
            self.mprotect = lambda *_: -1
            self.mprotect.argtypes = None  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    real = ctypes.CDLL(None)
    monkeypatch.setattr(loader.ctypes, "CDLL", lambda _: Refusing(real))
    with pytest.raises(ArtifactError, match="does not allow a process to add executable code"):
        loader.load_kernels([fresh])


def test_every_flipped_byte_of_the_tables_is_refused_or_harmless() -> None:
    """Reading a damaged object file raises ArtifactError or gives an object whose places all lie inside."""
    code = compiled()[0].code
    refused = 0
    for at in range(len(code)):
        damaged = bytearray(code)
        damaged[at] ^= 0xFF
        try:
            file = ObjectFile(bytes(damaged))
        except ArtifactError:
            refused += 1
            continue
        for r in file.relocations:
            assert 0 <= r.offset <= file.sections[r.section].size - 8
            assert r.symbol < len(file.symbols)
        for section in file.sections:
            if section.loaded:
                assert len(file.content(section)) == section.size
    assert refused > 100


def test_features_of_a_listing(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 avx512_vnni avx512f avx_vnni\n\nflags: other\n")
    assert host_features(tmp_path / "cpuinfo") == {"fpu", "sse4.2", "avx2", "avx512vnni", "avx512f", "avxvnni"}


def test_features_without_a_listing_are_llvms(tmp_path: Path) -> None:
    assert host_features(tmp_path / "none") & host_features()


def test_public_load_is_the_runtime_s() -> None:
    from cnngraph.runtime.artifact import load

    assert cnngraph.load is load


TILE_FLAGS = "flags : avx512f avx512_bf16 amx_tile amx_bf16 amx_int8\n"


@pytest.mark.parametrize(("permission", "state"), [(True, "granted"), (False, "refused")])
def test_tiles_need_the_system_s_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, permission: bool, state: str) -> None:
    (tmp_path / "cpuinfo").write_text(TILE_FLAGS)
    monkeypatch.setattr(features, "tile_permission", lambda: permission)
    found = features.host_features(tmp_path / "cpuinfo")
    assert found - {"amx-tile", "amx-bf16", "amx-int8"} == {"avx512f", "avx512bf16"}
    assert ("amx-tile" in found and "amx-int8" in found) is permission
    assert features.tile_state(tmp_path / "cpuinfo") == state
    (tmp_path / "old").write_text("flags : avx512f\n")
    assert features.tile_state(tmp_path / "old") == "absent"


def test_a_refused_unit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "tile_state", lambda: "refused")
    monkeypatch.setattr(features, "host_features", lambda: frozenset({"avx2"}))
    assert features.missing_features(["avx2", "fma", "amx-tile"]) == ["fma", "amx-tile (refused by the system)"]


def test_permission_is_asked_for_where_the_cpu_has_tiles() -> None:
    """What Linux answers must fit what the CPU lists: a CPU without the unit has no such state to grant."""
    if features.TILES not in features._listed(Path("/proc/cpuinfo")):
        assert not features.tile_permission()
        assert features.tile_state() == "absent"
    else:
        assert features.tile_state() in ("granted", "refused")
