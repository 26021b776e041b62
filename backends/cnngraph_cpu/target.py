"""The instruction sets kernels are generated for, and what this machine offers.

Each target names one fixed LLVM CPU, never the host, so that the code does not depend on the machine that compiles it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from cnngraph.errors import UsageError
from cnngraph.kernels.template import Target
from cnngraph.runtime.features import host_features


@dataclass(frozen=True)
class IsaInfo:
    """LLVM's name for the code, and the host features it needs (names as LLVM spells them).

    ``offered``: whether users can choose it; the others are for tests.
    """

    target: Target
    cpu: str
    features: str
    required: tuple[str, ...]
    offered: bool = True


_V2 = ("sse4.2", "ssse3", "popcnt")
_V3 = (*_V2, "avx2", "fma", "bmi2", "f16c")
_V4 = (*_V3, "avx512f", "avx512dq", "avx512vl", "avx512bw", "avx512cd")

_SMALL_NUMBERS, _SMALL_FEATURES = ("avx512vnni", "avx512bf16"), "-prefer-256-bit,+avx512vnni,+avx512bf16"
TILE_FEATURES = ("amx-tile", "amx-bf16", "amx-int8")

ISAS: dict[str, IsaInfo] = {
    "avx512amx": IsaInfo(
        Target("avx512amx", 16, 32, has_fma=True, dot=True, dot2=True, tiles=True), "x86-64-v4",
        ",".join([_SMALL_FEATURES, *(f"+{name}" for name in TILE_FEATURES)]), (*_V4, *_SMALL_NUMBERS, *TILE_FEATURES),
    ),
    "avx512vnni": IsaInfo(
        Target("avx512vnni", 16, 32, has_fma=True, dot=True), "x86-64-v4", "-prefer-256-bit,+avx512vnni", (*_V4, "avx512vnni")
    ),
    "avx512bf16": IsaInfo(
        Target("avx512bf16", 16, 32, has_fma=True, dot=True, dot2=True), "x86-64-v4", _SMALL_FEATURES, (*_V4, *_SMALL_NUMBERS)
    ),
    "avx512": IsaInfo(Target("avx512", 16, 32, has_fma=True), "x86-64-v4", "-prefer-256-bit", _V4),
    "avx2vnni": IsaInfo(Target("avx2vnni", 8, 16, has_fma=True, dot=True), "x86-64-v3", "+avxvnni", (*_V3, "avxvnni")),
    "avx2": IsaInfo(Target("avx2", 8, 16, has_fma=True), "x86-64-v3", "", _V3),
    "sse4": IsaInfo(Target("sse4", 4, 16, has_fma=False, float16=False), "x86-64-v2", "", _V2),
    "neon": IsaInfo(Target("neon", 4, 32, has_fma=True), "generic", "+neon", ("neon",)),
    "tiles_in_memory": IsaInfo(
        Target("tiles_in_memory", 16, 32, has_fma=True, dot=True, dot2=True, tiles=True), "x86-64-v4", _SMALL_FEATURES,
        (*_V4, *_SMALL_NUMBERS), offered=False,
    ),
}  # fmt: skip


def available(special: bool = False) -> list[str]:
    """Instruction sets this machine can run, best first; ``special``: also those that add only dot products of small numbers."""
    present = host_features()
    fitting = [info.target for info in ISAS.values() if info.offered and set(info.required) <= present]
    return [target.isa for target in fitting if special or target.tiles or not (target.dot or target.dot2)]


def resolve(isa: str | None, *, integers: bool = False, halves: bool = False) -> Target:
    """The target called ``isa``, or the best this machine runs: with dot products of bytes for ``integers``, of bfloat16 for ``halves``.

    Raises:
        UsageError: no such instruction set, or none of ours runs here.
    """
    offered = [name for name, info in ISAS.items() if info.offered]
    if isa is not None:
        if isa not in ISAS or not ISAS[isa].offered:
            raise UsageError(f"unknown instruction set {isa!r}; choose one of {', '.join(offered)}")
        return ISAS[isa].target
    names = available()
    if not names:
        raise UsageError("this CPU has none of the instruction sets " + ", ".join(offered))
    best = ISAS[names[0]].target
    wanted = [attribute for asked, attribute in ((integers, "dot"), (halves, "dot2")) if asked]
    special = [ISAS[name].target for name in available(special=True)]
    for attributes in (wanted, wanted[:1]) if wanted else ():
        fitting = [target for target in special if target.width == best.width and all(getattr(target, a) for a in attributes)]
        if fitting:
            return fitting[0]
    return best


def require_architecture(isa: str) -> None:
    """Raise UsageError unless ``isa`` is of the architecture that LLVM compiles for here, this machine's."""
    arm = platform.machine().lower() in ("aarch64", "arm64")
    if arm != (isa == "neon"):
        here, there = ("64-bit Arm", "x86-64") if arm else ("x86-64", "64-bit Arm")
        raise UsageError(f"{isa} is of {there}, but kernels are compiled for this machine's architecture, {here}")
