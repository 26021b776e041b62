"""Teams of worker threads, shared by all programs of the process.

Workers are Python daemon threads that live inside compiled code (the driver's worker loop): they sleep in the kernel until
a job is published, hold no interpreter lock, and use no CPU while idle. A team runs one job at a time. A second team is made only when
callers use fewer threads than there are CPUs, so that several jobs fit at once (:mod:`cnngraph.runtime.slots` counts).
Where there is no futex (outside Linux), workers sleep on a Python semaphore instead.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import threading
from typing import Any

import numpy as np

from cnngraph.runtime.cpus import MAX_THREADS

CALLER, WORKER, SERVE_ONE, STOP = 0, 2, 3, 4
"""Modes of the driver."""

_MAILBOXES, _MAILBOX_WORDS = 32, 16
_JOIN_SECONDS = 1.0

Entry = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
"""``driver(words, tid, mode)``; releases the interpreter lock while it runs."""


class Team:
    """Worker threads and the words they share with callers.

    Attributes:
        lock: held by the caller whose job the team runs.
        address: of the shared words.
        futex: whether workers sleep inside compiled code.
    """

    def __init__(self, *, futex: bool = sys.platform == "linux") -> None:
        self.lock = threading.Lock()
        self.futex = futex
        self._threads: list[threading.Thread] = []
        self._semaphores: list[threading.Semaphore] = []
        self._entry: Any = None
        self._stopped = False
        raw = np.zeros(_MAILBOXES + MAX_THREADS * _MAILBOX_WORDS + 16, np.int64)
        skip = (-raw.ctypes.data // 8) % 16
        self._words = raw[skip:]
        self.address = int(self._words.ctypes.data)

    def ensure(self, threads: int, driver: int) -> int:
        """Have ``threads - 1`` workers if the system allows; returns how many threads a job may use. The caller holds ``lock``.

        ``driver`` is the address of a loaded driver; the first one given runs the workers' own loop.
        """
        if self._stopped:
            return 1
        while len(self._threads) < min(threads, MAX_THREADS) - 1:
            if self._entry is None:
                self._entry = Entry(driver)
            tid = len(self._threads) + 1
            semaphore = threading.Semaphore(0)
            thread = threading.Thread(target=self._work, args=(tid, semaphore), name=f"cnngraph-{tid}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system refuses more threads; the ones there are suffice
                break
            self._semaphores.append(semaphore)
            self._threads.append(thread)
        return min(threads, len(self._threads) + 1)

    def announce(self, threads: int) -> None:
        """Tell sleeping workers 1 .. threads-1 that a job follows, where the driver cannot."""
        if not self.futex:
            for semaphore in self._semaphores[: threads - 1]:
                semaphore.release()

    def _work(self, tid: int, semaphore: threading.Semaphore) -> None:
        if self.futex:
            self._entry(self.address, tid, WORKER)
            return
        while True:
            semaphore.acquire()
            self._entry(self.address, tid, SERVE_ONE)
            if self._stopped:
                return

    def stop(self) -> None:
        """End the workers, unless a job is running."""
        if not self.lock.acquire(timeout=_JOIN_SECONDS):
            return
        try:
            if self._stopped or not self._threads:
                self._stopped = True
                return
            self._stopped = True
            self.announce(len(self._threads) + 1)
            self._entry(self.address, len(self._threads) + 1, STOP)
            for thread in self._threads:
                thread.join(_JOIN_SECONDS)
        finally:
            self.lock.release()


_teams: list[Team] = []
_pid = -1
_creation = threading.Lock()


def lease_team() -> Team:
    """A team whose lock the caller now holds. A forked child gets new teams, because threads do not survive a fork."""
    global _pid
    with _creation:
        if _pid != os.getpid():
            _teams.clear()
            _pid = os.getpid()
        for team in _teams:
            if team.lock.acquire(blocking=False):
                return team
        team = Team()
        team.lock.acquire()
        _teams.append(team)
        return team


def _after_fork() -> None:
    global _creation
    _teams.clear()
    _creation = threading.Lock()


def _at_exit() -> None:
    if _pid == os.getpid():
        for team in _teams:
            team.stop()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
