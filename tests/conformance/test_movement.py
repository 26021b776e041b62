"""Networks that move data in the ways of their frameworks: the copies that are left, and results, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import TensorProto, helper

import cnngraph
from cnngraph.ir.graph import Graph
from cnngraph.passes.base import PassRecord
from tests.conformance.quantized_net import Qdq

ort = pytest.importorskip("onnxruntime")


class Floats(Qdq):
    """Float layers under the same shorthand."""

    def __init__(self) -> None:
        super().__init__(np.uint8, True)

    def weights(self, *shape: int) -> str:
        data = self.rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        return self.constant(f"w{len(self.nodes)}", data)

    def conv3(self, x: str, channels: int, filters: int, stride: int = 1) -> str:
        return self.add("Conv", x, self.weights(filters, channels, 3, 3), pads=[1] * 4, strides=[stride] * 2, kernel_shape=[3, 3])

    def reshape(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(f"shape{len(self.nodes)}", np.array(shape, np.int64)))

    def transpose(self, x: str, *perm: int) -> str:
        return self.add("Transpose", x, perm=perm)

    def rows(self, x: str, width: int) -> str:
        """A dense layer of the last axis and its activation."""
        return self.add("Sigmoid", self.add("MatMul", x, self.weights(width, width)))


def unfolded_patches(g: Floats) -> str:
    """MobileViT: pixels at the same place of 2x2 patches attend to each other."""
    x = g.conv3("x", 3, 32)
    y = g.transpose(g.reshape(x, -1, 2, 4, 2), 0, 2, 1, 3)
    y = g.transpose(g.reshape(y, -1, 32, 16, 4), 0, 3, 2, 1)
    y = g.rows(g.reshape(y, -1, 16, 32), 32)
    y = g.transpose(g.reshape(y, -1, 4, 16, 32), 0, 3, 2, 1)
    y = g.transpose(g.reshape(y, -1, 4, 2, 2), 0, 2, 1, 3)
    return g.conv3(g.reshape(y, -1, 32, 8, 8), 32, 4)


def windows(g: Floats) -> str:
    """Swin: windows of 4x4 pixels, channels last."""
    x = g.transpose(g.conv3("x", 3, 32), 0, 2, 3, 1)
    y = g.transpose(g.reshape(x, -1, 2, 4, 2, 4, 32), 0, 1, 3, 2, 4, 5)
    y = g.rows(g.reshape(y, -1, 16, 32), 32)
    y = g.transpose(g.reshape(y, -1, 2, 2, 4, 4, 32), 0, 1, 3, 2, 4, 5)
    return g.conv3(g.transpose(g.reshape(y, -1, 8, 8, 32), 0, 3, 1, 2), 32, 4)


def shuffle_of_channels_last(g: Floats) -> str:
    x = g.transpose(g.add("Relu", g.conv3("x", 3, 24)), 0, 2, 3, 1)
    y = g.transpose(g.reshape(x, -1, 64, 3, 8), 0, 1, 3, 2)
    return g.conv3(g.transpose(g.reshape(y, -1, 8, 8, 24), 0, 3, 1, 2), 24, 4)


def space_to_depth_and_back(g: Floats) -> str:
    y = g.transpose(g.reshape("x", -1, 3, 4, 2, 4, 2), 0, 3, 5, 1, 2, 4)
    y = g.conv3(g.reshape(y, -1, 12, 4, 4), 12, 32)
    y = g.transpose(g.reshape(y, -1, 2, 2, 8, 4, 4), 0, 3, 4, 1, 5, 2)
    return g.transpose(g.reshape(y, -1, 8, 8, 8), 0, 2, 3, 1)


def attention(g: Floats) -> str:
    """Heads of a transformer over the pixels, the keys transposed twice."""
    x = g.transpose(g.reshape(g.conv3("x", 3, 32), -1, 32, 64), 0, 2, 1)
    q, k, v = (g.transpose(g.reshape(g.rows(x, 32), -1, 64, 2, 16), 0, 2, 1, 3) for _ in range(3))
    a = g.add("Softmax", g.add("MatMul", q, g.transpose(k, 0, 1, 3, 2)), axis=-1)
    y = g.reshape(g.transpose(g.add("MatMul", a, v), 0, 2, 1, 3), -1, 64, 32)
    return g.conv3(g.reshape(g.transpose(y, 0, 2, 1), -1, 32, 8, 8), 32, 4)


def compiled(g: Qdq, y: str) -> tuple[bytes, cnngraph.Program, list[str]]:
    """The model, its program, and the names of the operators once layouts are chosen."""
    graph = helper.make_graph(
        g.nodes, "movement", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], g.constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    names: list[str] = []

    def after(graph: Graph, record: PassRecord) -> None:
        if record.name == "choose_layout":
            names.extend(node.op.name for node in graph.nodes)

    data = model.SerializeToString()
    program = cnngraph.compile(data, after=after)
    assert isinstance(program, cnngraph.Program) and not program.report["reference_steps"]
    return data, program, names


def onnxruntime(model: bytes, x: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return np.asarray(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("network", "copies"),
    [
        (unfolded_patches, ["Transpose", "Transpose"]),
        (windows, ["Transpose", "Transpose"]),
        (shuffle_of_channels_last, ["TakeChannels"]),
        (space_to_depth_and_back, ["Transpose", "Reorder", "Transpose"]),
        (attention, ["Transpose"] * 5),
    ],
)
def test_chains_of_movement_are_one_copy_each(network: Callable[[Floats], str], copies: list[str]) -> None:
    g = Floats()
    model, program, names = compiled(g, network(g))
    moving = [name for name in names if name in ("Transpose", "Reorder", "TakeChannels")]
    assert moving == copies
    x = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    (got,) = program.run({"x": x}).values()
    np.testing.assert_allclose(got, onnxruntime(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_networks_with_channels_last_keep_no_inner_transposes(dtype: type[np.integer]) -> None:
    """Layers of TensorFlow: every convolution between transposes, every tensor quantised; gates, offsets, averages outside."""
    g = Qdq(dtype, True)

    def layer(x: str, channels: int, filters: int, kernel: int) -> str:
        x = g.add("Transpose", x, perm=[0, 3, 1, 2])
        g.scales[x] = 0.02
        return g.quantized(g.add("Transpose", g.conv(x, channels, filters, kernel), perm=[0, 2, 3, 1]), 0.05, 120)

    def gated(x: str, gate: str) -> str:
        return g.quantized(g.add("Mul", x, gate), 0.02, 100)

    x = g.quantized(g.add("Transpose", "x", perm=[0, 2, 3, 1]), 0.02, 128)
    x = layer(x, 3, 16, 3)
    x = gated(x, g.quantized(g.add("Sigmoid", x), 1 / 256, 0))
    scale, zero = g.constant("os", np.array(0.02, np.float32)), g.constant("oz", np.array(0, dtype))
    offsets = g.add("DequantizeLinear", g.constant("o", np.arange(16).astype(dtype)), scale, zero)
    y = g.quantized(g.add("Add", layer(x, 16, 16, 3), offsets), 0.05, 110)
    mean = g.quantized(g.add("ReduceMean", y, axes=[1, 2], keepdims=1), 0.02, 120)
    y = gated(y, g.quantized(g.add("Sigmoid", layer(mean, 16, 16, 1)), 1 / 256, 0))
    y = g.quantized(g.add("Concat", y, g.quantized(g.add("Relu", x), 0.02, 0), axis=3), 0.02, 100)
    out = g.add("Transpose", layer(y, 32, 8, 1), perm=[0, 3, 1, 2])
    model, program, names = compiled(g, out)
    assert "Transpose" not in names
    assert not program.report["rejections"] and "Conv" not in names and "Elementwise" not in names
    x0 = np.random.default_rng(1).standard_normal((3, 3, 8, 8)).astype(np.float32)
    (got,) = program.run({"x": x0}).values()
    steps = np.rint((got - onnxruntime(model, x0)) / 0.05)
    assert np.ptp(got) > 2 and np.abs(steps).max() <= 1 and (steps == 0).mean() > 0.8
