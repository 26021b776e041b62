"""What the tests of the emulated unit itself ask of a process that has it: forms of addresses, products, faults."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

from cnngraph.kernels.emulate import EmulatedPointer
from cnngraph.kernels.emulate_tile import TileUnit, full_configuration
from cnngraph.runtime.execute import aligned
from cnngraph.runtime.features import tile_permission
from tests.tiles.counts import counts

_SIGNAL_ROOM = 1 << 16
_MAP_FIXED = 0x100010  # MAP_FIXED_NOREPLACE


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _configuration(rows: tuple[int, ...], widths: tuple[int, ...]) -> np.ndarray:
    config = aligned(64)
    config[:] = full_configuration()
    config[16:32].view(np.uint16)[:] = widths
    config[48:56] = rows
    return config


def addresses(probes: str) -> dict[str, Any]:
    """Every form of address: of configurations, which are read back, and of loads."""
    library, rng = ctypes.CDLL(probes), np.random.default_rng(5)
    assert tile_permission()
    system = ctypes.CDLL(None)
    system.mmap.restype = ctypes.c_void_p
    low = ctypes.c_int64.in_dll(library, "low_address").value
    protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    assert system.mmap(ctypes.c_void_p(low), ctypes.c_size_t(1 << 16), protection, flags, -1, ctypes.c_long(0)) == low
    config = _configuration((1, 2, 3, 4, 5, 16, 7, 8), (4, 64, 8, 60, 3, 64, 32, 1))
    forms = library.configure_by(-1, None, None)
    for form in range(forms):
        back = aligned(64)
        back[:] = 0xAA
        library.configure_by(form, _at(config), _at(back))
        assert np.array_equal(back, config), f"form {form} of a configuration's address"
    loads = library.load_by(-1, None, ctypes.c_int64(64), _at(aligned(1024)))
    for form in range(loads):
        for pitch in (0, 64, 192, -128):
            if form in (5, 6) and pitch < 0:  # there is nothing below, or the signal's frame
                continue
            memory = aligned(2 * _SIGNAL_ROOM)
            if form == 5:  # the displacement alone
                memory = np.frombuffer((ctypes.c_uint8 * (1 << 16)).from_address(low), np.uint8)
            memory[:] = rng.integers(0, 256, memory.size)
            start = 0 if form == 5 else _SIGNAL_ROOM
            step = 0 if form == 7 else pitch  # no index
            want = np.stack([memory[start + row * step :][:64] for row in range(16)])
            got = aligned(1024)
            library.load_by(form, _at(memory[start:]), ctypes.c_int64(pitch), _at(got))
            assert np.array_equal(got.reshape(16, 64), want), f"form {form} of a load's address, pitch {pitch}"
    library.release()
    return {"made": counts(), "forms": [forms, loads]}


_SPECIAL = np.array([0, 0x8000, 1, 0x807F, 0x0080, 0x8080, 0x3F80, 0xBF81, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC1, 0x0240], np.uint16)
"""Zeros, subnormal numbers, the smallest and the largest normal ones, infinities, NaN."""


def products(probes: str) -> dict[str, Any]:
    """Products of tiles of many shapes and contents equal those of the plain-Python unit, bit for bit; NaN need not have the same bits."""
    library, rng, compared = ctypes.CDLL(probes), np.random.default_rng(6), 0
    assert tile_permission()
    for name, tiles in (("012", (0, 1, 2)), ("735", (7, 3, 5)), ("264", (2, 6, 4))):
        for m, n, k in ((16, 16, 16), (1, 1, 1), (7, 3, 9), (16, 5, 2), (3, 16, 16)):
            rows, widths = [16] * 8, [64] * 8
            for tile, shape in zip(tiles, ((m, 4 * n), (m, 4 * k), (k, 4 * n)), strict=True):
                rows[tile], widths[tile] = shape
            config = _configuration(tuple(rows), tuple(widths))
            for kind in ("bytes", "ordinary", "small", "special"):
                given = [_contents(kind, rng, place) for place in range(3)]
                got = aligned(1024)
                got[:] = 0
                library.configure(_at(config))
                getattr(library, f"{'bytes' if kind == 'bytes' else 'bf16'}_{name}")(*map(_at, given), _at(got))
                library.release()
                want = _emulated(config, tiles, given, kind)
                if kind == "bytes":
                    assert np.array_equal(got, want), f"bytes, {m} {n} {k}"
                else:
                    assert np.array_equal(got.view(np.float32), want.view(np.float32), equal_nan=True), f"{kind} bfloat16, {m} {n} {k}"
                compared += 1
    return {"compared": compared}


def _contents(kind: str, rng: np.random.Generator, place: int) -> np.ndarray:
    """A tile of memory: the sums (``place`` 0), the pixels or the weights."""
    memory = aligned(1024)
    if kind == "bytes":
        memory[:] = rng.integers(0, 256, 1024)
    elif place == 0:
        memory.view(np.float32)[:] = rng.standard_normal(256).astype(np.float32) * np.float32(1e-38 if kind == "small" else 1)
    elif kind == "special":
        memory.view(np.uint16)[:] = np.where(rng.random(512) < 0.04, rng.choice(_SPECIAL, 512), rng.integers(0x3F00, 0x4100, 512))
    else:
        floats = rng.standard_normal(512).astype(np.float32) * np.float32(2e-19 if kind == "small" else 1)
        memory.view(np.uint16)[:] = floats.view(np.uint32) >> 16
    return memory


def _emulated(config: np.ndarray, tiles: tuple[int, int, int], given: list[np.ndarray], kind: str) -> np.ndarray:
    unit, result = TileUnit(), aligned(1024)
    result[:] = 0
    unit.configure(EmulatedPointer(config), 0)
    for tile, memory in zip(tiles, given, strict=True):
        unit.load(tile, EmulatedPointer(memory), 0, 64)
    (unit.dot_bytes if kind == "bytes" else unit.dot_bf16)(*tiles)
    unit.store(tiles[0], EmulatedPointer(result), 0, 64)
    return result


def _ending(action: Callable[[], object]) -> tuple[int, str]:
    """The signal that ends a copy of this process which does ``action``, and what it writes before."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(write, 2)
            action()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, text


def faults(probes: str) -> dict[str, Any]:
    """What ends the process for each thing that the unit does not do, before permission and after."""
    library, found = ctypes.CDLL(probes), {}
    full, tile = _configuration((16,) * 8, (64,) * 8), aligned(1024)
    product = (_at(tile),) * 4

    def configured(config: np.ndarray, then: Callable[[], object] = lambda: None) -> Callable[[], object]:
        return lambda: (library.configure(_at(config)), then())

    def changed(place: int, value: int) -> np.ndarray:
        config = aligned(64)
        config[:] = full
        config[place] = value
        return config

    found["not asked for"] = _ending(configured(full))
    given = tile_permission()
    actions = {
        "nothing": configured(full, library.release),
        "not configured": lambda: library.bf16_012(*product),
        "released": configured(full, lambda: (library.release(), library.bytes_012(*product))),
        "palette": configured(changed(0, 2)), "reserved": configured(changed(2, 1)), "ninth tile": configured(changed(56, 1)),
        "rows": configured(changed(48, 17)), "width": configured(changed(16, 65)), "no rows": configured(changed(48, 0)),
        "tile without rows": configured(_configuration((0,) * 7 + (1,), (0,) * 7 + (4,)), lambda: library.bf16_012(*product)),
        "shapes": configured(changed(49, 15), lambda: library.bf16_012(*product)),
        "words": configured(changed(20, 63), lambda: library.bytes_012(*product)),
        "same tile": configured(full, library.same_tiles),
        "no tile instruction": library.illegal,
    }  # fmt: skip
    found |= {name: _ending(action) for name, action in actions.items()}
    caught = []
    signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))  # other signals are left alone
    os.kill(os.getpid(), signal.SIGUSR1)
    return {"given": given, "found": found, "caught": len(caught)}
