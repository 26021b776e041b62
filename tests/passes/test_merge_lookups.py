"""Functions of functions of one 8-bit tensor become one table."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph
from cnngraph.frontend import import_model
from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import DType, TensorType
from cnngraph.ops import QLinearBinary, QLinearUnary, QTable
from cnngraph.passes.base import PassContext
from cnngraph.passes.fuse_qdq import FuseQDQ
from cnngraph.passes.merge_lookups import MergeLookups


def model(dtype: type[np.integer], steps: list[tuple[str, list[str]]], outputs: list[str], shape: tuple[int, ...] = (2, 19, 5)) -> bytes:
    """Each step an operator on dequantised tensors whose result is quantised; "x" is the input, quantised too."""
    nodes, constants = [], []

    def quantized(name: str, scale: float, zero: int) -> None:
        constants.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}_s"))
        constants.append(numpy_helper.from_array(np.array(zero, dtype), f"{name}_z"))
        parameters = [f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_d"], f"{name}_d"))

    quantized("x", 0.05, 3)
    for number, (op, inputs) in enumerate(steps):
        name = f"t{number}"
        nodes.append(helper.make_node(op, [f"{i}_d" for i in inputs], [name], name))
        quantized(name, 0.004 * (number + 1), 5 + number)
    graph = helper.make_graph(
        nodes, "functions", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])],
        [helper.make_tensor_value_info(f"{name}_d", TensorProto.FLOAT, ["N", *shape[1:]]) for name in outputs], constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made.SerializeToString()


SILU = [("Sigmoid", ["x"]), ("Mul", ["x", "t0"])]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("steps", "outputs", "tables"),
    [
        (SILU, ["t1"], 1),
        ([("Sigmoid", ["x"]), ("Mul", ["t0", "x"])], ["t1"], 1),
        ([("Sigmoid", ["x"]), ("Tanh", ["x"]), ("Add", ["t0", "t1"])], ["t2"], 1),
        ([*SILU, ("Tanh", ["t1"])], ["t2"], 1),
        (SILU, ["t0", "t1"], 1),
        ([("Mul", ["x", "x"])], ["t0"], 0),
    ],
)
def test_results_are_those_of_the_steps(
    dtype: type[np.integer], steps: list[tuple[str, list[str]]], outputs: list[str], tables: int
) -> None:
    source = model(dtype, steps, outputs)
    graph = import_model(source)
    FuseQDQ().run(graph, PassContext())
    feeds = {"x": (np.random.default_rng(0).standard_normal((2, 19, 5)) * 5).astype(np.float32)}
    wanted = interpret(graph, feeds)
    before = len(graph)
    assert MergeLookups().run(graph, PassContext()) >= tables
    kinds = [type(node.op) for node in graph.nodes]
    assert kinds.count(QTable) == tables
    assert len(outputs) > 1 or not tables or (QLinearBinary not in kinds and QLinearUnary not in kinds and len(graph) < before)
    for name, array in interpret(graph, feeds).items():
        assert np.array_equal(array, wanted[name])
    program = cnngraph.compile(source)
    assert not program.report["reference_steps"]
    for name, array in program.run(feeds).items():
        assert np.array_equal(array, wanted[name])


def test_functions_of_different_tensors_stay() -> None:
    graph = Graph()
    x, y = (graph.add_input(name, TensorType(DType.U8, (3, 4))) for name in "xy")
    scale, zero = graph.constant(np.array(0.1, np.float32)), graph.constant(np.array(3, np.uint8))
    given = graph.add_input("scale", TensorType(DType.F32, ()))
    (f,) = graph.add(QLinearUnary("sigmoid"), (x, scale, zero, scale, zero))
    (g,) = graph.add(QLinearUnary("sigmoid"), (f, given, zero, scale, zero))
    for other in (y, g):
        (product,) = graph.add(QLinearBinary("mul"), (f, scale, zero, other, scale, zero, scale, zero))
        graph.add_output(f"out{len(graph)}", product)
    assert MergeLookups().run(graph, PassContext()) == 0


@pytest.mark.parametrize("kind", ["add", "mul"])
@pytest.mark.parametrize("first", [False, True])
def test_one_number_for_all(kind: str, first: bool) -> None:
    """Of shape [1, 1], as the QOperator form has them; one number a channel stays an operand."""
    graph, rng = Graph("test"), np.random.default_rng(0)
    x = graph.add_input("x", TensorType(DType.U8, (3, 5, 7)))

    def joined(constant: np.ndarray) -> Value:
        c = graph.constant(constant)
        numbers = [graph.constant(np.asarray(n)) for n in (np.float32(0.05), np.uint8(7), np.float32(0.02), np.uint8(100))]
        numbers += [graph.constant(np.asarray(n)) for n in (np.float32(0.06), np.uint8(30))]
        pairs = [(x, *numbers[:2]), (c, *numbers[2:4])]
        operands = [value for pair in (pairs[::-1] if first else pairs) for value in pair]
        return graph.add(QLinearBinary(kind), [*operands, *numbers[4:]], origin=("n",))[0]

    graph.add_output("one", joined(np.full((1, 1), 180, np.uint8)))
    graph.add_output("five", joined(rng.integers(0, 256, (5, 1)).astype(np.uint8)))
    feeds = {"x": rng.integers(0, 256, (3, 5, 7)).astype(np.uint8)}
    before = interpret(graph, feeds)
    assert MergeLookups().run(graph, PassContext()) == 1 and sorted(n.op.name for n in graph.nodes) == ["QLinearBinary", "QTable"]
    after = interpret(graph, feeds)
    assert all(len(np.unique(before[name])) > 30 and np.array_equal(before[name], after[name]) for name in before)
