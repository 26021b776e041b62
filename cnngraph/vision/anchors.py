"""Anchor boxes of RetinaNet and of region proposal networks, and the boxes that predicted deltas make of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.errors import UsageError
from cnngraph.vision.boxes import center_to_corners, corners_to_center

RATIOS = (0.5, 1.0, 2.0)
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
LEVELS = (3, 4, 5, 6, 7)


def level_anchors(
    rows: int, columns: int, stride: int, side: float, *, ratios: Sequence[float] = RATIOS, scales: Sequence[float] = SCALES
) -> np.ndarray:
    """Anchors of one map: corners in pixels, float64 of shape (rows * columns * ratios * scales, 4).

    Args:
        rows: height of the map.
        columns: width of the map.
        stride: pixels from one place of the map to the next; the first anchors are centred half a stride inside.
        side: side of the square anchor of scale 1.
        ratios: widths divided by heights, at the area of the square.
        scales: factors of the side.

    Returns:
        By row, then column, then ratio, then scale.
    """
    centres = [(np.arange(count) + 0.5) * stride for count in (columns, rows)]
    y, x = np.meshgrid(centres[1], centres[0], indexing="ij")
    sizes = np.array([(side * scale * ratio**0.5, side * scale / ratio**0.5) for ratio in ratios for scale in scales])
    places = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
    count = (rows * columns, len(sizes), 2)
    boxes = np.concatenate([np.broadcast_to(places, count), np.broadcast_to(sizes, count)], axis=2)
    return center_to_corners(boxes.reshape(-1, 4))


def retinanet_anchors(height: int, width: int) -> np.ndarray:
    """The anchors of RetinaNet for an image: float32 corners in pixels, levels 3 to 7 one after the other (49,104 for 512 x 512)."""
    levels = [level_anchors(-(-height >> level) or 1, -(-width >> level) or 1, 1 << level, 4.0 * (1 << level)) for level in LEVELS]
    return np.concatenate(levels).astype(np.float32)


def decode_deltas(anchors: np.ndarray, deltas: np.ndarray, variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2)) -> np.ndarray:
    """Boxes (n, 4) as corners: anchors moved by (dx, dy) of their size and stretched by exp(dw, dh).

    Args:
        anchors: (n, 4), corners.
        deltas: (n, 4), as the network gives them.
        variance: what the deltas are multiplied by first; the default is that of the Keras example.

    Raises:
        UsageError: if there are not as many deltas as anchors.
    """
    if np.shape(anchors) != np.shape(deltas):
        raise UsageError(f"anchors of shape {np.shape(anchors)} and deltas of shape {np.shape(deltas)} do not belong together")
    centres = corners_to_center(anchors)
    scaled = np.asarray(deltas) * np.array(variance, np.float32)
    moved = centres[:, :2] + scaled[:, :2] * centres[:, 2:]
    return center_to_corners(np.concatenate([moved, np.exp(scaled[:, 2:]) * centres[:, 2:]], axis=1))


def encode_deltas(anchors: np.ndarray, boxes: np.ndarray, variance: Sequence[float] = (0.1, 0.1, 0.2, 0.2)) -> np.ndarray:
    """Deltas (n, 4) that :func:`decode_deltas` turns into ``boxes``."""
    own, other = corners_to_center(anchors), corners_to_center(boxes)
    moves = np.concatenate([(other[:, :2] - own[:, :2]) / own[:, 2:], np.log(other[:, 2:] / own[:, 2:])], axis=1)
    return moves / np.array(variance, np.float32)


def fitted_size(height: int, width: int, min_side: int = 800, max_side: int = 1333) -> tuple[int, int]:
    """The (height, width) to which RetinaNet resizes: the shorter side becomes ``min_side``, unless the longer would pass ``max_side``.

    >>> fitted_size(1080, 1920)
    (750, 1333)
    """
    scale = min(min_side / min(height, width), max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
