"""A program as a Python module that stands alone: the network as a list of calls, its kernels, and the kernel language."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import cnngraph
from cnngraph.backends import get_backend
from cnngraph.emit.shared import check_complete
from cnngraph.errors import UsageError, printable
from cnngraph.runtime import features
from cnngraph.runtime.program import (
    ARENA,
    FIRST_IO,
    INTEGER,
    SCRATCH,
    STATIC,
    WEIGHTS,
    Kernel,
    KernelStep,
    Linear,
    ProgramData,
    TensorRef,
    TensorSpec,
    handover_bytes,
    handover_places,
)

_ARGUMENT = re.compile(r"^    (\w+) = \w+_argument\(args, (\d+)\)$", re.MULTILINE)
_NUMPY = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


@runtime_checkable
class LanguageBackend(Protocol):
    """A backend whose kernels can stand alone."""

    def language(self, isa: str) -> tuple[str, str, dict[str, str]]:
        """(imports, source, environment) of what kernels may name; see :mod:`cnngraph_cpu.standalone`."""
        ...


def emit_module(data: ProgramData, folder: Path) -> None:
    """Write ``network.py`` and ``weights.bin`` into ``folder``, which exists.

    Raises:
        UsageError: a part of the network has no kernel, or an input or output a type that NumPy lacks.
        OSError: the folder or the disk does not allow it.
    """
    check_complete(data, "a Python module")
    backend = get_backend(data.backend)
    if not isinstance(backend, LanguageBackend):
        raise UsageError(f"kernels of the backend {printable(data.backend)} cannot stand alone")
    for spec in (*data.inputs, *data.outputs):
        if spec.dtype not in _NUMPY:
            raise UsageError(f"{printable(spec.name)} has the type {spec.dtype}, which NumPy alone lacks")
    imports, language, environment = backend.language(data.isa)
    (folder / "network.py").write_text(_text(data, imports, language, environment), "utf-8")
    with open(folder / "weights.bin", "wb") as file:
        file.write(data.weights.data)


def _text(data: ProgramData, imports: str, language: str, environment: dict[str, str]) -> str:
    kernels = [_Kernel(kernel) for kernel in data.kernels]
    addresses = [f"    input_{i} = arrays[{i}].ctypes.data" for i in range(len(data.inputs))]
    addresses += [f"    output_{i} = results[{i}].ctypes.data" for i in range(len(data.outputs))]
    bases = {ARENA: "arena", STATIC: "static", WEIGHTS: "weights", SCRATCH: "scratch"}
    bases |= {FIRST_IO + i: f"input_{i}" for i in range(len(data.inputs))}
    bases |= {FIRST_IO + len(data.inputs) + i: f"output_{i}" for i in range(len(data.outputs))}
    for i, place in enumerate(handover_places(data)):
        bases[FIRST_IO + len(data.inputs) + len(data.outputs) + i] = f"handover_{i}"
        addresses.append(f"    handover_{i} = arena + {place} * n")
    steps = []
    for number, step in enumerate(data.steps):
        assert isinstance(step, KernelStep)
        kernel = kernels[step.kernel]
        steps += ["", f"    # {number}: {_comment(step.label)}", f"    call({kernel.name}"]
        arguments = [f"{kernel.parameter(i)}={_address(bases, *argument)}" for i, argument in enumerate(step.arguments)]
        steps[-1] += ", " + ", ".join(arguments) + ")"
    for index, ref in data.copies:
        steps += ["", f"    ctypes.memmove(output_{index}, {_address(bases, ref.base, ref.a, ref.b)}, {_count(ref)})"]
    wraps = "\n".join(_wrapped(line) for line in steps)
    values = {
        "TITLE": f"Inputs {_comment(_listed(data.inputs))}; outputs {_comment(_listed(data.outputs))}.",
        "VERSION": cnngraph.__version__, "ISA": data.isa,
        "EXAMPLE": ", ".join(f"{_literal(spec.name)}: array" for spec in data.inputs).replace("\\", "\\\\"),
        "ENVIRONMENT": "\n".join(f"os.environ.setdefault({k!r}, {v!r})" for k, v in environment.items()),
        "IMPORTS": imports, "INPUTS": _specs(data.inputs), "OUTPUTS": _specs(data.outputs),
        "ARENA": str(data.arena + handover_bytes(data.handover)), "STATIC": str(data.static_bytes), "SCRATCH": str(data.scratch),
        "ADDRESSES": "\n".join(addresses), "STEPS": wraps,
        "KERNELS": "\n\n".join(kernel.text for kernel in kernels), "LANGUAGE": language, "REQUIRED": repr(list(data.required)),
        "FEATURES": Path(features.__file__).read_text("utf-8").partition("import annotations\n")[2].strip(),
    }  # fmt: skip
    template = (Path(__file__).parent / "module.py.in").read_text("utf-8")
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], template)


class _Kernel:
    """A kernel's function as text, and its parameters' names by position."""

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._names = {int(number): name for name, number in _ARGUMENT.findall(kernel.source)}
        tree = ast.parse(kernel.source)
        (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == kernel.name)
        lines = kernel.source.splitlines()
        about = [f"# {line}".rstrip() for line in (ast.get_docstring(tree) or "").splitlines()[2:]]
        about += [line for line in lines[: function.lineno - 1] if line.startswith("# ")]
        self.text = "\n".join(["", *about, *lines[function.lineno - 1 : function.end_lineno]])

    def parameter(self, position: int) -> str:
        """The name of an argument; of one that this kernel does not use, a made-up one."""
        return self._names.get(position, f"unused_{position}")


def _address(bases: dict[int, str], base: int, a: int, b: int) -> str:
    terms = [] if base == INTEGER else [bases[base]]
    if a:
        terms.append("n" if a == 1 else f"{a} * n")
    if b or not terms:
        terms.append(str(b))
    return " + ".join(terms).replace("+ -", "- ")


def _count(ref: TensorRef) -> str:
    from cnngraph.emit.c_tables import ref_bytes

    a, b = ref_bytes(ref)
    return _linear((a, b))


def _linear(pair: Linear) -> str:
    return " + ".join([f"{pair[0]} * n"] * bool(pair[0]) + [str(pair[1])] * bool(pair[1] or not pair[0]))


def _specs(specs: Sequence[TensorSpec]) -> str:
    rows = [f"({_literal(spec.name)}, {spec.dtype!r}, {[tuple(f) for f in spec.factors()]})" for spec in specs]
    return "[" + ", ".join(rows) + "]"


def _literal(text: str) -> str:
    """A Python string literal in ASCII."""
    return json.dumps(text).replace("'", "\\u0027")


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype}[{'x'.join(map(str, spec.shape))}]" for spec in specs)


def _comment(text: str) -> str:
    """Text that cannot leave a comment or a docstring."""
    return re.sub(r'["\\@]', "?", printable(text, 400))


def _wrapped(line: str, width: int = 130) -> str:
    """A call broken after commas."""
    if len(line) <= width or line.lstrip().startswith("#"):
        return line
    rows, row = [], ""
    for part in line.split(", "):
        if row and len(row) + len(part) + 2 > width:
            rows.append(row + ",")
            row = " " * 8 + part
        else:
            row = f"{row}, {part}" if row else part
    return "\n".join([*rows, row])
