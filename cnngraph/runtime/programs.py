"""Whole programs in the cache folder, so that a model that has been compiled before is only read.

A program's key is the SHA-256 of the model file, the options, the features of this CPU, the versions of all that takes part, and the
state of the compiler's own source files. Only what took a while to compile is kept. Models whose weights lie in further files are not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.errors import ArtifactError
from cnngraph.options import CompileOptions
from cnngraph.runtime import cache

if TYPE_CHECKING:
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

logger = logging.getLogger(__name__)

WORTH_SECONDS = 0.5
"""A program is kept if compiling it took longer."""

_DISTRIBUTIONS = ("numpy", "numba", "llvmlite", "onnx", "ml_dtypes")


def key_of(
    source: Any, options: CompileOptions, shapes: Mapping[str, Sequence[Any]] | None, constants: Mapping[str, np.ndarray] | None
) -> str | None:
    """The key of a model that is a file or bytes; None if it is something else, cannot be read, or programs are not to be kept.

    Tuned ones are not: the records may have grown meanwhile.
    """
    if os.environ.get("CNNGRAPH_CACHE_PROGRAMS") == "0" or options.backend != "cpu" or options.tuned or not cache.trusted():
        return None
    digest = hashlib.sha256()
    if isinstance(source, bytes):
        digest.update(source)
    elif isinstance(source, (str, os.PathLike)):
        try:
            _hash_file(digest, source, options.limits.max_model_bytes)
        except (OSError, ValueError):
            return None
    else:
        return None
    what = [
        repr(dataclasses.replace(options, threads=None)),
        repr(sorted((name, [None if d is None else str(d) for d in dims]) for name, dims in (shapes or {}).items())),
        surroundings(),
    ]
    for name, array in sorted((constants or {}).items()):
        given = np.asarray(array)
        what += [name, str(given.dtype), str(given.shape), hashlib.sha256(given.tobytes()).hexdigest()]
    digest.update(b"\0")
    digest.update("\0".join(what).encode())
    return digest.hexdigest()


def _hash_file(digest: Any, path: str | os.PathLike[str], limit: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise ValueError("no model file")
        while block := file.read(1 << 20):
            digest.update(block)


def surroundings() -> str:
    """All besides the model and the options that a program depends on: CPU features, versions, the state of the compiler's files."""
    from importlib.metadata import PackageNotFoundError, version

    from cnngraph.runtime.features import host_features

    found = [" ".join(sorted(host_features()))]
    for name in _DISTRIBUTIONS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    found += sorted(_sources())
    return "\n".join(found)


def _sources() -> Iterator[str]:
    """Every source file of the compiler with its size and time of change."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    packages = {"cnngraph", *(point.module.partition(".")[0] for point in entry_points(group="cnngraph.backends"))}
    for package in packages:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec is not None else []:
            yield from _below(root)


def _below(folder: str) -> Iterator[str]:
    with os.scandir(folder) as scan:
        for entry in scan:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _below(entry.path)
            elif entry.name.endswith(".py"):
                status = entry.stat()
                yield f"{entry.path} {status.st_size} {status.st_mtime_ns}"


def find(key: str, threads: int | None) -> Program | TailedProgram | None:
    """The program kept under ``key``, or None if there is none, or a damaged one."""
    from cnngraph.runtime.artifact import program_of, read

    path = _path(key)
    try:
        data = read(path, verify_weights=True)
    except OSError:
        return None
    except ArtifactError as error:
        logger.warning("a damaged entry of the cache is left aside: %s", error)
        return None
    cache.used(path)
    kernels = [dataclasses.replace(kernel, cached=True) for kernel in data.kernels]
    return program_of(dataclasses.replace(data, kernels=kernels, threads=threads))


def keep(key: str, program: Program | TailedProgram, source: Any) -> None:
    """Keep ``program``, unless it fills a quarter of the folder's limit or its model has weights in further files."""
    from cnngraph.runtime.artifact import save

    data = program.data
    if data.weights.nbytes > cache.limit() // 4 or _has_external_data(source):
        return
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save(dataclasses.replace(data, threads=None), path, durable=False)
    except (OSError, ValueError) as error:  # ValueError: the report holds what JSON has not
        logger.warning("cache not written: %s", error)
        return
    cache.keep_below_limit()


def _path(key: str) -> Path:
    return cache.cache_dir() / f"{key}{cache.PROGRAM}"


def _has_external_data(source: Any) -> bool:
    """Whether a model may name further files: the key under which ONNX does so is in it."""
    if isinstance(source, bytes):
        return b"location" in source
    import mmap

    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"location") >= 0
