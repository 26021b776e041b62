"""The options that every verb with a model shares, and how a model argument becomes a program."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from cnngraph.cli.output import dims, kernel_progress
from cnngraph.cli.tuning import tuning_progress
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.options import CompileOptions
    from cnngraph.runtime.dynamic import DynamicProgram
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

F = TypeVar("F", bound=Callable[..., Any])
_MAGIC = b"CNNGRAPH"
ShapeArgument = tuple[str, tuple[int | str | None, ...]]


class ShapeType(click.ParamType):
    """``name=1x3x224x224``; a dimension may be ``N`` or ``?`` for a free batch."""

    name = "NAME=DIMS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ShapeArgument:
        """Parse one shape, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        name, separator, dims = str(value).rpartition("=")
        if not separator:
            name, separator, dims = str(value).rpartition(":")
        parts = re.split(r"[x,]", dims.strip("[]"))
        if not separator or not name or not all(re.fullmatch(r"[0-9]{1,12}|N|\?", part) for part in parts):
            self.fail(f"{value!r} is not of the form input=1x3x224x224", param, ctx)
        return name, tuple(int(part) if part.isdigit() else ("N" if part == "N" else None) for part in parts)


class IntListType(click.ParamType):
    """``1,2,8``: positive integers."""

    name = "N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Parse the list, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if not all(re.fullmatch(r"[0-9]{1,6}", part) and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a list of positive integers such as 1,2,8", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


@dataclass(frozen=True)
class Compilation:
    """How to compile, as given on the command line."""

    backend: str
    isa: str | None
    threads: int | None
    math: str
    shapes: Mapping[str, tuple[int | str | None, ...]]
    precision: str = "f32"
    allow_cpu_ops: bool = False
    keep_f32: tuple[str, ...] = ()
    tune_budget: float | None = None
    tune_records: Path | None = None

    @property
    def plain(self) -> bool:
        """Whether every option that only compiling obeys is at its default."""
        return dataclasses.replace(self, threads=None) == Compilation("cpu", None, None, "f32", {})

    @property
    def tuned(self) -> bool:
        """Whether measurements take part in the choice of kernels."""
        return self.tune_budget is not None or self.tune_records is not None

    def options(self, threads: int | None = None, **changes: Any) -> CompileOptions:
        """The same as :class:`CompileOptions`; ``threads`` overrides what the command line says."""
        from cnngraph.options import CompileOptions

        return CompileOptions(
            backend=self.backend, isa=self.isa, math=self.math, threads=threads or self.threads, precision=self.precision,
            allow_cpu_ops=self.allow_cpu_ops, keep_f32=self.keep_f32, tune_budget=self.tune_budget, tune_records=self.tune_records,
            **changes,
        )  # fmt: skip


def compile_options(function: F, *, with_threads: bool = True) -> F:
    """Add --backend, --isa, --precision, --keep-f32, --allow-cpu-ops, --threads, --math and --shape, one argument ``how`` of the verb.

    ``with_threads=False`` leaves out --threads, for a verb with an option of that name of its own.
    """

    @functools.wraps(function)
    def collect(*args: Any, backend: str, isa: str | None, math: str, shape: tuple[ShapeArgument, ...], **kwargs: Any) -> Any:
        threads = kwargs.pop("threads", None) if with_threads else None
        precision, allow, keep = kwargs.pop("precision"), kwargs.pop("allow_cpu_ops"), kwargs.pop("keep_f32")
        return function(*args, how=Compilation(backend, isa, threads, math, dict(shape), precision, allow, keep), **kwargs)

    if with_threads:
        click.option("--threads", type=click.IntRange(min=1), help="Threads of a run; default: what affinity and cgroup allow.")(collect)
    for option in (
        click.option(
            "--shape", type=ShapeType(), multiple=True, help="Shape of an input whose declared shape is free, e.g. input=1x3x224x224."
        ),
        click.option(
            "--math",
            type=click.Choice(["f32", "exact"]),
            default="f32",
            show_default=True,
            help="exact: no algorithm that reorders arithmetic (Winograd, Strassen).",
        ),
        click.option("--allow-cpu-ops", is_flag=True, help="Operators without a kernel of the device run on the CPU."),
        click.option(
            "--keep-f32",
            multiple=True,
            metavar="NAME",
            help="With --precision bf16: a node, or a pattern such as '*/se/*', whose result stays float32.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["f32", "tf32", "f16", "bf16"]),
            default="f32",
            show_default=True,
            help="bf16: weights and activations in bfloat16, sums in float32. tf32 and f16: tensor cores, for backends that have them.",
        ),
        click.option(
            "--isa",
            "--arch",
            "isa",
            metavar="NAME",
            help="Instruction set of the code (avx512amx, avx512, avx2, sse4; sm_80, sm_90, sm_90a), of compile a list of them, best "
            "first; default: the best of this machine, sm_90.",
        ),
        click.option("--backend", default="cpu", show_default=True, metavar="NAME", help="An installed backend."),
    ):
        option(collect)
    return cast(F, collect)


model_argument = click.argument("model", metavar="MODEL", type=click.Path())


def is_artifact(path: str) -> bool:
    """Whether ``path`` is a compiled artifact and not an ONNX model, by its suffix or its first bytes."""
    if path.endswith(".cnng"):
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False


def open_program(path: str, how: Compilation, *, threads: int | None = None, **extra: Any) -> Program | TailedProgram | DynamicProgram:
    """The program of an artifact, or of an ONNX model compiled now, with a progress bar on a terminal.

    Args:
        path: an ONNX file or an artifact.
        how: the options of the command line.
        threads: overrides the number of threads.
        extra: further keywords of :func:`cnngraph.compile`.

    Raises:
        CnngraphError: whatever compiling or loading raises.
        UsageError: a compile option is given with an artifact, which is compiled already.
    """
    import cnngraph

    if is_artifact(path):
        if not how.plain:
            raise UsageError(f"'{printable(path)}' is compiled already; of the compile options only --threads applies to it")
        return cnngraph.load(path, threads=threads or how.threads)
    if how.tune_budget is not None:
        with tuning_progress(how.tune_budget) as told:
            return cnngraph.compile(path, shapes=dict(how.shapes) or None, options=how.options(threads), tune_progress=told, **extra)
    with kernel_progress() as progress:
        return cnngraph.compile(path, shapes=dict(how.shapes) or None, options=how.options(threads), progress=progress, **extra)


def open_fixed_program(path: str, how: Compilation, **extra: Any) -> Program | TailedProgram:
    """The same, for verbs that need every dimension but the batch.

    Raises:
        UsageError: dimensions of the inputs are free; the message shows how to give them.
    """
    from cnngraph.runtime.session import Program

    program = open_program(path, how, **extra)
    if isinstance(program, Program):
        return program
    from cnngraph.runtime.dynamic import DynamicProgram

    if isinstance(program, DynamicProgram):
        from cnngraph.frontend.errors import sizes

        given = "".join(f" --shape {printable(name)}={dims(shape)}" for name, shape in sizes(program.free).items())
        raise UsageError(program.undecided + (f"; give them, such as{given}" if given else ", which only a run has"))
    return program
