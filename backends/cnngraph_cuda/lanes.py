"""What threads do in the emulator: indices, masks, memory, warp-wide operations, arithmetic (see :mod:`cnngraph_cuda.emulate`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnngraph_cuda import bulk_copies, warpgroups
from cnngraph_cuda.bulk_copies import Barrier, MappedTensor
from cnngraph_cuda.primitives import INTEGERS
from cnngraph_cuda.warpgroups import Accumulators, EmulationError, WarpgroupState, halves


@dataclass
class Stats:
    """Counts over a launch: extra shared-memory phases of ldmatrix, tensor-core operations, barriers, boxes copied, phases moved on."""

    conflicts: int = 0
    mma: int = 0
    barriers: int = 0
    boxes: int = 0
    progress: int = 0


@dataclass
class Pointer:
    """A typed address: bytes of a buffer, an offset in bytes, and the element type."""

    memory: np.ndarray
    dtype: np.dtype[Any]
    offset: int = 0

    @staticmethod
    def to(array: np.ndarray) -> Pointer:
        """The address of a contiguous array's first element."""
        if not array.flags.c_contiguous:
            raise EmulationError("a kernel takes contiguous arrays")
        return Pointer(array.reshape(-1).view(np.uint8), array.dtype)


class SharedMemory:
    """Shared memory of some blocks, one behind the other, beginning as NaN.

    Attributes:
        bytes: the contents.
        writer: for every 4 bytes, 1 + the number (block slot, thread) of the thread whose write tensor cores do not see yet; else 0.
        barriers: those that count arrivals and bytes, by their first byte.
    """

    def __init__(self, nbytes: int) -> None:
        self.bytes = np.full(nbytes, 0xFF, np.uint8)
        self.writer = np.zeros(nbytes // 4, np.int64)
        self.barriers: dict[int, Barrier] = {}


@dataclass
class _Copies:
    """Asynchronous copies of one group of threads."""

    open: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    committed: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = field(default_factory=list)


def _bits(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32)


class Lanes:
    """A group of threads: their indices, their mask, and every operation on them.

    Threads lie block after block, warp after warp. ``shared`` is the memory of all blocks of the group, one behind the other.
    """

    def __init__(
        self, grid: tuple[int, int, int], blocks: np.ndarray, threads: np.ndarray, slot: np.ndarray, shared: SharedMemory, size: int,
        stats: Stats,
    ) -> None:  # fmt: skip
        self.count = len(threads)
        self.grid = grid
        self._blocks, self._threads = blocks, threads
        self._base = slot.astype(np.int64) * size
        self._slot, self._shared, self._size = slot, shared.bytes, size
        self._writer, self._self = shared.writer, 1 + slot.astype(np.int64) * 1024 + threads
        self.barriers = shared.barriers
        self.group = WarpgroupState()
        self.stats = stats
        self._mask = np.ones(self.count, np.bool_)
        self._masks: list[np.ndarray] = []
        self._full = True
        self._copies = _Copies()

    # control flow

    def _set(self, mask: np.ndarray) -> None:
        self._mask, self._full = mask, bool(mask.all())

    def enter(self, condition: Any) -> bool:
        """Restrict the mask to threads where ``condition`` holds; False, and nothing changed, if there are none."""
        mask = self._mask & condition
        if not mask.any():
            return False
        self._masks.append(self._mask)
        self._set(mask)
        return True

    def leave(self) -> None:
        """Undo the last restriction."""
        self._set(self._masks.pop())

    def begin_loop(self) -> None:
        """Remember the mask before a loop."""
        self._masks.append(self._mask)

    def again(self, condition: Any) -> bool:
        """Whether some threads go round once more; the others wait."""
        mask = self._mask & condition
        if mask.any():
            self._set(mask)
            return True
        self.leave()
        return False

    def count_to(self, *bounds: Any) -> Iterator[Any]:
        """``range`` over bounds that may differ from thread to thread."""
        if not any(isinstance(b, np.ndarray) for b in bounds):
            yield from range(*(int(b) for b in bounds))
            return
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1) if len(bounds) == 2 else bounds
        value = np.broadcast_to(np.asarray(start, np.int32), (self.count,)).copy()
        self.begin_loop()
        while self.again(value < stop):
            yield value.copy()
            value = value + np.int32(step)

    def put(self, old: Any, new: Any) -> Any:
        """The value of a variable after an assignment under the mask."""
        if self._full or isinstance(new, (Pointer, MappedTensor)):
            return new
        if isinstance(new, Accumulators):
            return new.under(self._mask, old)
        if isinstance(new, tuple):
            olds = old if isinstance(old, tuple) else (old,) * len(new)
            return tuple(self.put(o, n) for o, n in zip(olds, new, strict=True))
        new = np.asarray(new)
        if old is None:
            old = np.float32(np.nan) if new.dtype.kind == "f" else np.int32(-559038737)
        return np.where(self._mask, new, old).astype(new.dtype)

    def whole(self, what: str, per: np.ndarray | None = None) -> None:
        """Raise unless all threads of a warp (or, with ``per``, of a block) or none of them are here."""
        if self._full:
            return
        key = np.arange(self.count) // 32 if per is None else per
        here, total = np.bincount(key, self._mask), np.bincount(key)
        if ((here != 0) & (here != total)).any():
            raise EmulationError(f"{what} is reached by some threads only")

    def barrier(self) -> None:
        """All threads of the block must be here."""
        self.whole("a barrier", self._slot)
        self.stats.barriers += 1

    def fence_barriers(self, what: str) -> None:
        """A fence of these threads, which makes the barriers they initialised known."""
        owners = set(self._self[self._mask].tolist()) if self.barriers else set()
        for barrier in self.barriers.values():
            if barrier.owner in owners:
                barrier.known.add(what)

    # indices

    def thread(self) -> np.ndarray:
        """Number of the thread in its block."""
        return self._threads

    def block_x(self) -> np.ndarray:
        """First index of the block."""
        return self._blocks[:, 0]

    def block_y(self) -> np.ndarray:
        """Second index of the block."""
        return self._blocks[:, 1]

    def block_z(self) -> np.ndarray:
        """Third index of the block."""
        return self._blocks[:, 2]

    def grid_x(self) -> np.ndarray:
        """Blocks along the first axis."""
        return np.full(self.count, self.grid[0], np.int32)

    def grid_y(self) -> np.ndarray:
        """Blocks along the second axis."""
        return np.full(self.count, self.grid[1], np.int32)

    def grid_z(self) -> np.ndarray:
        """Blocks along the third axis."""
        return np.full(self.count, self.grid[2], np.int32)

    # memory

    def _array(self, x: Any, dtype: Any = np.int64) -> np.ndarray:
        return np.broadcast_to(np.asarray(x, dtype), (self.count,))

    def _at(self, pointer: Pointer, index: Any, nbytes: int, wanted: np.ndarray) -> np.ndarray:
        """Checked byte positions of the wanted threads."""
        places = pointer.offset + self._array(index)[wanted] * pointer.dtype.itemsize
        if places.size and (places.min() < 0 or places.max() + nbytes > pointer.memory.size):
            raise EmulationError(f"global bytes {places.min()}..{places.max() + nbytes} of {pointer.memory.size}")
        if (places % nbytes).any():
            raise EmulationError(f"a global access of {nbytes} bytes is not aligned")
        return places

    def load(self, pointer: Pointer, index: Any, count: int) -> Any:
        """``count`` elements from global memory, floats as float32, integers as int64."""
        size = count * pointer.dtype.itemsize
        at = self._at(pointer, index, min(size, 16), self._mask)
        if at.size and at.max() + size > pointer.memory.size:
            raise EmulationError(f"global bytes up to {at.max() + size} of {pointer.memory.size}")
        raw = pointer.memory[at[:, None] + np.arange(size)]
        if pointer.dtype.kind in "iu":
            out = np.full((self.count, count), -559038737, np.int64)
        else:
            out = np.full((self.count, count), np.nan, np.float32)
        out[self._mask] = raw.view(pointer.dtype).astype(out.dtype)
        return out[:, 0].copy() if count == 1 else tuple(out.T.copy())

    def load_int(self, pointer: Pointer, index: Any) -> np.ndarray:
        """One int32 from global memory."""
        at = self._at(pointer, index, 4, self._mask)
        out = np.full(self.count, -559038737, np.int32)
        out[self._mask] = pointer.memory[at[:, None] + np.arange(4)].view(np.int32)[:, 0]
        return out

    def load_four_if(self, pointer: Pointer, index: Any, pitch: Any, wanted: Any) -> tuple[np.ndarray, ...]:
        """Four float32 from global memory, ``pitch`` bytes apart, or 0 where the bit of ``wanted`` is 0."""
        out = np.zeros((4, self.count), np.float32)
        apart, bits = self._array(pitch), self._array(wanted)
        for i in range(4):
            mask = self._mask & (bits >> i & 1 != 0)
            at = self._at(pointer, self._array(index) + i * (apart // 4), 4, mask)
            out[i, mask] = pointer.memory[at[:, None] + np.arange(4)].view(np.float32)[:, 0]
        return tuple(out)

    def store_int(self, pointer: Pointer, index: Any, value: Any) -> None:
        """One int32 to global memory."""
        at = self._at(pointer, index, 4, self._mask)
        rows = np.ascontiguousarray(self._array(value, np.int32)[self._mask])
        pointer.memory[at[:, None] + np.arange(4)] = rows.view(np.uint8).reshape(-1, 4)

    def store(self, pointer: Pointer, index: Any, values: Sequence[Any]) -> None:
        """Numbers to global memory, rounded to its type."""
        size = len(values) * pointer.dtype.itemsize
        at = self._at(pointer, index, min(size, 16), self._mask)
        if at.size and at.max() + size > pointer.memory.size:
            raise EmulationError(f"global bytes up to {at.max() + size} of {pointer.memory.size}")
        kind = np.int64 if pointer.dtype.kind in "iu" else np.float32
        with np.errstate(all="ignore"):
            rows = np.stack([self._array(v, kind) for v in values], 1)[self._mask].astype(pointer.dtype)
        pointer.memory[at[:, None] + np.arange(size)] = np.ascontiguousarray(rows).view(np.uint8)

    def _shared_at(self, address: Any, nbytes: int, wanted: np.ndarray) -> np.ndarray:
        places = self._array(address)[wanted]
        if places.size and (places.min() < 0 or places.max() + nbytes > self._size):
            raise EmulationError(f"shared bytes {places.min()}..{places.max() + nbytes} of {self._size}")
        if (places % nbytes).any():
            raise EmulationError(f"a shared access of {nbytes} bytes is not aligned")
        return places + self._base[wanted]

    def shared_load(self, address: Any, count: int) -> Any:
        """``count`` float32 from shared memory."""
        at = self._shared_at(address, 4 * count, self._mask)
        out = np.full((self.count, count), np.nan, np.float32)
        out[self._mask] = self._shared[at[:, None] + np.arange(4 * count)].view(np.float32)
        return out[:, 0].copy() if count == 1 else tuple(out.T.copy())

    def shared_store(self, address: Any, *values: Any) -> None:
        """Numbers to shared memory."""
        at = self._shared_at(address, 4 * len(values), self._mask)
        rows = np.ascontiguousarray(np.stack([self._array(v, np.float32) for v in values], 1)[self._mask])
        self._shared[at[:, None] + np.arange(4 * len(values))] = rows.view(np.uint8)
        self._writer[at[:, None] // 4 + np.arange(len(values))] = self._self[self._mask][:, None]

    def cp_async16(self, address: Any, pointer: Pointer, index: Any, nbytes: Any) -> None:
        """Begin copying; the bytes land when waited for."""
        to = self._shared_at(address, 16, self._mask)
        counts = self._array(nbytes)[self._mask]
        if ((counts < 0) | (counts > 16)).any():
            raise EmulationError("a copy of fewer than 0 or more than 16 bytes")
        data = np.zeros((len(to), 16), np.uint8)
        reading = counts > 0
        places = pointer.offset + self._array(index)[self._mask][reading] * pointer.dtype.itemsize
        if places.size:
            ends = places + counts[reading]
            if places.min() < 0 or ends.max() > pointer.memory.size:
                raise EmulationError(f"global bytes {places.min()}..{ends.max()} of {pointer.memory.size}")
            if (places % 16).any():
                raise EmulationError("the source of a 16-byte copy is not aligned")
            columns = np.arange(16)
            inside = columns < counts[reading][:, None]
            got = pointer.memory[np.minimum(places[:, None] + columns, pointer.memory.size - 1)]
            data[reading] = np.where(inside, got, 0)
        self._shared[to[:, None] + np.arange(16)] = 0xFF
        self._copies.open.append((to, data, self._self[self._mask]))

    def cp_commit(self) -> None:
        """Close a set of copies."""
        self._copies.committed.append(self._copies.open)
        self._copies.open = []

    def cp_wait(self, pending: int) -> None:
        """Land all but the last ``pending`` sets."""
        while len(self._copies.committed) > pending:
            for to, data, writer in self._copies.committed.pop(0):
                self._shared[to[:, None] + np.arange(16)] = data
                self._writer[to[:, None] // 4 + np.arange(4)] = writer[:, None]

    # warps

    def ldmatrix(self, address: Any, transposed: bool = False) -> tuple[np.ndarray, ...]:
        """Four 8x8 matrices of 16-bit elements; lane ``8m + r`` gives the address of row r of matrix m.

        Lane ``4r + c`` gets elements 2c and 2c + 1 of row r, or if ``transposed`` of column r.
        """
        self.whole("ldmatrix")
        self.group.fenced = False
        at = np.zeros(self.count, np.int64)
        at[self._mask] = self._shared_at(address, 16, self._mask)
        rows = at.reshape(-1, 4, 8)
        groups = (rows // 16) % 8
        active = self._mask.reshape(-1, 32)[:, 0]
        for banks in groups[active].reshape(-1, 8).tolist():
            self.stats.conflicts += 8 - len(set(banks))
        lane = np.arange(32)
        out = []
        for matrix in range(4):
            if transposed:
                first = rows[:, matrix, :][:, (lane & 3)[:, None] * 2 + np.arange(2)] + 2 * (lane >> 2)[:, None]
                places = (first[..., None] + np.arange(2)).reshape(*first.shape[:2], 4)
            else:
                places = (rows[:, matrix, :][:, lane >> 2] + 4 * (lane & 3))[..., None] + np.arange(4)
            out.append(self._shared[places].view(np.int32).reshape(-1).copy())
        return tuple(out)

    def mma(self, kind: str, args: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """``D = A B + C`` of one warp: A 16xk row-major, B kx8, C and D float32."""
        self.whole("mma")
        self.stats.mma += int(self._mask.sum()) // 32
        c = np.stack([self._array(a, np.float32) for a in args[:4]], 1).reshape(-1, 32, 4)
        a = np.stack([self._array(v, np.int32) for v in args[4:8]], 1).reshape(-1, 32, 4)
        b = np.stack([self._array(v, np.int32) for v in args[8:]], 1).reshape(-1, 32, 2)
        lane = np.arange(32)
        g, t = lane >> 2, lane & 3
        warps = len(c)
        if kind == "tf32":
            am, bm = np.empty((warps, 16, 8), np.float32), np.empty((warps, 8, 8), np.float32)
            cut = np.int32(-8192)
            for r, (dg, dt) in enumerate(((0, 0), (8, 0), (0, 4), (8, 4))):
                am[:, g + dg, t + dt] = (a[:, :, r] & cut).view(np.float32)
            for r in range(2):
                bm[:, t + 4 * r, g] = (b[:, :, r] & cut).view(np.float32)
        else:
            am, bm = np.empty((warps, 16, 16), np.float32), np.empty((warps, 16, 8), np.float32)
            av, bv = halves(a, kind), halves(b, kind)
            for e in range(2):
                for r, (dg, dt) in enumerate(((0, 0), (8, 0), (0, 8), (8, 8))):
                    am[:, g + dg, 2 * t + dt + e] = av[:, :, r, e]
                for r in range(2):
                    bm[:, 2 * t + 8 * r + e, g] = bv[:, :, r, e]
        with np.errstate(all="ignore"):
            d = am @ bm
        for r, (dg, e) in enumerate(((0, 0), (0, 1), (8, 0), (8, 1))):
            c[:, :, r] += d[:, g + dg, 2 * t + e]
        return tuple(c.reshape(-1, 4).T.copy())

    def shuffle_xor(self, value: Any, mask: Any) -> np.ndarray:
        """The value of the lane whose number differs in the bits of ``mask``."""
        self.whole("a shuffle")
        lane = np.arange(32) ^ int(mask)
        return self._array(value, np.float32).reshape(-1, 32)[:, lane].reshape(-1)

    def count_up(self, pointer: Pointer, index: Any, limit: Any) -> np.ndarray:
        """Old value of a counter that goes up by one, or back to 0 from ``limit``; threads one after the other."""
        out = np.zeros(self.count, np.int32)
        places = np.zeros(self.count, np.int64)
        places[self._mask] = self._at(pointer, index, 4, self._mask)
        limits = self._array(limit)
        for i in np.flatnonzero(self._mask):
            word = pointer.memory[places[i] : places[i] + 4].view(np.int32)
            out[i] = word[0]
            word[0] = 0 if word[0] >= limits[i] else word[0] + 1
        return out


def _lane_functions() -> dict[str, Callable[..., Any]]:
    """Operations on threads and memory; their first argument is the group."""
    table: dict[str, Callable[..., Any]] = {
        "thread": Lanes.thread, "block_x": Lanes.block_x, "block_y": Lanes.block_y, "block_z": Lanes.block_z,
        "grid_x": Lanes.grid_x, "grid_y": Lanes.grid_y, "grid_z": Lanes.grid_z,
        "ldcg4": lambda lanes, p, i: lanes.load(p, i, 4),
        "shared_address": lambda lanes, array: 0, "cp_async16": Lanes.cp_async16, "cp_commit": Lanes.cp_commit,
        "ldmatrix": Lanes.ldmatrix, "ldmatrix_transposed": lambda lanes, at: lanes.ldmatrix(at, True),
        "shuffle_xor": Lanes.shuffle_xor, "load_int": Lanes.load_int, "load_four_if": Lanes.load_four_if, "store_int": Lanes.store_int,
        "count_up": Lanes.count_up, "fence": lambda lanes: None,
        "lds1": lambda lanes, at: lanes.shared_load(at, 1), "lds4": lambda lanes, at: lanes.shared_load(at, 4),
        "sts1": Lanes.shared_store, "sts2": Lanes.shared_store, "sts4": Lanes.shared_store,
    }  # fmt: skip

    def bind(function: Callable[..., Any], *fixed: Any) -> Callable[..., Any]:
        return lambda lanes, *args: function(lanes, *fixed, *args)

    for kind in ("f16", "bf16", "tf32"):
        table[f"mma_{kind}"] = lambda lanes, *args, kind=kind: lanes.mma(kind, args)
    for pending in range(4):
        table[f"cp_wait{pending}"] = bind(Lanes.cp_wait, pending)
    for kind in ("f32", "f16", "bf16"):
        for count in (1, 2, 4, 8):
            table[f"ld{count}_{kind}"] = lambda lanes, p, i, count=count: lanes.load(p, i, count)
            table[f"st{count}_{kind}"] = lambda lanes, p, i, *values: lanes.store(p, i, values)
    for kind in INTEGERS:
        table[f"ld1_{kind}"] = lambda lanes, p, i: lanes.load(p, i, 1)
        table[f"st1_{kind}"] = lambda lanes, p, i, value: lanes.store(p, i, (value,))
    return table


LANE_FUNCTIONS = {**_lane_functions(), **warpgroups.functions(), **bulk_copies.functions()}
