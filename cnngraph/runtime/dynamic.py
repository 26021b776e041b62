"""A program whose input shapes are fixed only when it runs: one compilation for each new shape, kept for the next run.

Where shapes depend on the contents of small inputs (a target size, say), the contents are part of what is compiled for.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.errors import CnngraphError, InvalidInputError, UsageError, printable
from cnngraph.runtime.program import TensorSpec
from cnngraph.runtime.session import KernelInfo, Program
from cnngraph.runtime.tailed import TailedProgram

if TYPE_CHECKING:
    from cnngraph.options import CompileOptions

logger = logging.getLogger(__name__)

MAX_VARIANTS = 8
"""Compiled shapes that are kept; the least recently used goes first."""

Runnable = Program | TailedProgram
Build = Callable[..., Runnable]
Declared = tuple[str, Sequence[int | str | None] | None]
_Key = tuple[int | None, tuple[tuple[str, tuple[int | None, ...]], ...], tuple[tuple[str, bytes], ...]]


class DynamicProgram:
    """The same methods as :class:`~cnngraph.runtime.session.Program`; compiles at the first run with each new shape.

    The batch size stays free within a variant if the model allows it. Every compilation is logged at INFO level.

    Attributes:
        inputs: free dimensions read "N" (leading) or "?".
        threads: default number of threads of a run.
    """

    def __init__(
        self, declared: Mapping[str, Declared], outputs: Mapping[str, Declared | None], build: Build, *,
        symbolic_batch: bool = True, threads: int | None = None, contents: Sequence[str] = (), direct: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Create one from declared inputs and outputs, name to (dtype, dimensions).

        ``build(shapes, batch, contents)`` compiles for ``shapes`` (None: a free leading dimension), a batch, None if it stays
        symbolic, and known arrays for the inputs that ``contents`` names. Inputs named in ``direct`` are no tensors of numbers; their
        place among the others is kept.
        """
        self.inputs = [TensorSpec(name, dtype, _shown(dims)) for name, (dtype, dims) in declared.items()]
        self._direct = frozenset(direct)
        self.threads = threads
        self._declared = {name: None if dims is None else tuple(dims) for name, (_, dims) in declared.items() if name not in direct}
        self._outputs = dict(outputs)
        self._build = build
        self._symbolic = symbolic_batch
        self._contents = list(contents)
        self._variants: OrderedDict[_Key, Runnable] = OrderedDict()
        self._lock = threading.Lock()
        self._latest: Runnable | None = None

    @staticmethod
    def of(
        source: Any,
        error: Exception,
        build: Build,
        options: CompileOptions,
        shapes: Mapping[str, Sequence[Any]] | None = None,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> DynamicProgram:
        """For the model ``source``, whose import with ``shapes`` raised ``error``; inputs in ``known`` are none any more."""
        from cnngraph.frontend.errors import BatchNotSymbolicError, ContentsNeededError
        from cnngraph.frontend.reader import read_model
        from cnngraph.frontend.signature import declared_type, is_direct

        model, _ = read_model(source, options.limits)
        constants = {tensor.name for tensor in model.graph.initializer} | set(known or ())
        declared: dict[str, Declared] = {}
        direct: list[str] = []
        for info in model.graph.input:
            if info.name in constants:
                continue
            if is_direct(info):
                direct.append(info.name)
                declared[info.name] = ("", ("?",))
            else:
                dtype, dims = declared_type(info)
                declared[info.name] = (dtype.value, (shapes or {}).get(info.name, dims))
        symbolic = not isinstance(error, BatchNotSymbolicError)
        contents = error.inputs if isinstance(error, ContentsNeededError) else ()
        outputs: dict[str, Declared | None] = {}
        for info in model.graph.output:
            try:
                dtype, dims = declared_type(info)
                outputs[info.name] = (dtype.value, dims)
            except CnngraphError:  # an output need not declare a type
                outputs[info.name] = None
        return DynamicProgram(declared, outputs, build, symbolic_batch=symbolic, threads=options.threads, contents=contents, direct=direct)

    @property
    def outputs(self) -> list[TensorSpec]:
        """Outputs of the variant used last; before the first run, what the model declares.

        Raises:
            UsageError: nothing has run yet, and the model declares no type.
        """
        if self._latest is None and None not in self._outputs.values():
            return [TensorSpec(name, known[0], _shown(known[1])) for name, known in self._outputs.items() if known is not None]
        return self._last("output types").outputs

    @property
    def kernels(self) -> list[KernelInfo]:
        """Kernels of the variant used last."""
        return self._last("kernels").kernels

    @property
    def report(self) -> dict[str, Any]:
        """What the compiler did for the variant used last."""
        return self._last("report").report

    @property
    def variants(self) -> int:
        """Number of compiled shapes held."""
        return len(self._variants)

    def run(
        self, feeds: Mapping[str, np.ndarray] | None = None, outputs: Sequence[str] | None = None, *, threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """The same as :meth:`Program.run`; compiles first if these shapes are new."""
        program, remaining = self._prepared(feeds or {})
        return program.run(remaining, outputs, threads=threads or self.threads)

    def _prepared(self, feeds: Mapping[str, np.ndarray]) -> tuple[Runnable, dict[str, np.ndarray]]:
        """A variant, and what it is still fed: its known contents are constants."""
        with self._lock:
            program = self._variant(feeds)
            known = frozenset(self._contents)
        return program, {name: array for name, array in feeds.items() if name not in known}

    async def arun(
        self, feeds: Mapping[str, np.ndarray] | None = None, outputs: Sequence[str] | None = None, *, threads: int | None = None
    ) -> dict[str, np.ndarray]:
        """The same as :meth:`run` for asyncio."""
        import asyncio

        return await asyncio.to_thread(self.run, feeds, outputs, threads=threads)

    def __call__(self, feeds: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The same as :meth:`run`."""
        return self.run(feeds)

    def profile(self, feeds: Mapping[str, np.ndarray], repeat: int = 5, *, threads: int = 1) -> list[dict[str, Any]]:
        """The same as :meth:`Program.profile`."""
        program, remaining = self._prepared(feeds)
        return program.profile(remaining, repeat, threads=threads)

    def memory_report(self) -> dict[str, Any]:
        """Memory of the variant used last."""
        return self._last("memory plan").memory_report()

    def load_weights(self, source: Any, **_: Any) -> None:
        """Refused: there is a program for each shape.

        Raises:
            UsageError: always.
        """
        why, remedy = self._undecided()
        raise UsageError(f"{why}; to exchange the weights, compile with {remedy}, or compile the other model")

    def save(self, path: Any, **_: Any) -> None:
        """Refused: an artifact has fixed shapes.

        Raises:
            UsageError: always.
        """
        why, remedy = self._undecided()
        raise UsageError(f"{why}; to save the program, compile with {remedy}")

    def variant(self, feeds: Mapping[str, np.ndarray]) -> Runnable:
        """The program for the shapes of ``feeds``, compiled if there is none yet."""
        with self._lock:
            return self._variant(feeds)

    def _variant(self, feeds: Mapping[str, np.ndarray]) -> Runnable:
        key = self._key(feeds)
        program = self._variants.pop(key, None)
        if program is None:
            key, program = self._compile(key, feeds)
        self._variants[key] = self._latest = program
        while len(self._variants) > MAX_VARIANTS:
            self._variants.popitem(last=False)
        return program

    def _compile(self, key: _Key, feeds: Mapping[str, np.ndarray]) -> tuple[_Key, Runnable]:
        from cnngraph.frontend.errors import BatchNotSymbolicError, ContentsNeededError

        while True:
            batch, shapes, contents = key
            logger.info("compiling for input shapes %s", {name: np.shape(feeds[name]) for name, _ in shapes})
            try:
                return key, self._build(dict(shapes), batch, {name: np.asarray(feeds[name]) for name, _ in contents})
            except BatchNotSymbolicError:
                if not self._symbolic:
                    raise
                self._symbolic = False  # from now on the batch is part of every key
            except ContentsNeededError as error:
                more = [name for name in error.inputs if name not in self._contents]
                if not more:
                    raise
                self._contents += more  # and so are these contents
            self._variants.clear()
            key = self._key(feeds)

    def _key(self, feeds: Mapping[str, np.ndarray]) -> _Key:
        unknown = [name for name in feeds if name not in self._declared and name not in self._direct]
        if unknown:
            known = ", ".join(map(printable, self._declared)) or "none"
            raise InvalidInputError(f"no input is called {printable(str(unknown[0]))}; there is {known}")
        batch: int | None = None
        shapes = []
        for name, dims in self._declared.items():
            if name not in feeds:
                raise InvalidInputError(f"input {printable(name)} is missing")
            shape = np.shape(feeds[name])
            if dims is not None and (
                len(dims) != len(shape) or any(isinstance(d, int) and d != s for d, s in zip(dims, shape, strict=False))
            ):
                raise InvalidInputError(
                    f"input {printable(name)} must have shape {'x'.join(map(str, _shown(dims)))}, got {'x'.join(map(str, shape))}"
                )
            if shape and (dims is None or not isinstance(dims[0], int)):
                if not self._symbolic:
                    batch = shape[0] if batch is None else batch
                    shapes.append((name, shape))
                else:
                    shapes.append((name, (None, *shape[1:])))
            else:
                shapes.append((name, shape))
        contents = tuple((name, np.asarray(feeds[name]).tobytes()) for name in self._contents)
        return batch, tuple(shapes), contents

    def _last(self, what: str) -> Runnable:
        if self._latest is None:
            why, remedy = self._undecided()
            raise UsageError(f"the program has no {what} before its first run: {why}; run it once, or compile with {remedy}")
        return self._latest

    @property
    def free(self) -> dict[str, tuple[int | str | None, ...] | None]:
        """What inputs declare whose shapes have to be known to compile; a leading dimension may stay free unless the model mixes images."""
        first = 1 if self._symbolic else 0
        return {name: dims for name, dims in self._declared.items() if dims is None or not all(isinstance(d, int) for d in dims[first:])}

    @property
    def undecided(self) -> str:
        """Why nothing can be compiled before a run."""
        from cnngraph.frontend.errors import shown

        reasons = [f"input shapes are free, {shown(self.free)}"] if self.free else []
        if self._contents:
            reasons.append(f"shapes depend on the contents of {', '.join(self._quoted_contents())}")
        return ", and ".join(reasons)

    def _quoted_contents(self) -> list[str]:
        return [f"'{printable(name)}'" for name in self._contents]

    def _undecided(self) -> tuple[str, str]:
        """Why nothing can be compiled before a run, and the arguments of ``compile`` that would change it."""
        from cnngraph.frontend.errors import example

        remedies = [example(self.free)] if self.free else []
        if self._contents:
            remedies.append(f"constants={{{', '.join(f'{name}: ...' for name in self._quoted_contents())}}}")
        return self.undecided, ", ".join(remedies)


def _shown(dims: Sequence[int | str | None] | None) -> tuple[int | str, ...]:
    if dims is None:
        return ()
    return tuple(dim if isinstance(dim, int) else ("?" if i else "N") for i, dim in enumerate(dims))
