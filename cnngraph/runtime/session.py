"""What a user runs: :class:`Program`, and :class:`InferenceSession` with onnxruntime's spelling."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnngraph.errors import InvalidInputError, LimitExceededError, UsageError, printable
from cnngraph.ir.types import DType
from cnngraph.runtime.cpus import MAX_THREADS, default_threads
from cnngraph.runtime.execute import Executor, _dtype
from cnngraph.runtime.program import KernelStep, ProgramData, TensorSpec, handover_bytes

_Arrays = tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...]
"""Name, shape and type of inputs or outputs."""
_Checked = tuple[list[np.ndarray], int, _Arrays]

_empty, _ndarray = np.empty, np.ndarray
_PLAIN = 0x101
"""NumPy's flags of an array that is C-contiguous and aligned."""


@dataclass(frozen=True)
class KernelInfo:
    """A generated kernel of a program.

    Attributes:
        name: its full specification as an identifier.
        text: generated Python source.
        steps, nodes: numbers of the steps that call it, and the ONNX nodes that each computes.
        nbytes: size of the object code.
        seconds, cached: what compiling took, and whether the cache had it.
    """

    name: str
    text: str
    steps: tuple[int, ...]
    nodes: tuple[str, ...]
    nbytes: int
    seconds: float
    cached: bool


class Program:
    """A compiled network, ready to run. Safe to call from any number of threads at once."""

    def __init__(self, data: ProgramData, *, threads: int | None = None) -> None:
        self.data = data
        self.inputs: list[TensorSpec] = data.inputs
        self.outputs: list[TensorSpec] = data.outputs
        self.report: dict[str, Any] = data.report
        self.threads = _thread_count(threads if threads is not None else data.threads or default_threads())
        self._executor = _executor(data)
        self._input_rules = [(s.name, _dtype(s.dtype), s.factors()) for s in data.inputs]
        self._output_rules = [(s.name, _dtype(s.dtype), s.factors()) for s in data.outputs]
        self._names = frozenset(s.name for s in data.inputs)
        self._latest: tuple[_Arrays, int, _Arrays] = ((), 0, ())

    def run(
        self, feeds: Mapping[str, np.ndarray] | None = None, outputs: Sequence[str] | None = None, *, threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """Compute the network.

        Args:
            feeds: one array for every input, of exactly its dtype; the batch may be any size where it is free.
            outputs: names of the outputs wanted, None for all.
            threads: threads of this run at most; the result's bits do not depend on it. All callers together use no more threads
                than there are CPUs: some may wait their turn.

        Returns:
            Output arrays by name, in the model's order.

        Raises:
            InvalidInputError: an unknown or missing name, a wrong dtype or shape, inputs with different batches.
        """
        arrays, batch, shapes = self._recognise(feeds) or self._check(feeds or {})
        if outputs is not None:
            unknown = [name for name in outputs if name not in {s.name for s in self.outputs}]
            if unknown:
                raise InvalidInputError(f"no output is called {printable(unknown[0])}; there is {self._list(self.outputs)}")
        results, named = [], {}
        for name, shape, dtype in shapes:  # no comprehensions here and below: before Python 3.12 each costs a call
            named[name] = array = _empty(shape, dtype)
            results.append(array)
        count = self.threads if threads is None else _thread_count(threads)
        if batch:
            try:
                self._executor.run(arrays, results, batch, count)
            except MemoryError:
                needed = (self.data.arena + handover_bytes(self.data.handover)) * batch + self.data.static_bytes
                raise LimitExceededError(f"a batch of {batch} needs {needed:,} bytes of working memory, more than there are") from None
        elif any(array.size for array in results):
            raise InvalidInputError("the batch is 0, but an output does not depend on it")
        return named if outputs is None else {name: named[name] for name in outputs}

    async def arun(
        self, feeds: Mapping[str, np.ndarray] | None = None, outputs: Sequence[str] | None = None, *, threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """The same as :meth:`run` for asyncio: the event loop goes on meanwhile. A cancelled run ends in the background."""
        import asyncio

        return await asyncio.to_thread(self.run, feeds, outputs, threads=threads)

    def __reduce__(self) -> Any:
        raise TypeError("a program cannot be pickled; save it and load the file in the other process, which then shares its memory")

    def __call__(self, feeds: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The same as :meth:`run`."""
        return self.run(feeds)

    def profile(self, feeds: Mapping[str, np.ndarray], repeat: int = 5, *, threads: int = 1) -> list[dict[str, Any]]:
        """Least time of every step, run alone: ``{"kernel", "nodes", "seconds"}``, in order."""
        arrays, batch, shapes = self._check(feeds)
        results = [_empty(shape, dtype) for _, shape, dtype in shapes]
        self._executor.run(arrays, results, batch, 1)
        rows = self._executor.profile(arrays, results, batch, repeat, _thread_count(threads))
        return [{"kernel": kernel, "nodes": nodes, "seconds": seconds} for kernel, nodes, seconds in rows]

    @property
    def kernels(self) -> list[KernelInfo]:
        """Every generated kernel, in order of first use."""
        uses: dict[int, list[int]] = {}
        for number, step in enumerate(self.data.steps):
            if isinstance(step, KernelStep):
                uses.setdefault(step.kernel, []).append(number)
        return [
            KernelInfo(
                k.name, k.source, tuple(uses.get(i, ())), tuple(self.data.steps[n].label for n in uses.get(i, ())), len(k.code),
                k.seconds, k.cached,
            )
            for i, k in enumerate(self.data.kernels)
        ]  # fmt: skip

    def memory_report(self) -> dict[str, Any]:
        """Bytes: weights, arena peak per image, its lower bound, scratch per thread, and every storage's life."""
        return {"weights": int(self.data.weights.nbytes), **self.report.get("memory", {})}

    def save(self, path: str | os.PathLike[str], *, variants: Sequence[Any] = ()) -> None:
        """Write the program to one file that :func:`cnngraph.load` reads without the compiler.

        Args:
            path: the file; it is replaced whole or not at all.
            variants: the same network compiled for other instruction sets, best first, kept in the same file; loading takes the
                first of all that the machine can run.

        Raises:
            UsageError: programs of different networks, or two for one instruction set.
            OSError: the folder or the disk does not allow it.
        """
        from cnngraph.runtime.artifact import save

        save([self.data, *(program.data for program in variants)], path)

    def load_weights(self, source: Any, *, constants: Mapping[str, np.ndarray] | None = None) -> None:
        """Take the weights of another model of the same topology; nothing is compiled, and Numba is not needed.

        Runs in flight finish with the old weights. After an error the program is as it was.

        Args:
            source: an ONNX model as for :func:`cnngraph.compile`.
            constants: as for :func:`cnngraph.compile`, if they were given there.

        Raises:
            UsageError: the topology differs, or the program is for another backend; the message says where.
            InvalidModelError, UnsupportedError, LimitExceededError: the model is refused.
        """
        from cnngraph.runtime.weights import exchanged

        other = exchanged(self, source, constants)
        if not isinstance(other, Program):
            raise UsageError("the model ends in nodes that run one by one, this program does not; compile it")
        self._take(other)

    def _take(self, other: Program) -> None:
        self._executor, self.data = other._executor, other.data

    def _recognise(self, feeds: Mapping[str, np.ndarray] | None) -> _Checked | None:
        """The same as :meth:`_check`, fast, for feeds with the shapes of the latest run; None for any others."""
        known, batch, results = self._latest
        if not feeds or len(feeds) != len(known):
            return None
        arrays = []
        for name, shape, dtype in known:
            array = feeds.get(name)
            if type(array) is not _ndarray or array.shape != shape or array.dtype != dtype or array.flags.num & _PLAIN != _PLAIN:
                return None
            arrays.append(array)
        return arrays, batch, results

    def _check(self, feeds: Mapping[str, np.ndarray]) -> _Checked:
        """The arrays, the batch, and the outputs' shapes and types."""
        if len(feeds) != len(self._names) or any(name not in self._names for name in feeds):
            self._wrong_names(feeds)
        arrays = []
        batch: int | None = None
        for name, dtype, factors in self._input_rules:
            array = feeds[name]
            if not isinstance(array, np.ndarray):
                array = _as_array(name, array)
            if array.dtype != dtype:
                raise InvalidInputError(f"input {printable(name)} must be {dtype.name}, got {array.dtype.name}")
            shape = array.shape
            if len(shape) != len(factors):
                self._wrong_shape(name, shape)
            for size, (a, b) in zip(shape, factors, strict=True):
                if a == 0:
                    if size != b:
                        self._wrong_shape(name, shape)
                elif size % a:
                    self._wrong_shape(name, shape)
                elif batch is None:
                    batch = size // a
                elif batch != size // a:
                    raise InvalidInputError(f"input {printable(name)} has batch {size // a}, another input {batch}")
            flags = array.flags
            arrays.append(array if flags.c_contiguous and flags.aligned else np.array(array, order="C"))
        batch = 1 if batch is None else batch
        results = tuple((name, tuple(a * batch + b for a, b in factors), dtype) for name, dtype, factors in self._output_rules)
        known = tuple((rule[0], array.shape, rule[1]) for rule, array in zip(self._input_rules, arrays, strict=True))
        self._latest = known, batch, results  # one store: other threads see all of it or nothing
        return arrays, batch, results

    def _wrong_names(self, feeds: Mapping[str, np.ndarray]) -> None:
        for name in feeds:
            if name not in self._names:
                raise InvalidInputError(f"no input is called {printable(str(name))}; there is {self._list(self.inputs)}")
        missing = [s.name for s in self.inputs if s.name not in feeds]
        raise InvalidInputError(f"input {printable(missing[0])} is missing")

    def _wrong_shape(self, name: str, shape: tuple[int, ...]) -> None:
        wanted = next(s.shape for s in self.inputs if s.name == name)
        raise InvalidInputError(f"input {printable(name)} must have shape {_shown(wanted)}, got {_shown(shape)}")

    @staticmethod
    def _list(specs: Sequence[TensorSpec]) -> str:
        return ", ".join(printable(s.name) for s in specs) or "none"


def _as_array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise InvalidInputError(f"input {printable(name)} must be a tensor, got {type(value).__name__}") from None


def _executor(data: ProgramData) -> Any:
    """What runs a program: code of the CPU here, or what the program's backend says."""
    if data.backend == "cpu":
        return Executor(data)
    from cnngraph.backends import get_backend
    from cnngraph.kernels.template import DeviceBackend

    backend = get_backend(data.backend)
    if not isinstance(backend, DeviceBackend):
        raise UsageError(f"backend {printable(data.backend)} runs no programs")
    return backend.executor(data)


def _thread_count(threads: int) -> int:
    if not (isinstance(threads, (int, np.integer)) and 1 <= threads <= MAX_THREADS):
        raise UsageError(f"threads is {threads}; it must be an integer from 1 to {MAX_THREADS}")
    return int(threads)


def _shown(shape: Sequence[int | str]) -> str:
    return "x".join(map(str, shape)) or "scalar"


class NodeArg:
    """An input or output as onnxruntime describes it: ``name``, ``shape``, ``type`` ("tensor(float)")."""

    def __init__(self, spec: TensorSpec) -> None:
        self.name = spec.name
        self.shape: list[int | str | None] = [None if dim == "?" else dim for dim in spec.shape]
        self.type = f"tensor({DType(spec.dtype).onnx})"

    def __repr__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={self.shape})"


@dataclass(frozen=True)
class ModelMeta:
    """onnxruntime's description of a model; cnngraph keeps none of the texts, which come from the file."""

    producer_name: str = "cnngraph"
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


class InferenceSession:
    """onnxruntime's spelling of a program: change one import.

    Args:
        path_or_bytes: model file, its bytes, a ModelProto, or a compiled ``.cnng`` file.
        sess_options: ``intra_op_num_threads`` is honoured if the object has it.
        providers: only "CPUExecutionProvider" exists; any other alone raises UsageError, there is no silent fallback.
        options: keywords of :func:`cnngraph.compile`.
    """

    def __init__(self, path_or_bytes: Any, sess_options: Any = None, providers: Sequence[Any] | None = None, **options: Any) -> None:
        names = [p if isinstance(p, str) else p[0] for p in providers or ["CPUExecutionProvider"]]
        if "CPUExecutionProvider" not in names:
            raise UsageError(f"no provider {', '.join(map(str, names))}; cnngraph has CPUExecutionProvider")
        threads = getattr(sess_options, "intra_op_num_threads", 0)
        if threads and "threads" not in options:
            options["threads"] = int(threads)
        self.program: Any
        if isinstance(path_or_bytes, (str, os.PathLike)) and os.fspath(path_or_bytes).endswith((".cnng", ".cng")):
            from cnngraph.runtime.artifact import load

            if set(options) - {"threads"}:
                raise UsageError(f"a compiled program takes no compile options, got {', '.join(sorted(set(options) - {'threads'}))}")
            self.program = load(path_or_bytes, **options)
        else:
            from cnngraph.pipeline import compile

            self.program = compile(path_or_bytes, **options)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None) -> list[np.ndarray]:
        """Outputs as a list, in the order asked for (None: the model's)."""
        results = self.program.run(input_feed, output_names or None)
        return list(results.values()) if not output_names else [results[name] for name in output_names]

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that must be fed."""
        return [NodeArg(s) for s in self.program.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in the model's order."""
        return [NodeArg(s) for s in self.program.outputs]

    def get_providers(self) -> list[str]:
        """Always the CPU."""
        return ["CPUExecutionProvider"]

    def get_modelmeta(self) -> ModelMeta:
        """What onnxruntime reports of a model, as far as it is kept."""
        return ModelMeta()
