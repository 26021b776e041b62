"""Offsets for storages with known lifetimes: two-dimensional strip packing along time.

Greedy placement at the lowest free offset, in several orders (Pisarchyk and Lee, arXiv:2001.03288, find size order best
for convolutional networks); the best is then improved by a bounded number of seeded swaps while it is off the lower bound.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from cnngraph.errors import InternalError
from cnngraph.passes.memory_storage import Storage

_SWAPS = 400
_SMALL = 400


def lower_bound(storages: Sequence[Storage]) -> int:
    """Largest sum of simultaneously live sizes."""
    events: dict[int, int] = {}
    for s in storages:
        events[s.first] = events.get(s.first, 0) + s.nbytes
        events[s.last + 1] = events.get(s.last + 1, 0) - s.nbytes
    live = peak = 0
    for time in sorted(events):
        live += events[time]
        peak = max(peak, live)
    return peak


def pack(storages: Sequence[Storage]) -> tuple[dict[Storage, int], int]:
    """Byte offsets such that storages alive at once do not overlap, and the size of the arena."""
    if not storages:
        return {}, 0
    bound = lower_bound(storages)
    orders = [
        sorted(storages, key=lambda s: (-s.nbytes, s.first)),
        sorted(storages, key=lambda s: (s.first, -s.nbytes)),
        sorted(storages, key=lambda s: (-(s.last - s.first), -s.nbytes)),
        sorted(storages, key=lambda s: (-s.nbytes * (s.last - s.first + 1), s.first)),
    ]
    results = [(place(order), order) for order in orders]
    (offsets, peak), order = min(results, key=lambda r: r[0][1])
    if len(storages) <= _SMALL:
        rng = random.Random(0)
        for _ in range(_SWAPS):
            if peak <= bound * 1.001:
                break
            trial = list(order)
            i, j = rng.randrange(len(trial)), rng.randrange(len(trial))
            trial.insert(i, trial.pop(j))
            found, size = place(trial)
            if size <= peak:
                offsets, peak, order = found, size, trial
    return offsets, peak


def place(order: Sequence[Storage]) -> tuple[dict[Storage, int], int]:
    """Each storage at the lowest offset that is free during its life."""
    offsets: dict[Storage, int] = {}
    peak = 0
    for storage in order:
        taken = sorted(
            (offsets[other], offsets[other] + other.nbytes)
            for other in offsets
            if other.first <= storage.last and storage.first <= other.last
        )
        at = 0
        for start, stop in taken:
            if start - at >= storage.nbytes:
                break
            at = max(at, stop)
        offsets[storage] = at
        peak = max(peak, at + storage.nbytes)
    return offsets, peak


def check_packing(offsets: Mapping[Storage, int], size: int) -> None:
    """Raise InternalError if storages alive at once overlap or one leaves the arena: the last check before code trusts the plan."""
    placed = sorted(offsets.items(), key=lambda item: item[1])
    for i, (one, start) in enumerate(placed):
        if start < 0 or start + one.nbytes > size:
            raise InternalError(f"plan_memory: a storage of {one.nbytes} bytes at {start} leaves the arena of {size} bytes")
        for other, at in placed[i + 1 :]:
            if at >= start + one.nbytes:
                break
            if one.first <= other.last and other.first <= one.last:
                raise InternalError(f"plan_memory: storages of {one.nbytes} and {other.nbytes} bytes overlap at {at}")
