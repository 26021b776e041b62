"""Offsets for storages with known lifetimes: two-dimensional strip packing along time.

Greedy placement at the lowest free offset, in several orders (Pisarchyk and Lee, arXiv:2001.03288, find size order best
for convolutional networks); the best is then improved by a bounded number of seeded swaps while it is off the lower bound.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain

from cnngraph.errors import InternalError
from cnngraph.passes.memory_storage import Storage

_SWAPS = 400
_SMALL = 400
_SPAN = 64
"""Steps of a span: unrolled networks have thousands of storages of which few meet."""


def most_alive(storages: Sequence[Storage]) -> tuple[int, int]:
    """Largest sum of simultaneously live sizes, which no arena can undercut, and the first step that has it."""
    events: dict[int, int] = {}
    for s in storages:
        events[s.first] = events.get(s.first, 0) + s.nbytes
        events[s.last + 1] = events.get(s.last + 1, 0) - s.nbytes
    live = peak = step = 0
    for time in sorted(events):
        live += events[time]
        if live > peak:
            peak, step = live, time
    return peak, step


def pack(storages: Sequence[Storage]) -> tuple[dict[Storage, int], int]:
    """Byte offsets such that storages alive at once do not overlap, and the size of the arena."""
    if not storages:
        return {}, 0
    bound, _ = most_alive(storages)
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
    begun: defaultdict[int, list[tuple[int, int, int, int]]] = defaultdict(list)  # what is placed, by the span of its first step
    carried: defaultdict[int, list[tuple[int, int, int, int]]] = defaultdict(list)  # and by the spans that it lives on into
    for storage in order:
        first, last, nbytes = storage.first, storage.last, storage.nbytes
        span, stretch = first // _SPAN, range(first // _SPAN, last // _SPAN + 1)
        others = chain(carried[span], *(begun[s] for s in stretch))
        at = 0
        for start, stop, _, _ in sorted([other for other in others if other[2] <= last and first <= other[3]]):
            if start - at >= nbytes:
                break
            if stop > at:
                at = stop
        place = (at, at + nbytes, first, last)
        begun[span].append(place)
        for later in stretch[1:]:
            carried[later].append(place)
        offsets[storage] = at
        peak = max(peak, at + nbytes)
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
