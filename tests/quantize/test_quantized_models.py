"""Quantised models: close to float, the same in onnxruntime and OpenVINO, all integer in cnngraph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import cnngraph
from cnngraph.errors import InvalidInputError, UsageError
from cnngraph.options import CompileOptions
from cnngraph.quantize import QuantizeOptions, Quantizer
from cnngraph.quantize.insert import quantized_weights
from cnngraph.quantize.ranges import METHODS
from cnngraph_models import digits, trained_path

from . import support

node = helper.make_node


def calibrated(options: QuantizeOptions | None = None) -> Quantizer:
    quantizer = Quantizer(support.mixed(), options)
    quantizer.calibrate(support.samples())
    return quantizer


@pytest.mark.parametrize("method", METHODS)
def test_digits_lose_at_most_half_a_point(method: str) -> None:
    images, labels = digits.held_out()
    x = digits.preprocess(images)
    path = trained_path("digits_lenet.onnx")
    quantizer = Quantizer(str(path), QuantizeOptions(method))
    quantizer.calibrate([{"input": x[i : i + 20]} for i in range(0, 100, 20)])
    model = quantizer.quantize().model
    program = cnngraph.compile(model)
    assert not program.report["rejections"] and not program.report["reference_steps"]
    wanted = (cnngraph.compile(path).run({"input": x})["probabilities"].argmax(1) == labels).mean()
    got = program.run({"input": x})["probabilities"]
    assert (got.argmax(1) == labels).mean() >= wanted - 0.005
    assert len(model.SerializeToString()) < path.stat().st_size / 3


def test_everything_is_fused_and_the_peers_agree() -> None:
    model = calibrated().quantize().model
    onnx.checker.check_model(model, full_check=True)
    program = cnngraph.compile(model)
    assert not program.report["rejections"] and not program.report["reference_steps"]
    assert {kernel.name.split("_")[0] for kernel in program.kernels} >= {"qconv", "qdepthwise", "qbinary", "qdense", "lookup", "qpool"}
    (feeds,) = support.samples(1, 8, seed=9)
    (got,) = program.run(feeds).values()
    (exact,) = support.onnxruntime(support.mixed(), feeds)
    (other,) = support.onnxruntime(model, feeds)
    assert np.abs(got - exact).max() < 0.02
    assert np.abs(got - other).max() < 0.01
    ov = pytest.importorskip("openvino")
    core = ov.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.abs(got - compiled(feeds)[0]).max() < 0.02


def test_every_dequantised_tensor_has_a_standard_pair() -> None:
    result = calibrated().quantize()
    graph = result.model.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    makers = {name: n for n in graph.node for name in n.output}
    for n in graph.node:
        if n.op_type != "DequantizeLinear":
            continue
        scale, zero = constants[n.input[1]], constants[n.input[2]]
        assert scale.dtype == np.float32 and (scale > 0).all() and scale.shape == zero.shape
        if n.input[0] in constants:
            assert constants[n.input[0]].dtype in (np.int8, np.int32) and scale.ndim == 1 and not zero.any()
        else:
            made = makers[n.input[0]]
            assert made.op_type == "QuantizeLinear" and list(made.input[1:]) == list(n.input[1:]) and zero.dtype == np.uint8
    assert {t.name for t in graph.initializer if t.name in ("w1", "w2", "gamma")} == set()


def test_excluded_layers_stay_float_and_the_rest_still_fuses() -> None:
    quantizer = calibrated()
    model = quantizer.quantize(["conv2", "gate"]).model
    floats = {n.name: n for n in model.graph.node if n.op_type == "Conv"}
    assert floats["conv2"].input[1] in {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    program = cnngraph.compile(model)
    assert any(k.name.startswith("qconv") for k in program.kernels)
    assert not [r for r in program.report["rejections"] if r["pass"] == "fuse_qdq" and "conv1" in r["node"]]
    (feeds,) = support.samples(1, 2, seed=4)
    assert np.abs(program.run(feeds)["y"] - support.onnxruntime(support.mixed(), feeds)[0]).max() < 0.02


def test_outputs_keep_their_names_even_where_they_are_quantised() -> None:
    rng = np.random.default_rng(0)
    model = support.build(
        [node("Conv", ["x", "w"], ["a"], "one"), node("Conv", ["a", "v"], ["y"], "two")],
        {name: rng.standard_normal((4, 4, 1, 1)).astype(np.float32) for name in "wv"}, ["N", 4, 5, 5],
        {"a": ["N", 4, 5, 5], "y": ["N", 4, 5, 5]},
    )  # fmt: skip
    quantizer = Quantizer(model)
    feeds = {"x": rng.standard_normal((2, 4, 5, 5)).astype(np.float32)}
    quantizer.calibrate([feeds])
    result = quantizer.quantize().model
    onnx.checker.check_model(result, full_check=True)
    got = cnngraph.compile(result).run(feeds)
    assert list(got) == ["a", "y"]
    for array, exact in zip(got.values(), support.onnxruntime(model, feeds), strict=True):
        assert 0 < np.abs(array - exact).max() < 0.02 * np.abs(exact).max()


def test_seven_bit_weights() -> None:
    model = calibrated(QuantizeOptions(weight_bits=7)).quantize().model
    weights = [
        onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.INT8 and t.dims and "weight" in t.name
    ]
    assert max(int(np.abs(w.astype(int)).max()) for w in weights) == 63


def test_scales_of_weights_hold_their_bias() -> None:
    w = np.array([[1e-9], [0.0], [2.0], [0.0]], np.float32)
    bias = np.array([1.0, 0.5, 1.0, 0.0], np.float32)
    integers, scale = quantized_weights(w, bias, 0.01, 0, 8)
    steps = bias / (np.float32(0.01) * scale)
    assert np.abs(steps).max() < 2**31
    np.testing.assert_allclose(np.rint(steps) * 0.01 * scale, bias, rtol=1e-5)
    assert integers[2, 0] == 127 and scale[3] == 1 and not integers[3].any()


def test_wrong_options_and_samples() -> None:
    for wrong in ({"method": "best"}, {"percentile": 30.0}, {"weight_bits": 4}):
        with pytest.raises(UsageError):
            QuantizeOptions(**wrong)  # type: ignore[arg-type]
    quantizer = Quantizer(support.mixed())
    with pytest.raises(UsageError, match="calibrate first"):
        quantizer.quantize()
    with pytest.raises(InvalidInputError, match="no samples"):
        quantizer.calibrate([])
    with pytest.raises(InvalidInputError):
        quantizer.calibrate([{"x": np.zeros((1, 3, 17, 16), np.float32)}])


def test_external_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(support.mixed(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    quantizer = Quantizer(path)
    quantizer.calibrate(support.samples())
    assert quantizer.quantize().model.graph.initializer[0].data_location == onnx.TensorProto.DEFAULT
    assert quantizer.quantize().parameters == calibrated().quantize().parameters


def test_compile_says_where_eight_bits_gain_little(caplog: pytest.LogCaptureFixture) -> None:
    from cnngraph_cpu.target import available

    if "avx2" not in available():
        pytest.skip("this machine does not run avx2")
    model = calibrated().quantize().model
    program = cnngraph.compile(model, isa="avx2")
    assert "avx2 has no dot products of bytes" in program.report["notices"][0] and "avx2 has no dot" in caplog.text
    assert cnngraph.compile(support.mixed(), options=CompileOptions(isa="avx2")).report["notices"] == []
