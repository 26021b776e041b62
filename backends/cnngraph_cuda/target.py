"""GPU architectures and precisions the backend generates code for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cnngraph.errors import UsageError
from cnngraph.ir.types import DType
from cnngraph.kernels.template import Target

PRECISIONS = ("f32", "tf32", "f16", "bf16")
"""f32: multiply-adds in float32. tf32: float32 in memory, products on tensor cores with 10 bits of mantissa.
f16, bf16: 16-bit floats in memory and on tensor cores, sums in float32."""

SHARED_LIMITS = {
    "sm_75": 64, "sm_80": 163, "sm_86": 99, "sm_87": 163, "sm_89": 99, "sm_90": 227, "sm_90a": 227, "sm_100": 227, "sm_120": 99,
}  # fmt: skip
"""KiB of shared memory one block may have, by architecture (CUDA C++ programming guide, compute capabilities)."""

COPIES = ("tma", "cp_async")

DEFAULT_ARCH = "sm_90"


@dataclass(frozen=True)
class CudaTarget(Target):
    """An architecture, a precision, and the batch size that tiles are chosen for.

    Attributes:
        arch: "sm_80" and so on.
        precision: one of :data:`PRECISIONS`.
        shared: bytes of shared memory of one block.
        multiprocessors: assumed by the choice of tiles; a constant of the target, not of the machine that compiles.
        batch: images in flight that the choice of tiles assumes where the batch is symbolic.
        tile: pixels and outputs of the tile of every matrix product, for measurements; None: the choice of each.
        winograd: outputs of a block of every convolution that Winograd's method can compute, for measurements; None: by estimate.
        copies: how tiles of warpgroups (sm_90a) come to shared memory: by "tma" where it can, or for comparison by "cp_async" only.
    """

    arch: str = DEFAULT_ARCH
    precision: str = "f32"
    shared: int = 0
    multiprocessors: int = 132
    batch: int = 8
    tile: tuple[int, int] | None = None
    winograd: int | None = None
    copies: str = COPIES[0]

    @property
    def dtype(self) -> DType:
        """Element type of activations in memory."""
        return {"f16": DType.F16, "bf16": DType.BF16}.get(self.precision, DType.F32)

    @property
    def lanes(self) -> int:
        """Elements of one 16-byte access, which is also what the channels of a pixel are padded to."""
        return 16 // self.dtype.itemsize

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability, e.g. (9, 0)."""
        digits = "".join(c for c in self.arch if c.isdigit())
        return int(digits[:-1]), int(digits[-1])


def resolve(arch: str | None, precision: str = "f32", batch: int = 8) -> CudaTarget:
    """The target for ``arch`` (None: ``sm_90``), written as ``sm_90``, ``sm_90:f16``, ``sm_90:f16:128`` or ``sm_90:f16:128:64x32``.

    Words after the batch size are a tile, a kind of Winograd convolution (``winograd64``: by the outputs of a block) or a way to copy
    (:data:`COPIES`).

    Raises:
        UsageError: no such architecture, precision, batch size, tile or way to copy.
    """
    parts = (arch or DEFAULT_ARCH).split(":")
    name = parts[0] or DEFAULT_ARCH
    if len(parts) > 1 and parts[1]:
        precision = parts[1]
    if len(parts) > 2:
        if not parts[2].isascii() or not parts[2].isdigit() or int(parts[2]) < 1:
            raise UsageError(f"{parts[2]!r} is no batch size")
        batch = int(parts[2])
    tile, winograd, copies = None, None, COPIES[0]
    for word in parts[3:]:
        found = re.fullmatch("([0-9]{2,3})x([0-9]{2,3})|winograd([0-9]{2})", word, re.ASCII)
        if found is None and word not in COPIES:
            raise UsageError(f"{arch!r} is no architecture; write sm_90, sm_90:f16, sm_90:f16:128 or sm_90:f16:128:64x32")
        if found is None:
            copies = word
        elif found.group(3):
            winograd = int(found.group(3))
        else:
            tile = int(found.group(1)), int(found.group(2))
    if name not in SHARED_LIMITS:
        raise UsageError(f"unknown GPU architecture {name!r}; choose one of {', '.join(SHARED_LIMITS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    if name == "sm_75" and precision in ("tf32", "bf16"):
        raise UsageError(f"sm_75 has no tensor cores for {precision}; choose f32 or f16")
    return CudaTarget(
        f"{name}:{precision}",
        32,
        255,
        has_fma=True,
        arch=name,
        precision=precision,
        shared=SHARED_LIMITS[name] * 1024,
        batch=batch,
        tile=tile,
        winograd=winograd,
        copies=copies,
    )
