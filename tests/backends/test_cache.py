"""The kernel cache: round trip, damage, a place that cannot be written, pruning."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cnngraph.kernels.template import KernelSource, KernelSpec
from cnngraph_cpu import cache


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_round_trip_and_keys(folder: Path) -> None:
    entry = cache.key("source", "target")
    assert entry != cache.key("source", "other") and cache.load(entry) is None
    assert cache.store(entry, "symbol", b"\x7fELF code")
    assert cache.load(entry) == ("symbol", b"\x7fELF code")
    assert [p.name for p in folder.iterdir()] == [f"{entry}.kernel"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b"", lambda b: b.replace(b"symbol", b"\xff\xfe")])
def test_a_damaged_entry_is_as_good_as_none(folder: Path, damage: object) -> None:
    cache.store("entry", "symbol", b"code")
    path = folder / "entry.kernel"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.load("entry") is None
    assert cache.verify() == (0, [path])


def test_a_place_that_cannot_be_written_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CNNGRAPH_CACHE_DIR", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert not cache.store("entry", "symbol", b"code")
    assert "not written" in caplog.text and cache.load("entry") is None


def test_prune_keeps_the_newest(folder: Path) -> None:
    for i in range(4):
        cache.store(f"entry{i}", "symbol", bytes(1000))
        (folder / f"entry{i}.kernel").touch()
    assert cache.prune(2500) >= 2
    assert sum(p.stat().st_size for p in cache.entries()) <= 2500


@pytest.mark.parametrize("isa", ["avx512amx", "avx512", "avx512vnni", "avx2", "sse4"])
def test_every_intrinsic_is_known_to_the_key(isa: str) -> None:
    from cnngraph_cpu.simd import primitives

    offered = frozenset[str]().union(*(cache.names_in(module) for module in ("simd", *cache._LANGUAGE)))
    assert set(primitives(isa)) <= offered


def test_a_key_changes_with_the_intrinsics_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    floats = "from cnngraph_cpu.simd import primitives\n\ndef f(args):\n    store(y, 0, fma(load(x, 0), a, b))\n"
    sigmoid, integers = floats.replace("fma(", "sigmoid("), floats.replace("fma(", "dot4(")
    real = cache._text_of

    def keys(changed: str) -> list[str]:
        with monkeypatch.context() as patch:
            patch.setattr(cache, "_text_of", lambda module: real(module) + ("\n# changed\n" if module == changed else ""))
            return [cache.key(source, "target") for source in (floats, sigmoid, integers, "def driver():\n    pass\n")]

    before = keys("none")
    assert [a != b for a, b in zip(before, keys("simd"), strict=True)] == [True, True, True, False]
    assert [a != b for a, b in zip(before, keys("functions"), strict=True)] == [False, True, False, False]
    assert [a != b for a, b in zip(before, keys("simd_int"), strict=True)] == [False, False, True, False]


def test_a_source_is_generated_once_by_the_same_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, other = (KernelSpec("eltwise", "avx2", (("A", a),)) for a in (1, 2))
    asked: list[KernelSpec] = []

    def generate(wanted: KernelSpec) -> KernelSource:
        asked.append(wanted)
        return KernelSource("k", f"# {len(asked)}\n" + "pass\n" * 1000)

    first = cache.source_of(spec, generate)
    assert cache.source_of(spec, generate) == first and asked == [spec]
    assert cache.source_of(other, generate) != first and asked == [spec, other]
    (damaged,) = (p for p in folder.glob("*.source") if b"# 1\n" in p.read_bytes())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert cache.verify()[1] == [damaged]
    assert cache.source_of(spec, generate).text.startswith("# 3\n")
    assert cache.verify()[1] == []
    monkeypatch.setattr(cache, "_surroundings", lambda: "another version")
    assert cache.source_of(spec, generate).text.startswith("# 4\n")
    short = cache.source_of(KernelSpec("short", "avx2", ()), lambda _: KernelSource("s", "pass\n"))
    assert short.text == "pass\n" and len(list(folder.glob("*.source"))) == 3
