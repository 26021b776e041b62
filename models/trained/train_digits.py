"""Train LeNet-5 on the 8x8 handwritten digits of scikit-learn, in NumPy, and write the ONNX file and the held-out test set.

Run from the root of the repository; it needs scikit-learn and about a minute:

    PYTHONPATH=.:models python models/trained/train_digits.py

The schedule is fixed and the held-out digits are only looked at after the last step. A seed fixes the split, the initial weights and the
augmentation; the last bits of the trained weights still depend on the matrix product of the machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.digits import SIDE, preprocess
from cnngraph_models.small import lenet5

Weights = dict[str, np.ndarray]

HELD_OUT_PER_CLASS = 36
BATCH = 64
RATE = 2e-3
DECAY = 1e-4


def split(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training and of the held-out digits, the same number of each class held out."""
    held = np.sort(np.concatenate([rng.permutation(np.flatnonzero(labels == digit))[:HELD_OUT_PER_CLASS] for digit in range(10)]))
    return np.setdiff1d(np.arange(len(labels)), held), held


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn, scale, shear and shift each (1, 32, 32) image a little, bilinearly; outside is paper."""
    count = len(images)
    angle = rng.uniform(-0.2, 0.2, count)
    scale_y, scale_x = rng.uniform(0.88, 1.14, (2, count))
    shear = rng.uniform(-0.15, 0.15, count)
    shift_y, shift_x = rng.uniform(-2.0, 2.0, (2, count))
    cos, sin = np.cos(angle), np.sin(angle)
    grid_y, grid_x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    y = _each(cos * scale_y) * grid_y + _each(sin * scale_x) * grid_x + _each(shift_y) + (SIDE - 1) / 2
    x = _each(shear - sin * scale_y) * grid_y + _each(cos * scale_x) * grid_x + _each(shift_x) + (SIDE - 1) / 2
    padded = np.pad(images[:, 0], ((0, 0), (1, 2), (1, 2)))
    y, x = np.clip(y, -1, SIDE), np.clip(x, -1, SIDE)
    row, column = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    fy, fx = (y - row).astype(np.float32), (x - column).astype(np.float32)
    n = np.arange(count)[:, None, None]
    top = padded[n, row + 1, column + 1] * (1 - fx) + padded[n, row + 1, column + 2] * fx
    bottom = padded[n, row + 2, column + 1] * (1 - fx) + padded[n, row + 2, column + 2] * fx
    return (top * (1 - fy) + bottom * fy)[:, None].astype(np.float32)


def _each(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _columns(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) to (N, H-4, W-4, C*25): the 5x5 windows."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(*windows.shape[:3], -1)


def _halve(x: np.ndarray) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


def _double(gradient: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(gradient, 2, 2), 2, 3) * np.float32(0.25)


def forward(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return logits (N, 10) and what the backward pass needs, for images (N, 1, 32, 32)."""
    kept: dict[str, np.ndarray] = {}
    for layer in ("conv1", "conv2"):
        weight = weights[f"{layer}.weight"]
        kept[f"{layer}.columns"] = columns = _columns(x)
        y = (columns @ weight.reshape(len(weight), -1).T + weights[f"{layer}.bias"]).transpose(0, 3, 1, 2)
        kept[layer] = np.tanh(y)
        x = _halve(kept[layer])
    x = x.reshape(len(x), -1)
    for layer in ("fc3", "fc4"):
        kept[f"{layer}.input"] = x
        x = kept[layer] = np.tanh(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    return x @ weights["fc5.weight"].T + weights["fc5.bias"], kept


def backward(weights: Weights, kept: dict[str, np.ndarray], gradient: np.ndarray) -> Weights:
    """Return the gradient of every weight, from the gradient of the logits."""
    result = {"fc5.weight": gradient.T @ kept["fc4"], "fc5.bias": gradient.sum(0)}
    gradient = gradient @ weights["fc5.weight"]
    for layer in ("fc4", "fc3"):
        gradient = gradient * (1 - kept[layer] ** 2)
        result[f"{layer}.weight"] = gradient.T @ kept[f"{layer}.input"]
        result[f"{layer}.bias"] = gradient.sum(0)
        gradient = gradient @ weights[f"{layer}.weight"]
    gradient = gradient.reshape(-1, 16, 5, 5)
    for layer in ("conv2", "conv1"):
        gradient = _double(gradient) * (1 - kept[layer] ** 2)
        weight = weights[f"{layer}.weight"]
        filters, channels = weight.shape[:2]
        flat = gradient.transpose(0, 2, 3, 1).reshape(-1, filters)
        columns = kept[f"{layer}.columns"].reshape(len(flat), -1)
        result[f"{layer}.weight"] = (flat.T @ columns).reshape(weight.shape)
        result[f"{layer}.bias"] = flat.sum(0)
        if layer == "conv2":
            flipped = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(channels, -1)
            padded = np.pad(gradient, ((0, 0), (0, 0), (4, 4), (4, 4)))
            gradient = (_columns(padded) @ flipped.T).transpose(0, 3, 1, 2)
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def train(weights: Weights, images: np.ndarray, labels: np.ndarray, epochs: int, rng: np.random.Generator) -> None:
    """Adam with decoupled weight decay and a cosine schedule, in place (Kingma and Ba 2015, Loshchilov and Hutter 2019)."""
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    steps = epochs * (len(images) // BATCH)
    step = 0
    for epoch in range(epochs):
        order = rng.permutation(len(images))
        loss = 0.0
        for begin in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[begin : begin + BATCH]
            logits, kept = forward(weights, augment(images[chosen], rng))
            probabilities = softmax(logits)
            loss -= float(np.log(probabilities[np.arange(BATCH), labels[chosen]]).mean())
            target = np.eye(10, dtype=np.float32)[labels[chosen]] * np.float32(0.95) + np.float32(0.005)
            gradients = backward(weights, kept, (probabilities - target) / np.float32(BATCH))
            step += 1
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
            for name, value in weights.items():
                first[name] = 0.9 * first[name] + 0.1 * gradients[name]
                second[name] = 0.999 * second[name] + 0.001 * gradients[name] ** 2
                change = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
                value -= (rate * (change + DECAY * value)).astype(np.float32)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {loss / (len(order) // BATCH):.4f}")


def lenet(seed: int) -> onnx.ModelProto:
    """LeNet-5 with a softmax and a free batch."""
    builder = Builder("digits_lenet", seed=seed, transposed_dense=True)
    x = builder.input("input", (1, SIDE, SIDE), 0.0, 1.0)
    logits = lenet5(builder, x)
    assert isinstance(logits, Tensor)
    builder.output(builder.softmax(logits, name="softmax"), "probabilities")
    return builder.finish()


def main() -> None:
    """Train and write ``digits_lenet.onnx`` and ``digits_test.npz``."""
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    rng = np.random.default_rng(options.seed)
    chosen, held = split(labels, rng)
    model = lenet(options.seed)
    weights = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    train(weights, preprocess(images[chosen]), labels[chosen], options.epochs, rng)
    for tensor in model.graph.initializer:
        tensor.raw_data = weights[tensor.name].astype("<f4").tobytes()
    onnx.checker.check_model(model, full_check=True)

    right = forward(weights, preprocess(images[held]))[0].argmax(1) == labels[held]
    print(f"held out: {right.sum()} of {len(held)} right, {100 * right.mean():.2f} %")
    onnx.save(model, options.out / "digits_lenet.onnx")
    np.savez_compressed(options.out / "digits_test.npz", images=images[held], labels=labels[held].astype(np.uint8))


if __name__ == "__main__":
    main()
