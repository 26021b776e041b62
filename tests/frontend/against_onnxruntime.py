"""One node, run by the operators' references and by onnxruntime."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from cnngraph.frontend import import_model
from tests.frontend.support import run

LACKING = ("NOT_IMPLEMENTED", "not implemented", "Could not find an implementation", "is not supported with", "not supported for")


def single_node(
    op: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int | Sequence[int],
    opset: int,
    constants: Collection[int] = (),
    batch: Collection[int] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node. ``constants`` are inputs stored as weights, ``batch`` those whose first dimension is free.

    ``outputs`` is how many there are, or the numbers of those that are named.
    """
    wanted = list(range(outputs)) if isinstance(outputs, int) else list(outputs)
    names = [f"y{i}" if i in wanted else "" for i in range(max(wanted) + 1)]
    feeds, weights = [], []
    for i, array in enumerate(inputs):
        if array is None:
            continue
        if i in constants:
            weights.append(numpy_helper.from_array(array, f"x{i}"))
        else:
            dims: list[int | str] = list(array.shape)
            if i in batch:
                dims[0] = "N"
            feeds.append(helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(array.dtype), dims))
    node = helper.make_node(op, ["" if a is None else f"x{i}" for i, a in enumerate(inputs)], names, **attributes)
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in wanted]
    graph = helper.make_graph([node], op, feeds, results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


def ours(model: onnx.ModelProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Outputs by the references."""
    fed = {info.name for info in model.graph.input}
    feeds = {f"x{i}": a for i, a in enumerate(inputs) if a is not None and f"x{i}" in fed}
    results = run(import_model(model), feeds)
    return [results[info.name] for info in model.graph.output]


def theirs(model: onnx.ModelProto, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Outputs of onnxruntime; skips the test if it lacks the operator or the element type."""
    ort = pytest.importorskip("onnxruntime")
    ort.set_default_logger_severity(4)
    typed = onnx.ModelProto.FromString(model.SerializeToString())
    inferred = onnx.shape_inference.infer_shapes(typed, strict_mode=False)
    del typed.graph.output[:]
    for info in inferred.graph.output:
        kept = onnx.ValueInfoProto(name=info.name)
        kept.type.tensor_type.elem_type = info.type.tensor_type.elem_type
        typed.graph.output.append(kept)
    fed = {info.name for info in model.graph.input}
    feeds = {f"x{i}": a for i, a in enumerate(inputs) if a is not None and f"x{i}" in fed}
    try:
        return list(ort.InferenceSession(typed.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds))
    except Exception as error:
        if any(text in str(error) for text in LACKING):
            pytest.skip("onnxruntime lacks this operator or element type")
        raise


def compare(
    op: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int | Sequence[int] = 1,
    opset: int = 18,
    constants: Collection[int] = (),
    batch: Collection[int] = (),
    tolerance: float = 2e-6,
    **attributes: Any,
) -> None:
    """Assert that both give the same shapes, types and numbers (integers exactly)."""
    model = single_node(op, inputs, outputs, opset, constants, batch, **attributes)
    expected = theirs(model, inputs)
    for got, want in zip(ours(model, inputs), expected, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype.kind in "biu":
            np.testing.assert_array_equal(got, want)
        else:
            limit = max(tolerance, 2e-3) if want.dtype == np.float16 else tolerance
            np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=limit, atol=limit)
