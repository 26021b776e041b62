"""Which CPU this is, and which features it offers, in LLVM's spelling."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

_SPELLINGS = {
    "pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "avx_vnni": "avxvnni", "abm": "lzcnt", "bmi1": "bmi", "pclmulqdq": "pclmul",
    "rdrand": "rdrnd", "lahf_lm": "sahf", "sha_ni": "sha", "asimd": "neon",
}  # fmt: skip


@cache
def host_features(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Features that the CPU has and the operating system has switched on.

    Linux lists them; elsewhere llvmlite is asked, and without it none are known.
    """
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


@cache
def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as the system names it, with family, model and stepping where they are known."""
    import platform

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
    """Which of these CPU features this machine lacks."""
    present = host_features()
    return [name for name in required if name not in present]
