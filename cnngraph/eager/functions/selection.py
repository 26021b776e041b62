"""Operators that select elements by their values: NonZero, Compress, Unique, NonMaxSuppression."""

from __future__ import annotations

import numpy as np

from cnngraph.eager.registry import Call, Datum, eager, scalar
from cnngraph.errors import InvalidInputError


@eager("NonZero")
def non_zero(call: Call) -> Datum:
    """Indices of the elements that are not zero, int64 [rank, count], row-major; a scalar counts as [1]."""
    return np.array(np.nonzero(np.atleast_1d(call.array(0))), np.int64)


@eager("Compress")
def compress(call: Call) -> Datum:
    """Slices (elements, without ``axis``) whose condition holds; what the condition does not reach is left out."""
    data, condition = call.array(0), call.array(1)
    axis = call.attr("axis")
    if axis is None:
        data, axis = data.reshape(-1), 0
    if not -data.ndim <= axis < data.ndim or condition.ndim != 1 or len(condition) > data.shape[axis]:
        raise InvalidInputError(f"a condition of shape {list(condition.shape)} does not fit axis {axis} of {list(data.shape)}")
    return np.compress(condition.astype(bool), data, axis)


@eager("Unique")
def unique(call: Call) -> tuple[Datum, ...]:
    """Unique slices, first positions, the slice that each is equal to, and counts; in order of appearance unless ``sorted``."""
    data, axis = call.array(0), call.attr("axis")
    if axis is not None and not -data.ndim <= axis < data.ndim:
        raise InvalidInputError(f"axis {axis} is outside a tensor of rank {data.ndim}")
    values, first, inverse, counts = np.unique(data, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not call.attr("sorted", 1):
        order = np.argsort(first, kind="stable")
        values, first, counts = np.take(values, order, axis or 0), first[order], counts[order]
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        inverse = rank[inverse]
    return values, first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)


@eager("NonMaxSuppression")
def non_max_suppression(call: Call) -> Datum:
    """Greedy suppression: int64 [selected, 3] of (batch, class, box), best first within a class.

    Inputs: boxes [batch, boxes, 4], scores [batch, classes, boxes], then at most one number each: boxes a class, IoU threshold
    (a box is dropped if its overlap is greater), score threshold (a box is kept if its score is greater).
    """
    boxes, scores = call.array(0), call.array(1)
    if boxes.ndim != 3 or scores.ndim != 3 or boxes.shape[2] != 4 or boxes.shape[:2] != (scores.shape[0], scores.shape[2]):
        raise InvalidInputError(f"boxes {list(boxes.shape)} and scores {list(scores.shape)} do not belong together")

    def number(index: int, default: float) -> float:
        given = len(call.inputs) > index and call.inputs[index] is not None and np.asarray(call.inputs[index]).size
        return float(scalar(call.inputs[index], f"input {index}")) if given else default

    limit, overlap, least = int(number(2, 0)), number(3, 0.0), number(4, -np.inf)
    rows: list[tuple[int, int, int]] = []
    for batch in range(scores.shape[0] if limit > 0 else 0):
        corners = _corners(boxes[batch], bool(call.attr("center_point_box", 0)))
        for label in range(scores.shape[1]):
            kept = _greedy(corners, scores[batch, label], limit, overlap, least)
            rows.extend((batch, label, int(box)) for box in kept)
    return np.array(rows, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, center: bool) -> np.ndarray:
    """[n, 4] of least y, least x, greatest y, greatest x (or x before y: the overlap is the same)."""
    if center:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([middle - half, middle + half], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _greedy(corners: np.ndarray, scores: np.ndarray, limit: int, overlap: float, least: float) -> list[int]:
    """Indices of the boxes kept. Boxes are sorted by one side, so that each one kept is compared with its neighbours only."""
    candidates = np.flatnonzero(scores > least)
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    boxes = corners[order]
    low, high = np.ascontiguousarray(boxes[:, :2].T), np.ascontiguousarray(boxes[:, 2:].T)
    area = (high[0] - low[0]) * (high[1] - low[1])
    by_side = np.argsort(low[1], kind="stable")
    side = low[1][by_side].astype(np.float64)
    widest = float(np.max(high[1] - low[1], initial=0)) * (1 + 1e-6) if np.isfinite(boxes).all() and overlap >= 0 else np.inf
    alive, kept = np.ones(len(order), bool), []
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(len(order)):
            if not alive[i]:
                continue
            kept.append(int(order[i]))
            if len(kept) >= limit:
                break
            near = by_side[np.searchsorted(side, float(low[1, i]) - widest) : np.searchsorted(side, float(high[1, i]), "right")]
            near = near[alive[near] & (near > i)] if np.isfinite(widest) else np.flatnonzero(alive[i + 1 :]) + i + 1
            shared = np.maximum(np.minimum(high[0, i], high[0, near]) - np.maximum(low[0, i], low[0, near]), 0) * np.maximum(
                np.minimum(high[1, i], high[1, near]) - np.maximum(low[1, i], low[1, near]), 0
            )
            union = area[i] + area[near] - shared
            ratio = np.where((area[i] <= 0) | (area[near] <= 0) | (union <= 0), 0.0, shared / union)
            alive[near[~(ratio <= overlap)]] = False
    return kept
