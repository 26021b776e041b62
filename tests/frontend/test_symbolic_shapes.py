"""The batch size stays symbolic through shape arithmetic, or the error says who needs its number."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from cnngraph.errors import UnsupportedError, UsageError
from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, FreeDimensionsError, import_model
from cnngraph.ir.types import Sym
from tests.frontend.support import floats, ints, model, node, op_names, run

N = Sym(1)
SCALAR_0 = np.array(0, np.int64)


def check(proto: onnx.ModelProto, **expected: object) -> None:
    """Import symbolically and run at two batch sizes against the import with that batch fixed."""
    graph = import_model(proto)
    for batch in (1, 3):
        fixed = import_model(proto, batch=batch)
        feeds = {n: floats(*v.type.shape) for n, v in fixed.inputs}
        for (name, a), b in zip(run(graph, feeds).items(), run(fixed, feeds).values(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_view_x_size_0_minus_1() -> None:
    """torch: x.view(x.size(0), -1)."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "g", axis=0),
        node("Unsqueeze", "g", "u", axes=[0]),
        node("Constant", "", "m", value_ints=[-1]),
        node("Concat", "u m", "c", axis=0),
        node("Reshape", "x c", "y"),
    ]
    proto = model(nodes, {"x": ["batch", 3, 4, 4]}, weights={"zero": SCALAR_0}, opset=12)
    graph = import_model(proto)
    assert op_names(graph) == ["Reshape"]
    assert graph.outputs[0][1].type.shape == (N, 48)
    check(proto)


def test_view_with_products() -> None:
    """torch: x.view(n, c // 2, 2 * h * w), channels shuffled."""
    nodes = [
        node("Shape", "x", "s"),
        node("Split", "s", "n c h w", axis=0, num_outputs=4),
        node("Div", "c two", "c2"),
        node("Mul", "h w", "hw"),
        node("Mul", "hw two", "hw2"),
        node("Cast", "hw2", "f", to=TensorProto.FLOAT),
        node("Floor", "f", "fl"),
        node("Cast", "fl", "i", to=TensorProto.INT64),
        node("Concat", "n c2 i", "shape", axis=0),
        node("Reshape", "x shape", "r"),
        node("Transpose", "r", "y", perm=[0, 2, 1]),
    ]
    proto = model(nodes, {"x": [None, 4, 3, 5]}, weights={"two": ints(2)}, opset=18)
    graph = import_model(proto)
    assert op_names(graph) == ["Reshape", "Transpose"]
    assert graph.outputs[0][1].type.shape == (N, 30, 2)
    check(proto)


def test_batch_times_number_in_a_shape() -> None:
    nodes = [
        node("Shape", "x", "s", start=0, end=1),
        node("Mul", "s two", "n2"),
        node("Concat", "n2 m", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    graph = import_model(model(nodes, {"x": ["n", 4, 6]}, weights={"two": ints(2), "m": ints(-1)}))
    assert graph.outputs[0][1].type.shape == (Sym(2), 12)


def test_expand_chain_with_equal_and_where() -> None:
    """torch: p.expand(x.size(0), -1, -1)."""
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s b e a", "n"),
        node("Concat", "n m m", "want", axis=0),
        node("ConstantOfShape", "three", "ones", value=onnx.numpy_helper.from_array(np.array([1], np.int64))),
        node("Equal", "want m", "eq"),
        node("Where", "eq ones want", "shape"),
        node("Expand", "p shape", "y"),
    ]
    weights = {"b": ints(0), "e": ints(1), "a": ints(0), "m": ints(-1), "three": ints(3), "p": floats(1, 2, 3)}
    proto = model(nodes, {"x": ["n", 7]}, weights=weights)
    graph = import_model(proto)
    assert graph.outputs[0][1].type.shape == (N, 2, 3)
    check(proto)


def test_shape_as_data() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("ReduceProd", "f", "p", keepdims=0),
        node("Div", "x p", "y"),
    ]
    proto = model(nodes, {"x": ["n", 4]})
    graph = import_model(proto)
    assert "Shape" in op_names(graph)
    check(proto)


def test_inverse_of_the_batch_is_computed_at_run_time() -> None:
    nodes = [
        node("Shape", "x", "s", start=0, end=1),
        node("Cast", "s", "f", to=TensorProto.FLOAT),
        node("Div", "one f", "d"),
        node("Mul", "x d", "y"),
    ]
    check(model(nodes, {"x": ["n", 4]}, weights={"one": np.ones(1, np.float32)}))


def test_shape_output() -> None:
    proto = model([node("Shape", "x", "y")], {"x": ["n", 4]}, output_type=TensorProto.INT64)
    graph = import_model(proto)
    np.testing.assert_array_equal(run(graph, {"x": floats(5, 4)})["y"], [5, 4])


def test_slice_to_the_batch_size_takes_all() -> None:
    nodes = [node("Shape", "x", "s", start=0, end=1), node("Slice", "x z s z", "y")]
    assert import_model(model(nodes, {"x": ["n", 4]}, weights={"z": ints(0)})).outputs[0][1].type.shape == (N, 4)


def test_all_free_leading_dimensions_are_the_batch() -> None:
    graph = import_model(model([node("Add", "a b", "y")], {"a": ["n", 3], "b": ["m", 3]}))
    assert [v.type.shape for _, v in graph.inputs] == [(N, 3), (N, 3)]


def test_declared_and_requested_batch() -> None:
    fixed = model([node("Relu", "x", "y")], {"x": [4, 3]})
    assert import_model(fixed).inputs[0][1].type.shape == (4, 3)
    free = model([node("Relu", "x", "y")], {"x": ["n", 3]})
    assert import_model(free, batch=2).inputs[0][1].type.shape == (2, 3)
    assert import_model(free, shapes={"x": [5, 3]}).inputs[0][1].type.shape == (5, 3)
    assert import_model(free, shapes={"x": [None, 3]}).inputs[0][1].type.shape == (N, 3)
    assert import_model(fixed, shapes={"x": ["n", 3]}).inputs[0][1].type.shape == (N, 3)


def test_free_dimensions_are_named() -> None:
    proto = model([node("Relu", "x", "y")], {"x": ["n", 3, "h", None]})
    with pytest.raises(FreeDimensionsError, match=r"'x' declares \[n, 3, h, \?\].*shapes=") as caught:
        import_model(proto)
    assert caught.value.inputs == {"x": ("n", 3, "h", None)}
    assert import_model(proto, shapes={"x": [None, 3, 8, 9]}).inputs[0][1].type.shape == (N, 3, 8, 9)
    with pytest.raises(FreeDimensionsError, match="no shape at all"):
        import_model(model([node("Relu", "x", "y")], {"x": None}))


def test_a_dimension_name_fixed_once_is_fixed_everywhere() -> None:
    proto = model([node("Add", "a b", "y")], {"a": ["n", "h"], "b": ["n", "h"]})
    assert import_model(proto, shapes={"a": ["n", 7]}).inputs[1][1].type.shape == (N, 7)


@pytest.mark.parametrize("shapes", [{"z": [1]}, {"x": [1, 2, 3]}, {"x": [-2, 3]}, {"x": [2.5, 3]}, {"x": None}, {"x": 3}, {"x": "3"}])
def test_wrong_requests(shapes: Any) -> None:
    with pytest.raises(UsageError):
        import_model(model([node("Relu", "x", "y")], {"x": ["n", 3]}), shapes=shapes)


def test_a_node_that_needs_the_batch_size_is_named() -> None:
    proto = model([node("Reshape", "x s", "y", "rigid")], {"x": ["n", 6]}, weights={"s": ints(2, 3)})
    with pytest.raises(BatchNotSymbolicError, match=r"Reshape: .*\[node rigid\]"):
        import_model(proto)
    assert import_model(proto, batch=1).outputs[0][1].type.shape == (2, 3)
    proto = model([node("Squeeze", "x", "y", "sq")], {"x": ["n", 6, 1]}, opset=11)
    with pytest.raises(BatchNotSymbolicError, match=r"\[node sq\]"):
        import_model(proto)


def test_contents_of_inputs_that_shapes_need() -> None:
    proto = model([node("Slice", "x s e", "y", "cut")], {"x": ["n", 6], "s": (TensorProto.INT64, [2]), "e": (TensorProto.INT64, [2])})
    with pytest.raises(ContentsNeededError, match="cut: Slice") as caught:
        import_model(proto)
    assert caught.value.inputs == ("e", "s")
    graph = import_model(proto, constants={"s": ints(0, 1), "e": ints(2**40, 3)})
    assert [name for name, _ in graph.inputs] == ["x"]
    assert graph.outputs[0][1].type.shape == (N, 2)
    with pytest.raises(UsageError, match="constant for 's'"):
        import_model(proto, constants={"s": np.zeros(2, np.float32)})
    with pytest.raises(UsageError, match="names 'q'"):
        import_model(proto, constants={"q": ints(1)})


def test_unsupported_operators_come_before_free_dimensions() -> None:
    proto = model([node("Relu", "x", "a"), node("Frobnicate", "a", "y")], {"x": ["n", "h"]}, output_type=TensorProto.INT64)
    with pytest.raises(UnsupportedError) as caught:
        import_model(proto)
    assert [p.op for p in caught.value.problems] == ["Frobnicate"]
