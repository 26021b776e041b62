"""Quantised networks: compiled on every instruction set equal to the references of the integer operators, and onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import cnngraph
from cnngraph.frontend import import_model
from cnngraph.ir.interpret import interpret
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.pipeline import optimize
from cnngraph_cpu.target import ISAS, available
from tests.conformance import quantized_net
from tests.conformance.quantized_net import Qdq

ort = pytest.importorskip("onnxruntime")

SHARED = Path(__file__).parents[3] / "shared" / "models"


def judge(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The optimised graph by the operators' references."""
    graph = import_model(model)
    optimize(graph, CompileOptions(), PassContext())
    return list(interpret(graph, feeds).values())


def onnxruntime(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.slow
@pytest.mark.parametrize("isa", available(special=True))
def test_integers_are_the_same_on_every_instruction_set(isa: str) -> None:
    for dtype in (np.uint8, np.int8):
        model = quantized_net.model(dtype)
        program = cnngraph.compile(model, isa=isa)
        assert not program.report["reference_steps"]
        rng = np.random.default_rng(3)
        for batch, threads in ((3, 1), (1, 2), (2, 3)):
            x = rng.standard_normal((batch, 3, 20, 18)).astype(np.float32)
            (got,) = program.run({"input": x}, threads=threads).values()
            (want,) = judge(model, {"input": x})
            assert np.array_equal(got, want)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_agrees_with_onnxruntime_within_a_step(dtype: type[np.integer]) -> None:
    model = quantized_net.model(dtype)
    x = np.random.default_rng(5).standard_normal((4, 3, 20, 18)).astype(np.float32)
    (got,) = cnngraph.compile(model).run({"input": x}).values()
    (want,) = onnxruntime(model, {"input": x})
    steps = np.rint((got - want) / 0.03)
    assert np.abs(steps).max() <= 1 and (steps == 0).mean() > 0.8


def test_layers_of_rows_with_the_batch_behind_the_time() -> None:
    """The order of recurrent layers: [T, N, channels]."""
    g = Qdq(np.int8, False)
    x = g.quantized(g.add("Transpose", g.quantized("input", 0.02, 128), perm=[1, 0, 2]), 0.02, 128)
    w = g.add("DequantizeLinear", g.constant("w", g.rng.integers(-127, 128, (20, 9)).astype(np.int8)), g.constant("ws", np.float32(0.01)))
    b = g.add("DequantizeLinear", g.constant("b", g.rng.integers(-127, 128, 9).astype(np.int8)), g.constant("bs", np.float32(0.01)))
    y = g.quantized(g.add("Add", g.quantized(g.add("MatMul", x, w), 0.03, 120), b), 0.03, 125)
    y = g.quantized(g.add("HardSigmoid", y), 1 / 256, 0)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("input", ["N", 7, 20]), (y, None))]
    graph = helper.make_graph(g.nodes, "rows", ends[:1], ends[1:], g.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    program, feeds = cnngraph.compile(model), {"input": np.random.default_rng(3).standard_normal((3, 7, 20)).astype(np.float32)}
    assert not program.report["reference_steps"]
    for got, want in zip(program.run(feeds).values(), judge(model, feeds), strict=True):
        assert got.shape == (7, 3, 9) and np.ptp(got) > 0.5 and np.array_equal(got, want)


@pytest.mark.parametrize("isa", [None, "avx2"])
def test_dynamic_quantisation(isa: str | None) -> None:
    if isa is not None and isa not in available():
        pytest.skip(f"this machine does not run {isa}")
    model = quantized_net.dynamic()
    program = cnngraph.compile(model, isa=isa)
    assert not program.report["reference_steps"]
    x = np.random.default_rng(5).standard_normal((3, 3, 20, 18)).astype(np.float32)
    for threads in (1, 3):
        (got,) = program.run({"input": x}, threads=threads).values()
        for want in (judge(model, {"input": x})[0], onnxruntime(model, {"input": x})[0]):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_the_target_with_dot_products_is_taken_for_integers_only() -> None:
    integers = cnngraph.compile(quantized_net.model())
    floats = cnngraph.compile(quantized_net.model(), options=CompileOptions(disabled_passes=("fuse_qdq", "integer_convolutions")))
    assert floats.data.isa == available()[0]
    dots = [isa for isa in available(special=True) if ISAS[isa].target.dot]
    assert integers.data.isa == (dots[0] if dots else available()[0])
    both = [isa for isa in dots if ISAS[isa].target.dot2]
    assert cnngraph.compile(quantized_net.model(), precision="bf16").data.isa == (both or dots or available())[0]


def test_sums_as_a_result() -> None:
    """int32 results of an integer convolution, whose blocked layout ends in a plain output."""
    rng = np.random.default_rng(2)
    w = numpy_helper.from_array(rng.integers(-128, 128, (20, 5, 3, 3)).astype(np.int8), "w")
    graph = helper.make_graph(
        [helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], pads=[1] * 4)], "sums",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 5, 7, 6]), helper.make_tensor_value_info("z", TensorProto.UINT8, [])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["N", 20, 7, 6])], [w],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    program = cnngraph.compile(model)
    assert not program.report["reference_steps"]
    feeds = {"x": rng.integers(0, 256, (3, 5, 7, 6)).astype(np.uint8), "z": np.array(77, np.uint8)}
    assert np.array_equal(program.run(feeds)["y"], judge(model, feeds)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tolerance"), [("micro_kws_static_qoperator", 0.0), ("micro_kws_static_qdq", 0.004), ("mobilenetv2_int8_b", 1e-4)]
)
def test_published_models(name: str, tolerance: float) -> None:
    folder = SHARED / name
    if not folder.exists():
        pytest.skip("the published models are not here")
    model = (folder / "model.onnx").read_bytes()
    feeds = dict(np.load(folder / "inputs.npz"))
    program = cnngraph.compile(model)
    for got, want in zip(program.run(feeds).values(), onnxruntime(model, feeds), strict=True):
        assert np.abs(np.asarray(got) - want).max() <= tolerance
