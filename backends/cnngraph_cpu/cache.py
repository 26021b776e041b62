"""The kernel cache on disk: object code by specification, safe under concurrent processes.

A kernel's key is the SHA-256 of its source, its target and the versions of the compiler. An entry is one file, written to a
temporary name and renamed, so readers never see half an entry. A cache that cannot be written only warns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)
_MAGIC = b"cnngraph-kernel-1\n"


def cache_dir() -> Path:
    """``CNNGRAPH_CACHE_DIR``, or ``cnngraph`` under the user's cache directory."""
    chosen = os.environ.get("CNNGRAPH_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "cnngraph"


def key(source: str, target: str) -> str:
    """Hash that names the entry of a kernel."""
    import llvmlite
    import numba

    text = "\0".join([source, target, numba.__version__, llvmlite.__version__])
    return hashlib.sha256(text.encode()).hexdigest()


def load(entry: str) -> tuple[str, bytes] | None:
    """(symbol, object code) of an entry, or None if it is absent or damaged."""
    try:
        data = (cache_dir() / f"{entry}.kernel").read_bytes()
    except OSError:
        return None
    return _decode(data)


def _decode(data: bytes) -> tuple[str, bytes] | None:
    if not data.startswith(_MAGIC):
        return None
    head, _, code = data[len(_MAGIC) :].partition(b"\n")
    try:
        manifest = json.loads(head)
        symbol, digest = str(manifest["symbol"]), str(manifest["sha256"])
    except (ValueError, KeyError, TypeError):
        return None
    return (symbol, code) if hashlib.sha256(code).hexdigest() == digest else None


def store(entry: str, symbol: str, code: bytes) -> bool:
    """Write an entry; returns False, after a warning, if the directory or the disk does not allow it."""
    head = json.dumps({"symbol": symbol, "sha256": hashlib.sha256(code).hexdigest()}).encode()
    temporary = None
    try:
        directory = cache_dir()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + head + b"\n" + code)
        os.replace(temporary, directory / f"{entry}.kernel")
    except OSError as error:
        logger.warning("kernel cache not written: %s", error)
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                logger.debug("temporary cache file already gone")
        return False
    return True


def entries() -> Iterator[Path]:
    """Every entry's file, oldest use first."""
    directory = cache_dir()
    if directory.is_dir():
        yield from sorted(directory.glob("*.kernel"), key=lambda p: p.stat().st_mtime)


def verify() -> tuple[int, list[Path]]:
    """(number of sound entries, files that are damaged)."""
    good, bad = 0, []
    for path in entries():
        if _decode(path.read_bytes()) is None:
            bad.append(path)
        else:
            good += 1
    return good, bad


def prune(max_bytes: int) -> int:
    """Delete the oldest entries until at most ``max_bytes`` remain; returns how many were deleted."""
    files = list(entries())
    total, removed = sum(p.stat().st_size for p in files), 0
    for path in files:
        if total <= max_bytes:
            break
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
        removed += 1
    return removed
