"""The compiler on one page.

    ONNX --import--> Graph --PASSES--> fused graph --choose_layout--> laid out
         --select_kernels--> a kernel call for every node --plan_memory--> places --backend--> object code --> Program

After every step the verifier recomputes all types from the operators and checks what the stage promises.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnngraph.analysis.by_image import TOGETHER, choose_apart
from cnngraph.backends import get_backend
from cnngraph.errors import UsageError
from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, FreeDimensionsError, import_model
from cnngraph.ir.graph import Graph
from cnngraph.ir.verify import verify
from cnngraph.kernels.template import Backend, DeviceBackend, ProgressCallback, Target
from cnngraph.ops import ConvInteger, MatMulInteger, QGemm, QLinearConv, QLinearMatMul
from cnngraph.options import CompileOptions
from cnngraph.passes.base import Pass, PassContext, PassRecord, run_passes
from cnngraph.passes.choose_layout import Choices, choose_layout, estimated_cycles
from cnngraph.passes.fold_batchnorm import FoldBatchNorm
from cnngraph.passes.fold_constants import FoldConstants
from cnngraph.passes.fold_pad import FoldPad
from cnngraph.passes.fuse_elementwise import FuseElementwise
from cnngraph.passes.fuse_epilogue import FuseEpilogue
from cnngraph.passes.fuse_qdq import FuseQDQ
from cnngraph.passes.integer_convolutions import IntegerConvolutions
from cnngraph.passes.integers_as_floats import IntegersAsFloats
from cnngraph.passes.lower_batchnorm import LowerBatchNorm
from cnngraph.passes.lower_computed_filters import LowerComputedFilters
from cnngraph.passes.lower_conv_transpose import LowerConvTranspose
from cnngraph.passes.lower_deform_conv import LowerDeformConv
from cnngraph.passes.lower_integers import LowerIntegers
from cnngraph.passes.lower_recurrent import LowerRecurrent
from cnngraph.passes.lower_truth import LowerTruth
from cnngraph.passes.match_dense import MatchDense
from cnngraph.passes.match_group_norm import MatchGroupNorm
from cnngraph.passes.merge_common import MergeCommon
from cnngraph.passes.merge_lookups import MergeLookups
from cnngraph.passes.merge_reshapes import MergeReshapes
from cnngraph.passes.move_bytes import MoveBytes
from cnngraph.passes.narrow_floats import Narrowed, narrow_floats
from cnngraph.passes.plan_memory import plan_memory
from cnngraph.passes.propagate_strides import PropagateStrides
from cnngraph.passes.raise_movement import RaiseMovement
from cnngraph.passes.remove_dead import RemoveDead
from cnngraph.passes.remove_identity import RemoveIdentity
from cnngraph.passes.select_kernels import select_kernels
from cnngraph.passes.share_kernels import share_kernels
from cnngraph.passes.sink_movement import SinkMovement
from cnngraph.passes.take_channels import TakeWholeChannels
from cnngraph.passes.trim_taps import TrimTaps
from cnngraph.passes.widen_half import WidenHalf
from cnngraph.passes.write_parts import WriteParts
from cnngraph.runtime.build import build_program, give_back_memory
from cnngraph.runtime.session import Program
from cnngraph.runtime.tailed import TailedProgram

if TYPE_CHECKING:
    import onnx

    from cnngraph.runtime.dynamic import DynamicProgram
    from cnngraph.tuning.search import TuneProgress

logger = logging.getLogger(__name__)

EIGHT_BIT_LAYERS = (ConvInteger, MatMulInteger, QGemm, QLinearConv, QLinearMatMul)
"""Operators whose kernels gain from dot products of bytes."""
CPU_FORMS = (IntegerConvolutions.name, LowerComputedFilters.name)
"""Passes whose results have kernels for the CPU only."""
NO_GAIN = "8 bits save memory here, but little time outside 3x3 convolutions: {isa} has no dot products of bytes"
NO_HALF_GAIN = "bf16 saves memory here, but little time outside 3x3 convolutions: {isa} has no dot products of bfloat16"

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto"
AfterPass = Callable[[Graph, PassRecord], None]

CANONICAL: tuple[Pass, ...] = (
    MergeCommon(),  # equal quantisations of one result, which would hide from FuseQDQ that nothing else reads it
    LowerTruth(),  # before movement sinks behind element-wise operators
    SinkMovement(),  # so that the operators of channels-last networks stand between their quantisations, with channels on axis 1
    MergeReshapes(),
    MoveBytes(),  # of the transposes that are left
    FuseQDQ(),  # before constants fold, while weights still are integers
    IntegerConvolutions(),  # what the pass above leaves float
    MergeLookups(),
    WidenHalf(),  # after it, so that only real half-precision arithmetic is left
    FoldConstants(),  # before the rest: weights become constants, which the fusions ask for
    WriteParts(),  # whose indices the pass above has computed
    MatchDense(),
    MatchGroupNorm(),
    LowerRecurrent(),  # before transposes meet, of which it makes some
    RemoveIdentity(),  # so that patterns see a convolution's real reader
    MergeReshapes(),
    SinkMovement(),
    MergeReshapes(),  # of transposes that have met their inverses
    MoveBytes(),
    RaiseMovement(),  # of those that are left, where nothing sinks any more
    MergeCommon(),
    RemoveDead(),
)
FUSED: tuple[Pass, ...] = (
    LowerIntegers(),  # before the epilogues, which an integer convolution to float32 takes up
    FoldPad(),
    TrimTaps(),  # after the pads that it looks at have joined the convolution
    LowerComputedFilters(),  # after both, and before what is fused with the results
    LowerDeformConv(),  # likewise
    FoldBatchNorm(),  # before the epilogues, which would stand between a convolution and its normalisation
    LowerBatchNorm(),  # what could not fold becomes one affine element-wise node
    IntegersAsFloats(),  # after FoldPad (pads are the zero point here) and FoldBatchNorm (multipliers would round in the weights)
    FuseElementwise(),  # before the epilogues, so that x*sigmoid(x) is one reader of the convolution
    FuseEpilogue(),
    LowerConvTranspose(),  # after it, because depth_to_space would stand between the convolution and its activation
    PropagateStrides(),  # after the epilogues, so that a residual sum is part of the convolution that it ends
    TakeWholeChannels(),  # after the fusions, so that what reads and writes the moved channels is a kernel's node
    MergeReshapes(),  # of what stands in front of or behind a depth_to_space that was made above
    FoldConstants(),  # of the constants that the rewrites above have made
    RemoveDead(),
)


def optimize(graph: Graph, options: CompileOptions, context: PassContext, after: AfterPass | None = None) -> list[PassRecord]:
    """Run every backend-independent pass; returns one record a pass."""
    records = []
    for stage, passes in (("canonical", CANONICAL), ("fused", FUSED)):
        chosen = [p for p in passes if p.name not in options.disabled_passes and not (p.changes_precision and options.math == "exact")]
        records += run_passes(graph, chosen, context, verify, after)
        graph.stage = stage
    return records


def compile_graph(
    graph: Graph,
    options: CompileOptions,
    progress: ProgressCallback | None = None,
    after: AfterPass | None = None,
    backend: Backend | None = None,
    choices: Choices | None = None,
    tune_progress: TuneProgress | None = None,
) -> Program | TailedProgram:
    """From an imported graph to a program that can run.

    ``backend`` takes the place of the one that the options name, ``choices`` that of tuning.
    """
    context = PassContext(max_fold_bytes=options.limits.max_fold_bytes)
    backend = backend or get_backend(options.backend)
    device = backend if isinstance(backend, DeviceBackend) else None
    _check_options(options, device)
    target = device.target_of(options) if device else backend.target(options.isa)
    templates = [t for t in backend.templates() if options.math == "f32" or not t.reorders_arithmetic]

    chosen = options if device is None else dataclasses.replace(options, disabled_passes=(*options.disabled_passes, *CPU_FORMS))
    records = optimize(graph, chosen, context, after)
    narrowed: Narrowed | None = None
    notices: list[str] = []
    if device is not None:
        device.adapt(graph, target)
        verify(graph, "adapt")
    else:
        halves, integers = options.precision == "bf16", any(type(node.op) in EIGHT_BIT_LAYERS for node in graph.nodes)
        if (integers or halves) and options.isa is None:
            target = backend.target(None, integers=integers, halves=halves)
        notices = _notices(target, integers, halves)
        if halves:
            start = time.perf_counter()
            narrowed = narrow_floats(graph, options.keep_f32)
            verify(graph, "narrow_floats")
            records.append(_record(graph, "narrow_floats", narrowed.nodes, start, after))
    tuned = None
    if choices is None and options.tuned:
        from cnngraph.tuning.search import tune

        start = time.perf_counter()
        tuned = tune(graph, templates, backend, target, options, tune_progress)
        verify(graph, "tune")
        choices = tuned.choices
        records.append(_record(graph, "tune", len(choices), start, after))
    start = time.perf_counter()
    choice = choose_layout(graph, templates, target, choices)
    for unknown in choice.unknown:
        logger.warning("the tuning records choose what this version does not have, so the default is used: %s", unknown)
    verify(graph, "choose_layout")
    if device is not None:
        device.check(choice, options)
    records.append(_record(graph, "choose_layout", choice.reorders, start, after))
    if not choices:  # else the tiles are those that were measured
        start = time.perf_counter()
        records.append(_record(graph, "share_kernels", share_kernels(graph, choice, target), start, after))

    start = time.perf_counter()
    calls = select_kernels(graph, choice, target)
    records.append(_record(graph, "select_kernels", sum(call is not None for call in calls.values()), start, after))

    start = time.perf_counter()
    apart = TOGETHER if device is not None else choose_apart(graph, calls, estimated_cycles(choice.selections))
    plan = plan_memory(graph, calls, apart.nodes)
    records.append(_record(graph, "plan_memory", len(plan.absorbed), start, after))

    specs = [call.spec for node, call in calls.items() if call is not None and node not in plan.absorbed]
    compiled = backend.compile(specs, target, progress)
    program = build_program(
        graph, calls, plan, compiled, backend, target, options=options, records=records, rejections=context.rejections,
        selections=choice.selections, apart=apart,
    )  # fmt: skip
    program.report["notices"] = notices
    if tuned is not None:
        program.report["tuning"] = tuned.report
    if narrowed is not None:
        program.report["precision"] = narrowed.report()
    return program if graph.tail is None else TailedProgram(program, graph.tail)


def _check_options(options: CompileOptions, device: DeviceBackend | None) -> None:
    """Raise UsageError for what the backend, a device's or the CPU's (None), cannot honour."""
    if device is None and (options.precision not in ("f32", "bf16") or options.allow_cpu_ops):
        raise UsageError(f"precision {options.precision} and CPU operators are for backends on devices, not {options.backend!r}")
    if options.keep_f32 and (device is not None or options.precision != "bf16"):
        raise UsageError("nodes can be kept in float32 (keep_f32) where the precision is bf16, on the CPU")
    if device is not None and options.tuned:
        raise UsageError(f"kernels are tuned for the CPU, not for {options.backend!r}")


def _notices(target: Target, integers: bool, halves: bool) -> list[str]:
    """What of 8 bits and bfloat16 gains little on ``target``; also logged."""
    notices = [NO_GAIN.format(isa=target.isa)] if integers and not target.dot else []
    notices += [NO_HALF_GAIN.format(isa=target.isa)] if halves and not target.dot2 else []
    for notice in notices:
        logger.warning(notice)
    return notices


def compile(
    source: Source,
    *,
    backend: str = "cpu",
    threads: int | None = None,
    isa: str | None = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    math: str = "f32",
    precision: str = "f32",
    keep_f32: Sequence[str] = (),
    tune_budget: float | None = None,
    tune_records: str | os.PathLike[str] | None = None,
    options: CompileOptions | None = None,
    progress: ProgressCallback | None = None,
    after: AfterPass | None = None,
    tune_progress: TuneProgress | None = None,
) -> Program | TailedProgram | DynamicProgram:
    """Compile an ONNX model.

    Args:
        source: path of the model, its bytes, or a ``ModelProto``.
        backend: see :class:`cnngraph.options.CompileOptions`, also for the next three.
        threads: default number of threads of a run.
        isa: instruction set.
        math: "f32" or "exact".
        precision: "f32", or "bf16": weights and activations in bfloat16, sums in float32.
        keep_f32: with "bf16", names or patterns of ONNX nodes whose results stay float32.
        tune_budget: seconds for measuring kernels on this machine; only what is faster replaces the default choice.
        tune_records: file of such measurements, which decide if there is no budget.
        options: replaces the eight.
        shapes: input shapes by name, for inputs whose declared shape is free beyond the batch.
        constants: arrays for graph inputs that then stop being inputs.
        progress: called as ``progress(done, total, kernel name)`` while kernels compile.
        after: called with the graph and its record after every pass.
        tune_progress: called with a :class:`cnngraph.tuning.search.State` after every measurement.

    Returns:
        A :class:`Program`; a :class:`TailedProgram` if shapes depend on data (NonMaxSuppression, NonZero, loops), so that a
        part runs operator by operator. If dimensions other than the batch are free and ``shapes`` leaves them so, or if
        shapes depend on the contents of small inputs, a ``DynamicProgram``, which compiles at the first run with each
        new input shape or content. All three have the same methods.

    Raises:
        InvalidModelError, UnsupportedError, LimitExceededError, UsageError: see :mod:`cnngraph.errors`.
    """
    chosen = options or CompileOptions(
        backend=backend, threads=threads, isa=isa, math=math, precision=precision, keep_f32=tuple(keep_f32), tune_budget=tune_budget,
        tune_records=None if tune_records is None else Path(tune_records),
    )  # fmt: skip

    def build(
        shapes: Mapping[str, Sequence[Any]] | None, batch: int | None = None, contents: Mapping[str, np.ndarray] | None = None
    ) -> Program | TailedProgram:
        known = {**(constants or {}), **(contents or {})}
        graph = import_model(source, shapes=shapes, batch=batch, constants=known, limits=chosen.limits)
        try:
            return compile_graph(graph, chosen, progress, after, tune_progress=tune_progress)
        finally:
            if after is None:  # else the caller may keep the graph
                graph.drop_constants()
                give_back_memory()

    try:
        return build(shapes)
    except (FreeDimensionsError, BatchNotSymbolicError, ContentsNeededError) as error:
        if isinstance(error, FreeDimensionsError) and shapes:
            raise
        from cnngraph.runtime.dynamic import DynamicProgram

        return DynamicProgram.of(source, error, build, chosen, shapes, constants)


def _record(graph: Graph, name: str, changes: int, start: float, after: AfterPass | None) -> PassRecord:
    record = PassRecord(name, graph.stage, changes, time.perf_counter() - start, len(graph))
    if after is not None:
        after(graph, record)
    return record


__all__ = ["CANONICAL", "FUSED", "compile", "compile_graph", "optimize"]
