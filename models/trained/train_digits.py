"""Train LeNet-5 on the 8x8 handwritten digits that ship inside scikit-learn, in plain NumPy.

    python models/trained/train_digits.py

Writes ``digits_lenet.onnx`` (input "image" [N,1,32,32], output "probabilities" [N,10]) and ``digits_test.npz`` (360 held-out digits)
beside this file. Seeded: the same versions of NumPy and BLAS give the same file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from cnngraph_models.digits import preprocess
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

HERE = Path(__file__).parent
EPOCHS, BATCH, RATE = 40, 32, 1.5e-3

Parameters = dict[str, np.ndarray]


def initial(rng: np.random.Generator) -> Parameters:
    """Glorot-scaled weights of LeNet-5 and zero biases."""
    shapes = {"c1": (6, 1, 5, 5), "c3": (16, 6, 5, 5), "f5": (400, 120), "f6": (120, 84), "f7": (84, 10)}
    out: Parameters = {}
    for name, shape in shapes.items():
        fan = sum(shape) if len(shape) == 2 else (shape[0] + shape[1]) * 25
        out[name] = rng.standard_normal(shape) * np.sqrt(2 / fan)
        out[name + "b"] = np.zeros(shape[0] if len(shape) == 4 else shape[1])
    return out


def patches(x: np.ndarray) -> np.ndarray:
    """``[N, C, H, W] -> [N, H-4, W-4, C*25]``."""
    view = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3))
    return np.ascontiguousarray(view.transpose(0, 2, 3, 1, 4, 5)).reshape(len(x), x.shape[2] - 4, x.shape[3] - 4, -1)


def average(x: np.ndarray) -> np.ndarray:
    """2x2 average pooling of ``[N, C, H, W]``."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


def spread(g: np.ndarray) -> np.ndarray:
    """Gradient of :func:`average`."""
    return np.repeat(np.repeat(g, 2, axis=2), 2, axis=3) / 4


def forward(p: Parameters, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Probabilities and what the gradient needs."""
    s: dict[str, np.ndarray] = {"p1": patches(x)}
    s["a1"] = np.tanh(s["p1"] @ p["c1"].reshape(6, -1).T + p["c1b"]).transpose(0, 3, 1, 2)
    s["p3"] = patches(average(s["a1"]))
    s["a3"] = np.tanh(s["p3"] @ p["c3"].reshape(16, -1).T + p["c3b"]).transpose(0, 3, 1, 2)
    s["flat"] = average(s["a3"]).reshape(len(x), -1)
    s["a5"] = np.tanh(s["flat"] @ p["f5"] + p["f5b"])
    s["a6"] = np.tanh(s["a5"] @ p["f6"] + p["f6b"])
    logits = s["a6"] @ p["f7"] + p["f7b"]
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True), s


def gradient(p: Parameters, x: np.ndarray, labels: np.ndarray) -> Parameters:
    """Gradient of the mean cross-entropy."""
    probabilities, s = forward(p, x)
    g: Parameters = {}
    d = probabilities.copy()
    d[np.arange(len(x)), labels] -= 1
    d /= len(x)
    for name, below in (("f7", "a6"), ("f6", "a5"), ("f5", "flat")):
        g[name], g[name + "b"] = s[below].T @ d, d.sum(axis=0)
        d = d @ p[name].T
        if below != "flat":
            d = d * (1 - s[below] ** 2)
    d3 = spread(d.reshape(len(x), 16, 5, 5)) * (1 - s["a3"] ** 2)
    g["c3"] = np.einsum("nohw,nhwk->ok", d3, s["p3"], optimize=True).reshape(16, 6, 5, 5)
    g["c3b"] = d3.sum(axis=(0, 2, 3))
    below = np.zeros((len(x), 6, 14, 14))
    for i in range(5):
        for j in range(5):
            below[:, :, i : i + 10, j : j + 10] += np.einsum("nohw,oc->nchw", d3, p["c3"][:, :, i, j], optimize=True)
    d1 = spread(below) * (1 - s["a1"] ** 2)
    g["c1"] = np.einsum("nohw,nhwk->ok", d1, s["p1"], optimize=True).reshape(6, 1, 5, 5)
    g["c1b"] = d1.sum(axis=(0, 2, 3))
    return g


def train(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Parameters:
    """Adam with a decaying rate on images shifted by up to two pixels."""
    p = initial(rng)
    m = {k: np.zeros_like(v) for k, v in p.items()}
    v = {k: np.zeros_like(a) for k, a in p.items()}
    step = 0
    for epoch in range(EPOCHS):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / EPOCHS))
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            index = order[start : start + BATCH]
            dy, dx = rng.integers(-2, 3, 2)
            x = np.pad(images[index], ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-1)[:, :, 2 + dy : 34 + dy, 2 + dx : 34 + dx]
            step += 1
            for k, grad in gradient(p, x.astype(np.float64), labels[index]).items():
                m[k] = 0.9 * m[k] + 0.1 * grad
                v[k] = 0.999 * v[k] + 0.001 * grad**2
                p[k] -= rate * (m[k] / (1 - 0.9**step)) / (np.sqrt(v[k] / (1 - 0.999**step)) + 1e-8)
    return p


def export(p: Parameters) -> onnx.ModelProto:
    """The network as ONNX, opset 17, with a free batch."""
    nodes = [
        helper.make_node("Conv", ["image", "c1", "c1b"], ["c1_out"], "conv1"),
        helper.make_node("Tanh", ["c1_out"], ["a1"], "tanh1"),
        helper.make_node("AveragePool", ["a1"], ["s2"], "pool2", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["s2", "c3", "c3b"], ["c3_out"], "conv3"),
        helper.make_node("Tanh", ["c3_out"], ["a3"], "tanh3"),
        helper.make_node("AveragePool", ["a3"], ["s4"], "pool4", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["s4"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "f5", "f5b"], ["f5_out"], "dense5"),
        helper.make_node("Tanh", ["f5_out"], ["a5"], "tanh5"),
        helper.make_node("Gemm", ["a5", "f6", "f6b"], ["f6_out"], "dense6"),
        helper.make_node("Tanh", ["f6_out"], ["a6"], "tanh6"),
        helper.make_node("Gemm", ["a6", "f7", "f7b"], ["logits"], "dense7"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits_lenet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 32, 32])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in p.items()],
        doc_string="LeNet-5 trained on the UCI optical recognition of handwritten digits (test part, as in scikit-learn)",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="cnngraph")
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, report the held-out accuracy, write both files."""
    rng = np.random.default_rng(2026)
    data = load_digits()
    images, labels = data.images.astype(np.uint8), data.target.astype(np.int64)
    held: list[int] = []
    for digit in range(10):
        held += list(rng.permutation(np.flatnonzero(labels == digit))[:36])
    test = np.sort(np.array(held))
    kept = np.setdiff1d(np.arange(len(labels)), test)
    p = train(preprocess(images[kept]), labels[kept], rng)
    predictions = forward(p, preprocess(images[test]).astype(np.float64))[0].argmax(axis=1)
    print(f"held-out accuracy {np.mean(predictions == labels[test]):.2%} of {len(test)}")
    (HERE / "digits_lenet.onnx").write_bytes(export(p).SerializeToString())
    np.savez_compressed(HERE / "digits_test.npz", images=images[test], labels=labels[test].astype(np.uint8))


if __name__ == "__main__":
    main()
