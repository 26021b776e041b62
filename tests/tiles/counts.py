"""In a process with the emulated tile unit: how many of its instructions have been executed."""

from __future__ import annotations

import ctypes
from collections import Counter

INSTRUCTIONS = ("configure", "store_config", "release", "zero", "load", "load_t1", "store", "dot_bf16", "dot_bytes")
_library = ctypes.CDLL(None)
_library.tile_count.restype = ctypes.c_int64
_KINDS = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(_library, "tile_kinds"))).decode().split()
assert tuple(_KINDS[: len(INSTRUCTIONS)]) == INSTRUCTIONS


def counts() -> Counter[str]:
    """Executed instructions by kind, and besides them ``misaligned`` and ``on_stack`` (tiles moved from and to such addresses),
    ``configured_threads`` (at this moment) and ``requests`` (for permission).
    """
    return Counter({kind: int(_library.tile_count(number)) for number, kind in enumerate(_KINDS)})


class Counting:
    """Counts what is executed inside a ``with``: ``made`` after it. AssertionError where that left tiles configured or moved them badly."""

    def __enter__(self) -> Counting:
        self._before = counts()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        after = counts()
        self.made = Counter({name: after[name] - self._before[name] for name in after})
        if kind is None:
            assert after["configured_threads"] == 0, "a thread keeps its tiles configured"
            assert self.made["misaligned"] == 0, "rows of tiles that are not aligned"
            assert self.made["on_stack"] == 0, "tiles are spilled"
            assert self.made["configure"] == self.made["release"], "a kernel configures or releases twice"
