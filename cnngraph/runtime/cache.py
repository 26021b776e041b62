"""The cache folder: compiled kernels, their sources and whole programs, one file each, safe under concurrent processes.

An entry is written to a temporary name and renamed, so readers never see half an entry; every entry carries hashes and a damaged one is
as good as none. The folder is kept below a size: entries used least recently go first. A folder or disk that cannot be
written only warns.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnngraph.errors import ArtifactError, UsageError

logger = logging.getLogger(__name__)

KERNEL, PROGRAM, SOURCE = ".kernel", ".program", ".source"
"""Suffixes of the entries' files."""

DEFAULT_MB = 4096
_ABANDONED_SECONDS = 3600
_TOUCH_SECONDS = 60


def cache_dir() -> Path:
    """``CNNGRAPH_CACHE_DIR``, or ``cnngraph`` under the user's cache directory."""
    chosen = os.environ.get("CNNGRAPH_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "cnngraph"


def limit() -> int:
    """Bytes that the folder may hold: ``CNNGRAPH_CACHE_MB`` million, or 4096 million.

    Raises:
        UsageError: the variable is no number.
    """
    chosen = os.environ.get("CNNGRAPH_CACHE_MB")
    if not chosen:
        return DEFAULT_MB * 1_000_000
    if not chosen.isascii() or not chosen.isdigit() or len(chosen) > 12:
        raise UsageError(f"CNNGRAPH_CACHE_MB is {chosen!r}; it must be a number of megabytes")
    return int(chosen) * 1_000_000


_distrusted: set[Path] = set()


def trusted() -> bool:
    """Whether only this user and the administrator can write the folder, which holds code; warns once of one that others can.

    A folder that does not exist yet will be made so.
    """
    folder = cache_dir()
    try:
        status = folder.stat()
    except OSError:
        return True
    if not hasattr(os, "getuid") or (status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH):
        return True
    if folder not in _distrusted:
        _distrusted.add(folder)
        logger.warning("the cache folder %s is not used: other users can write there, and it holds code", folder)
    return False


def write(name: str, parts: Iterable[bytes], *, level: int = logging.WARNING) -> bool:
    """Write the entry ``name`` whole or not at all; False, and a message at ``level``, if the directory or the disk does not allow it."""
    if not trusted():
        return False
    temporary = None
    try:
        directory = cache_dir()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(temporary, directory / name)
    except OSError as error:
        logger.log(level, "cache not written: %s", error)
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                logger.debug("temporary cache file already gone")
        return False
    return True


def used(path: Path) -> None:
    """Note that an entry has been used, so that others go before it."""
    try:
        if time.time() - path.stat().st_mtime > _TOUCH_SECONDS:
            os.utime(path)
    except OSError:
        logger.debug("the time of use of %s cannot be noted", path)


def entries() -> Iterator[Path]:
    """Every entry's file, oldest use first."""
    for _, _, path in _listed():
        yield path


def _listed() -> list[tuple[float, int, Path]]:
    """(time of use, bytes, file) of every entry, oldest first; entries that vanish meanwhile are left out."""
    found = []
    try:
        with os.scandir(cache_dir()) as scan:
            for entry in scan:
                if not entry.name.endswith((KERNEL, PROGRAM, SOURCE)):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue
                found.append((status.st_mtime, status.st_size, Path(entry.path)))
    except OSError:
        return []
    return sorted(found)


def prune(max_bytes: int) -> int:
    """Delete the entries used least recently until at most ``max_bytes`` remain; returns how many were deleted.

    Temporary files that a killed process has left are deleted too.
    """
    files = _listed()
    total, removed = sum(size for _, size, _ in files), 0
    for _, size, path in files:
        if total <= max_bytes:
            break
        total -= size
        removed += _unlink(path)
    for path in cache_dir().glob("*.tmp"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                _unlink(path)
        except OSError:
            continue
    return removed


def keep_below_limit() -> None:
    """Prune to the limit, if the folder has passed it."""
    allowed = limit()
    if sum(size for _, size, _ in _listed()) > allowed:
        removed = prune(allowed * 9 // 10)
        logger.info("%d entries of the cache deleted, to keep it below %d bytes", removed, allowed)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False  # another process was faster
    except OSError as error:
        logger.warning("cache entry not deleted: %s", error)
        return False
    return True


def sound_program(path: Path) -> bool:
    """Whether a stored program matches all its hashes."""
    from cnngraph.runtime.artifact import read

    try:
        read(path, verify_weights=True)
    except (ArtifactError, OSError):
        return False
    return True
