"""What a user can set: limits, compile options, environment variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path

from cnngraph.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one model; passing one raises :class:`cnngraph.errors.LimitExceededError`.

    Attributes:
        max_model_bytes: size of the model file (protobuf itself ends at 2 GiB).
        max_tensor_bytes: size of one tensor: a weight, or a value for one image when the batch is symbolic.
        max_total_bytes: all weights together, external data included.
        max_nodes: ONNX nodes in the graph.
        max_fold_bytes: size of a constant that is computed while importing or folding rather than read from the file.
        max_rank: axes of a tensor.
    """

    max_model_bytes: int = 2 * GIB
    max_tensor_bytes: int = 4 * GIB
    max_total_bytes: int = 16 * GIB
    max_nodes: int = 100_000
    max_fold_bytes: int = 512 * MIB
    max_rank: int = 16


@dataclass(frozen=True)
class CompileOptions:
    """How to compile; every field is also a keyword of :func:`cnngraph.compile` and a flag of ``cnngraph compile``.

    Attributes:
        backend: name of an installed backend (entry point group ``cnngraph.backends``).
        isa: instruction set of the generated code ("avx512amx", "avx512vnni", "avx512bf16", "avx512", "avx2vnni", "avx2", "sse4"), None
            for the best of this machine.
        math: "f32" allows algorithms that reorder arithmetic (Winograd, Strassen); "exact" is plain multiply-adds in a fixed order.
        threads: default number of threads of a run, None for what affinity and cgroup allow.
        precision: "f32" or "bf16" (weights and activations, with sums in float32); backends on tensor cores also have "tf32" and "f16".
        keep_f32: with "bf16" on the CPU, names of ONNX nodes, or patterns with * and ?, whose results stay float32.
        allow_cpu_ops: whether operators without a kernel of a device may run on the CPU, with copies there and back.
        disabled_passes: names of optional passes to leave out.
        tune_budget: seconds for measuring kernels on this machine; only what is faster replaces the choice of the cost model.
        tune_records: file of measurements: without a budget they decide, with one it is read, if it exists, and written.
        limits: bounds on what the model may ask for.
    """

    backend: str = "cpu"
    isa: str | None = None
    math: str = "f32"
    threads: int | None = None
    precision: str = "f32"
    keep_f32: tuple[str, ...] = ()
    allow_cpu_ops: bool = False
    disabled_passes: tuple[str, ...] = ()
    tune_budget: float | None = None
    tune_records: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.math not in ("f32", "exact"):
            raise UsageError(f"math is {self.math!r}; choose f32 or exact")
        if self.precision not in ("f32", "tf32", "f16", "bf16"):
            raise UsageError(f"precision is {self.precision!r}; choose f32, tf32, f16 or bf16")
        if self.threads is not None and not (isinstance(self.threads, Integral) and self.threads >= 1):
            raise UsageError(f"threads is {self.threads}; it must be an integer of at least 1")
        if self.tune_budget is not None and not 0 <= self.tune_budget < float("inf"):
            raise UsageError(f"tune_budget is {self.tune_budget}; it must be a number of seconds")

    @property
    def tuned(self) -> bool:
        """Whether measurements take part in the choice of kernels."""
        return self.tune_budget is not None or self.tune_records is not None


@dataclass(frozen=True)
class Variable:
    """An environment variable that cnngraph reads."""

    name: str
    meaning: str


VARIABLES = (
    Variable("CNNGRAPH_CACHE_DIR", "folder of compiled kernels and programs (default: cnngraph in the user's cache folder)"),
    Variable("CNNGRAPH_CACHE_MB", "megabytes that this folder may hold; what was used least recently goes first (default: 4096)"),
    Variable("CNNGRAPH_CACHE_PROGRAMS", "0: keep kernels only, not whole programs"),
    Variable("CNNGRAPH_DEBUG", "1: show the traceback of an unexpected error on the command line"),
    Variable("CNNGRAPH_THREADS", "default number of threads, instead of what affinity and cgroup allow"),
)
"""Every environment variable, in one table."""
