"""Sequences of known length are compiled; what run time decides about them is left to the tail."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from cnngraph.errors import InvalidModelError
from cnngraph.frontend import import_model
from tests.frontend.support import Dims, model, node, run

IMAGE: dict[str, Dims | tuple[int, Dims]] = {"x": ["N", 12, 5, 4]}
RNG = np.random.default_rng(4)
FEED = {"x": RNG.standard_normal((3, 12, 5, 4)).astype(np.float32)}


def check(proto: onnx.ModelProto, tail: bool = False, feeds: dict[str, np.ndarray] | None = None) -> None:
    """Equal to onnxruntime, and in the tail or not as ``tail`` says."""
    proto.ir_version = 10
    graph = import_model(proto)
    assert (graph.tail is not None) == tail
    given = feeds or FEED
    want = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
    got = run(graph, given)
    for info, array in zip(proto.graph.output, want, strict=True):
        np.testing.assert_array_equal(got[info.name], array)


@pytest.mark.parametrize("sizes", [np.array([5, 7]), np.array(5), np.array([12]), np.array(12)])
def test_a_split_whose_parts_are_taken_by_number(sizes: np.ndarray) -> None:
    nodes = [
        node("SplitToSequence", "x sizes", "parts", axis=1),
        node("SequenceAt", "parts last", "a"),
        node("Relu", "a", "y"),
        node("SequenceLength", "parts", "n"),
        node("Cast", "n", "z", to=TensorProto.FLOAT),
    ]
    check(model(nodes, IMAGE, "y z", {"sizes": sizes.astype(np.int64), "last": np.array(-1, np.int64)}))


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [2, -1])
def test_a_split_into_single_slices(axis: int, keepdims: int) -> None:
    nodes = [node("SplitToSequence", "x", "s", axis=axis, keepdims=keepdims), node("SequenceAt", "s two", "y")]
    check(model(nodes, IMAGE, weights={"two": np.array(2, np.int64)}))


@pytest.mark.parametrize("new_axis", [0, 1])
def test_insertions_and_erasures(new_axis: int) -> None:
    nodes = [
        node("Relu", "x", "r"),
        node("Neg", "x", "m"),
        node("SequenceConstruct", "x r", "s0"),
        node("SequenceInsert", "s0 m", "s1"),
        node("SequenceInsert", "s1 m one", "s2"),
        node("SequenceErase", "s2", "s3"),
        node("SequenceErase", "s3 first", "s4"),
        node("Identity", "s4", "s5"),
        node("ConcatFromSequence", "s5", "y", axis=1, new_axis=new_axis),
    ]
    check(model(nodes, IMAGE, weights={"one": np.array(1, np.int64), "first": np.array(-3, np.int64)}))


def test_a_list_that_a_loop_appends_to() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["x", "i"], ["row"], axis=1),
            helper.make_node("SequenceInsert", ["s", "row"], ["longer"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_sequence_value_info("longer", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("SequenceEmpty", "", "none"),
        node("Loop", "count go none", "all", body=body),
        node("ConcatFromSequence", "all", "y", axis=1, new_axis=1),
    ]
    check(model(nodes, IMAGE, weights={"count": np.array(4, np.int64), "go": np.array(True)}))


def test_a_position_that_is_computed_is_left_to_the_tail() -> None:
    nodes = [
        node("SequenceConstruct", "x r", "s"),
        node("Relu", "x", "r"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Less", "top zero", "negative"),
        node("Cast", "negative", "place", to=TensorProto.INT64),
        node("SequenceAt", "s place", "y"),
        node("SequenceLength", "s", "n"),
        node("Cast", "n", "z", to=TensorProto.FLOAT),
    ]
    check(model(nodes, {"x": [3, 12, 5, 4]}, "y z", {"zero": np.array(0, np.float32)}), tail=True)


def test_a_sequence_that_is_an_output_is_left_to_the_tail() -> None:
    proto = model([node("SequenceConstruct", "x r", "y"), node("Relu", "x", "r")], IMAGE)
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None))
    graph = import_model(proto)
    assert graph.tail is not None
    got = run(graph, FEED)["y"]
    np.testing.assert_array_equal(got[1], np.maximum(FEED["x"], 0))


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([node("SequenceConstruct", "x", "s"), node("SequenceAt", "s at", "y")], {"at": 1}, "position 1 is outside"),
        ([node("SplitToSequence", "x at", "s", axis=1), node("SequenceAt", "s zero", "y")], {"at": 0, "zero": 0}, "parts of 0"),
        ([node("SplitToSequence", "x at", "s", axis=1), node("SequenceAt", "s zero", "y")], {"at": [5, 5], "zero": 0}, "do not split 12"),
        ([node("SplitToSequence", "x zero", "s", axis=4), node("SequenceAt", "s zero", "y")], {"zero": 0}, "axis 4 is outside"),
        ([node("SequenceEmpty", "", "s"), node("SequenceErase", "s", "t"), node("ConcatFromSequence", "t", "y", axis=0)], {}, "is empty"),
        ([node("SequenceEmpty", "", "s"), node("ConcatFromSequence", "s", "y", axis=0)], {}, "is empty"),
    ],
)
def test_what_no_runtime_could_do_is_refused(nodes: list[onnx.NodeProto], weights: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidModelError, match=message):
        import_model(model(nodes, IMAGE, weights={name: np.array(array, np.int64) for name, array in weights.items()}))
