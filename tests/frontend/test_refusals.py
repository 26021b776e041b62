"""Models that contradict themselves or need what is lacking: one clear error that names the node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cnngraph.errors import CnngraphError, InternalError, InvalidModelError, LimitExceededError, UnsupportedError
from cnngraph.frontend import import_model
from tests.frontend.support import floats, ints, model, node

IMAGE = {"x": ["n", 4, 8, 8]}


def conv(**attributes: Any) -> onnx.ModelProto:
    return model([node("Conv", "x w", "y", "bad", **attributes)], IMAGE, weights={"w": floats(4, 4, 3, 3)})


def pool(**attributes: Any) -> onnx.ModelProto:
    return model([node("MaxPool", "x", "y", "bad", **{"kernel_shape": [2, 2]} | attributes)], IMAGE)


def with_input(op: str, numbers: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    return model([node(op, "x w", "y", "bad", **attributes)], {"x": [4, 6]}, weights={"w": numbers})


def of_shape(*dims: int) -> onnx.ModelProto:
    return model([node("ConstantOfShape", "w", "y", "bad")], {"x": [1]}, weights={"w": ints(*dims)})


def duplicate_attribute() -> onnx.ModelProto:
    proto = conv(group=1)
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 2))
    return proto


def duplicate_output() -> onnx.ModelProto:
    return model([node("Relu", "x", "y"), node("Sigmoid", "x", "y", "bad")], IMAGE)


HOSTILE = {
    "stride 0": conv(strides=[0, 1]),
    "negative pads": conv(pads=[-1, 0, 0, 0]),
    "1-d stride": conv(strides=[1]),
    "too few pads": conv(pads=[1, 1]),
    "group 0": conv(group=0),
    "group does not divide": conv(group=3),
    "negative group": conv(group=-1),
    "kernel_shape differs": conv(kernel_shape=[5, 5]),
    "dilation 2^40": conv(dilations=[2**40, 1]),
    "dilation 0": conv(dilations=[0, 1]),
    "pad 2^30": model([node("Conv", "x w", "y", "bad", pads=[2**30] * 4)], IMAGE, weights={"w": floats(4, 4, 3, 3)}),
    "bad auto_pad": conv(auto_pad="SOMETIMES"),
    "auto_pad against pads": conv(auto_pad="VALID", pads=[1, 1, 1, 1]),
    "channels differ": model([node("Conv", "x w", "y", "bad")], IMAGE, weights={"w": floats(4, 3, 3, 3)}),
    "bias of other length": model([node("Conv", "x w b", "y", "bad")], IMAGE, weights={"w": floats(4, 4, 3, 3), "b": floats(5)}),
    "kernel larger than input": pool(kernel_shape=[9, 9]),
    "kernel 0": pool(kernel_shape=[0, 2]),
    "pool pads as large as kernel": pool(pads=[2, 2, 2, 2]),
    "ceil_mode 7": pool(ceil_mode=7),
    "kernel missing": model([node("AveragePool", "x", "y", "bad")], IMAGE),
    "two -1": with_input("Reshape", ints(-1, -1)),
    "reshape -2": with_input("Reshape", ints(-2, 24)),
    "reshape 0 beyond rank": with_input("Reshape", ints(4, 6, 0)),
    "reshape other size": with_input("Reshape", ints(5, 5)),
    "reshape 2^40": with_input("Reshape", ints(2**40, 2**40)),
    "gather out of range": with_input("Gather", ints(100)),
    "gather axis": with_input("Gather", ints(0), axis=2),
    "expand": with_input("Expand", ints(3, 6)),
    "expand 4 TB": model([node("Expand", "x w", "y", "bad")], {"x": [1, 1]}, weights={"w": ints(2**20, 2**20)}),
    "constant of 4 TB": of_shape(2**20, 2**20),
    "constant overflow": of_shape(2**62, 2**62, 2**62),
    "negative constant": of_shape(-1, 4),
    "transpose": model([node("Transpose", "x", "y", "bad", perm=[0, 0])], {"x": [4, 6]}),
    "concat": model([node("Concat", "x w", "y", "bad", axis=0)], {"x": [4, 6]}, weights={"w": floats(4, 5)}),
    "unsqueeze twice": with_input("Unsqueeze", ints(0, 0)),
    "squeeze of 4": with_input("Squeeze", ints(0)),
    "pad count": with_input("Pad", ints(1, 1, 1)),
    "pad 2^40": with_input("Pad", ints(2**40, 0, 0, 0)),
    "crop too much": with_input("Pad", ints(-3, 0, -3, 0)),
    "split": with_input("Split", ints(3, 3)),
    "slice step 0": model([node("Slice", "x a b c c", "y", "bad")], {"x": [4, 6]}, weights={"a": ints(0), "b": ints(1), "c": ints(0)}),
    "broadcast": with_input("Add", floats(5)),
    "matmul": with_input("MatMul", floats(5, 2)),
    "gemm": with_input("Gemm", floats(5, 2)),
    "reduce axis": with_input("ReduceSum", ints(2)),
    "reduce axis twice": with_input("ReduceSum", ints(1, -1)),
    "softmax axis": model([node("Softmax", "x", "y", "bad", axis=5)], {"x": [4, 6]}),
    "lrn size": model([node("LRN", "x", "y", "bad", size=0)], IMAGE),
    "duplicate attribute": duplicate_attribute(),
    "unknown attribute": conv(colour=1),
    "wrong attribute type": conv(group=1.5),
    "too many inputs": model([node("Relu", "x x", "y", "bad")], IMAGE),
    "too few inputs": model([node("Conv", "x", "y", "bad")], IMAGE),
    "absent input": model([node("Add", "x _", "y", "bad")], IMAGE),
    "too many outputs": model([node("Relu", "x", "y z", "bad")], IMAGE),
    "undefined input": model([node("Add", "x nothing", "y", "bad")], IMAGE),
    "duplicate output name": duplicate_output(),
    "output named as input": model([node("Relu", "x", "x", "bad")], IMAGE, "x"),
    "self loop": model([node("Add", "x y", "y", "bad")], IMAGE),
    "range too long": model(
        [node("Range", "a b c", "y", "bad")], {"x": [1]}, weights=dict(zip("abc", np.array([0, 2**62, 0]), strict=True))
    ),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_model(what: str) -> None:
    with pytest.raises((InvalidModelError, LimitExceededError)) as caught:
        import_model(HOSTILE[what])
    assert caught.value.node == "bad"
    assert "[node bad]" in str(caught.value)
    assert HOSTILE[what].graph.node[-1].op_type in str(caught.value) or what == "self loop"


def test_pool_with_dilation_and_pad_overflow() -> None:
    for proto in (pool(dilations=[2**40, 1]), pool(strides=[2**62, 2**62], pads=[2**62] * 4)):
        with pytest.raises(CnngraphError, match=r"\[node bad\]"):
            import_model(proto)


def test_cycle_names_its_nodes() -> None:
    nodes = [node("Relu", "x", "a", "free"), node("Add", "a c", "b", "one"), node("Relu", "b", "c", "two"), node("Relu", "c", "y", "after")]
    with pytest.raises(InvalidModelError, match=r"cycle: (one -> two -> one|two -> one -> two)"):
        import_model(model(nodes, IMAGE))


def test_everything_unsupported_is_listed_at_once() -> None:
    nodes = [
        node("Momentous", "x", "a", "first"),
        node("Relu", "a", "b", "poisoned"),
        node("Fancy", "x", "c", "second", domain="com.example"),
        node("Frobnicate", "b", "d", "third"),
        node("Cast", "x", "e", "fourth", to=TensorProto.COMPLEX64),
        node("BatchNormalization", "x s s s s", "f g h i", "fifth"),
        node("Relu", "x", "y", "fine"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        import_model(model(nodes, {"x": ["n", 4]}, weights={"s": floats(4)}, opset=13))
    problems = {p.node: (p.op, p.reason) for p in caught.value.problems}
    assert list(problems) == ["first", "second", "third", "fourth", "fifth"]
    assert problems["second"][0] == "com.example::Fancy"
    assert "does not exist in operator set 13" in problems["third"][1]
    assert "COMPLEX64" in problems["fourth"][1]
    for name in ("first", "com.example::Fancy", "third"):
        assert name in str(caught.value)


def test_what_functions_and_branches_lack_is_listed_with_their_place() -> None:
    branch = helper.make_graph(
        [node("Odd", "x", "b", "inner")], "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    )
    nodes = [
        node("Constant", "", "c", value_int=1),
        node("Cast", "c", "t", to=TensorProto.BOOL),
        node("If", "t", "z", "choice", then_branch=branch, else_branch=branch),
        node("Mine", "x", "y", "call", domain="own"),
    ]
    proto = model(nodes, IMAGE, "y z")
    proto.functions.add(name="Mine", domain="own", input=["a"], output=["b"]).node.add(op_type="Even", input=["a"], output=["b"])
    proto.opset_import.add(domain="own", version=1)
    with pytest.raises(UnsupportedError) as caught:
        import_model(proto)
    assert [(p.node, p.op) for p in caught.value.problems] == [("choice/inner", "Odd"), ("call/Even_0", "Even")]


def test_function_that_calls_itself() -> None:
    proto = model([node("Mine", "x", "y", "call", domain="own")], IMAGE)
    proto.functions.add(name="Mine", domain="own", input=["a"], output=["b"]).node.add(
        op_type="Mine", domain="own", input=["a"], output=["b"]
    )
    proto.opset_import.add(domain="own", version=1)
    with pytest.raises(InvalidModelError, match="call itself"):
        import_model(proto)


def test_declared_outputs_are_compared(caplog: pytest.LogCaptureFixture) -> None:
    proto = model([node("Relu", "x", "y")], {"x": [2, 3]}, output_type=TensorProto.DOUBLE)
    with pytest.raises(InvalidModelError, match=r"output 'y' is float32.*declares float64"):
        import_model(proto)
    proto = model([node("Relu", "x", "y")], {"x": [2, 3]})
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2]))
    with pytest.raises(InvalidModelError, match="output 'y'"):
        import_model(proto)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4]))
    import_model(proto)
    assert "declares float32[2, 4]" in caplog.text


@pytest.mark.parametrize("name", ['"); import os #', "a\nb", "../x", "m" * 1_000_000, "\0", "a.b", "é"])
def test_names_are_only_names(name: str) -> None:
    proto = model([node("Relu", "x", "t", name), node("Relu", "t", "y")], IMAGE)
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = name
    graph = import_model(proto)
    assert graph.nodes[0].output.names == (name,)
    assert graph.nodes[0].origin == (name,)
    proto.graph.node[0].input[0] = name + "?"
    with pytest.raises(InvalidModelError) as caught:
        import_model(proto)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500


def test_names_that_are_not_utf8() -> None:
    data = model([node("Relu", "x", "y", "XXXX")], IMAGE).SerializeToString().replace(b"XXXX", b"\xff\xfe\xff\xff")
    with pytest.raises(InvalidModelError, match=r"not valid UTF-8|not an ONNX model"):
        import_model(data)


def test_two_versions_of_one_operator_set() -> None:
    proto = model([node("Relu", "x", "y")], IMAGE)
    proto.opset_import.add(domain="ai.onnx", version=9)
    with pytest.raises(InvalidModelError, match="two versions"):
        import_model(proto)


def test_graph_output_that_nothing_makes() -> None:
    with pytest.raises(InvalidModelError, match="output 'y' is made by no node"):
        import_model(model([node("Relu", "x", "z")], IMAGE))


def test_random_damage_never_escapes_the_hierarchy() -> None:
    data = bytearray(conv(strides=[1, 1], pads=[1, 1, 1, 1]).SerializeToString())
    rng = np.random.default_rng(0)
    outcomes = {"imported": 0, "refused": 0}
    for _ in range(400):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            damaged[position] = int(rng.integers(256))
        try:
            import_model(bytes(damaged))
            outcomes["imported"] += 1
        except InternalError:
            raise
        except CnngraphError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100
    assert sum(outcomes.values()) == 400
