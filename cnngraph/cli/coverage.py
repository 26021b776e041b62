"""How each ONNX operator is executed, found out by compiling one small sample of each up to the choice of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cnngraph.errors import CnngraphError, UnsupportedError

Operand = tuple[int | str, ...] | np.ndarray | None
"""Shape of a float32 run-time input, contents of a stored tensor, or None for an absent one."""

IMAGE: tuple[int | str, ...] = ("N", 8, 6, 6)
MATRIX: tuple[int | str, ...] = ("N", 8)


@dataclass(frozen=True)
class Sample:
    """One node: its operands and attributes."""

    operands: tuple[Operand, ...] = (IMAGE,)
    attributes: Mapping[str, Any] | None = None


def _weights(*shape: int) -> np.ndarray:
    return np.full(shape, 0.5, np.float32)


def _integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


_CHANNELS = tuple(_weights(8) for _ in range(4))
_WINDOW = {"kernel_shape": [2, 2]}

# Operators whose sample is not "one image of each declared input, no attributes", in the newest operator set.
SAMPLES: dict[str, Sample] = {
    "AveragePool": Sample(attributes=_WINDOW),
    "BatchNormalization": Sample((IMAGE, *_CHANNELS)),
    "Cast": Sample(attributes={"to": TensorProto.INT32}),
    "Clip": Sample((IMAGE, np.array(0, np.float32), np.array(6, np.float32))),
    "Concat": Sample((IMAGE, IMAGE), {"axis": 1}),
    "Constant": Sample((), {"value": numpy_helper.from_array(_weights(2))}),
    "ConstantOfShape": Sample((_integers(2, 3),)),
    "Conv": Sample((IMAGE, _weights(8, 8, 3, 3), _weights(8))),
    "Expand": Sample((IMAGE[:1] + (8, 1, 6), _integers(1, 8, 6, 6))),
    "Gather": Sample((IMAGE, _integers(0, 2)), {"axis": 1}),
    "Gemm": Sample((MATRIX, _weights(8, 16), _weights(16))),
    "LRN": Sample(attributes={"size": 5}),
    "MatMul": Sample((MATRIX, _weights(8, 16))),
    "Max": Sample((IMAGE, IMAGE)),
    "MaxPool": Sample(attributes=_WINDOW),
    "Mean": Sample((IMAGE, IMAGE)),
    "Min": Sample((IMAGE, IMAGE)),
    "PRelu": Sample((IMAGE, _weights(8, 1, 1))),
    "Pad": Sample((IMAGE, _integers(0, 0, 1, 1, 0, 0, 1, 1))),
    "Reshape": Sample((IMAGE, _integers(0, -1))),
    "Slice": Sample((IMAGE, _integers(1), _integers(5), _integers(2))),
    "Split": Sample(attributes={"axis": 1, "num_outputs": 2}),
    "Squeeze": Sample((("N", 8, 1, 1), _integers(2, 3))),
    "Sum": Sample((IMAGE, IMAGE)),
    "Transpose": Sample(attributes={"perm": [0, 2, 3, 1]}),
    "Unsqueeze": Sample((MATRIX, _integers(2))),
} | {
    f"Reduce{kind}": Sample((IMAGE, _integers(2, 3)))
    for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
}  # fmt: skip

_RESULTS = {"Cast": TensorProto.INT32, "Shape": TensorProto.INT64}


def sample_model(op: str) -> onnx.ModelProto:
    """A model of one node ``op`` in the newest operator set."""
    version = int(onnx.defs.onnx_opset_version())
    schema = onnx.defs.get_schema(op, version)
    sample = SAMPLES.get(op) or Sample(tuple(IMAGE for _ in range(schema.min_input)))
    inputs, stored, names = [], [], []
    for index, operand in enumerate(sample.operands):
        name = f"x{index}"
        names.append("" if operand is None else name)
        if isinstance(operand, tuple):
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, operand))
        elif operand is not None:
            stored.append(numpy_helper.from_array(np.asarray(operand), name))
    count = 2 if op == "Split" else 1
    results = [f"y{index}" for index in range(count)]
    node = helper.make_node(op, names, results, name=op, **(sample.attributes or {}))
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    for output in outputs:
        output.type.tensor_type.elem_type = _RESULTS.get(op, TensorProto.FLOAT)
    graph = helper.make_graph([node], "sample", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])


def execution(op: str, backend: str, isa: str | None = None) -> tuple[str, str]:
    """How a backend executes the sample of ``op``, and the kernel family or the reason.

    Returns:
        ("kernel", family), ("alias", "") where nothing is moved, ("folded", "") where nothing remains to be done at
        run time, ("numpy", reasons) where the NumPy definition runs, or ("unsupported", reason).
    """
    from cnngraph.backends import get_backend
    from cnngraph.frontend import import_model
    from cnngraph.options import CompileOptions
    from cnngraph.passes.base import PassContext
    from cnngraph.passes.choose_layout import ALIASES, choose_layout
    from cnngraph.pipeline import optimize

    chosen = get_backend(backend)
    try:
        graph = import_model(sample_model(op))
        optimize(graph, CompileOptions(), PassContext())
        choice = choose_layout(graph, chosen.templates(), chosen.target(isa))
    except UnsupportedError as error:
        return "unsupported", "; ".join(p.reason for p in error.problems) or str(error)
    except CnngraphError as error:
        return "unsupported", str(error)
    nodes = [node for node in graph.nodes if not isinstance(node.op, ALIASES)]
    if not nodes:
        return ("alias", "") if graph.nodes else ("folded", "")
    without = [node for node in nodes if choice.templates[node] is None]
    if without:
        refusals = {reason: None for s in choice.selections if s.node in without for reason in s.refused.values()}
        telling = [reason for reason in refusals if not reason.startswith("not ")]
        return "numpy", "; ".join(telling) or "no kernel family for it"
    families = dict.fromkeys(t.name for node in nodes if (t := choice.templates[node]) is not None)
    return "kernel", ", ".join(families)
