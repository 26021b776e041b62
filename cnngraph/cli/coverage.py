"""How each ONNX operator is executed, found out by compiling one small sample of each up to the choice of kernels."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cnngraph.errors import CnngraphError, UnsupportedError


@dataclass(frozen=True)
class Bytes:
    """A run-time input of type uint8."""

    shape: tuple[int | str, ...]


Operand = tuple[int | str, ...] | Bytes | np.ndarray | None
"""Shape of a float32 run-time input, a uint8 one, contents of a stored tensor, or None for an absent one."""

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
    "MaxRoiPool": Sample(((1, *IMAGE[1:]), _weights(2, 5)), {"pooled_shape": [2, 2]}),
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

_SCALE, _ZERO, _BYTES = np.array(0.1, np.float32), np.array(128, np.uint8), Bytes(IMAGE)
_BYTE_MATRIX, _BYTE_WEIGHTS = Bytes(MATRIX), np.full((8, 16), 130, np.uint8)
_SCALE_AND_ZERO = np.array([0.1], np.float32), np.zeros(1, np.int8)


def _signed(*shape: int) -> np.ndarray:
    return np.ones(shape, np.int8)


# Operators that onnx itself knows nothing of.
SAMPLES |= {
    "com.microsoft::BiasGelu": Sample((MATRIX, _weights(8))),
    "com.microsoft::DequantizeLinear": Sample((_BYTES, _SCALE, _ZERO)),
    "com.microsoft::DynamicQuantizeLSTM": Sample(
        ((3, 2, 8), _signed(1, 8, 16), _signed(1, 4, 16), None, None, None, None, None, *_SCALE_AND_ZERO, *_SCALE_AND_ZERO),
        {"hidden_size": 4},
    ),
    "com.microsoft::DynamicQuantizeMatMul": Sample((MATRIX, _BYTE_WEIGHTS, _SCALE, _ZERO)),
    "com.microsoft::FusedConv": Sample((IMAGE, _weights(8, 8, 3, 3)), {"activation": "Relu"}),
    "com.microsoft::FusedGemm": Sample((MATRIX, _weights(8, 16)), {"activation": "Relu"}),
    "com.microsoft::FusedMatMul": Sample((MATRIX, _weights(8, 16))),
    "com.microsoft::MatMulIntegerToFloat": Sample((_BYTE_MATRIX, _BYTE_WEIGHTS, _SCALE, _SCALE)),
    "com.microsoft::QGemm": Sample((_BYTE_MATRIX, _SCALE, _ZERO, _BYTE_WEIGHTS, _SCALE, _ZERO, None, _SCALE, _ZERO)),
    "com.microsoft::QLinearAdd": Sample((_BYTES, _SCALE, _ZERO, _BYTES, _SCALE, _ZERO, _SCALE, _ZERO)),
    "com.microsoft::QLinearAveragePool": Sample((_BYTES, _SCALE, _ZERO, _SCALE, _ZERO), _WINDOW),
    "com.microsoft::QLinearConcat": Sample((_SCALE, _ZERO, _BYTES, _SCALE, _ZERO, _BYTES, _SCALE, _ZERO), {"axis": 1}),
    "com.microsoft::QLinearConv": Sample((_BYTES, _SCALE, _ZERO, np.full((8, 8, 3, 3), 130, np.uint8), _SCALE, _ZERO, _SCALE, _ZERO)),
    "com.microsoft::QLinearGlobalAveragePool": Sample((_BYTES, _SCALE, _ZERO, _SCALE, _ZERO)),
    "com.microsoft::QLinearLeakyRelu": Sample((_BYTES, _SCALE, _ZERO, _SCALE, _ZERO)),
    "com.microsoft::QLinearMul": Sample((_BYTES, _SCALE, _ZERO, _BYTES, _SCALE, _ZERO, _SCALE, _ZERO)),
    "com.microsoft::QLinearSigmoid": Sample((_BYTES, _SCALE, _ZERO, _SCALE, _ZERO)),
    "com.microsoft::QLinearSoftmax": Sample((_BYTE_MATRIX, _SCALE, _ZERO, _SCALE, _ZERO), {"opset": 13, "axis": -1}),
    "com.microsoft::QuantizeLinear": Sample((IMAGE, _SCALE, _ZERO)),
    "com.microsoft::SkipLayerNormalization": Sample((("N", 4, 8), ("N", 4, 8), _weights(8))),
}


@cache
def _onnx_cases() -> dict[str, tuple[onnx.ModelProto, list[Any]]]:
    """For every operator the first test of onnx itself that consists of one such node, and its inputs."""
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, tuple[onnx.ModelProto, list[Any]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            model = case.model
            if model is not None and len(model.graph.node) == 1 and case.data_sets:
                node = model.graph.node[0]
                op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                found.setdefault(op, (model, list(case.data_sets[0][0])))
    return found


def _from_onnx(op: str) -> onnx.ModelProto | None:
    """The case of onnx; all inputs but the first tensor are stored, as a model has them."""
    if op not in _onnx_cases():
        return None
    case, inputs = _onnx_cases()[op]
    if not all(isinstance(x, (np.ndarray, np.generic)) for x in inputs):
        return case
    model = onnx.ModelProto()
    model.CopyFrom(case)
    infos = list(model.graph.input)
    first = 1 if np.ndim(inputs[0]) else 0  # a single number is no network's input
    del model.graph.input[first:]
    stored = zip(infos[first:], inputs[first:], strict=True)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), info.name) for info, x in stored)
    return model


def sample_model(op: str) -> onnx.ModelProto:
    """A model of one node ``op`` (``domain::name`` outside the standard domain) in the newest operator set that fits."""
    domain, _, name = op.rpartition("::")
    version = int(onnx.defs.onnx_opset_version())
    sample = SAMPLES.get(op)
    if sample is None:
        found = _from_onnx(op)
        if found is not None:
            return found
        if domain:
            sample = Sample()
        else:  # a few operators are gone from newer sets
            version = next(v for v in range(version, 0, -1) if not onnx.defs.get_schema(op, v).deprecated)
            sample = Sample(tuple(IMAGE for _ in range(onnx.defs.get_schema(op, version).min_input)))
    inputs, stored, names = [], [], []
    for index, operand in enumerate(sample.operands):
        label = f"x{index}"
        names.append("" if operand is None else label)
        if isinstance(operand, Bytes):
            inputs.append(helper.make_tensor_value_info(label, TensorProto.UINT8, operand.shape))
        elif isinstance(operand, tuple):
            inputs.append(helper.make_tensor_value_info(label, TensorProto.FLOAT, operand))
        elif operand is not None:
            stored.append(numpy_helper.from_array(np.asarray(operand), label))
    results = [f"y{index}" for index in range(2 if op == "Split" else 1)]
    node = helper.make_node(name, names, results, name=name, domain=domain, **(sample.attributes or {}))
    graph = helper.make_graph([node], "sample", inputs, [onnx.ValueInfoProto(name=result) for result in results], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)])


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
