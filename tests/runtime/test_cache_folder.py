"""The cache folder: known models are read, not compiled; nothing stale, damaged or half-written is used; it stays below its size."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

import cnngraph
from cnngraph import pipeline
from cnngraph.errors import UsageError
from cnngraph.options import CompileOptions
from cnngraph.runtime import cache, programs
from tests.cli.conftest import Call, call  # noqa: F401  a fixture
from tests.runtime.test_weights import X, model


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of the model, compiled once."""
    place = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNNGRAPH_CACHE_DIR", str(place))
        for math in ("f32", "exact"):
            cnngraph.compile(model(1), math=math)
    return place


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: Path) -> Path:
    """A cache that has the model's kernels and keeps every program."""
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path / "cache"))
    for kernel in kernels.iterdir():
        shutil.copy(kernel, tmp_path / "cache")
    monkeypatch.setenv("CNNGRAPH_CACHE_PROGRAMS", "1")
    monkeypatch.setattr(programs, "WORTH_SECONDS", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(model(1), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*_: object, **__: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(pipeline, "compile", compiled)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_known_model_is_read(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch, as_bytes: bool) -> None:
    source = path.read_bytes() if as_bytes else path
    first = cnngraph.compile(source, threads=1)
    assert [p.suffix for p in cache.entries()].count(".program") == 1
    forbid(monkeypatch)
    again = cnngraph.compile(source, threads=2)
    assert (first.threads, again.threads) == (1, 2)
    assert cnngraph.compile(source).threads == cnngraph.runtime.cpus.default_threads()
    assert all(kernel.cached for kernel in again.kernels)
    np.testing.assert_array_equal(again.run({"x": X})["y"], first.run({"x": X})["y"])


def test_the_command_line_imports_no_compiler_for_a_known_model(folder: Path, path: Path, tmp_path: Path, call: Call) -> None:  # noqa: F811
    assert call("compile", path, "-o", tmp_path / "first.cnng").code == 0
    arguments = ["compile", str(path), "-o", str(tmp_path / "second.cnng")]
    code = (
        f"import sys\nfrom cnngraph.cli import cli\ntry:\n    cli.main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, 'cnngraph.pipeline' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numba", "llvmlite", "onnx", "networkx", "scipy", "rich", "True"} & set(result.stdout.splitlines()[-1].split())
    x = {"x": X}
    np.testing.assert_array_equal(cnngraph.load(tmp_path / "second.cnng").run(x)["y"], cnngraph.load(tmp_path / "first.cnng").run(x)["y"])


def test_what_a_key_depends_on(folder: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(source: object = path, **changes: object) -> str | None:
        shapes, constants = changes.pop("shapes", None), changes.pop("constants", None)
        return programs.key_of(source, CompileOptions(**changes), shapes, constants)  # type: ignore[arg-type]

    (tmp_path / "n.onnx").write_bytes(model(2).SerializeToString())
    keys = [
        key(), key(tmp_path / "n.onnx"), key(isa="avx2"), key(math="exact"), key(disabled_passes=("fold_pad",)),
        key(shapes={"x": ["N", 3, 12, 12]}), key(shapes={"x": [1, 3, 12, 12]}), key(constants={"x": X}), key(constants={"x": X + 1}),
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(programs, "_sources", lambda: iter(["pipeline.py 5 7"]))
        keys.append(key())
    with monkeypatch.context() as patch:
        patch.setattr("cnngraph.runtime.features.host_features", lambda: frozenset({"sse2"}))
        keys.append(key())
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key(threads=7) == keys[0] == key(path.read_bytes())
    assert key(onnx.load(path)) is key(tmp_path / "none.onnx") is key(tmp_path) is None
    monkeypatch.setenv("CNNGRAPH_CACHE_PROGRAMS", "0")
    assert key() is None


def test_a_damaged_program_is_left_aside(folder: Path, path: Path, caplog: pytest.LogCaptureFixture, call: Call) -> None:  # noqa: F811
    wanted = cnngraph.compile(path).run({"x": X})["y"]
    (stored,) = folder.glob("*.program")
    content = bytearray(stored.read_bytes())
    content[-70] ^= 1
    stored.write_bytes(content)
    outcome = call("cache", "verify")
    assert outcome.code == 1
    assert stored.name in outcome.err
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cnngraph.compile(path).run({"x": X})["y"], wanted)
    assert "damaged" in caplog.text
    assert call("cache", "verify", "--json").json["sound"] == len(list(cache.entries()))
    listed = call("cache", "ls", "--json").json["entries"]
    kinds = {entry["kind"] for entry in listed}
    assert kinds - {"source"} == {"kernel", "program"}  # a process that has generated a source before keeps no second one


def test_models_with_further_files_are_not_kept(folder: Path, tmp_path: Path) -> None:
    onnx.save(model(1), tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=16)
    cnngraph.compile(tmp_path / "e.onnx")
    assert not list(folder.glob("*.program"))


def test_a_file_that_changes_meanwhile_is_not_kept(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pipeline.compile

    def slow(source: Path, **options: object) -> object:
        program = real(source, **options)  # type: ignore[arg-type]
        onnx.save(model(2), path)
        return program

    monkeypatch.setattr(pipeline, "compile", slow)
    cnngraph.compile(path)
    assert not list(folder.glob("*.program"))


def test_quick_compilations_are_not_kept(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "WORTH_SECONDS", 1e6)
    cnngraph.compile(path)
    assert not list(folder.glob("*.program"))


def test_a_place_that_cannot_be_written_only_warns(
    tmp_path: Path, path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert cnngraph.compile(path).run({"x": X})["y"].shape == (2, 5)
    assert "cache not written" in caplog.text
    assert list(cache.entries()) == [] and cache.prune(0) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of resources")
def test_a_full_disk_only_warns(folder: Path, path: Path) -> None:
    before = set(folder.iterdir())
    code = (
        "import logging, resource, signal, cnngraph, numpy as np\nlogging.basicConfig()\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "from cnngraph.runtime import programs, cache\nprograms.WORTH_SECONDS = 0\n"
        "assert not cache.write('e.kernel', [bytes(300)])\n"
        f"from tests.runtime.test_weights import model\nprogram = cnngraph.compile({str(path)!r})\n"
    )
    result = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("cache not written") == 2
    assert set(folder.iterdir()) <= before


def test_processes_at_once(folder: Path, path: Path) -> None:
    for kernel in list(folder.iterdir())[::2]:
        kernel.unlink()
    code = (
        "import sys, cnngraph\nfrom cnngraph.runtime import programs\nprograms.WORTH_SECONDS = 0\n"
        "from tests.runtime.test_weights import X\n"
        f"sys.stdout.buffer.write(cnngraph.compile({str(path)!r}, threads=1).run({{'x': X}})['y'].tobytes())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) for _ in range(3)]
    results = {process.communicate()[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(results) == 1
    assert all(cache.sound_program(p) for p in folder.glob("*.program"))
    assert {p.suffix for p in folder.iterdir()} == {".kernel", ".program", ".source"}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners")
def test_a_folder_that_others_can_write_is_not_used(folder: Path, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from cnngraph_cpu.cache import load, store

    assert store("entry", "symbol", b"code")
    assert load("entry") == ("symbol", b"code")
    folder.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert load("entry") is None
        assert not store("other", "symbol", b"code")
        assert programs.key_of(path, CompileOptions(), None, None) is None
    assert caplog.text.count("is not used") == 1
    folder.chmod(0o750)
    assert load("entry") == ("symbol", b"code")


def entry(name: str, size: int, age: float) -> Path:
    assert cache.write(name, [bytes(size)])
    path = cache.cache_dir() / name
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_what_was_used_least_recently_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.prune(0)
    old, middle, new = entry("a.kernel", 400_000, 3000), entry("b.program", 400_000, 2000), entry("c.kernel", 400_000, 1000)
    assert list(cache.entries()) == [old, middle, new]
    cache.used(old)
    assert list(cache.entries()) == [middle, new, old]
    monkeypatch.setenv("CNNGRAPH_CACHE_MB", "1")
    cache.keep_below_limit()
    assert list(cache.entries()) == [new, old]
    (folder / "left.tmp").write_bytes(b"")
    (folder / "fresh.tmp").write_bytes(b"")
    os.utime(folder / "left.tmp", (0, 0))
    assert cache.prune(0) == 2
    assert [p.name for p in folder.iterdir()] == ["fresh.tmp"]


def test_the_limit_is_kept_by_compiling(folder: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry("a.program", 3_000_000, 1000)
    monkeypatch.setenv("CNNGRAPH_CACHE_MB", "1")
    cnngraph.compile(path)
    assert not (folder / "a.program").exists()
    assert list(folder.glob("*.kernel"))
    monkeypatch.setenv("CNNGRAPH_CACHE_MB", "many")
    with pytest.raises(UsageError, match="CNNGRAPH_CACHE_MB"):
        cache.limit()


def test_an_entry_that_vanishes_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.prune(0)
    path = entry("a.kernel", 10, 0)
    rows = cache._listed()
    path.unlink()
    monkeypatch.setattr(cache, "_listed", lambda: rows)
    from cnngraph_cpu.cache import verify

    assert cache.prune(0) == 0
    assert verify() == (0, [])
