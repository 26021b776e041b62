"""The node tests that ship with onnx, compiled for CUDA and run in the emulator.

``python -m tests.cuda.onnx_nodes [--update]`` prints which give wrong results, and rewrites the list of those that pass.
"""

from __future__ import annotations

import argparse
import collections
import sys
import warnings
from pathlib import Path
from unittest import mock

import cnngraph.backends
import cnngraph.pipeline
from cnngraph.errors import CnngraphError, UnsupportedError
from cnngraph_cuda.device import EmulatedDevice
from cnngraph_cuda.executor import CudaExecutor
from tests.conformance.onnx_suites import all_cases, compare, data, load, value

from .support import SourceOnly

LIST = Path(__file__).with_name("onnx_nodes.txt")


class Emulated(SourceOnly):
    """The backend on an emulated device."""

    def executor(self, data):
        return CudaExecutor(data, EmulatedDevice)


def outcome(name: str) -> str:
    """ "passed", "refused: ..." or "wrong: ...", in a string."""
    case = all_cases()[name]
    backend = Emulated()
    real = cnngraph.backends.get_backend

    def get(wanted):
        return backend if wanted == "cuda" else real(wanted)

    with mock.patch("cnngraph.backends.get_backend", get), mock.patch("cnngraph.pipeline.get_backend", get), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load(case)
        inputs, outputs = data(case, model)
        try:
            results = cnngraph.backend.prepare(model, backend="cuda").run([value(x) for x in inputs])
            for got, item in zip(results, outputs, strict=True):
                compare(got, value(item), max(case.rtol, 1e-5), max(case.atol, 1e-6))
        except UnsupportedError as error:
            return f"refused: {error}"
        except (CnngraphError, AssertionError, TypeError, ValueError, IndexError, KeyError) as error:
            return f"wrong: {type(error).__name__} {error}"
    return "passed"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--update", action="store_true")
    given = parser.parse_args()
    names = [n for n in sorted(all_cases()) if n.startswith("node/")]
    found = {name: outcome(name) for name in names}
    print(collections.Counter(o.partition(":")[0] for o in found.values()))
    for name, result in found.items():
        if result.startswith("wrong"):
            print(name, result[:300].replace("\n", " "))
    if given.update:
        LIST.write_text("".join(f"{name}\n" for name in names if found[name] == "passed"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
