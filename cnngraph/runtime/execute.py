"""Run a program: contexts with their memory and job words, segments of kernel steps, host steps between them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnngraph.errors import UsageError, printable
from cnngraph.ir.types import DType
from cnngraph.runtime.cpus import usable_cpus
from cnngraph.runtime.features import missing_features
from cnngraph.runtime.loader import load_kernels
from cnngraph.runtime.program import (
    ARENA,
    FIRST_IO,
    SCRATCH,
    STATIC,
    WEIGHTS,
    HostStep,
    KernelStep,
    ProgramData,
    TensorRef,
    handover_bytes,
)
from cnngraph.runtime.slots import process_slots
from cnngraph.runtime.team import CALLER, Team, lease_team

# Word numbers of a job, as the driver reads them.
_DRIVER, _BATCH, _THREADS, _BASES, _STEPS, _COUNT, _KERNELS = 0, 1, 2, 3, 4, 5, 6
_ARGS, _ARGS_STRIDE, _SCRATCH_STRIDE, _TEAM, _START, _SPINS, _WAKE, _IMAGES, _IMAGE_BYTES, _WORDS = 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
_BARRIER_SPINS = 20_000

ALONE_CYCLES = 500_000
"""Runs estimated below this many cycles of one core wait for nobody's turn, unless they are worth sharing."""
START_CYCLES, BARRIER_CYCLES = 30_000, 3_000
"""What sharing costs: a team that spins, and each step. Two threads break even at 35 us with LeNet-5 (8 steps) on a Zen 4 of 3.7 GHz."""

_NOTHING = np.empty(0, np.uint8)

_Call = ctypes.CFUNCTYPE(None)
"""The driver called with three ``c_int64`` objects: declared argument types would cost half a microsecond of conversions."""
_DATA_FIELD = object.__basicsize__
"""Where NumPy's C structure of an array, which is public, has the address of the data: right behind what every object has."""


def _reads_data_field() -> bool:
    sample = np.zeros(3, np.float32)[1:]
    try:
        return ctypes.c_ssize_t.from_address(id(sample) + _DATA_FIELD).value == sample.ctypes.data
    except AttributeError:  # no CPython
        return False


if sys.implementation.name == "cpython" and _reads_data_field():
    _word_at = ctypes.c_ssize_t.from_address

    def address_of(array: np.ndarray) -> int:
        """Address of the first element; twenty times as fast as what NumPy itself offers, two microseconds each."""
        return _word_at(id(array) + _DATA_FIELD).value

else:

    def address_of(array: np.ndarray) -> int:
        """Address of the first element."""
        return int(array.ctypes.data)


def aligned(nbytes: int) -> np.ndarray:
    """Uninitialised bytes at a 64-byte aligned address."""
    raw = np.empty(nbytes + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + nbytes]


class Segment:
    """Consecutive kernel steps as the table the driver walks."""

    def __init__(self, steps: Sequence[KernelStep]) -> None:
        words: list[int] = []
        self.offsets: list[int] = []
        for step in steps:
            self.offsets.append(len(words))
            words += [step.kernel, len(step.arguments)]
            for argument in step.arguments:
                words += argument
        self._table = np.array(words, np.int64)
        self.address = int(self._table.ctypes.data)
        self.count = len(steps)
        self.labels = [step.label for step in steps]
        self.kernels = [step.kernel for step in steps]
        self.most_arguments = max((len(s.arguments) for s in steps), default=0)


class Context:
    """The memory of one run in flight: arena, scratch, argument words, base addresses, job words.

    Attributes:
        call: the driver's arguments.
        handed: the memory of each tensor that is handed over.
        alone: the batch for which the job words say that one thread computes all of the only segment; 0 if they say something else.
    """

    def __init__(self, data: ProgramData, arguments: int) -> None:
        self._data = data
        self._args_stride = -(-max(arguments, 1) * 8 // 64) * 64
        self.threads = 0
        self._first_handover = FIRST_IO + len(data.inputs) + len(data.outputs)
        bases = self._first_handover + len(data.handover)
        self.bases = (ctypes.c_int64 * bases)()
        self.image_bytes = (ctypes.c_int64 * bases)()
        self.image_bytes[ARENA] = data.arena
        self.image_bytes[FIRST_IO:] = [*(spec.image_bytes for spec in (*data.inputs, *data.outputs)), *data.handover]
        self.job = (ctypes.c_int64 * _WORDS)()
        self.job[_BASES], self.job[_IMAGE_BYTES] = ctypes.addressof(self.bases), ctypes.addressof(self.image_bytes)
        self.call = (ctypes.c_int64(ctypes.addressof(self.job)), ctypes.c_int64(0), ctypes.c_int64(CALLER))
        self.alone = 0
        self.static = aligned(data.static_bytes)
        self.bases[STATIC] = self.static.ctypes.data
        self.bases[WEIGHTS] = data.weights.ctypes.data
        self.arena = self._handover = aligned(0)
        self.handed: list[np.ndarray] = []
        self._handed_batch = 0

    def place(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> None:
        """Set the addresses of the caller's arrays."""
        bases, place, address = self.bases, FIRST_IO, address_of
        for array in inputs:
            bases[place] = address(array)
            place += 1
        for array in outputs:
            bases[place] = address(array)
            place += 1

    def prepare(self, batch: int, threads: int, apart: bool = False) -> None:
        """Make room for ``batch`` images, some of them ``apart`` in one thread each, and ``threads`` threads; memory only grows."""
        data, bases = self._data, self.bases
        needed = max(data.arena * threads, data.late_arena * batch) if apart else data.arena * batch
        if needed > len(self.arena):
            self.arena = _NOTHING  # frees the old one before the new one is made
            self.arena = aligned(needed)
            bases[ARENA] = self.arena.ctypes.data
        if data.handover and batch != self._handed_batch:
            self.handed, self._handed_batch = [], 0
            needed = handover_bytes(data.handover) * batch
            if needed > len(self._handover):
                self._handover = _NOTHING
                self._handover = aligned(needed)
            at = 0
            for place, size in enumerate(data.handover, self._first_handover):
                self.handed.append(self._handover[at : at + size * batch])
                bases[place] = self.handed[-1].ctypes.data
                at += handover_bytes([size]) * batch
            self._handed_batch = batch
        if threads > self.threads:
            self._scratch = aligned(data.scratch * threads)
            self._args = aligned(self._args_stride * threads)
            bases[SCRATCH] = self._scratch.ctypes.data
            self.job[_ARGS], self.job[_ARGS_STRIDE] = self._args.ctypes.data, self._args_stride
            self.job[_SCRATCH_STRIDE] = data.scratch
            self.threads = threads


class Executor:
    """A loaded program that any number of threads may run at once."""

    def __init__(self, data: ProgramData) -> None:
        self.data = data
        self._missing = missing_features(data.required)
        *kernels, self._driver = load_kernels([*data.kernels, data.driver])
        self._kernels = np.array(kernels, np.int64)
        self._kernels_address = int(self._kernels.ctypes.data)
        self._cpus = usable_cpus()
        self._cycles = float(data.report.get("cycles", ALONE_CYCLES))
        self._entry = _Call(self._driver)
        self.parts: list[Segment | tuple[HostStep, Any]] = []
        pending: list[KernelStep] = []
        for step in data.steps:
            if isinstance(step, KernelStep):
                pending.append(step)
                continue
            if pending:
                self.parts.append(Segment(pending))
                pending = []
            self.parts.append((step, _decoded(step)))
        if pending:
            self.parts.append(Segment(pending))
        only = self.parts[0] if len(self.parts) == 1 and not data.copies else None
        self._only = only if isinstance(only, Segment) else None
        self._sharing = START_CYCLES + BARRIER_CYCLES * (1 if data.apart == len(data.steps) else len(data.steps))
        self._arguments = max((p.most_arguments for p in self.parts if isinstance(p, Segment)), default=0)
        self._free: list[Context] = []
        self._alone = (0, 0)  # batch and threads of the latest run that one thread did by itself

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, threads: int) -> None:
        """Compute ``outputs`` (C-contiguous, overwritten) from ``inputs`` (C-contiguous, of the declared dtypes).

        ``threads`` is an upper bound: while other callers compute, there are as many as CPUs are left, and a caller may wait its turn.

        Raises:
            UsageError: the code is for other CPUs.
        """
        if (batch, threads) == self._alone:
            self._run_alone(inputs, outputs, batch)
            return
        if self._missing:
            self._refuse()
        if self._cycles * batch < ALONE_CYCLES and not self._worth_sharing(batch, threads):
            if self._only is None or (self.data.apart and batch > 1):
                self._run(inputs, outputs, batch, 1, None)
            else:
                self._run_alone(inputs, outputs, batch)
                self._alone = batch, threads
            return
        slots = process_slots()
        granted = slots.take(threads)
        try:
            team = lease_team() if granted > 1 else None
            try:
                self._run(inputs, outputs, batch, granted, team)
            finally:
                if team is not None:
                    team.lock.release()
        finally:
            slots.give(granted)

    def _worth_sharing(self, batch: int, threads: int) -> bool:
        """Whether threads save more cycles than they cost."""
        count = min(threads, self._cpus)
        return self._cycles * batch * (count - 1) > self._sharing * count

    def _refuse(self) -> None:
        lacking = ", ".join(map(printable, self._missing))
        raise UsageError(
            f"this program is compiled for {printable(self.data.isa)}; it can be saved, but not run, for this machine lacks {lacking}"
        )

    def _run_alone(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int) -> None:
        """A small run of the only segment on the caller's thread, where every microsecond counts."""
        try:
            context = self._free.pop()
        except IndexError:
            context = Context(self.data, self._arguments)
        try:
            if context.alone != batch:
                self._start(context, inputs, outputs, batch, 1)
                assert self._only is not None
                context.job[_STEPS], context.job[_COUNT] = self._only.address, self._only.count
                context.alone = batch
            else:
                context.place(inputs, outputs)
            self._entry(*context.call)
        finally:
            self._free.append(context)

    def _run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, threads: int, team: Team | None) -> None:
        try:
            context = self._free.pop()
        except IndexError:
            context = Context(self.data, self._arguments)
        try:
            threads = 1 if team is None else team.ensure(threads, self._driver)
            apart = batch // threads * threads if self.data.apart and batch > 1 else 0
            self._start(context, inputs, outputs, batch, threads, apart > 0)
            if team is not None:
                context.job[_TEAM] = team.address
            done = 0
            if apart:
                self._run_apart(context, batch, apart, team)
                done = self.data.apart
            for part in self.parts:
                if isinstance(part, Segment):
                    self._walk(context, part, done, part.count, team)
                    done = 0
                else:
                    run_host(part[0], part[1].bind(batch), context, self.data, inputs, outputs, batch)
            for index, source in self.data.copies:
                outputs[index][...] = view(source, context, self.data, inputs, outputs, batch)
        finally:
            self._free.append(context)

    def _run_apart(self, context: Context, batch: int, apart: int, team: Team | None) -> None:
        """The leading steps: of ``apart`` images by one thread each, in arenas of their own, and of the others by all threads."""
        job, bases, first = context.job, context.bases, self.parts[0]
        assert isinstance(first, Segment)
        job[_BATCH], job[_IMAGES] = 1, apart
        self._walk(context, first, 0, self.data.apart, team)
        job[_IMAGES] = 0
        if apart < batch:
            whole = list(bases)
            for place in range(FIRST_IO, len(bases)):
                bases[place] += apart * context.image_bytes[place]
            job[_BATCH] = batch - apart
            self._walk(context, first, 0, self.data.apart, team)
            bases[:] = whole
        job[_BATCH] = batch

    def _start(
        self, context: Context, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, threads: int, apart: bool = False
    ) -> None:
        context.alone = 0
        context.prepare(batch, threads, apart)
        context.place(inputs, outputs)
        job = context.job
        job[_DRIVER], job[_BATCH], job[_THREADS] = self._driver, batch, threads
        job[_KERNELS], job[_IMAGES] = self._kernels_address, 0
        job[_WAKE] = 1
        job[_SPINS] = _BARRIER_SPINS if threads <= self._cpus else 0

    def _walk(self, context: Context, segment: Segment, first: int, stop: int, team: Team | None) -> None:
        """Steps ``first`` to ``stop`` of a segment, as the job words say."""
        if first == stop:
            return
        if team is not None:
            team.announce(context.job[_THREADS])
        context.job[_STEPS], context.job[_COUNT] = segment.address + 8 * segment.offsets[first], stop - first
        self._entry(*context.call)

    def profile(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, repeat: int, threads: int = 1
    ) -> list[tuple[str, str, float]]:
        """(kernel, ONNX nodes, least seconds of ``repeat`` runs) of every step, each run alone, in order."""
        if self._missing:
            self._refuse()
        slots = process_slots()
        granted = slots.take(threads)
        try:
            team = lease_team() if granted > 1 else None
            try:
                return self._profile(inputs, outputs, batch, repeat, granted, team)
            finally:
                if team is not None:
                    team.lock.release()
        finally:
            slots.give(granted)

    def _profile(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int, repeat: int, threads: int, team: Team | None
    ) -> list[tuple[str, str, float]]:
        import time

        context = Context(self.data, self._arguments)
        threads = 1 if team is None else team.ensure(threads, self._driver)
        self._start(context, inputs, outputs, batch, threads)
        if team is not None:
            context.job[_TEAM] = team.address
        rows = []
        for part in self.parts:
            if not isinstance(part, Segment):
                step, op = part
                bound = op.bind(batch)
                best = float("inf")
                for _ in range(repeat):
                    start = time.perf_counter()
                    run_host(step, bound, context, self.data, inputs, outputs, batch)
                    best = min(best, time.perf_counter() - start)
                rows.append(("reference", step.label, best))
                continue
            for number, (label, kernel) in enumerate(zip(part.labels, part.kernels, strict=True)):
                best = float("inf")
                for _ in range(repeat):
                    start = time.perf_counter()
                    self._walk(context, part, number, number + 1, team)
                    best = min(best, time.perf_counter() - start)
                rows.append((self.data.kernels[kernel].name, label, best))
        return rows


def _decoded(step: HostStep) -> Any:
    from cnngraph.runtime.host import decode

    return decode(step.op)


def view(
    ref: TensorRef, context: Context, data: ProgramData, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int
) -> np.ndarray:
    """The tensor at a place, as an array that shares its memory."""
    dtype = _dtype(ref.dtype)
    shape = tuple(a * batch + b for a, b in ref.shape)
    if ref.base >= FIRST_IO:
        arrays = [*inputs, *outputs, *context.handed]
        memory = arrays[ref.base - FIRST_IO].reshape(-1).view(np.uint8)
    else:
        memory = {ARENA: context.arena, STATIC: context.static, WEIGHTS: data.weights}[ref.base]
    start = ref.a * batch + ref.b
    count = int(np.prod(shape, dtype=np.int64))
    return memory[start : start + count * dtype.itemsize].view(dtype).reshape(shape)


def run_host(
    step: HostStep, op: Any, context: Context, data: ProgramData, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], batch: int
) -> None:
    """Execute a host step by the operator's reference."""
    operands = [None if ref is None else view(ref, context, data, inputs, outputs, batch) for ref in step.inputs]
    for ref, result in zip(step.outputs, op.reference(*operands), strict=True):
        view(ref, context, data, inputs, outputs, batch)[...] = result


def _dtype(name: str) -> np.dtype[Any]:
    return DType(name).numpy
