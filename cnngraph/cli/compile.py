"""``cnngraph compile``: from an ONNX model to an artifact or to readable kernel sources."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli import forms
from cnngraph.cli.explain import decisions, show_decisions
from cnngraph.cli.inspect import kernel_facts
from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument, open_fixed_program
from cnngraph.cli.output import OutputError, emit, json_option, plain, size, table
from cnngraph.cli.tuning import DurationType, summary
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.ir.graph import Graph
    from cnngraph.passes.base import PassRecord
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

LAYOUT_STEPS = ("choose_layout", "share_kernels", "select_kernels", "plan_memory")


@click.command("compile")
@model_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact; default: the model's name with .cnng, in this folder.")
@click.option(
    "--emit",
    "kinds",
    type=forms.EmitType(),
    default="cnng",
    show_default=True,
    help="A list of: cnng, the artifact; so, a C library and its header; python, a folder with one module that needs NumPy and Numba only; "
    "onnx, the optimised graph; source, a folder of the kernels' Python source.",
)
@click.option(
    "--weights",
    type=click.Choice(["inside", "beside"]),
    default="inside",
    show_default=True,
    help="Where a C library has its weights: beside it, they are mapped from a file.",
)
@click.option("--print-passes", is_flag=True, help="Every pass with its changes and time.")
@click.option("--print-ir-after", metavar="PASS", multiple=True, help="The graph after a pass (or 'all').")
@click.option("--explain", is_flag=True, help="Refused rewrites, and why each node got its kernel.")
@click.option("--tune-budget", type=DurationType(), help="Measure kernels here for so long, e.g. 60s, and take what is faster.")
@click.option(
    "--tune-records",
    type=click.Path(path_type=Path),
    help="File of measurements: decides alone without --tune-budget, with it is read, if it exists, and written.",
)
@compile_options
@json_option
def command(
    model: str,
    output: Path | None,
    kinds: tuple[str, ...],
    weights: str,
    print_passes: bool,
    print_ir_after: tuple[str, ...],
    explain: bool,
    tune_budget: float | None,
    tune_records: Path | None,
    how: Compilation,
    as_json: bool,
) -> None:
    """Compile MODEL (an ONNX file) and write the artifact; or turn an artifact into a library."""
    _check_passes(print_ir_after)
    artifact = output or Path(Path(model).with_suffix(forms.SUFFIXES[kinds[0]]).name)
    _check_folder(artifact, kinds)
    dumps: dict[str, str] = {}
    start = time.perf_counter()
    how = dataclasses.replace(how, tune_budget=tune_budget, tune_records=tune_records)
    if is_artifact(model):
        programs = _stored(model, how, kinds)
    else:
        programs = compile_variants(model, how, _recorder(print_ir_after, dumps))
    seconds = time.perf_counter() - start
    written = forms.write(kinds, forms.Request(model, how, programs, artifact, weights))
    program = programs[0]
    precision = program.report.get("precision")
    files = [Path(path) for path in written.values()]
    data: dict[str, Any] = {
        "model": model,
        "seconds": seconds,
        "isas": [one.data.isa for one in programs],
        "files": written,
        "artifact_bytes": Path(written["cnng"]).stat().st_size if "cnng" in written else None,
        "passes": plain(program.report["passes"]),
        "kernels": [kernel_facts(kernel) for kernel in program.kernels],
        "reference_steps": plain(program.report["reference_steps"]),
        "memory": plain(program.report["memory"]),
        "precision": plain(precision),
        "tuning": plain(program.report.get("tuning")),
        "notices": plain(program.report.get("notices", [])),
        "ir": dumps,
        **(decisions(program) if explain else {}),
    }

    def show() -> None:
        for name, text in dumps.items():
            click.echo(f"-- after {name}\n{text}")
        if print_passes:
            show_passes(data["passes"])
        if explain:
            show_decisions(data)
        nodes = data["passes"][-1]["nodes"] if data["passes"] else 0
        cached = sum(kernel["cached"] for kernel in data["kernels"])
        click.echo(f"{len(data['kernels'])} kernels ({cached} from the cache) for {nodes} nodes in {seconds:.1f} s")
        if precision is not None:
            click.echo(f"bf16: {precision['nodes']} results in bfloat16, {len(precision['kept_f32'])} in float32; --explain says why")
        if data["tuning"] is not None:
            click.echo(summary(data["tuning"]))
        if data["reference_steps"]:
            click.echo(f"{len(data['reference_steps'])} nodes have no kernel and run in NumPy; --explain says why")
        for path in files:
            click.echo(f"{path}" + (f" ({size(path.stat().st_size)})" if path.is_file() else ""))

    emit("compile", data, as_json, show)


def show_passes(passes: list[dict[str, Any]]) -> None:
    """The table of --print-passes."""
    table(
        None,
        ["pass", "stage", "changes", "nodes after", "ms"],
        [[p["name"], p["stage"], p["changes"], p["nodes"], p["seconds"] * 1e3] for p in passes],
        footer=["total", "", sum(p["changes"] for p in passes), "", sum(p["seconds"] for p in passes) * 1e3],
    )


def compile_variants(
    model: str, how: Compilation, after: Callable[[Graph, PassRecord], None] | None = None
) -> list[Program | TailedProgram]:
    """A program for each instruction set of --isa, in its order; ``after`` sees the passes of the first.

    Raises:
        UsageError: an instruction set is unknown or named twice.
        CnngraphError: whatever compiling raises.
    """
    names = how.isa.split(",") if how.isa is not None else [None]
    if len(set(names)) != len(names):
        raise UsageError(f"--isa names an instruction set twice: {printable(how.isa)}")
    return [
        open_fixed_program(model, dataclasses.replace(how, isa=name), after=None if number else after) for number, name in enumerate(names)
    ]


def _stored(model: str, how: Compilation, kinds: Sequence[str]) -> list[Program | TailedProgram]:
    """The programs in an artifact, whether they run here or not.

    Raises:
        UsageError: a form that needs the ONNX model, or compile options with what is compiled already.
    """
    from cnngraph.runtime import artifact

    if not set(kinds) <= {"so", "python", "source"} or not how.plain:
        raise UsageError(f"'{printable(model)}' is compiled already; --emit so, python and source are made of it, without further options")
    isas = artifact.variants(model)
    return [artifact.program_of(artifact.read(model, isa=isa if len(isas) > 1 else None)) for isa in isas]


def _recorder(wanted: tuple[str, ...], dumps: dict[str, str]) -> Callable[[Graph, PassRecord], None] | None:
    if not wanted:
        return None
    from cnngraph.ir.printer import format_graph

    def after(graph: Graph, record: PassRecord) -> None:
        if record.name in wanted or "all" in wanted:
            name = record.name
            while name in dumps:
                name += "'"
            dumps[name] = format_graph(graph)

    return after


def _check_passes(wanted: tuple[str, ...]) -> None:
    if not wanted:
        return  # without importing the compiler, which a known model does not need
    from cnngraph.pipeline import CANONICAL, FUSED

    known = list(dict.fromkeys([*(p.name for p in (*CANONICAL, *FUSED)), *LAYOUT_STEPS]))
    for name in wanted:
        if name != "all" and name not in known:
            raise UsageError(f"there is no pass {printable(name)!r}; the passes are {', '.join(known)}")


def _check_folder(path: Path, kinds: Sequence[str]) -> None:
    if path.is_dir() and not set(kinds) <= set(forms.FOLDERS):
        raise UsageError(f"'{printable(str(path))}' is a folder; -o names a file")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write '{printable(str(path))}': there is no folder '{printable(str(path.parent))}'")
