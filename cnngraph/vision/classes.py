"""From class probabilities to labels, and where in the image a class was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnngraph.errors import UsageError

COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard",
    "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The 80 classes of COCO in the order of their indices."""

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike",
    "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes of Pascal VOC in the order of their indices."""


@dataclass(frozen=True)
class Prediction:
    """One class of an image.

    Attributes:
        index: of the class.
        label: its name; its index in figures if there are no names.
        score: its probability.
    """

    index: int
    label: str
    score: float


def top_k(scores: np.ndarray, k: int = 5, labels: Sequence[str] | None = None) -> list[Prediction]:
    """The k best classes of one image, best first; of equal scores the smaller index comes first, and what is no number comes last.

    Args:
        scores: (classes,) or (1, classes).
        k: how many; more than there are classes gives all of them.
        labels: names of the classes.

    Raises:
        UsageError: for scores of another shape, k below 1, or labels that are not as many as the classes.
    """
    values = np.asarray(scores)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1:
        raise UsageError(f"the scores of one image have the shape (classes,), not {np.shape(scores)}")
    if k < 1:
        raise UsageError(f"k is at least 1, not {k}")
    if labels is not None and len(labels) != len(values):
        raise UsageError(f"{len(values)} classes need as many labels, not {len(labels)}")
    order = np.argsort(-values.astype(np.float64), kind="stable")[:k]
    return [Prediction(int(i), str(i) if labels is None else labels[i], float(values[i])) for i in order]


def read_labels(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file of labels, one a class, without blanks at their ends and without empty lines at the end of the file.

    Raises:
        OSError: if the file cannot be read.
        UsageError: if it is not UTF-8 text.
    """
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("the labels are not UTF-8 text") from error
    return [line.strip() for line in text.rstrip().splitlines()]


def class_activation_map(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Where a class was seen, for networks that end in global average pooling and one dense layer.

    Args:
        features: (C, H, W), the maps before the pooling.
        weights: (C,), the dense layer's weights of the class.

    Returns:
        (H, W); its mean plus the bias of the class is the class' logit. :func:`cnngraph.vision.resize` brings it to the image's size.

    Raises:
        UsageError: if there is not one weight a map.
    """
    features, weights = np.asarray(features), np.asarray(weights)
    if features.ndim != 3 or weights.shape != features.shape[:1]:
        raise UsageError(f"maps of shape {features.shape} and weights of shape {weights.shape} do not belong together")
    return np.tensordot(weights, features, axes=1)
