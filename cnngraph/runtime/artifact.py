"""The compiled artifact: one file with a manifest, object code and memory-mapped weights.

Layout, little-endian::

    0    magic "CNNGRAPH"
    8    u32 format version, u32 kind: 0 one program
    16   u64 manifest offset, u64 manifest bytes
    32   u64 weights offset, u64 weights bytes
    48   u64 file bytes
    56   SHA-256 of the manifest (32 bytes)
    88   SHA-256 of bytes 0..87 (32 bytes)
    120  8 zero bytes
    128  object code of the kernels and the driver, then the manifest (JSON), then zeros up to a multiple of 4096
         weights, to the end of the file

An artifact for several instruction sets has kind 1. It holds whole artifacts, each at a multiple of 4096 bytes; in its header and before
them an index (JSON: instruction set, required CPU features, offset and bytes of each, best first) takes the place of the manifest, and
the artifacts that of the weights. Only the one that is chosen is read.

The manifest holds the steps, tensor descriptions and report, and (offset, bytes, SHA-256) of each piece of code. Everything but the
weights is checked by hash on every load; the weights by size, and by hash on request. Nothing is unpickled or evaluated.
Code in an artifact runs with the rights of the process: load only artifacts you trust, as with any program.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import secrets
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cnngraph.errors import ArtifactError, UsageError, printable
from cnngraph.runtime.manifest import decode_program, encode_program
from cnngraph.runtime.program import ProgramData

if TYPE_CHECKING:
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

MAGIC, VERSION = b"CNNGRAPH", 3
"""A reader of one version reads no other. The version rises with every change of the manifest's fields, of the arguments' order that a
kernel or a backend's executor takes for granted, and of what ARENA, STATIC, WEIGHTS and SCRATCH mean."""
ONE, SEVERAL = 0, 1
"""Kinds of artifacts."""
_HEADER = struct.Struct("<8sIIQQQQQ32s")
_HEADER_BYTES, _PAGE = 128, 4096
_MAX_MANIFEST = 1 << 30


def save(data: ProgramData | Sequence[ProgramData], path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Write a program, or the same network for several instruction sets, best first.

    The file is written whole or not at all, through a temporary file in the same folder; ``durable`` waits until it is on the disk.

    Raises:
        UsageError: programs of different networks, or two for one instruction set.
        OSError: the folder or the disk does not allow it.
    """
    several = [data] if isinstance(data, ProgramData) else list(data)
    first = several[0]
    if any((other.inputs, other.outputs) != (first.inputs, first.outputs) for other in several):
        raise UsageError("programs with different inputs or outputs do not fit into one artifact")
    if len({one.isa for one in several}) != len(several):
        raise UsageError("two programs are for the same instruction set")
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if len(several) == 1:
                _write(file, first)
            else:
                _write_several(file, several)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, data: ProgramData) -> None:
    """Write one program from the file's position on, a multiple of a page; offsets count from there."""
    base = file.tell()
    file.write(bytes(_HEADER_BYTES))
    code = []
    for kernel in (*data.kernels, data.driver):
        code.append([file.tell() - base, len(kernel.code), hashlib.sha256(kernel.code).hexdigest()])
        file.write(kernel.code)
    weights = data.weights.reshape(-1).view(np.uint8)
    manifest = encode_program(data) | {"code": code, "weights_sha256": data.weights_sha256 or hashlib.sha256(weights.data).hexdigest()}
    text = json.dumps(manifest, allow_nan=False, separators=(",", ":")).encode()
    offset = file.tell() - base
    file.write(text)
    start = _pad(file) - base
    file.write(weights.data)
    _write_header(file, base, ONE, offset, text, start, weights.nbytes)


def _write_several(file: BinaryIO, several: Sequence[ProgramData]) -> None:
    """The index is written last, into the room that its longest form needs: offsets of 20 digits."""
    entries = [{"isa": one.isa, "required": list(one.required), "at": 10**19, "bytes": 10**19} for one in several]
    room = len(json.dumps(entries))
    file.write(bytes(_HEADER_BYTES + room))
    start = _pad(file)
    for entry, one in zip(entries, several, strict=True):
        entry["at"] = at = _pad(file)
        _write(file, one)
        file.seek(0, os.SEEK_END)
        entry["bytes"] = file.tell() - at
    nbytes = file.tell() - start
    text = json.dumps(entries).encode().ljust(room)
    file.seek(_HEADER_BYTES)
    file.write(text)
    _write_header(file, 0, SEVERAL, _HEADER_BYTES, text, start, nbytes)


def _pad(file: BinaryIO) -> int:
    """Write zeros up to a multiple of a page; returns the position there."""
    file.write(bytes(-file.tell() % _PAGE))
    return file.tell()


def _write_header(file: BinaryIO, base: int, kind: int, offset: int, text: bytes, start: int, nbytes: int) -> None:
    digest = hashlib.sha256(text).digest()
    head = _HEADER.pack(MAGIC, VERSION, kind, offset, len(text), start, nbytes, start + nbytes, digest)
    file.seek(base)
    file.write(head + hashlib.sha256(head).digest())


def read(path: str | os.PathLike[str], *, isa: str | None = None, verify_weights: bool = False) -> ProgramData:
    """The program in an artifact, its weights mapped read-only from the file.

    Args:
        path: the file.
        isa: of several, the program for this instruction set; None for the first that this machine can run.
        verify_weights: also compare the weights' hash, which reads all of them.

    Raises:
        ArtifactError: no artifact, truncated, corrupted, or of another format version; or nothing in it is for ``isa`` or this machine.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            kind, *places, digest = _check_header(file.read(_HEADER_BYTES), size, (ONE, SEVERAL))
            base = 0
            if kind == SEVERAL:
                entry = _choose(_index(file, places, digest), isa)
                base, size = entry["at"], entry["bytes"]
                file.seek(base)
                kind, *places, digest = _check_header(file.read(_HEADER_BYTES), size, (ONE,))
            elif isa is not None:
                raise ArtifactError("it is for one instruction set, so none can be chosen")
            return _read_one(file, base, places, digest, verify_weights)
        except ArtifactError as error:
            raise ArtifactError(f"'{printable(os.fspath(path))}' is no usable artifact: {error}") from None


def _read_one(file: BinaryIO, base: int, places: Sequence[int], digest: bytes, verify_weights: bool) -> ProgramData:
    """The program whose header, at ``base``, has been read and checked."""
    manifest_at, manifest_bytes, weights_at, weights_bytes = places
    file.seek(base + _HEADER_BYTES)
    front = file.read(weights_at - _HEADER_BYTES)
    text = front[manifest_at - _HEADER_BYTES :][:manifest_bytes]
    if len(front) != weights_at - _HEADER_BYTES or hashlib.sha256(text).digest() != digest:
        raise ArtifactError("the manifest is corrupt")
    manifest = _parse(text)
    codes = _codes(manifest, front, manifest_at)
    if any(front[manifest_at - _HEADER_BYTES + manifest_bytes :]):
        raise ArtifactError("the padding is not zero")
    weights = _map(file, base + weights_at, weights_bytes)
    data = decode_program(manifest, codes, weights)
    if not verify_weights:
        return data
    found = hashlib.sha256(weights.data).hexdigest()
    if found != manifest.get("weights_sha256"):
        raise ArtifactError("the weights are corrupt")
    return dataclasses.replace(data, weights_sha256=found)


def _index(file: BinaryIO, places: Sequence[int], digest: bytes) -> list[dict[str, Any]]:
    """The index of an artifact for several instruction sets."""
    at, nbytes, start, rest = places
    file.seek(at)
    text = file.read(nbytes)
    if hashlib.sha256(text).digest() != digest:
        raise ArtifactError("the index is corrupt")
    try:
        entries = json.loads(text)
        for entry in entries:
            texts = [entry["isa"], *entry["required"]]
            inside = start <= entry["at"] <= entry["at"] + entry["bytes"] <= start + rest and entry["at"] % _PAGE == 0
            if not (all(isinstance(t, str) for t in texts) and type(entry["at"]) is type(entry["bytes"]) is int and inside):
                raise ValueError("an entry is impossible")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"the index is inconsistent: {error}") from None
    return list(entries)


def _choose(entries: Sequence[dict[str, Any]], isa: str | None) -> dict[str, Any]:
    from cnngraph.runtime.features import missing_features

    if isa is not None:
        for entry in entries:
            if entry["isa"] == isa:
                return entry
        raise ArtifactError(f"it has no code for {printable(isa)}, only for {', '.join(printable(e['isa']) for e in entries)}")
    lacking = [missing_features(entry["required"]) for entry in entries]
    for entry, missing in zip(entries, lacking, strict=True):
        if not missing:
            return entry
    reasons = "; ".join(f"{printable(e['isa'])} needs {', '.join(map(printable, m))}" for e, m in zip(entries, lacking, strict=True))
    raise ArtifactError(f"none of its code runs on this machine, which lacks CPU features: {reasons}")


def _check_header(head: bytes, size: int, kinds: Sequence[int]) -> tuple[Any, ...]:
    """(kind, manifest offset, its bytes, weights offset, their bytes, manifest hash)."""
    if head[: len(MAGIC)] != MAGIC:
        raise ArtifactError("it does not start like one")
    if len(head) < _HEADER_BYTES:
        raise ArtifactError("it is truncated")
    _, version, kind, manifest_at, manifest_bytes, weights_at, weights_bytes, total, digest = _HEADER.unpack_from(head)
    if version != VERSION:
        raise ArtifactError(f"its format version is {version}, this cnngraph reads {VERSION}; compile the model again")
    used = _HEADER.size
    if hashlib.sha256(head[:used]).digest() != head[used : used + 32] or any(head[used + 32 :]) or kind not in kinds:
        raise ArtifactError("the header is corrupt")
    if size != total:
        raise ArtifactError(f"it is {size} bytes long instead of {total}")
    if not (
        _HEADER_BYTES <= manifest_at <= manifest_at + manifest_bytes <= weights_at <= weights_at + weights_bytes == total
        and manifest_bytes <= _MAX_MANIFEST
        and weights_at % _PAGE == 0
    ):
        raise ArtifactError("the header describes an impossible file")
    return kind, manifest_at, manifest_bytes, weights_at, weights_bytes, digest


def _parse(text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the manifest is no JSON: {error}") from None
    if not isinstance(manifest, dict):
        raise ArtifactError("the manifest is no JSON object")
    return manifest


def _codes(manifest: dict[str, Any], front: bytes, end: int) -> list[bytes]:
    """The pieces of object code, which must fill the file from the header to the manifest."""
    found, at = [], _HEADER_BYTES
    for entry in manifest.get("code") or []:
        if not (isinstance(entry, list) and len(entry) == 3 and entry[0] == at and isinstance(entry[1], int) and 0 < entry[1] <= end - at):
            raise ArtifactError("the table of object code is inconsistent")
        code = front[at - _HEADER_BYTES : at - _HEADER_BYTES + entry[1]]
        if hashlib.sha256(code).hexdigest() != entry[2]:
            raise ArtifactError("the object code is corrupt")
        found.append(code)
        at += entry[1]
    if at != end:
        raise ArtifactError("the table of object code is inconsistent")
    return found


def _map(file: BinaryIO, offset: int, nbytes: int) -> np.ndarray:
    if nbytes == 0:
        return np.zeros(0, np.uint8)
    lead = offset % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(file.fileno(), lead + nbytes, access=mmap.ACCESS_READ, offset=offset - lead)
    return np.frombuffer(mapped, np.uint8)[lead:]


def load(
    path: str | os.PathLike[str], *, threads: int | None = None, isa: str | None = None, verify_weights: bool = False
) -> Program | TailedProgram:
    """Load a compiled program; needs NumPy only, and onnx if it has a tail.

    Args:
        path: a file that :meth:`Program.save` wrote.
        threads: default number of threads of its runs.
        isa: of an artifact for several instruction sets, the one to use; None for the best that this machine has.
        verify_weights: also compare the weights' hash.

    Raises:
        ArtifactError: see :func:`read`; or the code needs CPU features that this machine lacks.
        OSError: the file cannot be opened.
    """
    from cnngraph.runtime.features import missing_features

    data = read(path, isa=isa, verify_weights=verify_weights)
    missing = missing_features(data.required)
    if missing:
        raise ArtifactError(
            f"'{printable(os.fspath(path))}' is compiled for {printable(data.isa)}, which needs CPU features that this machine lacks: "
            + ", ".join(map(printable, missing))
        )
    return program_of(data, threads)


def program_of(data: ProgramData, threads: int | None = None) -> Program | TailedProgram:
    """What runs ``data``."""
    from cnngraph.runtime.session import Program

    program = Program(data, threads=threads)
    if data.tail is None:
        return program
    try:
        from cnngraph.eager.tail import decode
        from cnngraph.runtime.tailed import TailedProgram
    except ImportError as error:
        raise ArtifactError(
            f"the program ends in nodes that run one by one, for which this installation lacks {error.name}; install all of cnngraph"
        ) from None

    return TailedProgram(program, decode(data.tail))


def variants(path: str | os.PathLike[str]) -> list[str]:
    """Instruction sets that an artifact has code for, best first.

    Raises:
        ArtifactError, OSError: see :func:`read`.
    """
    with open(path, "rb") as file:
        try:
            kind, *places, digest = _check_header(file.read(_HEADER_BYTES), os.fstat(file.fileno()).st_size, (ONE, SEVERAL))
            if kind == SEVERAL:
                return [entry["isa"] for entry in _index(file, places, digest)]
        except ArtifactError as error:
            raise ArtifactError(f"'{printable(os.fspath(path))}' is no usable artifact: {error}") from None
    return [read(path).isa]
