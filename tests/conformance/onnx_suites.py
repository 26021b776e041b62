"""Run the backend tests that ship with onnx through ``cnngraph.backend``, and keep the list of those that pass.

python -m tests.conformance.onnx_suites               prints what fails, and the count of every suite
python -m tests.conformance.onnx_suites --update      also rewrites onnx_suites.txt
"""

from __future__ import annotations

import argparse
import glob
import logging
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import cnngraph.backend
from cnngraph.errors import CnngraphError

LIST = Path(__file__).with_name("onnx_suites.txt")
SUITES = {
    "node": "node",
    "simple": "simple",
    "pytorch-converted": "pytorch-converted",
    "pytorch-operator": "pytorch-operator",
    "real": "light",
}
"""The kinds of cases in onnx, and what each is called here; of the real models only those stored with onnx (without weights) are run."""
FAILURES = (CnngraphError, AssertionError, TypeError, ValueError)


@cache
def all_cases() -> dict[str, Any]:
    """Every CPU case of the installed onnx by ``suite/name``."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, suite in SUITES.items():
            for case in load_model_tests(kind=kind):
                if kind != "real" or _light_file(case.url).is_file():
                    found[f"{suite}/{case.name}"] = case
    return found


def _light_file(url: str) -> Path:
    return Path(onnx.backend.test.__file__).parent / "data" / "light" / Path(url).name


def load(case: Any) -> onnx.ModelProto:
    """The model of a case."""
    if case.model is not None:
        return case.model
    return onnx.load(_light_file(case.url) if case.url else os.path.join(case.model_dir, "model.onnx"))


def data(case: Any, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """Inputs and expected outputs of the first data set."""
    if case.data_sets is not None:
        return case.data_sets[0]
    if case.url:
        return _light_data(Path(case.url), model)
    folder = os.path.join(case.model_dir, "test_data_set_0")
    sides = []
    for side, infos in (("input", model.graph.input), ("output", model.graph.output)):
        files = sorted(glob.glob(f"{folder}/{side}_*.pb"), key=lambda path: int(path.rpartition("_")[2][:-3]))
        sides.append([_datum(Path(file).read_bytes(), info.type) for file, info in zip(files, infos, strict=False)])
    return sides[0], sides[1]


def _light_data(url: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """The input is as onnx's own runner makes it; the outputs are stored."""
    stored = {tensor.name for tensor in model.graph.initializer}
    feeds = [Runner.generate_dummy_data(x, name=url.stem) for x in model.graph.input if x.name not in stored]
    outputs = [onnx.TensorProto.FromString(_light_file(f"{url.stem}_output_{i}.pb").read_bytes()) for i in range(len(model.graph.output))]
    return feeds, outputs


def _datum(content: bytes, type_: onnx.TypeProto) -> Any:
    """A serialised tensor, sequence or optional."""
    if type_.HasField("sequence_type"):
        return onnx.SequenceProto.FromString(content)
    if type_.HasField("optional_type"):
        return onnx.OptionalProto.FromString(content)
    return onnx.TensorProto.FromString(content)


def value(item: Any) -> Any:
    """A test datum as cnngraph takes and gives it: an array, a list for a sequence, None for an empty optional."""
    if isinstance(item, onnx.TensorProto):
        array = numpy_helper.to_array(item)
        return (
            np.array([s.decode() if isinstance(s, bytes) else s for s in array.flat], object).reshape(array.shape)
            if array.dtype == object
            else array
        )
    if isinstance(item, onnx.SequenceProto):
        return [value(i) for i in numpy_helper.to_list(item)]
    if isinstance(item, onnx.OptionalProto):
        return value(numpy_helper.to_optional(item))
    if item is None:
        return None
    if isinstance(item, (list, tuple)):
        return [value(i) for i in item]
    array = np.asarray(item)
    return array.astype(object) if array.dtype.kind in "US" else array


def compare(got: Any, expected: Any, rtol: float, atol: float) -> None:
    """Raise AssertionError unless types, shapes and numbers agree."""
    if expected is None or isinstance(expected, list):
        assert type(got) is type(expected), f"{type(got).__name__}, not {type(expected).__name__}"
        for a, b in zip(got or [], expected or [], strict=True):
            compare(a, b, rtol, atol)
        return
    got = np.asarray(got)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape), f"{got.dtype}{got.shape}, not {expected.dtype}{expected.shape}"
    if got.dtype.kind in "biuO":
        np.testing.assert_array_equal(got, expected)
    else:
        kind = np.complex128 if got.dtype.kind == "c" else np.float64
        np.testing.assert_allclose(got.astype(kind), expected.astype(kind), rtol=rtol, atol=atol)


def check(case: Any) -> None:
    """Compile and run one case; raises AssertionError or CnngraphError if it does not pass."""
    model = load(case)
    inputs, outputs = data(case, model)
    results = cnngraph.backend.prepare(model).run([value(x) for x in inputs])
    for got, item in zip(results, outputs, strict=True):
        compare(got, value(item), case.rtol, case.atol)


def must_pass() -> list[str]:
    """The names in the list file."""
    return [line for line in LIST.read_text().splitlines() if line and not line.startswith("#")]


def main() -> int:
    """Run every case, print what fails, and rewrite the list if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("only", nargs="*", help="parts of names; default: every case")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    passed, chosen = [], [n for n in sorted(all_cases()) if not args.only or any(part in n for part in args.only)]
    for name in chosen:
        try:
            check(all_cases()[name])
            passed.append(name)
        except FAILURES as error:
            first = (str(error).strip().splitlines() or [""])[-1 if isinstance(error, CnngraphError) else 0]
            print(f"{name}: {type(error).__name__}: {first[:170]}")
    for suite in SUITES.values():
        count = [sum(name.startswith(f"{suite}/") for name in names) for names in (passed, chosen)]
        print(f"{suite}: {count[0]} of {count[1]} cases of onnx {onnx.__version__} pass")
    if args.update and not args.only:
        header = (
            f"# Backend tests of onnx {onnx.__version__} that must pass; rewritten by python -m tests.conformance.onnx_suites --update\n"
        )
        LIST.write_text(header + "\n".join(passed) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
