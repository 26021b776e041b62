"""A small float network with everything that quantisation handles."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def build(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[object], outputs: dict[str, list[object]]
) -> onnx.ModelProto:
    """A model with the input "x"."""
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def mixed(seed: int = 0) -> onnx.ModelProto:
    """Normalisation, residual sum, concatenation, gate, pools, SiLU and a dense layer."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray] = {"six": np.float32(6).reshape(()), "zero": np.float32(0).reshape(())}

    def weights(name: str, *shape: int) -> str:
        fan = int(np.prod(shape[1:]))
        constants[name] = (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        return name

    def vector(name: str, size: int, low: float = -0.3, high: float = 0.3) -> str:
        constants[name] = rng.uniform(low, high, size).astype(np.float32)
        return name

    norm = [vector("gamma", 16, 0.5, 1.5), vector("beta", 16), vector("mean", 16), vector("var", 16, 0.5, 2.0)]
    node = helper.make_node
    nodes = [
        node("Conv", ["x", weights("w1", 16, 3, 3, 3)], ["c1"], "conv1", pads=[1] * 4),
        node("BatchNormalization", ["c1", *norm], ["n1"], "norm1"),
        node("Clip", ["n1", "zero", "six"], ["r1"], "clip1"),
        node("Conv", ["r1", weights("w2", 16, 16, 3, 3), vector("b2", 16)], ["c2"], "conv2", pads=[1] * 4),
        node("Add", ["c2", "r1"], ["a1"], "add1"),
        node("Relu", ["a1"], ["r2"], "relu2"),
        node("MaxPool", ["r2"], ["p1"], "pool1", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", weights("w3", 16, 1, 3, 3), vector("b3", 16)], ["c3"], "depthwise", pads=[1] * 4, group=16),
        node("Sigmoid", ["c3"], ["s3"], "sigmoid3"),
        node("Mul", ["c3", "s3"], ["m3"], "silu3"),
        node("GlobalAveragePool", ["m3"], ["g"], "squeeze"),
        node("Conv", ["g", weights("w4", 16, 16, 1, 1), vector("b4", 16)], ["c4"], "gate"),
        node("Sigmoid", ["c4"], ["s4"], "gate_sigmoid"),
        node("Mul", ["m3", "s4"], ["m4"], "scaled"),
        node("Conv", ["p1", weights("w5", 8, 16, 1, 1), vector("b5", 8)], ["c5"], "side"),
        node("Concat", ["m4", "c5"], ["cat"], "concat", axis=1),
        node("AveragePool", ["cat"], ["p2"], "pool2", kernel_shape=[2, 2], strides=[2, 2]),
        node("GlobalAveragePool", ["p2"], ["p3"], "pool3"),
        node("Flatten", ["p3"], ["f"], "flatten"),
        node("MatMul", ["f", weights("w6", 24, 10)], ["y0"], "fc"),
        node("Add", ["y0", vector("b6", 10)], ["y1"], "fc_bias"),
        node("Softmax", ["y1"], ["y"], "softmax", axis=1),
    ]
    return build(nodes, constants, ["N", 3, 16, 16], {"y": ["N", 10]})


def samples(count: int = 3, batch: int = 4, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Random inputs of :func:`mixed`."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((batch, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs by onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)
