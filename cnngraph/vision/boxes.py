"""Boxes: overlap, suppression of duplicates, and selection of detections.

A box is four numbers, ``x1, y1, x2, y2`` (left, top, right, bottom), in any unit; arrays of boxes have the shape (n, 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnngraph.errors import UsageError


@dataclass(frozen=True)
class Detection:
    """One found object.

    Attributes:
        box: x1, y1, x2, y2.
        label: index of its class.
        score: probability of that class.
    """

    box: tuple[float, float, float, float]
    label: int
    score: float


def center_to_corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) given by centre x, centre y, width and height as corners."""
    boxes = _boxes(boxes)
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def corners_to_center(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) given by corners as centre x, centre y, width and height."""
    boxes = _boxes(boxes)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (n, 4) cut at the borders of an image."""
    return np.clip(_boxes(boxes), 0, np.array([width, height, width, height], np.float32))


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: (n, 4) and (m, 4) to (n, m); a pair with a box without area gets 0.

    Raises:
        UsageError: for arrays of another shape.
    """
    first, second = _boxes(first), _boxes(second)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * np.all(boxes[:, 2:] > boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    valid = (areas[0][:, None] > 0) & (areas[1][None, :] > 0) & (union > 0)
    return np.divide(shared, union, out=np.zeros_like(union), where=valid)


def nms(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float = 0.5, score_threshold: float | None = None, limit: int | None = None
) -> np.ndarray:
    """Non-maximum suppression, greedily from the best score down, by the rules of ONNX's NonMaxSuppression.

    Args:
        boxes: (n, 4); the corners may come in either order.
        scores: (n,); of equal scores the first box comes first. Boxes whose score is no number are left out.
        iou_threshold: a box is dropped if it overlaps a kept one by more than this.
        score_threshold: a box is considered if its score is greater than this.
        limit: largest number of boxes kept.

    Returns:
        Indices of the kept boxes, int64, best first.

    Raises:
        UsageError: if boxes and scores do not belong together.
    """
    boxes, scores = _boxes(boxes), np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise UsageError(f"{len(boxes)} boxes need as many scores, not an array of shape {scores.shape}")
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    eligible = ~np.isnan(scores) if score_threshold is None else scores > scores.dtype.type(score_threshold)
    order = np.flatnonzero(eligible)
    order = order[np.argsort(-scores[order], kind="stable")]
    kept: list[int] = []
    while order.size and (limit is None or len(kept) < limit):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[iou(boxes[best : best + 1], boxes[rest])[0] <= boxes.dtype.type(iou_threshold)]
    return np.array(kept, np.int64)


def detections(
    boxes: np.ndarray, scores: np.ndarray, *, score_threshold: float = 0.5, iou_threshold: float = 0.5, limit: int = 100
) -> list[Detection]:
    """Boxes above a class probability, without duplicates of one class, best first.

    Args:
        boxes: (n, 4).
        scores: (n, classes): probability of every class at every box.
        score_threshold: a box counts for a class if its score is greater than this.
        iou_threshold: see :func:`nms`, which runs for each class by itself.
        limit: largest number of detections.

    Raises:
        UsageError: if boxes and scores do not belong together.
    """
    boxes, scores = _boxes(boxes), np.asarray(scores)
    if scores.ndim != 2 or len(scores) != len(boxes):
        raise UsageError(f"{len(boxes)} boxes need scores of shape ({len(boxes)}, classes), not {scores.shape}")
    found = []
    for label in np.flatnonzero((scores > score_threshold).any(axis=0)):
        for index in nms(boxes, scores[:, label], iou_threshold, score_threshold, limit):
            x1, y1, x2, y2 = (float(edge) for edge in boxes[index])
            found.append(Detection((x1, y1, x2, y2), int(label), float(scores[index, label])))
    return sorted(found, key=lambda detection: -detection.score)[:limit]


def _boxes(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UsageError(f"boxes have the shape (n, 4), not {boxes.shape}")
    return boxes if boxes.dtype in (np.float32, np.float64) else boxes.astype(np.float64)
