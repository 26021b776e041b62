"""From the grids of YOLO to boxes and class scores, of one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.errors import UsageError
from cnngraph.vision.boxes import center_to_corners

V3_ANCHORS: dict[int, tuple[tuple[int, int], ...]] = {
    32: ((116, 90), (156, 198), (373, 326)),
    16: ((30, 61), (62, 45), (59, 119)),
    8: ((10, 13), (16, 30), (33, 23)),
}
"""Width and height in pixels of the anchors of YOLO version 3, by stride."""


def decode_v1(grid: np.ndarray, boxes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of YOLO version 1.

    Args:
        grid: (rows, columns, 5 * boxes + classes). A cell holds x, y, w, h and confidence of each box, then one probability for each class:
            x and y are relative to the cell's corner and size, w and h to the image, the confidence is that of any object.
        boxes: boxes a cell.

    Returns:
        Corners relative to the image, (rows * columns * boxes, 4), and scores, (rows * columns * boxes, classes): confidence times
        class probability. By row, then column, then box.

    Raises:
        UsageError: if the grid has another shape.
    """
    grid = np.asarray(grid)
    if grid.ndim != 3 or grid.shape[2] <= 5 * boxes:
        raise UsageError(f"a grid of {boxes} boxes a cell has the shape (rows, columns, 5 * {boxes} + classes), not {grid.shape}")
    rows, columns = grid.shape[:2]
    numbers = grid[..., : 5 * boxes].reshape(rows, columns, boxes, 5)
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)[:, :, None]
    centre = (numbers[..., :2] + corner) / np.array([columns, rows])
    found = center_to_corners(np.concatenate([centre, numbers[..., 2:4]], axis=-1).reshape(-1, 4).astype(grid.dtype))
    scores = numbers[..., 4:] * grid[:, :, None, 5 * boxes :]
    return found, scores.reshape(len(found), -1)


def decode_v3(grid: np.ndarray, stride: int, anchors: Sequence[tuple[float, float]] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of one scale of YOLO version 3.

    Args:
        grid: (anchors * (5 + classes), rows, columns), for each anchor tx, ty, tw, th, objectness and classes, all before their sigmoids.
        stride: pixels from one cell to the next.
        anchors: width and height in pixels; default: those of the COCO network for this stride.

    Returns:
        Corners in pixels of the network's input, (rows * columns * anchors, 4), and scores, (rows * columns * anchors, classes).

    Raises:
        UsageError: if the grid does not fit the anchors.
    """
    grid = np.asarray(grid)
    if anchors is None and stride not in V3_ANCHORS:
        raise UsageError(f"there are no standard anchors for stride {stride}; strides are {', '.join(map(str, V3_ANCHORS))}")
    sizes = np.array(V3_ANCHORS[stride] if anchors is None else anchors, grid.dtype)
    if grid.ndim != 3 or len(grid) % len(sizes) or len(grid) // len(sizes) <= 5:
        raise UsageError(f"a grid of {len(sizes)} anchors has the shape ({len(sizes)} * (5 + classes), rows, columns), not {grid.shape}")
    rows, columns = grid.shape[1:]
    numbers = grid.reshape(len(sizes), -1, rows, columns).transpose(2, 3, 0, 1)
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)[:, :, None]
    centre = (_sigmoid(numbers[..., :2]) + corner) * stride
    extent = np.exp(numbers[..., 2:4]) * sizes
    found = center_to_corners(np.concatenate([centre, extent], axis=-1).reshape(-1, 4).astype(grid.dtype))
    scores = _sigmoid(numbers[..., 4:5]) * _sigmoid(numbers[..., 5:])
    return found, scores.reshape(len(found), -1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
