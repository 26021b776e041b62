"""The classic convolutional networks as ONNX models with seeded weights, and a small trained one.

>>> import cnngraph_models
>>> model = cnngraph_models.build("resnet18", seed=1)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from cnngraph.errors import UsageError, printable
from cnngraph_models import alexnet, dense_prediction, densenet, detection, efficientnet, inception, mobile, nasnet, resnet, small, special
from cnngraph_models.builder import Batch, Builder, Fill, Tensor
from cnngraph_models.catalog import NETWORKS, ModelInfo

__all__ = ["ModelInfo", "build", "list_models", "trained_path"]

_FAMILIES = (small, alexnet, resnet, mobile, inception, densenet, nasnet, efficientnet, dense_prediction, detection, special)
_TRAINED = ("digits_lenet.onnx", "digits_test.npz")


def list_models() -> list[ModelInfo]:
    """Return the description of every network that :func:`build` can write, by family."""
    return [entry.info for entry in NETWORKS.values()]


def build(
    name: str, *, seed: int = 0, batch: Batch = "dynamic", fill: Fill = "random", input_shape: Sequence[int] | None = None
) -> onnx.ModelProto:
    """Write a network as an ONNX model of opset 17.

    Args:
        name: one of the names in :func:`list_models`.
        seed: non-negative seed of the weights; the same seed gives the same bytes on every machine.
        batch: a fixed batch size, or "dynamic" for a symbolic first dimension; networks for one image are always written for one.
        fill: "random"; "zeros" where only the structure matters (much faster); "none" to store the weights' shapes without numbers,
            which suffices for :func:`cnngraph.analysis.summary.summarize` and no more.
        input_shape: shape of the input without the batch, if it is to differ from the network's own; the shapes of the outputs,
            and of the first dense layer of networks without global pooling, change with it.

    Returns:
        A model with one float32 input "input" of shape (batch, C, H, W) and the outputs that its ``ModelInfo`` names.

    Raises:
        UsageError: for an unknown name, batch, seed or fill, or an input shape that the network cannot take.
    """
    entry = NETWORKS.get(name)
    if entry is None:
        raise UsageError(f"there is no network called {printable(name)}; the names are {', '.join(NETWORKS)}")
    info = entry.info
    shape = info.input_shape if input_shape is None else tuple(input_shape)
    if len(shape) != len(info.input_shape) or any(extent < 1 for extent in shape):
        raise UsageError(f"the input of {name} has a shape like {info.input_shape}, not {shape}")
    if info.batch is not None:
        if batch not in ("dynamic", info.batch):
            raise UsageError(f"{name} is written for a batch of {info.batch}, not {batch}")
        batch = info.batch
    builder = Builder(info.name, seed=seed, batch=batch, fill=fill, **entry.options)
    low, high = info.input_range
    result = entry.body(builder, builder.input("input", shape, low, high))
    if isinstance(result, Tensor):
        builder.output(result, info.output)
    elif result is not None:
        for label, value in result.items():
            builder.output(value, label)
    return builder.finish()


def trained_path(name: str) -> Path:
    """Return the path of a file of the trained digit network: "digits_lenet.onnx" or "digits_test.npz".

    Raises:
        UsageError: for any other name.
        FileNotFoundError: if the installation lacks the file.
    """
    if name not in _TRAINED:
        raise UsageError(f"there is no trained file called {printable(name)}; the names are {', '.join(_TRAINED)}")
    package = Path(__file__).resolve().parent
    for folder in (package / "trained", package.parent / "trained"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} is neither in {package / 'trained'} nor in {package.parent / 'trained'}")
