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


@pytest.mark.parametrize("axis", [0, 2])
def test_softmax_of_images_side_by_side(axis: int) -> None:
    """The logits of a sequence network, [time, images, classes]: a kernel computes them, an image's bits do not depend on the others."""
    proto = model([node("Transpose", "x", "t", perm=[1, 0, 2]), node("LogSoftmax", "t", "y", axis=axis)], {"x": ["n", 5, 11]})
    program = cnngraph.compile(proto.SerializeToString())
    assert not program.report["reference_steps"]
    x = np.random.default_rng(0).standard_normal((6, 5, 11)).astype(np.float32)
    t = x.transpose(1, 0, 2).astype(np.float64)
    y = program.run({"x": x}, threads=2)["y"]
    np.testing.assert_allclose(y, t - np.log(np.exp(t).sum(axis=axis, keepdims=True)), rtol=1e-5, atol=1e-6)
    for i in range(6):
        assert np.array_equal(program.run({"x": x[i : i + 1]}, threads=1)["y"][:, 0], y[:, i])
