"""Compiler process: reads requests as JSON lines, answers with relocatable object code.

Run as ``python -m cnngraph_cpu.worker`` with ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` set by
:mod:`cnngraph_cpu.jit`, so that the code is for the wanted target and not for this machine.
"""

from __future__ import annotations

import base64
import gc
import json
import sys
import time
import traceback
from typing import Any

from numba import cfunc, types
from numba.core.errors import TypingError

from cnngraph_cpu.numba_passes import SHORT, SINGLE, align_stacks, remember_signatures


def compile_by(pipeline: type[Any], path: str, function: str) -> tuple[str, bytes]:
    """(symbol, ELF object) of ``function`` in the generated module at ``path``, by one of Numba's pipelines."""
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    module: dict[str, Any] = {"__name__": "cnngraph_generated", "__file__": path}
    exec(code, module)  # written by this package; holds nothing of a model's text
    signature = types.void(types.CPointer(types.int64), types.int64, types.int64)
    declare = cfunc(signature, nopython=True, error_model="numpy", boundscheck=False, forceinline=True, pipeline_class=pipeline)
    compiled = declare(module[function])
    return compiled.native_name, compiled._library.serialize_using_object_code()[2][0]


def compile_kernel(path: str, function: str) -> tuple[str, bytes]:
    """(symbol, ELF object) of ``function`` in the generated module at ``path``."""
    try:
        return compile_by(SHORT, path, function)
    except TypingError:  # an error of the source is found again
        return compile_by(SINGLE, path, function)


def main() -> None:
    """Serve requests ``{"path", "name"}`` until end of input."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    remember_signatures()
    align_stacks()
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
