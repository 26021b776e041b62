"""One artifact for several instruction sets: the machine's best is taken; what does not fit is said."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest

import cnngraph
from cnngraph.errors import ArtifactError, UsageError
from cnngraph.runtime import artifact
from cnngraph.runtime.program import ProgramData
from cnngraph.runtime.session import Program
from tests.runtime.support import expected, feed, program_data


def variant(isa: str, required: tuple[str, ...] = (), steps: int = 6) -> ProgramData:
    return dataclasses.replace(program_data(steps), isa=isa, required=required)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    programs = [Program(variant("new", ("avx9000", "amx3"))), Program(variant("mid", steps=4)), Program(variant("old", steps=2))]
    programs[0].save(tmp_path / "p.cnng", variants=programs[1:])
    return tmp_path / "p.cnng"


def test_the_first_that_runs_here_is_taken(path: Path) -> None:
    assert artifact.variants(path) == ["new", "mid", "old"]
    program = cnngraph.load(path, threads=2, verify_weights=True)
    assert program.data.isa == "mid"
    assert program.data.weights.ctypes.data % 64 == 0
    np.testing.assert_array_equal(program.run({"x": feed(3)})["y"], expected(feed(3), 4))


def test_one_can_be_chosen(path: Path) -> None:
    program = cnngraph.load(path, isa="old")
    np.testing.assert_array_equal(program.run({"x": feed(3)})["y"], expected(feed(3), 2))
    with pytest.raises(ArtifactError, match="no code for sse4, only for new, mid, old"):
        cnngraph.load(path, isa="sse4")
    with pytest.raises(ArtifactError, match=r"compiled for new.*lacks: avx9000, amx3"):
        cnngraph.load(path, isa="new")


def test_nothing_runs_here(tmp_path: Path) -> None:
    artifact.save([variant("a", ("avx9000",)), variant("b", ("avx8000",))], tmp_path / "p.cnng")
    with pytest.raises(ArtifactError, match="lacks CPU features: a needs avx9000; b needs avx8000"):
        cnngraph.load(tmp_path / "p.cnng")


def test_a_plain_artifact_has_no_choice(tmp_path: Path) -> None:
    artifact.save(variant("only"), tmp_path / "p.cnng")
    assert artifact.variants(tmp_path / "p.cnng") == ["only"]
    with pytest.raises(ArtifactError, match="one instruction set"):
        cnngraph.load(tmp_path / "p.cnng", isa="only")


def test_different_networks_are_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(variant("b"), inputs=[dataclasses.replace(program_data().inputs[0], name="z")])
    for programs in ([variant("a"), other], [variant("a"), variant("a")]):
        with pytest.raises(UsageError):
            artifact.save(programs, tmp_path / "p.cnng")
    assert not list(tmp_path.iterdir())


def test_any_flipped_byte_is_found(path: Path) -> None:
    sound = path.read_bytes()
    index_at, index_bytes, start = struct.unpack_from("<QQQ", sound, 16)
    entries = json.loads(sound[index_at : index_at + index_bytes])
    chosen = entries[1]["at"]
    places = [*range(128), *range(index_at, index_at + index_bytes, 7), *range(chosen, chosen + 128, 5)]
    places += [chosen + 200, chosen + entries[1]["bytes"] - 60]
    assert start % 4096 == 0
    for at in places:
        damaged = bytearray(sound)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"p\.cnng"):
            cnngraph.load(path, verify_weights=True)


def test_truncated(path: Path) -> None:
    sound = path.read_bytes()
    for length in (100, 127, 300, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:length])
        with pytest.raises(ArtifactError):
            cnngraph.load(path)


def reindex(path: Path, **changes: object) -> None:
    """Change the second entry of the index and make the hashes right again."""
    data = bytearray(path.read_bytes())
    fields = list(struct.unpack_from("<8sIIQQQQQ32s", data))
    entries = json.loads(data[fields[3] : fields[3] + fields[4]])
    entries[1].update(changes)
    text = json.dumps(entries).encode().ljust(fields[4])
    assert len(text) == fields[4]
    data[fields[3] : fields[3] + fields[4]] = text
    fields[8] = hashlib.sha256(text).digest()
    head = struct.pack("<8sIIQQQQQ32s", *fields)
    data[:120] = head + hashlib.sha256(head).digest()
    path.write_bytes(data)


@pytest.mark.parametrize("changes", [{"at": -4096}, {"at": 1}, {"bytes": 1 << 40}, {"bytes": 64}, {"at": "0"}, {"isa": 5}, {"required": 3}])
def test_an_impossible_index(path: Path, changes: dict[str, object]) -> None:
    reindex(path)
    assert cnngraph.load(path).data.isa == "mid"
    reindex(path, **changes)
    with pytest.raises(ArtifactError):
        cnngraph.load(path)


def test_an_artifact_of_artifacts_of_artifacts_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    index_at, index_bytes = struct.unpack_from("<QQ", data, 16)
    inner = json.loads(data[index_at : index_at + index_bytes])[1]["at"]
    struct.pack_into("<I", data, inner + 12, artifact.SEVERAL)
    data[inner + 88 : inner + 120] = hashlib.sha256(data[inner : inner + 88]).digest()
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="header is corrupt"):
        cnngraph.load(path)
