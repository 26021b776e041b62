"""The compiled artifact: one file with a manifest, object code and memory-mapped weights.

Layout, little-endian::

    0    magic "CNNGRAPH"
    8    u32 format version, u32 zero
    16   u64 manifest offset, u64 manifest bytes
    32   u64 weights offset, u64 weights bytes
    48   u64 file bytes
    56   SHA-256 of the manifest (32 bytes)
    88   SHA-256 of bytes 0..87 (32 bytes)
    120  8 zero bytes
    128  object code of the kernels and the driver, then the manifest (JSON), then zeros up to a multiple of 4096
         weights, to the end of the file

The manifest holds the steps, tensor descriptions and report, and (offset, bytes, SHA-256) of each piece of code. Everything but the
weights is checked by hash on every load; the weights by size, and by hash on request. Nothing is unpickled or evaluated.
Code in an artifact runs with the rights of the process: load only artifacts you trust, as with any program.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cnngraph.errors import ArtifactError, printable
from cnngraph.runtime.manifest import decode_program, encode_program
from cnngraph.runtime.program import ProgramData

if TYPE_CHECKING:
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

MAGIC, VERSION = b"CNNGRAPH", 2
_HEADER = struct.Struct("<8sIIQQQQQ32s")
_HEADER_BYTES, _PAGE = 128, 4096
_MAX_MANIFEST = 1 << 30


def save(data: ProgramData, path: str | os.PathLike[str]) -> None:
    """Write ``data`` to ``path`` whole or not at all, through a temporary file in the same folder.

    Raises:
        OSError: the folder or the disk does not allow it.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            _write(file, data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(file: BinaryIO, data: ProgramData) -> None:
    file.write(bytes(_HEADER_BYTES))
    code = []
    for kernel in (*data.kernels, data.driver):
        code.append([file.tell(), len(kernel.code), hashlib.sha256(kernel.code).hexdigest()])
        file.write(kernel.code)
    weights = data.weights.reshape(-1).view(np.uint8)
    manifest = encode_program(data) | {"code": code, "weights_sha256": hashlib.sha256(weights.data).hexdigest()}
    text = json.dumps(manifest, allow_nan=False, separators=(",", ":")).encode()
    offset = file.tell()
    file.write(text)
    start = -(-file.tell() // _PAGE) * _PAGE
    file.write(bytes(start - file.tell()))
    file.write(weights.data)
    head = _HEADER.pack(
        MAGIC, VERSION, 0, offset, len(text), start, weights.nbytes, start + weights.nbytes, hashlib.sha256(text).digest()
    )  # fmt: skip
    file.seek(0)
    file.write(head + hashlib.sha256(head).digest())


def read(path: str | os.PathLike[str], *, verify_weights: bool = False) -> ProgramData:
    """The program in an artifact, its weights mapped read-only from the file.

    Args:
        path: the file.
        verify_weights: also compare the weights' hash, which reads all of them.

    Raises:
        ArtifactError: no artifact, truncated, corrupted, or of another format version.
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        shown = printable(os.fspath(path))
        try:
            manifest_at, manifest_bytes, weights_at, weights_bytes, digest = _check_header(file.read(_HEADER_BYTES), size)
            file.seek(_HEADER_BYTES)
            front = file.read(weights_at - _HEADER_BYTES)
            text = front[manifest_at - _HEADER_BYTES :][:manifest_bytes]
            if len(front) != weights_at - _HEADER_BYTES or hashlib.sha256(text).digest() != digest:
                raise ArtifactError("the manifest is corrupt")
            manifest = _parse(text)
            codes = _codes(manifest, front, manifest_at)
            if any(front[manifest_at - _HEADER_BYTES + manifest_bytes :]):
                raise ArtifactError("the padding is not zero")
            weights = _map(file, weights_at, weights_bytes)
            if verify_weights and hashlib.sha256(weights.data).hexdigest() != manifest.get("weights_sha256"):
                raise ArtifactError("the weights are corrupt")
            return decode_program(manifest, codes, weights)
        except ArtifactError as error:
            raise ArtifactError(f"'{shown}' is no usable artifact: {error}") from None


def _check_header(head: bytes, size: int) -> tuple[int, int, int, int, bytes]:
    if head[: len(MAGIC)] != MAGIC:
        raise ArtifactError("it does not start like one")
    if len(head) < _HEADER_BYTES:
        raise ArtifactError("it is truncated")
    _, version, zero, manifest_at, manifest_bytes, weights_at, weights_bytes, total, digest = _HEADER.unpack_from(head)
    if version != VERSION:
        raise ArtifactError(f"its format version is {version}, this cnngraph reads {VERSION}; compile the model again")
    used = _HEADER.size
    if hashlib.sha256(head[:used]).digest() != head[used : used + 32] or any(head[used + 32 :]) or zero:
        raise ArtifactError("the header is corrupt")
    if size != total:
        raise ArtifactError(f"it is {size} bytes long instead of {total}")
    if not (
        _HEADER_BYTES <= manifest_at <= manifest_at + manifest_bytes <= weights_at <= weights_at + weights_bytes == total
        and manifest_bytes <= _MAX_MANIFEST
        and weights_at % _PAGE == 0
    ):
        raise ArtifactError("the header describes an impossible file")
    return manifest_at, manifest_bytes, weights_at, weights_bytes, digest


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


def load(path: str | os.PathLike[str], *, threads: int | None = None, verify_weights: bool = False) -> Program | TailedProgram:
    """Load a compiled program; needs neither Numba nor, unless it has a tail, onnx.

    Args:
        path: a file that :meth:`Program.save` wrote.
        threads: default number of threads of its runs.
        verify_weights: also compare the weights' hash.

    Raises:
        ArtifactError: see :func:`read`; or the code needs CPU features that this machine lacks.
        OSError: the file cannot be opened.
    """
    from cnngraph.runtime.features import missing_features
    from cnngraph.runtime.session import Program

    data = read(path, verify_weights=verify_weights)
    missing = missing_features(data.required)
    if missing:
        raise ArtifactError(
            f"'{printable(os.fspath(path))}' is compiled for {printable(data.isa)}, which needs CPU features that this machine lacks: "
            + ", ".join(map(printable, missing))
        )
    program = Program(data, threads=threads)
    if data.tail is None:
        return program
    from cnngraph.eager.tail import decode
    from cnngraph.runtime.tailed import TailedProgram

    return TailedProgram(program, decode(data.tail))
