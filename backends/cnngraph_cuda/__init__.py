"""The CUDA backend: generated Numba-CUDA kernels on tensor cores, one CUDA graph for a whole network.

Compiling needs the packages of the extra ``cnngraph[cuda]``, no GPU and no driver; running needs a driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnngraph.kernels.template import CompiledKernel, KernelCache, KernelSource, KernelSpec, ProgressCallback, Target, Template

if TYPE_CHECKING:
    from cnngraph.ir.graph import Graph
    from cnngraph.options import CompileOptions
    from cnngraph.passes.choose_layout import LayoutChoice
    from cnngraph.runtime.program import ProgramData


class CudaBackend:
    """Entry point of the backend (see :class:`cnngraph.kernels.template.DeviceBackend`)."""

    name = "cuda"

    def target(self, isa: str | None) -> Target:
        """The target called ``isa`` ("sm_90", "sm_90:f16", "sm_90:f16:128"); UsageError if there is none."""
        from cnngraph_cuda.target import resolve

        return resolve(isa)

    def target_of(self, options: CompileOptions) -> Target:
        """The target that the options ask for."""
        from cnngraph_cuda.target import resolve

        return resolve(options.isa, options.precision)

    def templates(self) -> Sequence[Template]:
        """Every kernel family."""
        from cnngraph_cuda.registry import TEMPLATES

        return tuple(TEMPLATES.values())

    def adapt(self, graph: Graph, target: Target) -> None:
        """Give the graph the target's element type, and concatenations no more parts than a kernel takes."""
        from cnngraph.ir.types import DType
        from cnngraph.passes.base import PassContext
        from cnngraph.passes.fuse_elementwise import FuseElementwise
        from cnngraph.passes.merge_common import MergeCommon
        from cnngraph_cuda.precision import lower_precision, lower_products, split_concatenations, split_reductions
        from cnngraph_cuda.quantised import lower_quantised
        from cnngraph_cuda.templates.channels import MOST_PARTS
        from cnngraph_cuda.templates.common import cuda

        if cuda(target).dtype is DType.F32 and lower_quantised(graph):
            FuseElementwise().run(graph, PassContext())
            MergeCommon().run(graph, PassContext())
        split_concatenations(graph, MOST_PARTS)
        split_reductions(graph)
        lower_products(graph)
        lower_precision(graph, cuda(target).dtype)

    def check(self, choice: LayoutChoice, options: CompileOptions) -> None:
        """Refuse nodes without a kernel, by name, unless ``allow_cpu_ops``."""
        from cnngraph_cuda.precision import refuse_missing

        refuse_missing(choice, options.allow_cpu_ops)

    def source(self, spec: KernelSpec, header: Sequence[str] = ()) -> KernelSource:
        """The readable source of one kernel."""
        from cnngraph_cuda.registry import TEMPLATES
        from cnngraph_cuda.source import generate

        return generate(spec, TEMPLATES[spec.template].code, header)

    def compile(
        self, specs: Sequence[KernelSpec], target: Target, progress: ProgressCallback | None = None
    ) -> dict[KernelSpec, CompiledKernel]:
        """Cubins of every kernel, from the cache or compiled in parallel."""
        from cnngraph_cuda.jit import compile_sources
        from cnngraph_cuda.templates.common import cuda

        unique = list(dict.fromkeys(specs))
        sources = {spec: self.source(spec) for spec in unique}
        compiled = compile_sources(list(sources.values()), cuda(target).arch, progress)
        return {spec: compiled[source.name] for spec, source in sources.items()}

    def isas(self) -> Sequence[str]:
        """Architectures that code can be made for."""
        from cnngraph_cuda.target import SHARED_LIMITS

        return tuple(SHARED_LIMITS)

    def cache(self) -> KernelCache:
        """The cache of compiled kernels on disk."""
        from cnngraph_cuda import cache

        return cache

    def driver(self, target: Target) -> CompiledKernel:
        """A kernel that fills memory with a pattern, which checks use to poison buffers."""
        from cnngraph_cuda.jit import compile_sources
        from cnngraph_cuda.source import generate
        from cnngraph_cuda.templates.common import cuda
        from cnngraph_cuda.templates.fill import FILL, fill_spec

        source = generate(fill_spec(target.isa), FILL)
        return compile_sources([source], cuda(target).arch)[source.name]

    def required_features(self, target: Target) -> tuple[str, ...]:
        """No features of the CPU."""
        return ()

    def executor(self, data: ProgramData) -> Any:
        """What runs a program; it asks for a driver at its first run."""
        from cnngraph_cuda.executor import CudaExecutor

        return CudaExecutor(data)


backend = CudaBackend()
