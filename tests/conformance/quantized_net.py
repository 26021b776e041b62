"""A small residual network in the QDQ form: standard, depthwise and 1x1 convolutions, pooling, a dense layer."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Qdq:
    """Writes QDQ groups; tensors are known by name, their scale and zero point by the tables."""

    def __init__(self, dtype: type[np.integer], per_channel: bool, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype, self.per_channel = dtype, per_channel
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.scales: dict[str, float] = {}

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def quantized(self, x: str, scale: float, zero: int) -> str:
        """x through QuantizeLinear and DequantizeLinear; ``zero`` counts as unsigned."""
        shift = 128 if np.issubdtype(self.dtype, np.signedinteger) else 0
        parameters = (
            self.constant(f"{x}_scale", np.array(scale, np.float32)), self.constant(f"{x}_zero", np.array(zero - shift, self.dtype)),
        )  # fmt: skip
        y = self.add("DequantizeLinear", self.add("QuantizeLinear", x, *parameters), *parameters)
        self.scales[y] = scale
        return y

    def parameters(self, x: str, shape: tuple[int, ...], channels: int) -> tuple[str, str]:
        """Dequantised int8 weights (axis 0) and int32 bias."""
        number = len(self.nodes)
        scale = (self.rng.random(channels if self.per_channel else 1) * 0.01 + 0.004).astype(np.float32)
        scale = scale if self.per_channel else scale.reshape(())
        w = self.constant(f"w{number}", self.rng.integers(-127, 128, shape).astype(np.int8))
        ws = self.constant(f"ws{number}", scale)
        weights = self.add("DequantizeLinear", w, ws, self.constant(f"wz{number}", np.zeros(scale.shape, np.int8)), axis=0)
        b = self.constant(f"b{number}", self.rng.integers(-2000, 2000, channels).astype(np.int32))
        bs = self.constant(f"bs{number}", np.float32(self.scales[x]) * scale)
        return weights, self.add("DequantizeLinear", b, bs, self.constant(f"bz{number}", np.zeros(scale.shape, np.int32)), axis=0)

    def conv(self, x: str, channels: int, filters: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        pad = kernel // 2
        parameters = self.parameters(x, (filters, channels // group, kernel, kernel), filters)
        return self.add("Conv", x, *parameters, pads=[pad] * 4, strides=[stride] * 2, group=group, kernel_shape=[kernel] * 2)


def model(dtype: type[np.integer] = np.uint8, per_channel: bool = True, opset: int = 13) -> bytes:
    """The network; its input is float32 [N,3,20,18], its output float32 [N,10]."""
    g = Qdq(dtype, per_channel)
    x = g.quantized("input", 0.02, 128)
    x = g.quantized(g.add("Relu", g.conv(x, 3, 20, 3, 2)), 0.05, 0)
    six = (g.constant("low", np.array(0, np.float32)), g.constant("high", np.array(6, np.float32)))
    y = g.quantized(g.add("Clip", g.conv(x, 20, 20, 3, group=20), *six), 0.024, 3)
    y = g.quantized(g.conv(y, 20, 20, 1), 0.08, 130)
    y = g.quantized(g.add("Relu", g.add("Add", y, x)), 0.07, 0)
    y = g.quantized(g.add("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 0.07, 0)
    z = g.quantized(g.add("Sigmoid", y), 1 / 256, 0)
    y = g.quantized(g.add("Mul", y, z), 0.06, 5)
    y = g.quantized(g.add("Concat", y, z, axis=1), 0.06, 5)
    y = g.quantized(g.add("AveragePool", y, kernel_shape=[2, 2]), 0.05, 9)
    y = g.quantized(g.add("GlobalAveragePool", y), 0.02, 9)
    y = g.quantized(g.add("Flatten", y), 0.02, 9)
    y = g.quantized(g.add("Gemm", y, *g.parameters(y, (10, 40), 10), transB=1), 0.03, 120)
    graph = helper.make_graph(
        g.nodes, "qdq", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 20, 18])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 10])], g.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def dynamic(opset: int = 13) -> bytes:
    """Dynamic quantisation: DynamicQuantizeLinear, ConvInteger, scales, bias, Clip; MatMulInteger at the end."""
    g = Qdq(np.uint8, True, seed=1)

    def layer(op: str, x: str, w: np.ndarray, **attributes: object) -> str:
        number = len(g.nodes)
        q, s, z = (f"{name}{number}" for name in ("q", "s", "z"))
        g.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], [q, s, z], f"dynamic{number}"))
        weights = g.constant(f"w{number}", w)
        y = g.add(op, q, weights, z, g.constant(f"wz{number}", np.zeros((), w.dtype)), **attributes)
        scale = g.add("Mul", s, g.constant(f"ws{number}", np.array(0.01, np.float32)))
        return g.add("Mul", g.add("Cast", y, to=TensorProto.FLOAT), scale)

    def weights(*shape: int) -> np.ndarray:
        return g.rng.integers(-127, 128, shape).astype(np.int8)

    bias = g.constant("bias", g.rng.standard_normal((1, 20, 1, 1)).astype(np.float32))
    six = (g.constant("low", np.array(0, np.float32)), g.constant("high", np.array(6, np.float32)))
    y = layer("ConvInteger", "input", weights(20, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    y = g.add("Clip", g.add("Add", y, bias), *six)
    z = layer("ConvInteger", y, weights(20, 1, 3, 3), pads=[1] * 4, group=20)
    y = g.add("Add", layer("ConvInteger", z, weights(20, 20, 1, 1)), y)
    y = g.add("Flatten", g.add("GlobalAveragePool", y))
    y = layer("MatMulInteger", y, weights(20, 10))
    graph = helper.make_graph(
        g.nodes, "dynamic", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 20, 18])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", 10])], g.constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()
