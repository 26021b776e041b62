"""The handwritten digits that the trained network reads: the held-out set and the preparation of an image."""

from __future__ import annotations

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph_models import trained_path

SIDE = 32
LEVELS = 16.0


def preprocess(images: np.ndarray) -> np.ndarray:
    """Return digits as the trained network takes them.

    Args:
        images: (N, 8, 8) of any integer or float dtype, values 0 (paper) to 16 (ink).

    Returns:
        float32 (N, 1, 32, 32) with values 0 to 1, enlarged bilinearly with pixel centres at half integers.

    Raises:
        InvalidInputError: if the shape is not (N, 8, 8) or a value lies outside 0..16.
    """
    if images.ndim != 3 or images.shape[1:] != (8, 8):
        raise InvalidInputError(f"digits have the shape (N, 8, 8), not {images.shape}")
    scaled = images.astype(np.float32) / np.float32(LEVELS)
    if scaled.size and not (scaled.min() >= 0.0 and scaled.max() <= 1.0):
        raise InvalidInputError("digits have values from 0 to 16")
    weights = _bilinear(8, SIDE)
    return (weights @ scaled @ weights.T)[:, None]


def load_test_set() -> tuple[np.ndarray, np.ndarray]:
    """Return the held-out digits: images uint8 (360, 8, 8) with values 0 to 16, and labels int64 (360,)."""
    with np.load(trained_path("digits_test.npz"), allow_pickle=False) as stored:
        return stored["images"], stored["labels"].astype(np.int64)


def _bilinear(source: int, target: int) -> np.ndarray:
    """The (target, source) matrix of bilinear interpolation along one axis, edges repeated."""
    centres = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.minimum(centres.astype(np.int64), source - 2)
    fraction = centres - low
    weights = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    weights[rows, low] = 1 - fraction
    weights[rows, low + 1] += fraction.astype(np.float32)
    return weights
