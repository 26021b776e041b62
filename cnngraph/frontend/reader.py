"""The only code that opens files: model files and their external data.

Nothing in a file is trusted. An external data location is resolved below the model's directory, one component at a time and
without following symbolic links, and the checks are made on the opened descriptor, so that a path cannot change between check
and use.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from cnngraph.errors import InvalidModelError, LimitExceededError, printable
from cnngraph.options import Limits

Source = str | os.PathLike[str] | bytes | onnx.ModelProto

_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})
_DIGITS = re.compile(r"[0-9]{1,18}\Z")


def read_model(source: Source, limits: Limits) -> tuple[onnx.ModelProto, str | None]:
    """Parse ``source``; return the model and the directory of its external data (None if it came from memory).

    Raises:
        InvalidModelError: missing, not a regular file, empty, truncated, or not an ONNX model.
        LimitExceededError: larger than ``limits.max_model_bytes``.
    """
    if isinstance(source, onnx.ModelProto):
        model, base, what = source, None, "the model"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data, base, what = bytes(source), None, "the given bytes"
        if len(data) > limits.max_model_bytes:
            raise LimitExceededError(f"the model has {len(data)} bytes; the limit is {limits.max_model_bytes}")
        model = _parse(data, what)
    else:
        path = os.fspath(source)
        what = f"'{printable(path)}'"
        model = _parse(_read_whole(path, limits.max_model_bytes), what)
        base = os.path.dirname(path) or os.curdir
    _check_is_model(model, what)
    return model, base


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise InvalidModelError(f"{what} is empty, not an ONNX model")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError) as error:
        raise InvalidModelError(f"{what} is not an ONNX model, or is truncated") from error
    return model


def _check_is_model(model: onnx.ModelProto, what: str) -> None:
    if not model.HasField("graph") or model.ir_version <= 0:
        raise InvalidModelError(f"{what} is not an ONNX model, or is truncated: it has no graph or no IR version")
    if not model.opset_import:
        raise InvalidModelError(f"{what} is not a complete ONNX model: it declares no operator set (opset_import)")
    if not model.graph.output:
        raise InvalidModelError(f"{what} is not a complete ONNX model: its graph has no outputs")


def _read_whole(path: str, limit: int) -> bytes:
    shown = f"'{printable(path)}'"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise InvalidModelError(f"the model file {shown} does not exist") from error
    except (OSError, ValueError) as error:
        raise InvalidModelError(f"the model file {shown} cannot be opened: {_reason(error)}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise InvalidModelError(f"{shown} is {'a directory' if stat.S_ISDIR(status.st_mode) else 'not a regular file'}, not a model file")
    with os.fdopen(descriptor, "rb") as file:
        if status.st_size > limit:
            raise LimitExceededError(f"the model file {shown} has {status.st_size} bytes; the limit is {limit}")
        try:
            return file.read(limit + 1)[:limit]
        except OSError as error:
            raise InvalidModelError(f"the model file {shown} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "the path is malformed"


def parse_external(entries: Mapping[str, str], nbytes: int) -> tuple[str, int]:
    """Check the ``external_data`` entries of a tensor of ``nbytes`` bytes; return location and offset."""
    unknown = sorted(set(entries) - _EXTERNAL_KEYS)
    if unknown:
        raise InvalidModelError(f"external data has the unknown key '{printable(unknown[0])}'")
    if "location" not in entries:
        raise InvalidModelError("external data has no location")
    numbers = {}
    for key, default in (("offset", 0), ("length", nbytes)):
        text = entries.get(key, "")
        if text and not _DIGITS.match(text):
            raise InvalidModelError(f"external data has the {key} '{printable(text)}', which is not a size")
        numbers[key] = int(text) if text else default
    if numbers["length"] != nbytes:
        raise InvalidModelError(f"external data has length {numbers['length']}, but the tensor needs {nbytes} bytes")
    return entries["location"], numbers["offset"]


def read_external(base: str | None, location: str, offset: int, nbytes: int) -> np.ndarray:
    """``nbytes`` bytes at ``offset`` of the file ``location`` below the directory ``base``, as uint8.

    Raises:
        InvalidModelError: the model came from memory, the location leaves ``base``, passes through a symbolic link, is not
            a regular file or is a hard link, or the range is outside the file.
    """
    if base is None:
        raise InvalidModelError("the model keeps weights in external files, so it must be given as a path, not as bytes")
    descriptor = open_external(base, location)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if offset + nbytes > size:
            raise InvalidModelError(
                f"external data asks for bytes {offset} to {offset + nbytes} of '{printable(location)}', which has only {size}"
            )
        out = np.empty(nbytes, np.uint8)
        file.seek(offset)
        try:
            filled = file.readinto(out.data) if nbytes else 0
        except OSError as error:
            raise InvalidModelError(f"external data '{printable(location)}' cannot be read: {_reason(error)}") from error
        if filled != nbytes:
            raise InvalidModelError(f"external data '{printable(location)}' ended early")
    return out


def open_external(base: str, location: str) -> int:
    """A read-only descriptor of the regular file ``location`` below ``base``.

    Every component is opened relative to its parent with O_NOFOLLOW. Files with more than one hard link are refused: such a
    link could name a file outside the model's directory.
    """
    shown = f"external data location '{printable(location)}'"
    if not location or "\0" in location or "\\" in location:
        raise InvalidModelError(f"{shown} is not a valid relative path")
    if location.startswith("/") or re.match(r"[A-Za-z]:", location):
        raise InvalidModelError(f"{shown} must be relative to the model's directory")
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise InvalidModelError(f"{shown} leaves the model's directory")
    try:
        current = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for index, part in enumerate(parts):
            kind = os.O_DIRECTORY if index + 1 < len(parts) else os.O_NONBLOCK
            parent = current
            try:
                current = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=parent)
            finally:
                os.close(parent)
    except (OSError, ValueError) as error:
        raise InvalidModelError(f"{shown} cannot be opened (symbolic links are not followed): {_reason(error)}") from error
    status = os.fstat(current)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a regular file"
    elif status.st_nlink != 1:
        problem = "is a hard link, which could name a file outside the model's directory"
    if problem is not None:
        os.close(current)
        raise InvalidModelError(f"{shown} {problem}")
    return current
