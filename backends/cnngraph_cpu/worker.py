"""Compiler process: reads requests as JSON lines, answers with relocatable object code.

Run as ``python -m cnngraph_cpu.worker`` with ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` set by
:mod:`cnngraph_cpu.jit`, so that the code is for the wanted target and not for this machine.

Generated sources are long straight lines of assignments to numbers, vectors and pointers, for which Numba's front end takes longer than
LLVM. So only the passes run that such sources need (:func:`_pipeline`), and the types of a call are resolved once for each combination
of operand types (:func:`remember_signatures`: in 2 of 100 calls) instead of for each call. The object code is the same, but for the
order of a few instructions, in less than half the time.
"""

from __future__ import annotations

import base64
import gc
import json
import sys
import time
import traceback
from collections.abc import Mapping
from functools import cache
from typing import Any


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
    """Numba's way from bytecode to machine code, by the shortest path.

    No static single assignments: LLVM makes its own, and each variable has one type. Nothing to inline, rewrite or unroll, and nothing
    counts references.
    """
    remember_signatures()
    align_stacks()
    from numba.core import compiler, typed_passes, untyped_passes

    passes = (
        untyped_passes.TranslateByteCode, untyped_passes.FixupArgs, untyped_passes.IRProcessing,
        typed_passes.NopythonTypeInference, typed_passes.AnnotateTypes, typed_passes.NativeLowering, typed_passes.NoPythonBackend,
    )  # fmt: skip

    class Pipeline(compiler.CompilerBase):
        """The passes above."""

        def define_pipelines(self) -> list[Any]:
            pipeline = compiler.PassManager("kernel")
            for entry in passes:
                pipeline.add_pass(entry, entry.__name__)
            pipeline.finalize()
            return [pipeline]

    return Pipeline


def compile_kernel(path: str, function: str) -> tuple[str, bytes]:
    """(symbol, ELF object) of ``function`` in the generated module at ``path``."""
    from numba import cfunc, types

    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    module: dict[str, Any] = {"__name__": "cnngraph_generated", "__file__": path}
    exec(code, module)  # written by this package; holds nothing of a model's text
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
