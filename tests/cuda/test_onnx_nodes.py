"""The node tests of onnx that CUDA kernels pass: a part of them here, all of them among the slow tests."""

from __future__ import annotations

import pytest

from .onnx_nodes import LIST, outcome

PASSING = LIST.read_text("utf-8").split()


@pytest.mark.parametrize("name", [n if i % 15 == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(PASSING)])
def test_node(name):
    assert outcome(name) == "passed"
