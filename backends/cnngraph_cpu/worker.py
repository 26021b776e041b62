"""Compiler process: reads requests as JSON lines, answers with relocatable object code.

Run as ``python -m cnngraph_cpu.worker`` with ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` set by
:mod:`cnngraph_cpu.jit`, so that the code is for the wanted target and not for this machine.

Generated sources are long straight lines of assignments, for which parts of Numba's front end take longer than LLVM. So passes that
find nothing in them are left out (closures, array expressions, branches on constants), names are made unique by
:func:`single_assignments` before Numba would do so, in time quadratic in their number, and the types of a call are resolved once for each
combination of operand types (:func:`remember_signatures`: in 2 of 100 calls) instead of for each call. The object code is the same.
"""

from __future__ import annotations

import ast
import base64
import gc
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

_INNER = ("body", "orelse")
_LEFT_OUT = ("InlineClosureLikes", "NopythonRewrites", "DeadBranchPrune")


def _lists(statements: list[ast.stmt]) -> list[tuple[list[ast.stmt], set[str]]]:
    """Every list of statements, outer ones first, with the names that appear anywhere inside its compound statements' bodies."""
    inside: set[str] = set()
    found = [(statements, inside)]
    for statement in statements:
        for part in filter(None, (getattr(statement, field, None) for field in _INNER)):
            lists = _lists(part)
            inside |= lists[0][1]
            inside.update(name.id for inner in part for name in _own_names(inner))
            found += lists
    return found


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


def remember_signatures() -> None:
    """Let Numba keep what it resolves a call's types to, by function and operand types, of which its answer is made."""
    from numba.core.types.functions import BaseFunction

    resolve = BaseFunction.get_call_type

    def get_call_type(self: BaseFunction, context: Any, args: tuple[Any, ...], kws: Mapping[str, Any]) -> Any:
        known = self.__dict__.setdefault("_cnngraph_known", {})
        key = (args, tuple(kws.items()))
        if key not in known:
            known[key] = resolve(self, context, args, kws)
        return known[key]

    BaseFunction.get_call_type = get_call_type  # type: ignore[method-assign]


def align_stacks() -> None:
    """Let functions begin their stacks at a cache line.

    LLVM aligns spilled vectors only if it knew before it allocated registers that there would be any. Left to where the caller's stack
    happens to end, half of them straddle two lines: the same convolution took 63, 71, 79, 87 or 101 us by process (8x8 taps, Zen 4), and
    takes 56 with this.
    """
    from numba.core.codegen import CPUCodeLibrary

    add = CPUCodeLibrary.add_ir_module

    def add_ir_module(self: CPUCodeLibrary, module: Any) -> None:
        for function in module.functions:
            if not function.is_declaration:
                function.attributes.alignstack = 64
        add(self, module)

    CPUCodeLibrary.add_ir_module = add_ir_module


@cache
def _pipeline() -> Any:
    remember_signatures()
    align_stacks()
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
    gc.disable()  # a tenth of the time, during which next to nothing becomes garbage
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
        gc.collect()
        gc.freeze()


if __name__ == "__main__":
    main()
