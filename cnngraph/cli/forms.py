"""The forms that ``cnngraph compile --emit`` writes, and where each goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli.output import OutputError, atomic_folder
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.cli.model import Compilation
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

SUFFIXES = {"cnng": ".cnng", "so": ".so", "python": ".python", "onnx": ".optimized.onnx", "source": ".kernels"}
"""Each form's name and the suffix of what is written."""

FOLDERS = ("python", "source")
"""Forms that are a folder."""


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Attributes:
        model, how: the model and how it is compiled.
        programs: the model compiled for one or several instruction sets, best first.
        output: what -o says.
        weights: "inside" or "beside", of a library.
    """

    model: str
    how: Compilation
    programs: Sequence[Program | TailedProgram]
    output: Path
    weights: str = "inside"

    def place(self, kind: str) -> Path:
        """Where a form goes: what -o says, with the form's own suffix unless it has it."""
        suffix = SUFFIXES[kind]
        if self.output.name.endswith(suffix) or (kind == "onnx" and self.output.suffix == ".onnx"):
            return self.output
        return self.output.with_suffix(suffix)


class EmitType(click.ParamType):
    """``cnng,so``."""

    name = ",".join(SUFFIXES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse the list, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        kinds = tuple(dict.fromkeys(str(value).split(",")))
        if not set(kinds) <= set(SUFFIXES):
            self.fail(f"{value!r} is not a list of {', '.join(SUFFIXES)}", param, ctx)
        return kinds


def write(kinds: Sequence[str], request: Request) -> dict[str, str]:
    """Write every form; returns the files and folders by form, also a library's header and weights.

    Raises:
        UsageError: the network cannot have one of the forms.
        OutputError: a folder or the disk does not allow it.
    """
    written: dict[str, str] = {}
    for kind in SUFFIXES:
        if kind in kinds:
            path = request.place(kind)
            try:
                written |= {name: str(file) for name, file in _WRITERS[kind](request, path).items()}
            except OSError as error:
                raise OutputError(f"cannot write '{printable(str(path))}': {error.strerror or error}") from error
    return written


def _cnng(request: Request, path: Path) -> Mapping[str, Path]:
    first, *others = request.programs
    first.save(path, variants=others)
    return {"cnng": path}


def _so(request: Request, path: Path) -> Mapping[str, Path]:
    from cnngraph.emit.shared import emit_library

    made = emit_library([program.data for program in request.programs], path, inside=request.weights == "inside")
    return {"so": made.pop("library"), **made}


def _source(request: Request, path: Path) -> Mapping[str, Path]:
    write_sources(request.programs[0], path)
    return {"source": path}


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


def _python(request: Request, path: Path) -> Mapping[str, Path]:
    from cnngraph.emit.module import emit_module

    data = _one(request, "a Python module").data
    with atomic_folder(path) as new:
        emit_module(data, new)
    return {"python": path}


def _onnx(request: Request, path: Path) -> Mapping[str, Path]:
    from cnngraph.cli.output import atomic_write
    from cnngraph.emit.onnx_model import optimized_model
    from cnngraph.options import CompileOptions

    if request.how.precision != "f32":
        raise UsageError(f"--emit onnx writes the optimised network in float32, not in {request.how.precision}")
    model = optimized_model(request.model, CompileOptions(math=request.how.math), dict(request.how.shapes) or None)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
    return {"onnx": path}


def _one(request: Request, what: str) -> Any:
    if len(request.programs) > 1:
        raise UsageError(f"{what} is for one instruction set; --isa names several")
    return request.programs[0]


_WRITERS: dict[str, Callable[[Request, Path], Mapping[str, Path]]] = {
    "cnng": _cnng,
    "so": _so,
    "python": _python,
    "onnx": _onnx,
    "source": _source,
}
