"""The kernel cache: the CPU backend's folder and files, with keys of GPU kernels."""

from __future__ import annotations

import hashlib
from functools import cache

from cnngraph_cpu.cache import cache_dir, entries, load, prune, store, verify

__all__ = ["cache_dir", "entries", "key", "load", "prune", "store", "verify"]


@cache
def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return " ".join(found)


def key(source: str, arch: str) -> str:
    """Hash that names the entry of a kernel: its source, its architecture, the compiler's versions, and the intrinsics."""
    from cnngraph_cuda.primitives import primitives_of

    text = "\0".join([source, arch, _versions(), repr(primitives_of(arch))])
    return hashlib.sha256(text.encode()).hexdigest()
