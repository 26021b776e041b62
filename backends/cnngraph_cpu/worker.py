"""Compiler process: reads requests as JSON lines, answers with relocatable object code.

Run as ``python -m cnngraph_cpu.worker`` with ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` set by
:mod:`cnngraph_cpu.jit`, so that the code is for the wanted target and not for this machine.

Generated sources are long straight lines of assignments, for which parts of Numba's front end take longer than LLVM. So passes that
find nothing in them are left out (closures, array expressions, branches on constants), and names are made unique by
:func:`single_assignments` before Numba would do so, in time quadratic in their number. The object code is the same.
"""

from __future__ import annotations

import ast
import base64
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

_INNER = ("body", "orelse")
_LEFT_OUT = ("InlineClosureLikes", "NopythonRewrites", "DeadBranchPrune")


def _lists(statements: list[ast.stmt]) -> Iterator[tuple[list[ast.stmt], frozenset[str]]]:
    """Every list of statements, outer ones first, with the names that appear anywhere inside its compound statements' bodies."""
    inner = [part for statement in statements for part in (getattr(statement, field, None) for field in _INNER) if part]
    yield statements, frozenset(n.id for part in inner for s in part for n in ast.walk(s) if isinstance(n, ast.Name))
    for part in inner:
        yield from _lists(part)


def _own_names(statement: ast.stmt) -> list[ast.Name]:
    """Names in a statement in the order of evaluation, without those in the bodies of a compound statement."""
    if isinstance(statement, ast.Assign):
        parts: Sequence[ast.AST] = (statement.value, *statement.targets)
    elif isinstance(statement, ast.For):
        parts = (statement.iter, statement.target)
    elif isinstance(statement, (ast.If, ast.While)):
        parts = (statement.test,)
    else:
        parts = (statement,)
    return [node for part in parts for node in ast.walk(part) if isinstance(node, ast.Name)]


def single_assignments(body: list[ast.stmt]) -> None:
    """Give each assignment to a name a name of its own, where the name never carries a value from one list of statements to another.

    That holds if every list in which it appears assigns it, by a statement of that list, before reading it, and no list inside
    such a list has it too.
    """
    parted: set[str] = set()
    kept: set[str] = set()
    for statements, inside in _lists(body):
        assigned: set[str] = set()
        for statement in statements:
            for name in _own_names(statement):
                plain = isinstance(statement, ast.Assign) and isinstance(name.ctx, ast.Store)
                if name.id in inside or not (plain or name.id in assigned) or (not plain and isinstance(name.ctx, ast.Store)):
                    kept.add(name.id)
                if plain:
                    assigned.add(name.id)
        parted |= assigned
    parted -= kept
    count = 0
    for statements, _ in _lists(body):
        current: dict[str, str] = {}
        for statement in statements:
            for name in _own_names(statement):
                if name.id in parted:
                    if isinstance(name.ctx, ast.Store):
                        count += 1
                        current[name.id] = f"{name.id}__{count}"
                    name.id = current[name.id]


@cache
def _pipeline() -> Any:
    from numba.core.compiler import CompilerBase, DefaultPassBuilder

    class Pipeline(CompilerBase):
        """Numba's own passes but for those that find nothing in generated kernels."""

        def define_pipelines(self) -> list[Any]:
            pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
            pipeline.passes = [entry for entry in pipeline.passes if entry[0].__name__ not in _LEFT_OUT]
            pipeline.finalize()
            return [pipeline]

    return Pipeline


def compile_kernel(path: str, function: str) -> tuple[str, bytes]:
    """(symbol, ELF object) of ``function`` in the generated module at ``path``."""
    from numba import cfunc, types

    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == function:
            single_assignments(statement.body)
    module: dict[str, Any] = {"__name__": "cnngraph_generated", "__file__": path}
    exec(compile(tree, path, "exec"), module)  # written by this package; holds nothing of a model's text
    signature = types.void(types.CPointer(types.int64), types.int64, types.int64)
    declare = cfunc(signature, nopython=True, error_model="numpy", boundscheck=False, forceinline=True, pipeline_class=_pipeline())
    compiled = declare(module[function])
    return compiled.native_name, compiled._library.serialize_using_object_code()[2][0]


def main() -> None:
    """Serve requests ``{"path", "name"}`` until end of input."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        try:
            symbol, code = compile_kernel(request["path"], request["name"])
            answer = {"symbol": symbol, "code": base64.b64encode(code).decode(), "seconds": time.perf_counter() - start}
        except Exception:  # any failure is reported to the parent, which raises it with the kernel's name
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
