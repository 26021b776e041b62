"""Compiled kernels in the cache folder (:mod:`cnngraph.runtime.cache`): object code by source, and source by specification.

A kernel's key is the SHA-256 of its source, its target, the versions of the compiler, and the text of the modules that define
the intrinsics it names. A source's key is the SHA-256 of its specification and of the state of the compiler's own files.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import re
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path

from cnngraph.kernels.template import KernelSource, KernelSpec
from cnngraph.runtime.cache import KERNEL, PROGRAM, SOURCE, cache_dir, entries, keep_below_limit, prune, sound_program, trusted, used, write
from cnngraph.runtime.programs import surroundings

__all__ = ["cache_dir", "entries", "keep_below_limit", "key", "load", "prune", "source_of", "store", "verify"]

_MAGIC = b"cnngraph-kernel-1\n"
_SOURCE_MAGIC = b"cnngraph-source-1\n"
_KEPT_CHARACTERS = 4000
"""Shorter sources are generated as fast as read."""


@lru_cache(maxsize=1)
def _versions() -> tuple[str, str]:
    from importlib.metadata import version

    return version("numba"), version("llvmlite")


_ALWAYS = ("simd", "simd_half", "worker")
_LANGUAGE = {
    "functions": ("trigonometric",), "trigonometric": (), "simd_int": (), "simd_long": (), "simd_permute": ("simd_int",),
    "simd_pairs": ("functions", "simd_int", "trigonometric"), "simd_tile": ("simd_int",),
    "simd_short": ("simd_int",),
}  # fmt: skip
"""Modules of intrinsics, and which others each builds on."""


@cache
def _text_of(module: str) -> str:
    return (Path(__file__).parent / f"{module}.py").read_text("utf-8")


@cache
def names_in(module: str) -> frozenset[str]:
    """What a module of intrinsics offers: the keys of its tables, written as dictionaries or as keywords, and its ``@inline`` functions."""
    found = set()
    for node in ast.walk(ast.parse(_text_of(module))):
        if isinstance(node, ast.Dict):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found.add(node.arg)
        elif isinstance(node, ast.FunctionDef) and any(isinstance(d, ast.Name) and d.id == "inline" for d in node.decorator_list):
            found.add(node.name)
    return frozenset(found)


def _intrinsics(source: str) -> list[str]:
    """Text of the modules that define what ``source`` names; empty for a source that is whole by itself."""
    if "primitives(" not in source and "cnngraph_cpu" not in source:
        return []
    names = set(re.findall(r"[A-Za-z_]\w*", source))
    used = set(_ALWAYS)
    for module, others in _LANGUAGE.items():
        if names & names_in(module):
            used |= {module, *others}
    return [_text_of(module) for module in sorted(used)]


def key(source: str, target: str) -> str:
    """Hash that names the entry of a kernel."""
    text = "\0".join([source, target, *_versions(), *_intrinsics(source)])
    return hashlib.sha256(text.encode()).hexdigest()


def load(entry: str) -> tuple[str, bytes] | None:
    """(symbol, object code) of an entry, or None if it is absent or damaged."""
    path = cache_dir() / f"{entry}{KERNEL}"
    if not trusted():
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    used(path)
    return _decode(data)


def _decode(data: bytes, magic: bytes = _MAGIC) -> tuple[str, bytes] | None:
    if not data.startswith(magic):
        return None
    head, _, code = data[len(magic) :].partition(b"\n")
    try:
        manifest = json.loads(head)
        symbol, digest = str(manifest["symbol"]), str(manifest["sha256"])
    except (ValueError, KeyError, TypeError):
        return None
    return (symbol, code) if hashlib.sha256(code).hexdigest() == digest else None


def store(entry: str, symbol: str, code: bytes) -> bool:
    """Write an entry; returns False, after a warning, if the directory or the disk does not allow it."""
    return write(f"{entry}{KERNEL}", _encode(_MAGIC, symbol, code))


def _encode(magic: bytes, symbol: str, content: bytes) -> list[bytes]:
    return [magic, json.dumps({"symbol": symbol, "sha256": hashlib.sha256(content).hexdigest()}).encode(), b"\n", content]


def source_of(spec: KernelSpec, generate: Callable[[KernelSpec], KernelSource]) -> KernelSource:
    """The source of ``spec``, read if it was generated before by these very files of the compiler; long ones are kept."""
    entry = hashlib.sha256(f"{spec!r}\0{_surroundings()}".encode()).hexdigest()
    path = cache_dir() / f"{entry}{SOURCE}"
    if trusted():
        try:
            found = _decode(path.read_bytes(), _SOURCE_MAGIC)
        except OSError:
            found = None
        if found is not None:
            used(path)
            return KernelSource(found[0], found[1].decode())
    source = generate(spec)
    if len(source.text) >= _KEPT_CHARACTERS:
        write(path.name, _encode(_SOURCE_MAGIC, source.name, source.text.encode()), level=logging.DEBUG)
    return source


@cache
def _surroundings() -> str:
    """What a source depends on besides its specification. Once a process: its modules do not change any more."""
    return surroundings()


def verify() -> tuple[int, list[Path]]:
    """(number of sound entries; files that are damaged)."""
    good, bad = 0, []
    for path in entries():
        try:
            if path.suffix == PROGRAM:
                sound = sound_program(path)
            else:
                sound = _decode(path.read_bytes(), _SOURCE_MAGIC if path.suffix == SOURCE else _MAGIC) is not None
        except FileNotFoundError:
            continue  # another process has pruned it
        except OSError:
            sound = False
        if sound:
            good += 1
        else:
            bad.append(path)
    return good, bad
