"""Read input arrays (.npy, .npz) and write results, treating every file as untrusted."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from cnngraph.cli.output import atomic_write
from cnngraph.errors import InvalidInputError, LimitExceededError, UsageError, printable
from cnngraph.options import GIB

MAX_ARRAY_BYTES = 4 * GIB
_MEMBER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*(/[A-Za-z0-9_][A-Za-z0-9_.:-]*)*\Z")


def read_arrays(path: Path) -> dict[str | None, np.ndarray]:
    """The arrays of an ``.npz`` by name, or the one of an ``.npy`` under None. Nothing is unpickled.

    Raises:
        InvalidInputError: the file is missing, damaged, or holds objects.
        LimitExceededError: an array is larger than 4 GiB.
    """
    shown = f"'{printable(str(path))}'"
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return {
                    info.filename.removesuffix(".npy"): _read_npy(
                        archive.open(info), info.file_size, f"{shown}: {printable(info.filename)}"
                    )
                    for info in archive.infolist()
                }
        with path.open("rb") as file:
            return {None: _read_npy(file, path.stat().st_size, shown)}
    except OSError as error:
        raise InvalidInputError(f"{shown} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidInputError(f"{shown} is not an .npz archive, or is damaged: {printable(str(error))}") from error


def _read_npy(file: IO[bytes], available: int, shown: str) -> np.ndarray:
    fmt = np.lib.format
    try:
        version = fmt.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise InvalidInputError(f"{shown} is an .npy file of an unknown version")
        header = fmt.read_array_header_1_0 if version == (1, 0) else fmt.read_array_header_2_0
        shape, fortran, dtype = header(file)
    except ValueError as error:
        raise InvalidInputError(f"{shown} is not an .npy file, or is damaged: {printable(str(error))}") from error
    if dtype.hasobject or dtype.itemsize == 0:
        raise InvalidInputError(f"{shown} holds Python objects, not numbers")
    if min(shape, default=0) < 0:
        raise InvalidInputError(f"{shown} has the impossible shape {shape}")
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes > MAX_ARRAY_BYTES:
        raise LimitExceededError(f"{shown} holds an array of {nbytes} bytes; the limit is {MAX_ARRAY_BYTES}")
    if nbytes > available:
        raise InvalidInputError(f"{shown} ends early: shape {shape} of {dtype} needs {nbytes} bytes")
    data = file.read(nbytes)
    if len(data) != nbytes:
        raise InvalidInputError(f"{shown} ends early: shape {shape} of {dtype} needs {nbytes} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Write an ``.npz`` of all arrays, or an ``.npy`` of the only one, whole or not at all.

    Returns:
        The name of each array in the file: the tensor's own where that is a safe file name, else ``output_<index>``.

    Raises:
        UsageError: another suffix, or several arrays for an ``.npy``.
        OutputError: the file cannot be written.
    """
    if path.suffix == ".npy":
        if len(arrays) != 1:
            raise UsageError(f"an .npy file holds one array, but there are {len(arrays)} outputs; write an .npz")
        with atomic_write(path) as file:
            np.lib.format.write_array(file, next(iter(arrays.values())), allow_pickle=False)
        return dict.fromkeys(arrays, path.stem)
    if path.suffix != ".npz":
        raise UsageError(f"'{printable(str(path))}': outputs are written as .npz or .npy")
    members = {name: name if _MEMBER.match(name) and len(name) < 200 else f"output_{i}" for i, name in enumerate(arrays)}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(f"{members[name]}.npy", buffer.getbuffer())
    return members
