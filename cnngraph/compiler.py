"""``cnngraph.compile``: a known model is read from the cache, any other goes through the pipeline.

This module imports nothing of the compiler until it is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnngraph.options import CompileOptions

if TYPE_CHECKING:
    from cnngraph.kernels.template import ProgressCallback
    from cnngraph.pipeline import AfterPass, Source
    from cnngraph.runtime.dynamic import DynamicProgram
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram
    from cnngraph.tuning.search import TuneProgress


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
    """Compile an ONNX model, or read it from the cache if the same file has been compiled before.

    Args:
        source: path of the model, its bytes, or a ``ModelProto``, which is always compiled.
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
        after: called with the graph and its record after every pass; the model is then compiled in any case.
        tune_progress: called with a :class:`cnngraph.tuning.search.State` after every measurement.

    Returns:
        See :func:`cnngraph.pipeline.compile`.

    Raises:
        InvalidModelError, UnsupportedError, LimitExceededError, UsageError: see :mod:`cnngraph.errors`.
    """
    from cnngraph.runtime import programs

    chosen = options or CompileOptions(
        backend=backend, threads=threads, isa=isa, math=math, precision=precision, keep_f32=tuple(keep_f32), tune_budget=tune_budget,
        tune_records=None if tune_records is None else Path(tune_records),
    )  # fmt: skip
    key = programs.key_of(source, chosen, shapes, constants) if after is None else None
    if key is not None:
        known = programs.find(key, chosen.threads)
        if known is not None:
            return known
    from cnngraph import pipeline
    from cnngraph.runtime.dynamic import DynamicProgram

    start = time.perf_counter()
    program = pipeline.compile(
        source, shapes=shapes, constants=constants, options=chosen, progress=progress, after=after,
        tune_progress=tune_progress,
    )  # fmt: skip
    worth = key is not None and time.perf_counter() - start > programs.WORTH_SECONDS
    if worth and not isinstance(program, DynamicProgram) and programs.key_of(source, chosen, shapes, constants) == key:
        assert key is not None  # and the file has not changed meanwhile
        programs.keep(key, program, source)
    return program
