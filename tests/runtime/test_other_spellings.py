"""The interfaces of onnx.backend and onnxruntime, on a model with one kernel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import cnngraph
from cnngraph.errors import InvalidInputError, UsageError
from cnngraph.runtime.dynamic import DynamicProgram


def relu_model(dims: list[int | str | None]) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="only")], "g", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
MODEL = relu_model(["n", 3, 4, 4])


def test_backend() -> None:
    backend = cnngraph.backend
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    rep = backend.prepare(MODEL, "CPU", threads=1)
    for inputs in ([X], X, {"x": X}):
        (y,) = rep.run(inputs)
        np.testing.assert_array_equal(y, np.maximum(X, 0))
    assert type(rep.run([X]))._fields == ("y",)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(backend.run_model(MODEL, [X])[0], np.maximum(X, 0))
    with pytest.raises(InvalidInputError, match="2 inputs given, the model has 1: x"):
        rep.run([X, X])
    with pytest.raises(UsageError, match="CUDA"):
        backend.prepare(MODEL, "CUDA")


def test_backend_runs_a_node() -> None:
    node = helper.make_node("Relu", ["a"], ["b"])
    (y,) = cnngraph.backend.run_node(node, [X])
    np.testing.assert_array_equal(y, np.maximum(X, 0))
    (y,) = cnngraph.backend.run_node(node, {"a": X}, opset_version=13)
    np.testing.assert_array_equal(y, np.maximum(X, 0))


def test_compatibility_is_what_the_importer_says() -> None:
    assert cnngraph.backend.is_compatible(MODEL)
    strange = relu_model(["n", 3, 4, 4])
    strange.graph.node[0].op_type = "NoSuchOperator"
    assert not cnngraph.backend.is_compatible(strange)
    assert not cnngraph.backend.is_compatible(MODEL, "CUDA")


def test_session(tmp_path: Path) -> None:
    session = cnngraph.InferenceSession(MODEL.SerializeToString(), SimpleNamespace(intra_op_num_threads=1), ["CPUExecutionProvider"])
    assert session.program.threads == 1
    (described,) = session.get_inputs()
    assert (described.name, described.type, described.shape) == ("x", "tensor(float)", ["N", 3, 4, 4])
    assert [o.name for o in session.get_outputs()] == ["y"]
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_modelmeta().producer_name == "cnngraph"
    for names in (None, ["y"]):
        (y,) = session.run(names, {"x": X})
        np.testing.assert_array_equal(y, np.maximum(X, 0))
    session.program.save(tmp_path / "p.cnng")
    (y,) = cnngraph.InferenceSession(tmp_path / "p.cnng").run(None, {"x": X})
    np.testing.assert_array_equal(y, np.maximum(X, 0))
    with pytest.raises(UsageError, match="math"):
        cnngraph.InferenceSession(tmp_path / "p.cnng", math="exact")
    with pytest.raises(UsageError, match="CUDAExecutionProvider"):
        cnngraph.InferenceSession(MODEL.SerializeToString(), providers=["CUDAExecutionProvider"])


def test_free_shapes_compile_when_they_are_met() -> None:
    program = cnngraph.compile(relu_model(["n", 3, None, "w"]), threads=1)
    assert isinstance(program, DynamicProgram)
    for shape in ((1, 3, 4, 4), (5, 3, 4, 4), (1, 3, 2, 7)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(program.run({"x": x})["y"], np.maximum(x, 0))
    assert program.variants == 2
