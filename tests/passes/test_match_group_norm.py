"""MatchGroupNorm: instance normalisation of groups between two reshapes, as PyTorch exports group normalisation."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import cnngraph

F = onnx.TensorProto.FLOAT


def model(
    groups: int, shape: tuple[int, ...] = (32, 9, 7), *, back: tuple[int, ...] | None = None, twice: bool = False
) -> onnx.ModelProto:  # fmt: skip
    """relu(group_norm(conv(x)) * s + b), the normalisation in the form of operator sets before 18."""
    rng = np.random.default_rng(0)
    channels, spatial = shape[0], shape[1:]
    numbers = {
        "w": rng.standard_normal((channels, 3, *(1,) * len(spatial))).astype(np.float32), "folded": np.array([0, groups, -1]),
        "one": rng.standard_normal(groups).astype(np.float32), "zero": rng.standard_normal(groups).astype(np.float32),
        "unfolded": np.array([-1, *(back or shape)]), "s": rng.standard_normal((channels, *(1,) * len(spatial))).astype(np.float32),
        "b": rng.standard_normal((channels, *(1,) * len(spatial))).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "folded"], ["f"]),
        helper.make_node("InstanceNormalization", ["f", "one", "zero"], ["n"], epsilon=1e-4),
        helper.make_node("Reshape", ["n", "unfolded"], ["u"]),
    ]
    outputs = ["y"]
    if back is None:
        nodes += [
            helper.make_node("Mul", ["u", "s"], ["m"]), helper.make_node("Add", ["m", "b"], ["a"]), helper.make_node("Relu", ["a"], ["y"]),
        ]  # fmt: skip
    else:
        nodes.append(helper.make_node("Relu", ["u"], ["y"]))
    if twice:
        nodes.append(helper.make_node("Abs", ["n"], ["z"]))
        outputs.append("z")
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", F, ["N", 3, *spatial])],
        [helper.make_tensor_value_info(name, F, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in numbers.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def check(proto: onnx.ModelProto, shape: tuple[int, ...]) -> list[str]:
    """Results are onnxruntime's; returns the operators that are computed."""
    x = np.random.default_rng(1).standard_normal((2, 3, *shape[1:])).astype(np.float32)
    wanted = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    program = cnngraph.compile(proto)
    for got, want in zip(program.run({"x": x}).values(), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    return [row["op"] for row in program.report["selection"] if row["chosen"] != "alias"]


@pytest.mark.parametrize("groups", [1, 2, 4, 32])
@pytest.mark.parametrize("shape", [(32, 9, 7), (32, 33), (64, 3, 4, 5)])
def test_two_kernels_are_left(groups: int, shape: tuple[int, ...]) -> None:
    operators = check(model(groups, shape), shape)
    assert [op for op in operators if op != "Reorder"] == ["Conv", "GroupNorm"]


@pytest.mark.parametrize("groups", [4, 16])
def test_what_is_reshaped_to_something_else_stays(groups: int) -> None:
    shape = (32, 6, 4)
    assert "GroupNorm" in check(model(groups, shape, back=(16, 12, 4)), shape)


def test_a_normalisation_that_others_read_stays() -> None:
    assert check(model(4, twice=True), (32, 9, 7)).count("GroupNorm") == 1
