"""The CPU backend: generated kernels with explicit SIMD, compiled by Numba to relocatable object code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cnngraph.kernels.template import (
    CompiledKernel,
    KernelCache,
    KernelSource,
    KernelSpec,
    ProgressCallback,
    Target,
    Template,
)


@lru_cache(maxsize=512)
def _source(spec: KernelSpec) -> KernelSource:
    """The source without a header: asked for when a kernel is compiled and again when its program is put together."""
    from cnngraph_cpu.cache import source_of
    from cnngraph_cpu.registry import TEMPLATES
    from cnngraph_cpu.source import generate

    return source_of(spec, lambda wanted: generate(wanted, TEMPLATES[wanted.template].code))


class CpuBackend:
    """Entry point of the backend (see :class:`cnngraph.kernels.template.Backend`)."""

    name = "cpu"

    def target(self, isa: str | None, *, integers: bool = False, halves: bool = False) -> Target:
        """The target called ``isa``, or the best of this machine (for 8-bit or bfloat16 arithmetic); UsageError if there is none."""
        from cnngraph_cpu.target import resolve

        return resolve(isa, integers=integers, halves=halves)

    def templates(self) -> Sequence[Template]:
        """Every kernel family."""
        from cnngraph_cpu.registry import TEMPLATES

        return tuple(TEMPLATES.values())

    def source(self, spec: KernelSpec, header: Sequence[str] = ()) -> KernelSource:
        """The readable source of one kernel."""
        from cnngraph_cpu.source import with_header

        return with_header(_source(spec), header)

    def compile(
        self, specs: Sequence[KernelSpec], target: Target, progress: ProgressCallback | None = None
    ) -> dict[KernelSpec, CompiledKernel]:
        """Object code of every kernel, from the cache or compiled in parallel."""
        from cnngraph_cpu.jit import compile_sources
        from cnngraph_cpu.source import driver_source

        unique = list(dict.fromkeys(specs))
        sources = {spec: self.source(spec) for spec in unique}
        # The driver comes with the first kernels, for one process alone would compile it afterwards.
        compiled = compile_sources([*sources.values(), driver_source()], target.isa, progress)
        return {spec: compiled[source.name] for spec, source in sources.items()}

    def isas(self) -> Sequence[str]:
        """Instruction sets this machine runs, best first."""
        from cnngraph_cpu.target import available

        return available()

    def cache(self) -> KernelCache:
        """The cache of compiled kernels on disk."""
        from cnngraph_cpu import cache

        return cache

    def language(self, isa: str) -> tuple[str, str, dict[str, str]]:
        """See :func:`cnngraph_cpu.standalone.language`."""
        from cnngraph_cpu.standalone import language

        return language(isa)

    def driver(self, target: Target) -> CompiledKernel:
        """The compiled driver for an instruction set."""
        from cnngraph_cpu.jit import compile_sources
        from cnngraph_cpu.source import driver_source

        return compile_sources([driver_source()], target.isa)["driver"]

    def required_features(self, target: Target) -> tuple[str, ...]:
        """See :class:`cnngraph.kernels.template.Backend`."""
        from cnngraph_cpu.target import ISAS

        return ISAS[target.isa].required


backend = CpuBackend()
