"""The tensor memory accelerator (sm_90) in the emulator: barriers that count arrivals and bytes, and copies of boxes.

From the PTX ISA (mbarrier, cp.async.bulk.tensor, tensor modes), what a kernel must do and hardware would not complain of:

* initialise a barrier, and make that known to copies by ``fence.mbarrier_init`` and ``fence.proxy.async``, before anything uses it;
* tell it how many bytes will come, once for each phase, and copy exactly so many;
* wait for the phase by its parity before reading, and before the barrier is used for the next.

What a copy brings lands when its phase is waited for; until then its destination is NaN. A wait that nothing can end is an error, and
so are a phase begun before the last was waited for, more bytes or arrivals than a barrier expects, destinations that are not
aligned, and maps of arrays that go beyond their memory. Zeros arrive, and count, for what a box holds beyond the array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph_cuda.tensor_maps import ITEM_BYTES, MOST_OFFSET, SWIZZLE_128, TensorMap
from cnngraph_cuda.warpgroups import EmulationError

if TYPE_CHECKING:
    from cnngraph_cuda.lanes import Lanes


@dataclass(frozen=True)
class MappedTensor:
    """A tensor map as a kernel's argument: the map, and the memory its array begins in, at byte ``offset``."""

    map: TensorMap
    memory: np.ndarray
    offset: int


@dataclass
class Barrier:
    """A barrier in shared memory.

    Attributes:
        count: arrivals of a phase.
        pending: arrivals still to come in this phase.
        expected: bytes of this phase.
        copies: (positions, bytes) that have been asked for in this phase.
        phase: number of the phase.
        owner: the thread that initialised it (see :attr:`cnngraph_cuda.lanes.SharedMemory.writer`).
        known: fences of the owner since then: "init", "proxy".
    """

    count: int
    pending: int
    owner: int
    expected: int = 0
    copies: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    phase: int = 0
    known: set[str] = field(default_factory=set)


def _threads(lanes: Lanes, *operands: Any) -> list[list[int]]:
    """(thread, operands) of every thread that is here."""
    here = np.flatnonzero(lanes._mask)
    return np.stack([here, *(lanes._array(x)[here] for x in operands)], 1).tolist()


def _barrier(lanes: Lanes, thread: int, address: int) -> Barrier:
    found = lanes.barriers.get(int(lanes._base[thread]) + address)
    if found is None:
        raise EmulationError(f"no barrier has been initialised at shared byte {address}")
    return found


def init(lanes: Lanes, address: Any, count: Any) -> None:
    """Make barriers, each for ``count`` arrivals."""
    for thread, at, arrivals in _threads(lanes, address, count):
        place = int(lanes._base[thread]) + at
        if at % 8 or not 0 <= at <= lanes._size - 8 or place in lanes.barriers:
            raise EmulationError(f"a barrier at shared byte {at}: not aligned, beyond {lanes._size}, or initialised twice")
        lanes.barriers[place] = Barrier(arrivals, arrivals, int(lanes._self[thread]))


def expect(lanes: Lanes, address: Any, nbytes: Any) -> None:
    """Arrive, and expect bytes."""
    for thread, at, more in _threads(lanes, address, nbytes):
        barrier = _barrier(lanes, thread, at)
        if barrier.pending == 0:
            raise EmulationError("a thread arrives at a barrier that has all arrivals, and whose phase nobody has waited for")
        barrier.pending -= 1
        barrier.expected += more
        lanes.stats.progress += 1


def wait(lanes: Lanes, address: Any, parity: Any) -> bool:
    """Whether some thread must wait for the phase of this parity; copies of phases that are over land."""
    blocked = False
    for place, bit in {(int(lanes._base[thread]) + at, bit) for thread, at, bit in _threads(lanes, address, parity)}:
        barrier = lanes.barriers.get(place)
        if barrier is None:
            raise EmulationError("a wait for a barrier that has not been initialised")
        if barrier.phase & 1 != bit:
            continue
        arrived = sum(data.size for _, data in barrier.copies)
        if arrived > barrier.expected and not barrier.pending:
            raise EmulationError(f"{arrived} bytes arrive at a barrier that expects {barrier.expected}")
        if barrier.pending or arrived < barrier.expected:
            blocked = True
            continue
        for to, data in barrier.copies:
            lanes._shared[to] = data
        barrier.phase, barrier.pending, barrier.expected, barrier.copies = barrier.phase + 1, barrier.count, 0, []
        lanes.stats.progress += 1
    return blocked


def _tile(tensor: MappedTensor, corner: tuple[int, ...]) -> np.ndarray:
    """Bytes ``[row, byte]`` of the box of a map of two axes at ``corner``, innermost coordinate first."""
    given, item = tensor.map, ITEM_BYTES[tensor.map.dtype]
    if given.window is not None:
        raise EmulationError("a copy of a box by an im2col map")
    (columns, rows), (pitch,) = given.sizes, given.strides
    if tensor.offset + (rows - 1) * pitch + columns * item > tensor.memory.size:
        raise EmulationError(f"a tensor map of {rows} rows goes beyond its memory of {tensor.memory.size - tensor.offset} bytes")
    row = corner[1] + np.arange(given.box[1])[:, None]
    byte = corner[0] * item + np.arange(given.row_bytes)
    inside = (row >= 0) & (row < rows) & (byte >= 0) & (byte < columns * item)
    return np.where(inside, tensor.memory[np.where(inside, tensor.offset + row * pitch + byte, 0)], 0)


def _window(tensor: MappedTensor, corner: tuple[int, ...], offset: tuple[int, int]) -> np.ndarray:
    """Bytes ``[pixel, byte]`` of successive places of a window from ``corner`` (channel, column, row, image) on, ``offset`` further."""
    given, item, window = tensor.map, ITEM_BYTES[tensor.map.dtype], tensor.map.window
    if window is None or not all(0 <= o <= MOST_OFFSET for o in offset):
        raise EmulationError(f"an im2col copy by a tiled map, or with offsets {offset} beyond {MOST_OFFSET}")
    reach = sum((size - 1) * stride for size, stride in zip(given.sizes[1:], given.strides, strict=True)) + given.sizes[0] * item
    if tensor.offset + reach > tensor.memory.size:
        raise EmulationError(f"a tensor map of {given.sizes} goes beyond its memory of {tensor.memory.size - tensor.offset} bytes")
    columns, rows = (window.places(given.sizes[1 + axis], axis) for axis in range(2))
    (column, off_column), (row, off_row) = (divmod(corner[1 + i] - window.lower[i], window.steps[i]) for i in range(2))
    if off_column or off_row or not (0 <= column < columns and 0 <= row < rows):
        raise EmulationError(f"an im2col copy that begins at no place of its window: {corner}")
    place = ((corner[3] * rows + row) * columns + column + np.arange(given.box[1]))[:, None]
    at = [window.lower[0] + place % columns * window.steps[0] + offset[0]]
    at += [window.lower[1] + place // columns % rows * window.steps[1] + offset[1], place // (columns * rows)]
    byte = corner[0] * item + np.arange(given.row_bytes)
    inside, source = (byte >= 0) & (byte < given.sizes[0] * item), tensor.offset + byte
    for where, size, stride in zip(at, given.sizes[1:], given.strides, strict=True):
        inside, source = inside & (where >= 0) & (where < size), source + where * stride
    return np.where(inside, tensor.memory[np.where(inside, source, 0)], 0)


def _copy(lanes: Lanes, thread: int, tensor: Any, to: int, data: np.ndarray, barrier: Barrier) -> None:
    """Begin the copy of a box to shared byte ``to``."""
    if not {"init", "proxy"} <= barrier.known:
        raise EmulationError("a copy to a barrier whose initialisation has not been fenced")
    if to % 128 or not 0 <= to <= lanes._size - data.size:
        raise EmulationError(f"a box at shared bytes {to}..{to + data.size} of {lanes._size}, or not aligned to 128")
    at = to + np.arange(data.size)
    if tensor.map.swizzle == SWIZZLE_128:
        at = at ^ ((at >> 7 & 7) << 4)
    at = at + lanes._base[thread]
    if lanes._writer[at[::4] // 4].any():
        raise EmulationError("a box goes where a thread wrote without fence.proxy.async")
    lanes._shared[at] = 0xFF
    barrier.copies.append((at, data.reshape(-1)))
    lanes.stats.boxes += 1


def load(lanes: Lanes, address: Any, tensor: Any, column: Any, row: Any, barrier: Any) -> None:
    """Begin the copy of a box of a map of two axes."""
    for thread, to, x, y, at in _threads(lanes, address, column, row, barrier):
        _copy(lanes, thread, tensor, to, _tile(tensor, (x, y)), _barrier(lanes, thread, at))


def load_window(lanes: Lanes, address: Any, tensor: Any, *operands: Any) -> None:
    """Begin a copy by an im2col map: channel, column, row and image of the first place, the barrier, columns and rows beyond."""
    for thread, to, channel, column, row, image, at, wide, high in _threads(lanes, address, *operands):
        _copy(lanes, thread, tensor, to, _window(tensor, (channel, column, row, image), (wide, high)), _barrier(lanes, thread, at))


def functions() -> dict[str, Callable[..., Any]]:
    """The operations of this module by the names of their primitives; their first argument is the group of threads."""
    return {
        "mbarrier_init": init, "mbarrier_fence": lambda lanes: lanes.fence_barriers("init"), "mbarrier_expect": expect,
        "mbarrier_wait": wait, "tma_load": load, "tma_im2col": load_window,
    }  # fmt: skip
