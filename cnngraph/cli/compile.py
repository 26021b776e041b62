"""``cnngraph compile``: from an ONNX model to an artifact or to readable kernel sources."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli.explain import decisions, show_decisions
from cnngraph.cli.inspect import kernel_facts
from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument, open_fixed_program
from cnngraph.cli.output import OutputError, atomic_folder, emit, json_option, plain, size, table
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.ir.graph import Graph
    from cnngraph.passes.base import PassRecord
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

EMIT = ("cnng", "source")
LAYOUT_STEPS = ("choose_layout", "select_kernels", "plan_memory")


class EmitType(click.ParamType):
    """``cnng,source``."""

    name = "cnng,source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse the list, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        kinds = tuple(dict.fromkeys(str(value).split(",")))
        if not set(kinds) <= set(EMIT):
            self.fail(f"{value!r} is not a list of {', '.join(EMIT)}", param, ctx)
        return kinds


@click.command("compile")
@model_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact; default: the model's name with .cnng, in this folder.")
@click.option("--emit", "kinds", type=EmitType(), default="cnng", help="cnng: the artifact; source: a folder OUT.kernels of Python files.")
@click.option("--print-passes", is_flag=True, help="Every pass with its changes and time.")
@click.option("--print-ir-after", metavar="PASS", multiple=True, help="The graph after a pass (or 'all').")
@click.option("--explain", is_flag=True, help="Refused rewrites, and why each node got its kernel.")
@compile_options
@json_option
def command(
    model: str,
    output: Path | None,
    kinds: tuple[str, ...],
    print_passes: bool,
    print_ir_after: tuple[str, ...],
    explain: bool,
    how: Compilation,
    as_json: bool,
) -> None:
    """Compile MODEL (an ONNX file) and write the artifact."""
    if is_artifact(model):
        raise UsageError(f"'{printable(model)}' is compiled already")
    _check_passes(print_ir_after)
    artifact = output or Path(Path(model).with_suffix(".cnng").name)
    _check_folder(artifact)
    dumps: dict[str, str] = {}
    start = time.perf_counter()
    program, *variants = compile_variants(model, how, _recorder(print_ir_after, dumps))
    seconds = time.perf_counter() - start
    written = {}
    if "source" in kinds:
        folder = artifact.with_suffix(".kernels")
        write_sources(program, folder)
        written["source"] = str(folder)
    if "cnng" in kinds:
        save(program, artifact, variants)
        written["cnng"] = str(artifact)
    data: dict[str, Any] = {
        "model": model,
        "seconds": seconds,
        "isas": [one.data.isa for one in (program, *variants)],
        "files": written,
        "artifact_bytes": artifact.stat().st_size if "cnng" in kinds else None,
        "passes": plain(program.report["passes"]),
        "kernels": [kernel_facts(kernel) for kernel in program.kernels],
        "reference_steps": plain(program.report["reference_steps"]),
        "memory": plain(program.report["memory"]),
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
        if data["reference_steps"]:
            click.echo(f"{len(data['reference_steps'])} nodes have no kernel and run in NumPy; --explain says why")
        for kind, path in written.items():
            click.echo(f"{path}" + (f" ({size(data['artifact_bytes'])})" if kind == "cnng" else ""))

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


def save(program: Program | TailedProgram, path: Path, variants: Sequence[Program | TailedProgram] = ()) -> None:
    """Write the artifact whole or not at all.

    Raises:
        OutputError: the folder or the disk does not allow it.
    """
    try:
        program.save(path, variants=variants)
    except OSError as error:
        raise OutputError(f"cannot write '{printable(str(path))}': {error.strerror or error}") from error


def write_sources(program: Program | TailedProgram, folder: Path) -> None:
    """Write each kernel's generated source as ``kernel_<index>.py`` with an index file; no file is named by the model.

    Raises:
        OutputError: the folder exists already or cannot be written.
    """
    with atomic_folder(folder) as new:
        index = []
        for number, kernel in enumerate(program.kernels):
            file = f"kernel_{number:03}.py"
            (new / file).write_text(kernel.text, "utf-8")
            index.append(f"{file}  {kernel.name}  {', '.join(printable(node) for node in kernel.nodes)}\n")
        (new / "INDEX.txt").write_text("".join(index), "utf-8")


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
    from cnngraph.pipeline import CANONICAL, FUSED

    known = list(dict.fromkeys([*(p.name for p in (*CANONICAL, *FUSED)), *LAYOUT_STEPS]))
    for name in wanted:
        if name != "all" and name not in known:
            raise UsageError(f"there is no pass {printable(name)!r}; the passes are {', '.join(known)}")


def _check_folder(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"'{printable(str(path))}' is a folder; -o names a file")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write '{printable(str(path))}': there is no folder '{printable(str(path.parent))}'")
