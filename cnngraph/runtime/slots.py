"""How many threads of this process compute at once: callers wait their turn, so that together they use no more CPUs than there are."""

from __future__ import annotations

import os
import threading
from collections import deque

from cnngraph.runtime.cpus import usable_cpus


class _Waiting:
    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.granted = 0
        self.gate = threading.Lock()
        self.gate.acquire()


class Slots:
    """A number of slots, handed out in the order of asking.

    Attributes:
        capacity: slots in all.
        busy: slots taken; more than ``capacity`` only if one caller alone asked for more.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.busy = 0
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()

    def take(self, wanted: int) -> int:
        """Wait for a turn; returns how many slots were granted, from 1 to ``wanted``.

        A caller that finds everything free gets all it wants, even beyond the capacity.
        """
        with self._lock:
            if not self._queue and (self.busy == 0 or self.busy < self.capacity):
                return self._grant(wanted)
            place = _Waiting(wanted)
            self._queue.append(place)
        try:
            place.gate.acquire()
        except BaseException:  # interrupted while waiting
            with self._lock:
                if not place.granted:
                    self._queue.remove(place)
            if place.granted:
                self.give(place.granted)
            raise
        return place.granted

    def give(self, count: int) -> None:
        """Give slots back."""
        with self._lock:
            self.busy -= count
            while self._queue and (self.busy == 0 or self.busy < self.capacity):
                place = self._queue.popleft()
                place.granted = self._grant(place.wanted)
                place.gate.release()

    def _grant(self, wanted: int) -> int:
        granted = wanted if self.busy == 0 else min(wanted, self.capacity - self.busy)
        self.busy += granted
        return granted


_slots: Slots | None = None
_creation = threading.Lock()


def process_slots() -> Slots:
    """The slots of this process, one for each CPU that it may use."""
    global _slots
    if _slots is None:
        with _creation:
            if _slots is None:
                _slots = Slots(usable_cpus())
    return _slots


def _after_fork() -> None:
    global _slots, _creation
    _slots, _creation = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
