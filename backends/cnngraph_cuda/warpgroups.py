"""Tensor cores of a warpgroup (wgmma, sm_90a) in the emulator: descriptors, the asynchronous order, visibility of shared memory.

From the PTX ISA (sections on asynchronous warpgroup-level matrix instructions and the async proxy), what a kernel must do and hardware
would not complain of:

* ``wgmma.fence`` before the first product, and again once registers have been touched;
* ``fence.proxy.async`` by the thread that wrote shared memory, before a barrier, or tensor cores may read what was there before;
* commit and wait before the sums are read, and before the shared memory that was read is overwritten.

Each of these left out is an error here. Products are computed when they are issued; what they read is compared with
the same bytes when they are waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.errors import InternalError

if TYPE_CHECKING:
    from cnngraph_cuda.lanes import Lanes

SWIZZLE_128 = 1
"""The descriptor's code of the layout in which bits 4 to 6 of an address are combined with bits 7 to 9 by exclusive or."""


class EmulationError(InternalError):
    """The kernel did something that hardware would answer with a hang, a fault or garbage."""


@dataclass
class Accumulators:
    """Sums of threads, ``values[register, thread]``, and for each thread the number of the last product under way, or 0."""

    values: np.ndarray
    pending: np.ndarray

    def __getitem__(self, register: int) -> np.ndarray:
        if self.pending.any():
            raise EmulationError("sums are read before wgmma.wait_group")
        return self.values[register].copy()

    def under(self, mask: np.ndarray, old: Any) -> Accumulators:
        """These sums where the mask holds, the ``old`` ones elsewhere."""
        if not isinstance(old, Accumulators):
            return Accumulators(np.where(mask, self.values, np.float32(np.nan)), np.where(mask, self.pending, 0))
        return Accumulators(np.where(mask, self.values, old.values), np.where(mask, self.pending, old.pending))


@dataclass
class WarpgroupState:
    """What is under way: whether registers are fenced, products issued and not committed, products committed."""

    fenced: bool = False
    serial: int = 0
    open: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)
    committed: list[tuple[int, np.ndarray, np.ndarray]] = field(default_factory=list)


def halves(words: np.ndarray, kind: str) -> np.ndarray:
    """The two 16-bit floats of every 32-bit word, as float32 along a new last axis."""
    import ml_dtypes

    dtype = np.dtype(np.float16) if kind == "f16" else np.dtype(ml_dtypes.bfloat16)
    return np.ascontiguousarray(words).view(dtype).astype(np.float32).reshape(*words.shape, 2)


def _numbers(raw: np.ndarray, kind: str) -> np.ndarray:
    """Bytes along the last axis as the float32 numbers that tensor cores multiply."""
    words = np.ascontiguousarray(raw).view(np.int32)
    if kind == "tf32":
        return (words & np.int32(-8192)).view(np.float32)
    return halves(words, kind).reshape(*words.shape[:-1], -1)


def _places(lanes: Lanes, low: Any, high: Any, first: np.ndarray | int, rows: int, nbytes: int) -> np.ndarray:
    """Byte positions ``[warp, row, byte]`` of a matrix by its descriptor; ``first`` is the row to begin at for each warp."""
    low, high = (lanes._array(word).reshape(-1, 32) for word in (low, high))
    if (low != low[:, :1]).any() or (high != high[:, :1]).any():
        raise EmulationError("the lanes of a warp give different matrix descriptors")
    low, high = low[:, 0].astype(np.int64), high[:, 0].astype(np.int64) & 0xFFFFFFFF
    start, step = (low & 0x3FFF) << 4, (high & 0x3FFF) << 4
    if (high >> 30 != SWIZZLE_128).any() or (high >> 17 & 7).any():
        raise EmulationError("a matrix descriptor without 128-byte swizzle, or with a base offset")
    row = np.broadcast_to(np.asarray(first)[..., None], (len(low), 1)) + np.arange(rows)
    plain = (start[:, None] + row // 8 * step[:, None] + row % 8 * 128)[..., None] + np.arange(nbytes)
    if (start % 1024 + nbytes > 1024).any() or (start % 128 + nbytes > 128).any():
        raise EmulationError("a matrix descriptor does not begin at a multiple of 1024 bytes")
    return plain ^ ((plain >> 7 & 7) << 4)


def _read(lanes: Lanes, places: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Bytes of shared memory ``[warp, row, byte]``, watched until the products are waited for."""
    if places[active].size and (places[active].min() < 0 or places[active].max() >= lanes._size):
        raise EmulationError(f"tensor cores read shared bytes {places.min()}..{places.max()} of {lanes._size}")
    at = places[active] + lanes._base.reshape(-1, 32)[active, 0][:, None, None]
    if lanes._writer[at[..., ::4] // 4].any():
        raise EmulationError("tensor cores read what a thread wrote without fence.proxy.async")
    data = lanes._shared[at]
    lanes.group.open.append((lanes.group.serial, at, data))
    out = np.zeros(places.shape, np.uint8)
    out[active] = data
    return out


def product(lanes: Lanes, kind: str, columns: int, sums: Any, *operands: Any) -> Accumulators:
    """Issue the products of one primitive ``wgmma_*``."""
    lanes.whole("wgmma")
    if not lanes.group.fenced:
        raise EmulationError("wgmma without wgmma.fence")
    if not isinstance(sums, Accumulators):
        raise EmulationError("wgmma takes the sums of wgmma_zeros, wgmma or wgmma_wait")
    active = lanes._mask.reshape(-1, 32)[:, 0]
    lanes.stats.mma += int(active.sum())
    lanes.group.serial += 1
    lane = np.arange(32)
    g, t = lane >> 2, lane & 3
    if kind == "tf32":
        words = np.stack([lanes._array(v, np.int32) for v in operands[:4]], 1).reshape(-1, 32, 4)
        b = _numbers(_read(lanes, _places(lanes, operands[4], operands[5], 0, columns, 32), active), kind)
        a = np.empty((len(words), 16, 8), np.float32)
        for r, (dg, dt) in enumerate(((0, 0), (8, 0), (0, 4), (8, 4))):
            a[:, g + dg, t + dt] = (words[:, :, r] & np.int32(-8192)).view(np.float32)
    else:
        rows = (lanes.thread().reshape(-1, 32)[:, 0] >> 5 & 3).astype(np.int64) * 16
        a = _numbers(_read(lanes, _places(lanes, operands[0], operands[2], rows, 16, 128), active), kind)
        b = _numbers(_read(lanes, _places(lanes, operands[1], operands[2], 0, columns, 128), active), kind)
    d = a @ b.transpose(0, 2, 1)
    values = sums.values.copy()
    for j in range(columns // 8):
        for r, (dg, e) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
            values[4 * j + r] += d[:, g + dg, 8 * j + 2 * t + e].reshape(-1)
    return Accumulators(values, np.where(lanes._mask, lanes.group.serial, sums.pending))


def wait(lanes: Lanes, sums: Accumulators) -> Accumulators:
    """Finish every committed product; what it read must not have changed."""
    lanes.whole("wgmma.wait_group")
    state = lanes.group
    for _, at, data in state.committed:
        if not np.array_equal(lanes._shared[at], data):
            raise EmulationError("shared memory changed while tensor cores read it")
    state.committed, state.fenced = [], False
    return Accumulators(sums.values, np.where(np.isin(sums.pending, [serial for serial, _, _ in state.open]), sums.pending, 0))


def commit(lanes: Lanes) -> None:
    """Close a set of products."""
    lanes.whole("wgmma.commit_group")
    lanes.group.committed += lanes.group.open
    lanes.group.open = []


def fence(lanes: Lanes) -> None:
    """Registers are in order: products may be issued."""
    lanes.whole("wgmma.fence")
    lanes.group.fenced = True


def proxy_fence(lanes: Lanes) -> None:
    """What these threads wrote to shared memory, tensor cores and bulk copies see."""
    lanes.fence_barriers("proxy")
    if lanes._full and lanes.count > 32:  # all threads of all blocks
        lanes._writer[:] = 0
        return
    lanes._writer[np.isin(lanes._writer, lanes._self[lanes._mask])] = 0


def zeros(lanes: Lanes, columns: int) -> Accumulators:
    """Sums at their beginning."""
    return Accumulators(np.zeros((columns // 2, lanes.count), np.float32), np.zeros(lanes.count, np.int64))


def functions() -> dict[str, Callable[..., Any]]:
    """The operations of warpgroups by the names of their primitives; their first argument is the group of threads."""
    table: dict[str, Callable[..., Any]] = {
        "wgmma_fence": fence, "wgmma_commit": commit, "proxy_fence": proxy_fence,
    }  # fmt: skip
    for columns in (64, 128, 256):
        table[f"wgmma_zeros_{columns}"] = lambda lanes, columns=columns: zeros(lanes, columns)
        table[f"wgmma_wait_{columns}"] = wait
        for kind in ("f16", "bf16", "tf32"):
            table[f"wgmma_{kind}_{columns}"] = lambda lanes, *args, kind=kind, columns=columns: product(lanes, kind, columns, *args)
    return table
