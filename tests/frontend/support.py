"""Small ONNX models for the frontend's tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cnngraph.eager.evaluate import Evaluator
from cnngraph.frontend import import_model
from cnngraph.frontend.bodies import Bodies
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.verify import verify

Dims = Sequence[int | str | None] | None


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node whose tensors are separated by blanks; ``_`` is an absent one."""

    def split(names: str) -> list[str]:
        return ["" if n == "_" else n for n in names.split()]

    return helper.make_node(op, split(inputs), split(outputs), name=name, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims | tuple[int, Dims]],
    outputs: str = "y",
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    output_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model of float inputs (or ``(element type, dims)``) whose outputs declare no shape."""
    infos = []
    for name, spec in inputs.items():
        element, dims = (
            spec if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[1], (list, type(None))) else (TensorProto.FLOAT, spec)
        )
        infos.append(helper.make_tensor_value_info(name, element, dims))
    results = [helper.make_tensor_value_info(name, output_type, None) for name in outputs.split()]
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()]
    graph = helper.make_graph(list(nodes), "test", infos, results, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def run(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the verified graph, and of its tail, by the operators' references."""
    verify(graph, "import")
    tail = graph.tail
    made = interpret(graph, {name: array for name, array in feeds.items() if name in dict(graph.inputs)})
    if tail is None:
        return made
    values = {key: made[name] for key, name in tail.feeds.items()} | {key: feeds[name] for key, name in tail.direct.items()}
    results = Evaluator(Bodies(tail.functions)).tail(tail, values | tail.constants, list(tail.outputs))
    return {name: results[name] if name in results else made[name] for name in tail.order}


def run_model(proto: onnx.ModelProto, **feeds: np.ndarray) -> np.ndarray:
    """The first output of a model."""
    return next(iter(run(import_model(proto), feeds).values()))


def op_names(graph: Graph) -> list[str]:
    """Names of the graph's operators in order."""
    return [n.op.name for n in graph.nodes]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Seeded normal numbers in float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*numbers: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(numbers, np.int64)
