"""What the executor asks of a GPU; :mod:`cnngraph_cuda.driver` is the real one, :class:`EmulatedDevice` runs without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cnngraph.errors import InternalError
from cnngraph.runtime.program import Kernel
from cnngraph_cuda.tensor_maps import TensorMap

LAUNCH_WORDS = (
    "launch_units", "launch_per", "launch_y", "launch_z", "launch_threads", "launch_shared", "launch_span", "launch_split", "launch_slots",
    "launch_maps",
)  # fmt: skip
"""The first arguments of every call, which the runtime takes for itself: the grid is ceil(units / per) x y x z blocks. If split is
above 1, z is instead the largest number up to split for which all blocks together are at most slots. The words of launch_maps tensor
maps follow (see :mod:`cnngraph_cuda.tensor_maps`). Programs on disk hold these words
in this order: a change raises the version of :mod:`cnngraph.runtime.artifact`."""


@dataclass(frozen=True)
class Launch:
    """One kernel launch with everything fixed.

    Attributes:
        kernel: its number in the program.
        grid: blocks in x, y and z.
        threads, shared: threads of a block and bytes of its dynamic shared memory.
        arguments: of every parameter a tensor map, or (whether it is a pointer, number): 64-bit addresses, 32-bit integers.
        label: the ONNX nodes computed.
    """

    kernel: int
    grid: tuple[int, int, int]
    threads: int
    shared: int
    arguments: tuple[tuple[bool, int] | TensorMap, ...]
    label: str


class Device(Protocol):
    """Memory, kernels and recorded sequences of launches of one GPU."""

    def allocate(self, nbytes: int) -> int:
        """Address of new memory, aligned to 256 bytes."""
        ...

    def free(self, address: int) -> None:
        """Give memory back."""
        ...

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a contiguous array to the device."""
        ...

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy device memory into a contiguous array, after all launches."""
        ...

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device's memory, in order with launches."""
        ...

    def synchronize(self) -> None:
        """Wait for everything started."""
        ...

    def wait_for(self, stream: int) -> None:
        """Wait for what another stream of this process has started."""
        ...

    def load(self, kernel: Kernel) -> Any:
        """Make a kernel ready; the result goes into :meth:`record`."""
        ...

    def record(self, launches: Sequence[Launch], kernels: Sequence[Any]) -> Any:
        """A sequence of launches as one object (a CUDA graph)."""
        ...

    def replay(self, graph: Any) -> None:
        """Start a recorded sequence."""
        ...

    def forget(self, graph: Any) -> None:
        """Give a recorded sequence back."""
        ...


class EmulatedDevice:
    """A device whose kernels run in the emulator, from their source: for tests, and for looking into wrong results.

    Args:
        order: the order of warps between barriers; None runs whole grids in lock step.

    Attributes:
        launches: every launch made, in order.
    """

    def __init__(self, order: Any = None) -> None:
        self._memory: dict[int, np.ndarray] = {}
        self._next = 1 << 40
        self._order = order
        self.launches: list[Launch] = []

    def allocate(self, nbytes: int) -> int:
        """Memory that begins as NaN bytes."""
        address = self._next
        self._next += 1 << 40
        self._memory[address] = np.full(nbytes, 0xFF, np.uint8)
        return address

    def free(self, address: int) -> None:
        """See :class:`Device`."""
        del self._memory[address]

    def _find(self, address: int) -> tuple[np.ndarray, int]:
        base = address >> 40 << 40
        if base not in self._memory:
            raise InternalError(f"{address:#x} is no device memory")
        return self._memory[base], address - base

    def upload(self, address: int, array: np.ndarray) -> None:
        """See :class:`Device`."""
        memory, at = self._find(address)
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if at + raw.size > memory.size:
            raise InternalError(f"upload of {raw.size} bytes to {memory.size - at}")
        memory[at : at + raw.size] = raw

    def download(self, array: np.ndarray, address: int) -> None:
        """See :class:`Device`."""
        memory, at = self._find(address)
        if at + array.nbytes > memory.size:
            raise InternalError(f"download of {array.nbytes} bytes from {memory.size - at}")
        array.reshape(-1).view(np.uint8)[...] = memory[at : at + array.nbytes]

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """See :class:`Device`."""
        there, at = self._find(source)
        here, to = self._find(target)
        if at + nbytes > there.size or to + nbytes > here.size:
            raise InternalError(f"copy of {nbytes} bytes")
        here[to : to + nbytes] = there[at : at + nbytes]

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def wait_for(self, stream: int) -> None:
        """Nothing is ever under way."""

    def load(self, kernel: Kernel) -> Any:
        """The kernel's source as a generator, and the types of its parameters."""
        import re

        from cnngraph_cuda.emulate import load

        found = re.search('^SIGNATURE = "(.*)"$', kernel.source, re.MULTILINE)
        if found is None:
            raise InternalError(f"the source of {kernel.name} has no signature")
        return load(kernel.source, kernel.name), found.group(1).split()

    def record(self, launches: Sequence[Launch], kernels: Sequence[Any]) -> Any:
        """See :class:`Device`."""
        return list(launches), list(kernels)

    def replay(self, graph: Any) -> None:
        """Run every launch to its end."""
        import ml_dtypes

        from cnngraph_cuda.bulk_copies import MappedTensor
        from cnngraph_cuda.emulate import launch
        from cnngraph_cuda.lanes import Pointer

        dtypes = {
            "f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16, "u8": np.uint8, "i8": np.int8, "u16": np.uint16,
            "i16": np.int16, "u32": np.uint32, "i32": np.int32, "i64": np.int64, "u64": np.uint64,
        }  # fmt: skip
        launches, kernels = graph
        for one in launches:
            function, types = kernels[one.kernel]
            if len(types) != len(one.arguments):
                raise InternalError(f"{len(one.arguments)} arguments for {len(types)} parameters of {one.label}")
            values: list[Any] = []
            for kind, argument in zip(types, one.arguments, strict=True):
                if isinstance(argument, TensorMap) != (kind == "map"):
                    raise InternalError(f"a parameter of type {kind} got the wrong sort of argument in {one.label}")
                if isinstance(argument, TensorMap):
                    values.append(MappedTensor(argument, *self._find(argument.address)))
                    continue
                is_pointer, number = argument
                if is_pointer != (kind != "int"):
                    raise InternalError(f"a parameter of type {kind} got the wrong sort of argument in {one.label}")
                if is_pointer:
                    memory, at = self._find(number)
                    values.append(Pointer(memory, np.dtype(dtypes[kind]), at))
                else:
                    values.append(number)
            launch(function, one.grid, one.threads, one.shared, values, self._order)
            self.launches.append(one)

    def forget(self, graph: Any) -> None:
        """See :class:`Device`."""
