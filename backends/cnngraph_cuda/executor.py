"""Run a program on a GPU: buffers, one recorded graph for each batch size, host steps between graphs where they are allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnngraph.errors import InternalError, InvalidInputError, LimitExceededError
from cnngraph.ir.types import DType
from cnngraph.runtime.host import decode
from cnngraph.runtime.program import ARENA, FIRST_IO, INTEGER, SCRATCH, STATIC, WEIGHTS, HostStep, KernelStep, ProgramData, TensorRef
from cnngraph_cuda.device import LAUNCH_WORDS, Device, Launch
from cnngraph_cuda.tensor_maps import MAP_WORDS, TensorMap, map_of

_LIMIT = 1 << 31
_KEPT = 8
"""Batch sizes whose buffers and graphs are kept."""


def plan_launch(step: KernelStep, batch: int, bases: Sequence[int]) -> Launch:
    """A step for one batch size and these base addresses.

    Raises:
        LimitExceededError: the kernel's 32-bit numbers cannot count the elements, or the grid is too large.
    """
    numbers = [bases[base] + a * batch + b if base != INTEGER else a * batch + b for base, a, b in step.arguments]
    units, per, y, z, threads, shared, span, split, slots, maps = numbers[: len(LAUNCH_WORDS)]
    first = len(LAUNCH_WORDS) + maps * len(MAP_WORDS)
    rest, values = step.arguments[first:], numbers[first:]
    grid = (-(-units // per), y, z)
    if split > 1:  # blocks that share one result, as many as there are places for their parts
        grid = (grid[0], y, max(1, min(split, slots // max(grid[0] * y, 1))))
    integers = [v for (base, _, _), v in zip(rest, values, strict=True) if base == INTEGER]
    if span >= _LIMIT or any(not -_LIMIT <= v < _LIMIT for v in integers) or grid[0] >= _LIMIT or y > 65535 or z > 65535:
        raise LimitExceededError(f"a batch of {batch} has more elements than the kernels count in 32 bits ({step.label})")
    arguments: list[tuple[bool, int] | TensorMap] = [(base != INTEGER, v) for (base, _, _), v in zip(rest, values, strict=True)]
    for at in range(len(LAUNCH_WORDS), first, len(MAP_WORDS)):
        arguments[numbers[at]] = map_of(values[numbers[at]], numbers[at : at + len(MAP_WORDS)])
    return Launch(step.kernel, grid, threads, shared, tuple(arguments), step.label)


@dataclass
class _Bound:
    """Everything made for one batch size."""

    batch: int
    bases: list[int]
    owned: list[int]
    parts: list[Any] = field(default_factory=list)


class CudaExecutor:
    """The executor of :class:`cnngraph.runtime.session.Program` on a GPU.

    The device is opened at the first run, so that programs can be compiled and stored on machines without one.

    Args:
        data: the program.
        open_device: makes the device; None: the real one.
    """

    def __init__(self, data: ProgramData, open_device: Callable[[], Device] | None = None) -> None:
        self.data = data
        self._open = open_device
        self._lock = threading.Lock()
        self._device: Device | None = None
        self._kernels: list[Any] = []
        self._bound: dict[int, _Bound] = {}
        self._weights = 0

    def device(self) -> Device:
        """The device, with the program's kernels and weights on it."""
        if self._device is None:
            if self._open is None:
                from cnngraph_cuda.driver import CudaDevice

                device: Device = CudaDevice(self.data.isa)
            else:
                device = self._open()
            self._kernels = [device.load(kernel) for kernel in self.data.kernels]
            weights = np.ascontiguousarray(self.data.weights).reshape(-1).view(np.uint8)
            self._weights = device.allocate(max(weights.size, 256))
            device.upload(self._weights, weights)
            self._device = device
        return self._device

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, threads: int) -> None:
        """Compute ``outputs`` (contiguous, overwritten) from ``inputs`` (contiguous); ``threads`` does not matter here."""
        with self._lock:
            device = self.device()
            bound = self.bind(batch)
            for i, array in enumerate(inputs):
                device.upload(bound.bases[FIRST_IO + i], array)
            try:
                self.replay(bound)
            finally:  # what a bad index leads to does not hide it
                self.check(bound)
            copied = dict(self.data.copies)
            for i, array in enumerate(outputs):
                ref = copied.get(i)
                place = bound.bases[FIRST_IO + len(inputs) + i] if ref is None else self._address(ref, bound)
                device.download(array, place)

    def bind(self, batch: int) -> _Bound:
        """Buffers and graphs for ``batch`` images; the caller holds the lock or is alone."""
        found = self._bound.pop(batch, None)
        if found is None:
            while len(self._bound) >= _KEPT:
                self._release(self._bound.pop(next(iter(self._bound))))
            found = self._make(batch)
        self._bound[batch] = found
        return found

    def poison(self, bound: _Bound) -> None:
        """Fill everything that a run must write with NaN bytes, so that what it forgets shows."""
        device, data = self.device(), self.data
        sizes = [(bound.bases[ARENA], data.arena * bound.batch), (bound.bases[STATIC], data.static_bytes)]
        for i, spec in enumerate(data.outputs):
            elements = int(np.prod([a * bound.batch + b for a, b in spec.factors()], dtype=np.int64))
            sizes.append((bound.bases[FIRST_IO + len(data.inputs) + i], elements * DType(spec.dtype).itemsize))
        for address, nbytes in sizes:
            if nbytes:
                device.upload(address, np.full(nbytes, 0xFF, np.uint8))

    def replay(self, bound: _Bound) -> None:
        """Run every part of a program whose inputs are in place."""
        device = self.device()
        for kind, part in bound.parts:
            if kind == "graph":
                device.replay(part)
            else:
                self._host(part, bound)

    def check(self, bound: _Bound) -> None:
        """Wait for a run and look at its flags.

        Raises:
            InvalidInputError: a kernel met an index outside its axis.
        """
        device, words, text = self.device(), np.zeros(2, np.int32), ""
        for place, message in self.data.checks:
            device.download(words, bound.bases[SCRATCH] + place)
            if words[0]:
                text = text or message.replace("{}", str(words[1]))
                device.upload(bound.bases[SCRATCH] + place, np.zeros(2, np.int32))
        if text:
            raise InvalidInputError(text)

    def _make(self, batch: int) -> _Bound:
        device, data = self.device(), self.data
        owned: list[int] = []

        def allocate(nbytes: int) -> int:
            owned.append(device.allocate(max(nbytes, 256)))
            return owned[-1]

        try:
            bases = [0] * FIRST_IO
            bases[ARENA] = allocate(data.arena * batch)
            bases[STATIC] = allocate(data.static_bytes)
            bases[WEIGHTS] = self._weights
            bases[SCRATCH] = allocate(data.scratch)
            for spec in (*data.inputs, *data.outputs):
                elements = int(np.prod([a * batch + b for a, b in spec.factors()], dtype=np.int64))
                bases.append(allocate(elements * DType(spec.dtype).itemsize))
            if data.scratch:
                device.upload(bases[SCRATCH], np.zeros(data.scratch, np.uint8))
            bound = _Bound(batch, bases, owned)
            pending: list[Launch] = []
            for step in data.steps:
                if isinstance(step, KernelStep):
                    pending.append(plan_launch(step, batch, bases))
                    continue
                if pending:
                    bound.parts.append(("graph", device.record(pending, self._kernels)))
                    pending = []
                bound.parts.append(("host", step))
            if pending:
                bound.parts.append(("graph", device.record(pending, self._kernels)))
        except BaseException:
            for address in owned:
                device.free(address)
            raise
        return bound

    def _release(self, bound: _Bound) -> None:
        device = self.device()
        for kind, part in bound.parts:
            if kind == "graph":
                device.forget(part)
        for address in bound.owned:
            device.free(address)

    @staticmethod
    def _address(ref: TensorRef, bound: _Bound) -> int:
        return bound.bases[ref.base] + ref.a * bound.batch + ref.b

    def _host(self, step: HostStep, bound: _Bound) -> None:
        """Compute a step by its NumPy reference, with copies there and back."""
        device = self.device()
        op = decode(step.op).bind(bound.batch)
        operands: list[np.ndarray | None] = []
        for ref in step.inputs:
            if ref is None:
                operands.append(None)
                continue
            array = np.empty([a * bound.batch + b for a, b in ref.shape], DType(ref.dtype).numpy)
            device.download(array, self._address(ref, bound))
            operands.append(array)
        for ref, result in zip(step.outputs, op.reference(*operands), strict=True):
            shape = [a * bound.batch + b for a, b in ref.shape]
            array = np.ascontiguousarray(np.broadcast_to(result, shape), DType(ref.dtype).numpy)
            device.upload(self._address(ref, bound), array)

    def profile(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, repeat: int, threads: int = 1
    ) -> list[tuple[str, str, float]]:
        """(kernel, ONNX nodes, least seconds of ``repeat`` runs) of every step, each alone in a graph of its own; no threads take part."""
        self.run(inputs, outputs, batch, 1)
        with self._lock:
            device, bound = self.device(), self.bind(batch)
            sink = np.empty(1, np.uint8)
            rows = []
            for step in self.data.steps:
                graph = None
                if isinstance(step, KernelStep):
                    graph = device.record([plan_launch(step, batch, bound.bases)], self._kernels)
                best = float("inf")
                for _ in range(repeat):
                    start = time.perf_counter()
                    if isinstance(step, HostStep):
                        self._host(step, bound)
                    else:
                        device.replay(graph)
                        device.download(sink, bound.bases[WEIGHTS])
                    best = min(best, time.perf_counter() - start)
                if graph is not None:
                    device.forget(graph)
                name = self.data.kernels[step.kernel].name if isinstance(step, KernelStep) else "reference"
                rows.append((name, step.label, best))
            return rows


def check_buffers(data: ProgramData, batch: int) -> None:
    """Every pointer of every launch lies in its buffer.

    Raises:
        InternalError: one does not.
    """
    sizes = {ARENA: data.arena * batch, STATIC: data.static_bytes, WEIGHTS: data.weights.nbytes, SCRATCH: data.scratch}
    for step in data.steps:
        if not isinstance(step, KernelStep):
            continue
        for base, a, b in step.arguments:
            if base in sizes and not 0 <= a * batch + b < max(sizes[base], 1):
                raise InternalError(f"an argument of {step.label} lies outside its memory")
