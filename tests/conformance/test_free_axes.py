"""The free batch in places other than the first axis."""

from __future__ import annotations

import numpy as np
import pytest

import cnngraph
from tests.frontend.support import model, node


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Softmax", "Identity"])
def test_element_wise_behind_a_transposition(op: str) -> None:
    attributes = {"axis": 0} if op == "Softmax" else {}
    proto = model([node("Transpose", "x", "t", perm=[1, 0]), node(op, "t", "y", **attributes)], {"x": ["n", 4]})
    program = cnngraph.compile(proto.SerializeToString())
    for batch in (1, 3, 7):
        x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
        expected = {
            "Relu": lambda t: np.maximum(t, 0),
            "Sigmoid": lambda t: 1 / (1 + np.exp(-t)),
            "Softmax": lambda t: np.exp(t) / np.exp(t).sum(0),
            "Identity": lambda t: t,
        }[op](x.T)
        np.testing.assert_allclose(program.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)
