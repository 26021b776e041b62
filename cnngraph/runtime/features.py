"""Which CPU this is, and which features it offers, in LLVM's spelling."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

TILES = "amx-tile"
_REQUEST_TILES = tuple(ctypes.c_long(word) for word in (158, 0x1023, 18))
"""arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)."""
_SPELLINGS = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "avx_vnni": "avxvnni", "abm": "lzcnt", "bmi1": "bmi", "pclmulqdq": "pclmul",
    "rdrand": "rdrnd", "lahf_lm": "sahf", "sha_ni": "sha", "asimd": "neon",
    "amx_tile": TILES, "amx_bf16": "amx-bf16", "amx_int8": "amx-int8",
}  # fmt: skip


def host_features(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Features that the CPU has and that the operating system has switched on, for this process if it must be asked.

    Linux lists them; elsewhere llvmlite is asked, and without it none are known.
    """
    return granted(_listed(info))


@cache
def _listed(info: Path) -> frozenset[str]:
    try:
        with open(info, encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, flags = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(_spelling(flag) for flag in flags.split())
    except OSError:
        pass  # no Linux
    try:
        import llvmlite.binding as llvm
    except ImportError:
        return frozenset()
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


def _spelling(flag: str) -> str:
    return _SPELLINGS.get(flag) or (flag.replace("_", "", 1) if flag.startswith("avx512_") else flag)


def granted(features: frozenset[str]) -> frozenset[str]:
    """``features`` without those of the tile unit where the system does not let this process use it."""
    if TILES not in features or tile_permission():
        return features
    return frozenset(name for name in features if not name.startswith("amx-"))


@cache
def tile_permission() -> bool:
    """Ask Linux, once, for the state of the tile unit (8 KiB a thread), which holds for all threads of the process; whether it is given.

    Only for CPUs that have the unit. The system refuses where it is older than 5.16 or a thread's signal stack is too small for the state.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return int(ctypes.CDLL(None).syscall(*_REQUEST_TILES)) == 0


@cache
def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as the system names it, with family, model and stepping where they are known."""
    found: dict[str, str] = {}
    try:
        with open(info, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                found.setdefault(name.strip(), value.strip())
                if not line.strip():
                    break
    except OSError:
        pass  # no Linux
    numbers = "/".join(found[name] for name in ("cpu family", "model", "stepping") if name in found)
    return " ".join(filter(None, [found.get("model name") or platform.processor() or platform.machine(), numbers]))


def missing_features(required: Sequence[str]) -> list[str]:
    """Which of these CPU features this machine lacks, or does not grant this process."""
    present = host_features()
    refused = " (refused by the system)" if tile_state() == "refused" else ""
    return [name + refused * name.startswith("amx-") for name in required if name not in present]


def tile_state(info: Path = Path("/proc/cpuinfo")) -> str:
    """Of the tile unit: "absent", "refused" by the system, or "granted"."""
    if TILES not in _listed(info):
        return "absent"
    return "granted" if tile_permission() else "refused"
