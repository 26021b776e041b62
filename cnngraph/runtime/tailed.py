"""A program with a tail: a compiled part, then nodes whose results' shapes depend on data, evaluated one by one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.eager.tail import Tail
from cnngraph.errors import InvalidInputError, UsageError, printable
from cnngraph.runtime.program import TensorSpec
from cnngraph.runtime.session import KernelInfo, Program

if TYPE_CHECKING:
    from cnngraph.eager.evaluate import Evaluator


class TailedProgram:
    """The same methods as :class:`~cnngraph.runtime.session.Program`.

    Attributes:
        inputs, outputs: dimensions that only a run can know read "?"; an unknown type is "".
        program: the compiled part.
        tail: the rest.
    """

    def __init__(self, program: Program, tail: Tail) -> None:
        self.program = program
        self.tail = tail
        made = {spec.name: spec for spec in program.outputs}
        specs = {spec.name: spec for spec in program.inputs} | {name: TensorSpec(name, "", ("?",)) for name in tail.direct.values()}
        self.inputs = [specs[name] for name in tail.inputs if name in specs]
        self.outputs = [made[n] if n not in tail.outputs else TensorSpec(n, *tail.types.get(n, ("", ()))) for n in tail.order]
        self.report: dict[str, Any] = {**program.report, "tail": [printable(step.label, 400) for step in tail.steps]}
        self.threads = program.threads
        self._evaluator: Evaluator | None = None

    def run(
        self, feeds: Mapping[str, Any] | None = None, outputs: Sequence[str] | None = None, *, threads: int | None = None
    ) -> dict[str, Any]:
        """Compute the network.

        Args:
            feeds: one array for every input; a list for a sequence, None for an empty optional, an object array for strings.
            outputs: names of the outputs wanted, None for all.
            threads: threads of the compiled part; the result's bits do not depend on it.

        Returns:
            Outputs by name, in the model's order: arrays, lists for sequences, None for empty optionals.

        Raises:
            InvalidInputError: as :meth:`Program.run`; or data that an operator of the tail cannot take, naming it.
        """
        feeds = feeds or {}
        direct = set(self.tail.direct.values())
        missing = [name for name in direct if name not in feeds]
        if missing:
            raise InvalidInputError(f"input {printable(missing[0])} is missing")
        if outputs is not None:
            unknown = [name for name in outputs if name not in self.tail.order]
            if unknown:
                raise InvalidInputError(
                    f"no output is called {printable(unknown[0])}; there is {', '.join(map(printable, self.tail.order))}"
                )
        wanted = [name for name in self.tail.order if outputs is None or name in outputs]
        made = self.program.run({name: array for name, array in feeds.items() if name not in direct}, threads=threads)
        results = self._run_tail(made, feeds, [name for name in wanted if name in self.tail.outputs])
        named = {name: results[name] if name in results else made[name] for name in wanted}
        return named if outputs is None else {name: named[name] for name in outputs}

    def _run_tail(self, made: Mapping[str, np.ndarray], feeds: Mapping[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
        if not wanted:
            return {}
        evaluator = self._evaluator  # read once: another thread may exchange it
        if evaluator is None:
            from cnngraph.eager.evaluate import Evaluator
            from cnngraph.frontend.bodies import Bodies

            evaluator = self._evaluator = Evaluator(Bodies(self.tail.functions))
        values = {key: made[name] for key, name in self.tail.feeds.items()}
        values.update((key, feeds[name]) for key, name in self.tail.direct.items())
        values.update(self.tail.constants)
        return evaluator.tail(self.tail, values, wanted)

    async def arun(
        self, feeds: Mapping[str, Any] | None = None, outputs: Sequence[str] | None = None, *, threads: int | None = None
    ) -> dict[str, Any]:
        """The same as :meth:`run` for asyncio."""
        import asyncio

        return await asyncio.to_thread(self.run, feeds, outputs, threads=threads)

    def __call__(self, feeds: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same as :meth:`run`."""
        return self.run(feeds)

    def profile(self, feeds: Mapping[str, Any], repeat: int = 5, *, threads: int = 1) -> list[dict[str, Any]]:
        """Time of every step of the compiled part, then of the tail as a whole."""
        direct = set(self.tail.direct.values())
        given = {name: array for name, array in feeds.items() if name not in direct}
        rows = self.program.profile(given, repeat, threads=threads)
        made, wanted, best = self.program.run(given), list(self.tail.outputs), float("inf")
        for _ in range(repeat):
            start = time.perf_counter()
            self._run_tail(made, feeds, wanted)
            best = min(best, time.perf_counter() - start)
        return [*rows, {"kernel": "tail", "nodes": "+".join(step.label for step in self.tail.steps), "seconds": best}]

    @property
    def kernels(self) -> list[KernelInfo]:
        """Every generated kernel of the compiled part."""
        return self.program.kernels

    @property
    def data(self) -> Any:
        """The compiled part as data."""
        return self.program.data

    def memory_report(self) -> dict[str, Any]:
        """Memory of the compiled part."""
        return self.program.memory_report()

    def load_weights(self, source: Any, *, constants: Mapping[str, np.ndarray] | None = None) -> None:
        """The same as :meth:`Program.load_weights`, of both parts."""
        from cnngraph.runtime.weights import exchanged

        other = exchanged(self.program, source, constants)
        if not isinstance(other, TailedProgram) or not self._similar(other.tail):
            raise UsageError("the nodes that run one by one after the compiled part differ; compile the model")
        self.program._take(other.program)
        self.tail = other.tail
        self._evaluator = None

    def _similar(self, tail: Tail) -> bool:
        shape = [(step.node.op_type, len(step.operands), len(step.results)) for step in self.tail.steps]
        same = shape == [(step.node.op_type, len(step.operands), len(step.results)) for step in tail.steps]
        return same and (self.tail.inputs, self.tail.order) == (tail.inputs, tail.order)

    def save(self, path: str | os.PathLike[str], *, variants: Sequence[Any] = ()) -> None:
        """Write both parts to one file, as :meth:`Program.save`; loading the tail needs the onnx package."""
        self.program.save(path, variants=variants)
