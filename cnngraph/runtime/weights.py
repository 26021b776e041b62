"""Another model's weights in a compiled program: the passes run again, the kernels stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnngraph.errors import UsageError, printable
from cnngraph.options import CompileOptions
from cnngraph.runtime.program import WEIGHTS, KernelStep, ProgramData, TensorSpec

if TYPE_CHECKING:
    from cnngraph.kernels.template import Backend, CompiledKernel, KernelSource, KernelSpec, ProgressCallback, Target, Template
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram


class _Compiled:
    """A backend that has the kernels of one program and compiles nothing."""

    def __init__(self, backend: Backend, data: ProgramData) -> None:
        self.name = backend.name
        self._backend = backend
        self._data = data
        self._kernels = {kernel.name: kernel for kernel in data.kernels}

    def target(self, isa: str | None, *, integers: bool = False, halves: bool = False) -> Target:
        return self._backend.target(self._data.isa)

    def templates(self) -> Sequence[Template]:
        return self._backend.templates()

    def source(self, spec: KernelSpec, header: Sequence[str] = ()) -> KernelSource:
        return self._backend.source(spec, header)

    def compile(
        self, specs: Sequence[KernelSpec], target: Target, progress: ProgressCallback | None = None
    ) -> dict[KernelSpec, CompiledKernel]:
        from cnngraph.kernels.template import CompiledKernel

        found = {}
        for spec in specs:
            name = self._backend.source(spec).name
            kernel = self._kernels.get(name)
            if kernel is None:
                raise UsageError(f"the topology differs: the model needs the kernel {name}, which the program lacks; compile the model")
            found[spec] = CompiledKernel(name, kernel.symbol, kernel.code, 0.0, cached=True)
        return found

    def driver(self, target: Target) -> CompiledKernel:
        from cnngraph.kernels.template import CompiledKernel

        return CompiledKernel(self._data.driver.name, self._data.driver.symbol, self._data.driver.code)

    def required_features(self, target: Target) -> tuple[str, ...]:
        return self._data.required

    def isas(self) -> Sequence[str]:
        return self._backend.isas()

    def cache(self) -> Any:
        return self._backend.cache()


def exchanged(program: Program, source: Any, constants: Mapping[str, np.ndarray] | None) -> Program | TailedProgram:
    """A program for the model ``source`` with the kernels of ``program``.

    Raises:
        UsageError: the topology differs: the two would not call the same kernels on the same places.
        CnngraphError: whatever importing raises.
    """
    from cnngraph.backends import get_backend
    from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, FreeDimensionsError, import_model
    from cnngraph.pipeline import compile_graph

    data = program.data
    if data.backend != "cpu":
        raise UsageError(f"weights can be exchanged in programs for the CPU, not for {printable(data.backend)}")
    chosen = data.report.get("options") or {}
    options = CompileOptions(
        isa=data.isa, threads=program.threads, math=str(chosen.get("math", "f32")),
        disabled_passes=tuple(chosen.get("disabled_passes", ())), precision=str(chosen.get("precision", "f32")),
        keep_f32=tuple(chosen.get("keep_f32", ())),
    )  # fmt: skip
    shapes = {spec.name: [dim if isinstance(dim, int) else None for dim in spec.shape] for spec in data.inputs}
    try:
        graph = import_model(source, shapes=shapes, constants=constants)
    except (FreeDimensionsError, BatchNotSymbolicError, ContentsNeededError, UsageError) as error:
        raise UsageError(f"the topology differs: {error}") from error
    names = [name for name, _ in graph.inputs]
    if names != [spec.name for spec in data.inputs]:
        raise UsageError(f"the topology differs: the model's inputs are {_listed(names)}, not {_listed(s.name for s in data.inputs)}")
    tuned = {row["layer"]: (row["template"], row["variant"]) for row in data.report.get("tuning", {}).get("choices", ())}
    other = compile_graph(graph, options, backend=_Compiled(get_backend(data.backend), data), choices=tuned)
    if "tuning" in data.report:
        other.report["tuning"] = data.report["tuning"]
    _compare(data, other.data)
    return other


def _compare(old: ProgramData, new: ProgramData) -> None:
    """Raise UsageError unless the two differ in the numbers of the weights and their places only."""
    for what, had, has in (("inputs", old.inputs, new.inputs), ("outputs", old.outputs, new.outputs)):
        if had != has:
            raise UsageError(f"the topology differs: the model's {what} are {_specs(has)}, not {_specs(had)}")
    if len(old.steps) != len(new.steps):
        raise UsageError(f"the topology differs: the model takes {len(new.steps)} steps, the program {len(old.steps)}")
    for ours, theirs in zip(old.steps, new.steps, strict=True):
        if _fixed(ours, old) != _fixed(theirs, new):
            raise UsageError(f"the topology differs: node {printable(theirs.label)} is not computed like {printable(ours.label)}")


def _fixed(step: Any, data: ProgramData) -> Any:
    """A step without its name and the places of weights."""
    if isinstance(step, KernelStep):
        return data.kernels[step.kernel].name, [(base,) if base == WEIGHTS else (base, a, b) for base, a, b in step.arguments]
    refs = [None if r is None else (r.base, 0 if r.base == WEIGHTS else (r.a, r.b), r.dtype, r.shape) for r in step.inputs]
    return step.op, refs, step.outputs


def _listed(names: Any) -> str:
    return ", ".join(map(printable, names)) or "none"


def _specs(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{printable(s.name)} {s.dtype} {'x'.join(map(str, s.shape))}" for s in specs) or "none"
