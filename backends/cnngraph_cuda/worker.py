"""Compiler process: reads requests as JSON lines, answers with cubins.

Run as ``python -m cnngraph_cuda.worker``; needs numba-cuda, NVVM, NVRTC and nvJitLink, no driver.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import traceback
import warnings


def main() -> None:
    """Serve requests ``{"path", "name", "arch"}`` until end of input."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    warnings.simplefilter("ignore")
    from cnngraph_cuda.compiler import cubin_of, parse_report, ptx_of

    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        try:
            with open(request["path"], encoding="utf-8") as file:
                text = file.read()
            cubin, log = cubin_of(ptx_of(text, request["name"], request["arch"]), request["name"], request["arch"])
            report = parse_report(log)
            answer = {
                "code": base64.b64encode(cubin).decode(), "seconds": time.perf_counter() - start, "registers": report.registers,
                "spills": report.spill_stores + report.spill_loads,
            }  # fmt: skip
        except Exception:  # any failure is reported to the parent, which raises it with the kernel's name
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
