"""The backend tests of onnx named in onnx_suites.txt pass, and no other one does unnoticed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import cnngraph.backend
from tests.conformance.onnx_suites import FAILURES, all_cases, check, must_pass

_LISTED = must_pass()
_UNLISTED = sorted(set(all_cases()) - set(_LISTED))
_LARGE = {name for name in _LISTED if name.startswith("light/") and name != "light/test_squeezenet"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in _LARGE else name for name in _LISTED])
def test_listed_case_passes(name: str) -> None:
    if name not in all_cases():
        pytest.skip(f"onnx {onnx.__version__} has no such case")
    check(all_cases()[name])


@pytest.mark.parametrize("name", _UNLISTED)
def test_unlisted_case_is_still_refused(name: str) -> None:
    with pytest.raises(FAILURES):
        check(all_cases()[name])


def test_run_node_and_devices() -> None:
    x = np.array([[-1, 2]], np.float32)
    (y,) = cnngraph.backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x])
    np.testing.assert_array_equal(y, [[0, 2]])
    assert cnngraph.backend.supports_device("CPU") and not cnngraph.backend.supports_device("CUDA")
