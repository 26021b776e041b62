"""Artifacts: what is written is read; nothing damaged, foreign or impossible is used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cnngraph
from cnngraph.errors import ArtifactError
from cnngraph.ir.types import DType, Sym
from cnngraph.ops import Cast, Conv, Elementwise, Pad, Reshape
from cnngraph.ops.base import Op
from cnngraph.ops.expression import Expression
from cnngraph.runtime import artifact
from cnngraph.runtime.host import decode, encode
from cnngraph.runtime.session import Program
from tests.runtime.support import expected, feed, program_data
from tests.runtime.test_feeds import host_data

HEADER = struct.Struct("<8sIIQQQQQ32s")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Program(program_data()).save(tmp_path / "p.cnng")
    return tmp_path / "p.cnng"


def regions(path: Path) -> dict[str, tuple[int, int]]:
    _, _, _, manifest, length, weights, nbytes, _, _ = HEADER.unpack_from(path.read_bytes())
    return {
        "header": (0, 128), "code": (128, manifest), "manifest": (manifest, manifest + length),
        "padding": (manifest + length, weights), "weights": (weights, weights + nbytes),
    }  # fmt: skip


@pytest.mark.parametrize("make", [program_data, host_data])
def test_round_trip(tmp_path: Path, make: Callable[[], Any]) -> None:
    data = make()
    artifact.save(data, tmp_path / "p.cnng")
    back = artifact.read(tmp_path / "p.cnng", verify_weights=True)
    assert back.weights.ctypes.data % 64 == 0
    assert not back.weights.flags.writeable
    np.testing.assert_array_equal(back.weights, data.weights)
    same = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if not f.name.startswith("weights")}
    for name, value in same.items():
        assert getattr(back, name) == value, name


def test_weights_that_were_verified_are_not_hashed_again(path: Path) -> None:
    assert artifact.read(path).weights_sha256 is None
    data = artifact.read(path, verify_weights=True)
    artifact.save(data, path)
    assert artifact.read(path, verify_weights=True).weights_sha256 == data.weights_sha256
    artifact.save(dataclasses.replace(data, weights_sha256="0" * 64), path)
    with pytest.raises(ArtifactError, match="the weights are corrupt"):
        artifact.read(path, verify_weights=True)


def test_loaded_program_runs(path: Path) -> None:
    x = feed(3)
    program = cnngraph.load(path, threads=2)
    assert program.threads == 2
    np.testing.assert_array_equal(program.run({"x": x})["y"], expected(x))


@pytest.mark.parametrize("region", ["header", "code", "manifest", "padding", "weights"])
def test_any_flipped_byte_is_found(path: Path, region: str) -> None:
    sound = path.read_bytes()
    start, stop = regions(path)[region]
    assert stop > start
    for at in sorted({start, stop - 1, *np.linspace(start, stop - 1, 40, dtype=int).tolist()}):
        damaged = bytearray(sound)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"p\.cnng"):
            cnngraph.load(path, verify_weights=True)


def test_truncated_or_longer_file(path: Path) -> None:
    sound = path.read_bytes()
    for length in (0, 4, 8, 127, 128, 500, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.raises(ArtifactError):
            cnngraph.load(path)
    path.write_bytes(sound + b"\0")
    with pytest.raises(ArtifactError, match="bytes long"):
        cnngraph.load(path)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"\x08\x07" * 500)
    with pytest.raises(ArtifactError, match="does not start like one"):
        cnngraph.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        cnngraph.load(tmp_path / "missing")


@pytest.mark.parametrize("step", [-1, 1])
def test_other_format_version(path: Path, step: int) -> None:
    data = bytearray(path.read_bytes())
    data[8] += step
    path.write_bytes(data)
    expected = f"format version is {artifact.VERSION + step}, this cnngraph reads {artifact.VERSION}; compile the model again"
    with pytest.raises(ArtifactError, match=expected):
        cnngraph.load(path)


def test_code_for_another_machine(tmp_path: Path) -> None:
    data = dataclasses.replace(program_data(), isa="avx9000", required=("avx9000", "sse2-of-old"))
    artifact.save(data, tmp_path / "p.cnng")
    with pytest.raises(ArtifactError, match=r"avx9000.*lacks: avx9000, sse2-of-old"):
        cnngraph.load(tmp_path / "p.cnng")


def test_failed_write_leaves_nothing_and_spares_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    for broken in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, broken, refuse)
            with pytest.raises(OSError, match="disk full"):
                Program(program_data(3)).save(path)
        assert [p.name for p in path.parent.iterdir()] == ["p.cnng"]
        assert path.read_bytes() == sound


def test_saving_over_a_loaded_artifact(path: Path) -> None:
    program = cnngraph.load(path)
    Program(program_data(2)).save(path)
    x = feed(2)
    np.testing.assert_array_equal(program.run({"x": x})["y"], expected(x))
    np.testing.assert_array_equal(cnngraph.load(path).run({"x": x})["y"], expected(x, 2))


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and make all hashes right again."""
    data = path.read_bytes()
    start, stop = regions(path)["manifest"]
    weights = data[regions(path)["weights"][0] :]
    manifest = json.loads(data[start:stop])
    change(manifest)
    text = json.dumps(manifest).encode()
    at = -(-(start + len(text)) // 4096) * 4096
    head = HEADER.pack(
        b"CNNGRAPH", artifact.VERSION, 0, start, len(text), at, len(weights), at + len(weights), hashlib.sha256(text).digest()
    )
    body = data[128:start] + text
    path.write_bytes(head + hashlib.sha256(head).digest() + bytes(8) + body + bytes(at - 128 - len(body)) + weights)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("steps", 0, "kernel"), 1),
        (("steps", 0, "kernel"), -1),
        (("steps", 0, "arguments", 0, 0), 7),
        (("steps", 0, "arguments", 0, 0), "0"),
        (("steps", 0, "arguments", 1, 2), 1 << 40),
        (("steps", 0, "arguments", 2, 1), 1 << 40),
        (("steps", 0, "label"), 5),
        (("steps",), None),
        (("inputs", 0, 1), "object"),
        (("inputs", 0, 2), ["M", 96]),
        (("inputs", 0, 2), [-1, 96]),
        (("outputs",), {}),
        (("arena",), -1),
        (("arena",), True),
        (("scratch",), 1.5),
        (("copies",), [[1, [5, 0, 0, "float32", [[1, 0]]]]]),
        (("copies",), [[0, [3, 0, 0, "float32", [[0, 17]]]]]),
        (("copies",), [[0, [3, 0, 0, "float32", [[1, 0]]]]]),
        (("copies",), [[0, [4, 0, 0, "float32", [[0, 1]]]]]),
        (("kernels",), []),
        (("kernels", 0, "symbol"), None),
        (("code", 0, 1), 1 << 40),
        (("code",), []),
        (("threads",), 0),
        (("required",), [5]),
        (("report",), []),
    ],
)
def test_impossible_manifest(path: Path, where: tuple[Any, ...], value: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        place: Any = manifest
        for key in where[:-1]:
            place = place[key]
        place[where[-1]] = value

    forge(path, lambda manifest: None)
    assert artifact.read(path).arena > 0
    forge(path, change)
    with pytest.raises(ArtifactError):
        artifact.read(path)


def test_tensors_without_elements_survive(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Slice", ["x", "none", "none", "axis"], ["empty"]),
        make("Relu", ["empty"], ["y"]),
        make("Concat", ["x", "empty"], ["z"], axis=1),
    ]
    values = [onnx.helper.make_tensor_value_info(n, 1, d) for n, d in (("x", ["N", 3, 4]), ("y", ["N", 0, 4]), ("z", ["N", 3, 4]))]
    weights = [onnx.numpy_helper.from_array(np.array([i], np.int64), n) for n, i in (("none", 0), ("axis", 1))]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    cnngraph.compile(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])).save(tmp_path / "empty.cnng")
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}
    got = cnngraph.load(tmp_path / "empty.cnng").run(feeds)
    assert got["y"].shape == (2, 0, 4)
    np.testing.assert_array_equal(got["z"], feeds["x"])


def test_unknown_operator(tmp_path: Path) -> None:
    artifact.save(host_data(), tmp_path / "p.cnng")
    for change in ({"op": "os.system"}, {"fields": {"nothing": 1}}, {"fields": {"shape": {"class": "Popen", "fields": {}}}}):
        forge(tmp_path / "p.cnng", lambda manifest, change=change: manifest["steps"][0]["op"].update(change))  # type: ignore[misc]
        with pytest.raises(ArtifactError):
            cnngraph.load(tmp_path / "p.cnng")


@pytest.mark.parametrize(
    "op",
    [
        Conv((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2, Expression.of("clip", 1, (0.0, float("inf")))),
        Elementwise(Expression.of("add", 2)),
        Pad((0, 1), "constant", float("-inf")),
        Cast(DType.BF16),
        Reshape((Sym(2), 3)),
    ],
)
def test_operators_survive_as_json(op: Op) -> None:
    assert decode(json.loads(json.dumps(encode(op), allow_nan=False))) == op
