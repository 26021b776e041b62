"""A program as a shared library with a plain C interface, and its header."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cnngraph.emit import c_tables
from cnngraph.emit.assembly import Assembly
from cnngraph.errors import CnngraphError, UsageError, printable
from cnngraph.runtime.program import HostStep, ProgramData

COMPILERS = ("cc", "gcc", "clang")
HEADER_BYTES = 64
_MAGIC = b"CNNGRAPH weights"


class CompilerMissingError(CnngraphError):
    """The system has no C compiler, or the one there is fails."""


def library_name(path: Path) -> str:
    """The prefix of a library's functions: the file's name as a C identifier, without ``lib``."""
    stem = path.name.split(".")[0].removeprefix("lib")
    name = re.sub(r"[^A-Za-z0-9_]", "_", stem) or "model"
    return f"_{name}" if name[0].isdigit() else f"{name}_" if name in c_tables.taken_names() else name


def emit_library(
    variants: Sequence[ProgramData], path: Path, *, inside: bool = True, flags: Sequence[str] = (), keep: Path | None = None
) -> dict[str, Path]:
    """Write the library ``path`` and beside it its header, and the weights if they are not ``inside``.

    Args:
        variants: the same network for one or several instruction sets, best first; the library takes the first that its CPU can run.
        path: the library; functions are called after its name (:func:`library_name`).
        inside: whether the library holds the weights; else ``create`` maps them from the file ``<name>.weights``.
        flags: further arguments of the C compiler.
        keep: a folder for the sources.

    Returns:
        The files written: "library", "header", and "weights" if they are outside.

    Raises:
        UsageError: a part of the network has no kernel; the message names the nodes.
        CompilerMissingError: no C compiler, or it fails.
        OSError: the folder or the disk does not allow it.
    """
    for data in variants:
        check_complete(data, "a C library")
    name = library_name(path)
    with tempfile.TemporaryDirectory(prefix="cnngraph-") as temporary:
        folder = Path(temporary)
        weights = _write_sources(variants, name, folder, inside)
        library = folder / "library.so"
        _compile(folder, name, library, flags)
        if keep is not None:
            shutil.copytree(folder, keep, ignore=shutil.ignore_patterns("library.so"), dirs_exist_ok=True)
        made = {"library": (library, path), "header": (folder / f"{name}.h", path.with_name(f"{name}.h"))}
        if not inside:
            made["weights"] = (weights, path.with_name(f"{name}.weights"))
        for made_file, target in made.values():
            _place(made_file, target)
    return {kind: target for kind, (_, target) in made.items()}


def check_complete(data: ProgramData, what: str) -> None:
    """Raise UsageError, naming the nodes, unless all of a program is kernels of the CPU."""
    if data.backend != "cpu":
        raise UsageError(f"{what} can be made of programs for the CPU only, not for {printable(data.backend)}")
    if data.tail is not None:
        labels = [str(step[1]) for step in data.tail["steps"]]
        named = f": {', '.join(map(printable, labels[:8]))}" if labels else ""
        raise UsageError(f"{what} cannot hold nodes whose results' shapes depend on data{named}")
    host = [step.label for step in data.steps if isinstance(step, HostStep)]
    if host:
        more = f" and {len(host) - 8} more" if len(host) > 8 else ""
        raise UsageError(f"{what} cannot hold nodes without a kernel, which run in NumPy: {', '.join(map(printable, host[:8]))}{more}")


def _write_sources(variants: Sequence[ProgramData], name: str, folder: Path, inside: bool) -> Path:
    """``name``.h, .c, .S, code.bin and the file of weights, whose path is returned."""
    assembly = Assembly("code.bin")
    tables, entries, at = c_tables.tensor_tables([*variants[0].inputs, *variants[0].outputs]), [], HEADER_BYTES
    weights, digest = folder / f"{name}.weights", hashlib.sha256()
    with open(weights, "wb") as file:
        file.write(bytes(HEADER_BYTES))
        for number, data in enumerate(variants):
            symbols = [assembly.add(kernel, f"{name}_v{number}_k{i}") for i, kernel in enumerate(data.kernels)]
            tables += c_tables.variant_tables(number, data, symbols)
            entries.append(c_tables.variant_entry(number, data, f"{name}_weights + {at}" if inside else "NULL", at))
            padded = -(-data.weights.nbytes // 64) * 64 - data.weights.nbytes
            for piece in (data.weights.data, bytes(padded)):
                file.write(piece)
                digest.update(piece)
            at += data.weights.nbytes + padded
        head = _MAGIC + at.to_bytes(8, "little") + digest.digest() + bytes(8)
        file.seek(0)
        file.write(head)
    tables += [
        f"extern const unsigned char {name}_weights[];" if inside else "",
        f"static const variant variants[] = {{\n{chr(10).join(entries)}\n}};",
        f"enum {{ VARIANTS = {len(variants)} }};",
        f"#define WEIGHTS_FILE_BYTES {at}LL",
        f'#define WEIGHTS_HEADER "{"".join(f"{chr(92)}{b:03o}" for b in head)}"',
        "",
    ]
    (folder / f"{name}.h").write_text(c_tables.header(name, variants[0], [data.isa for data in variants], inside), "utf-8")
    (folder / f"{name}.c").write_text(c_tables.source(name, variants[0], tables, max(len(data.handover) for data in variants)), "utf-8")
    text = assembly.text()
    if inside:
        include = (
            f'.section .rodata\n.balign 64\n.globl {name}_weights\n.hidden {name}_weights\n{name}_weights:\n.incbin "{name}.weights"\n'
        )
        text = include + text
    (folder / f"{name}_code.S").write_text(text, "utf-8")
    (folder / "code.bin").write_bytes(assembly.content)
    return weights


def find_compiler() -> list[str]:
    """The C compiler's command: ``$CC``, or the first there is of cc, gcc and clang.

    Raises:
        CompilerMissingError: there is none.
    """
    chosen = os.environ.get("CC")
    if chosen:
        command = shlex.split(chosen)
        if not command or shutil.which(command[0]) is None:
            raise CompilerMissingError(f"the C compiler that CC names, {printable(chosen)}, does not exist")
        return command
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise CompilerMissingError(
        f"a library needs a C compiler, and there is none of {', '.join(COMPILERS)}; install one, set CC, or compile to a .cnng instead"
    )


def _compile(folder: Path, name: str, library: Path, flags: Sequence[str]) -> None:
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        raise UsageError("libraries can be made on Linux for x86-64 only")
    command = [
        *find_compiler(), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden",
        f"-Wl,-soname,{name}.so", "-Wl,-z,noexecstack", "-Wl,-z,text", *flags, "-o", str(library), f"{name}.c", f"{name}_code.S", "-lm",
    ]  # fmt: skip
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise CompilerMissingError(f"the C compiler cannot be started: {error}") from error
    if result.returncode:
        raise CompilerMissingError(f"the C compiler fails ({shlex.join(command)}):\n{result.stderr[:4000]}")


def _place(made: Path, target: Path) -> None:
    """Move a file into place, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".cnngraph-", suffix=".tmp")
    os.close(handle)
    try:
        shutil.copyfile(made, temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, (0o777 if target.suffix == ".so" else 0o666) & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
