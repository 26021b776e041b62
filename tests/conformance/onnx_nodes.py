"""Run the node tests that ship with onnx through ``cnngraph.backend``, and keep the list of those that pass.

python -m tests.conformance.onnx_nodes --update      rewrites onnx_nodes.txt
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import cnngraph.backend
from cnngraph.errors import CnngraphError
from cnngraph.frontend import supported_ops

LIST = Path(__file__).with_name("onnx_nodes.txt")


@cache
def all_cases() -> dict[str, Any]:
    """Every CPU node test of the installed onnx by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node") if case.model is not None or case.model_dir}


def load(case: Any) -> onnx.ModelProto:
    """The model of a case."""
    return case.model if case.model is not None else onnx.load(os.path.join(case.model_dir, "model.onnx"))


@cache
def relevant_cases() -> dict[str, Any]:
    """Cases all of whose operators cnngraph imports."""
    known = {row.op for row in supported_ops()}
    return {n: c for n, c in all_cases().items() if all(node.op_type in known and not node.domain for node in load(c).graph.node)}


def data(case: Any) -> tuple[list[Any], list[Any]]:
    """Inputs and expected outputs of the first data set."""
    if case.data_sets is not None:
        return case.data_sets[0]
    folder = os.path.join(case.model_dir, "test_data_set_0")
    sides = []
    for side in ("input", "output"):
        files = sorted(glob.glob(f"{folder}/{side}_*.pb"), key=lambda path: int(path.rpartition("_")[2][:-3]))
        sides.append([onnx.load_tensor(file) for file in files])
    return sides[0], sides[1]


def array(item: Any) -> np.ndarray:
    """A test datum as an array."""
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else np.asarray(item)


def check(case: Any) -> None:
    """Compile and run one case; raises AssertionError or CnngraphError if it does not pass."""
    inputs, outputs = data(case)
    results = cnngraph.backend.prepare(load(case)).run([array(x) for x in inputs])
    for got, item in zip(results, outputs, strict=True):
        expected = array(item)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), f"{got.dtype}{got.shape}, not {expected.dtype}{expected.shape}"
        if got.dtype.kind in "biu":
            np.testing.assert_array_equal(got, expected)
        else:
            np.testing.assert_allclose(got.astype(np.float64), expected.astype(np.float64), rtol=case.rtol, atol=case.atol)


def must_pass() -> list[str]:
    """The names in the list file."""
    return [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]


def main() -> int:
    """Run every relevant case, print what fails, and rewrite the list if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    passed = []
    for name, case in sorted(relevant_cases().items()):
        try:
            check(case)
            passed.append(name)
        except (CnngraphError, AssertionError, TypeError, ValueError) as error:
            print(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:150]}")
    print(f"{len(passed)} of {len(relevant_cases())} cases of supported operators pass; onnx {onnx.__version__} has {len(all_cases())}")
    if args.update:
        header = f"# Node tests of onnx {onnx.__version__} that must pass; rewritten by python -m tests.conformance.onnx_nodes --update\n"
        LIST.write_text(header + "\n".join(passed) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
