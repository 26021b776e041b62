"""Decoding of YOLO's grids; lecture fact 3.12."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.vision import COCO, V3_ANCHORS, VOC, decode_v1, decode_v3, detections


def test_one_hot_cell_is_the_known_box() -> None:
    grid = np.zeros((7, 7, 30), np.float32)
    row, column, label = 2, 5, VOC.index("dog")
    grid[row, column, 5:10] = 0.25, 0.75, 0.5, 0.125, 0.8  # the second box of the cell
    grid[row, column, 10 + label] = 0.9
    boxes, scores = decode_v1(grid)
    assert boxes.shape == (98, 4) and scores.shape == (98, 20)
    (found,) = detections(boxes, scores, score_threshold=0.1)
    x, y = 5.25 / 7, 2.75 / 7
    assert found.box == pytest.approx((x - 0.25, y - 0.0625, x + 0.25, y + 0.0625))
    assert (found.label, found.score) == (label, pytest.approx(0.8 * 0.9))


def test_class_scores_are_shared_by_the_boxes_of_a_cell() -> None:
    grid = np.random.default_rng(0).uniform(0, 1, (3, 4, 2 * 5 + 6))
    boxes, scores = decode_v1(grid)
    scores = scores.reshape(3, 4, 2, 6)
    for number in range(2):
        confidence = grid[:, :, 5 * number + 4, None]
        np.testing.assert_allclose(scores[:, :, number], confidence * grid[:, :, 10:])
    centre = (boxes[:, :2] + boxes[:, 2:]).reshape(3, 4, 2, 2) / 2
    np.testing.assert_allclose(centre[2, 3, 1], [(3 + grid[2, 3, 5]) / 4, (2 + grid[2, 3, 6]) / 3])


def test_version_3() -> None:
    grid = np.full((255, 13, 13), -20.0, np.float32)
    anchor, row, column, label = 1, 4, 7, COCO.index("bus")
    grid[85 * anchor : 85 * anchor + 5, row, column] = 0.0, np.log(3), np.log(2), 0.0, 4.0
    grid[85 * anchor + 5 + label, row, column] = 3.0
    boxes, scores = decode_v3(grid, 32)
    assert boxes.shape == (13 * 13 * 3, 4) and scores.shape == (13 * 13 * 3, 80)
    (found,) = detections(boxes, scores)
    width, height = V3_ANCHORS[32][anchor]
    x, y = (7 + 0.5) * 32, (4 + 0.75) * 32
    assert found.box == pytest.approx((x - width, y - height / 2, x + width, y + height / 2), rel=1e-5)
    assert (found.label, found.score) == (label, pytest.approx(1 / (1 + np.exp(-4)) / (1 + np.exp(-3)), rel=1e-5))


def test_wrong_grids() -> None:
    with pytest.raises(UsageError, match="classes"):
        decode_v1(np.zeros((7, 7, 10)))
    with pytest.raises(UsageError, match="stride 4"):
        decode_v3(np.zeros((255, 2, 2)), 4)
    with pytest.raises(UsageError, match="3 anchors"):
        decode_v3(np.zeros((254, 2, 2)), 8)


def test_names_of_the_classes() -> None:
    assert (len(COCO), COCO[0], COCO[-1], len(VOC)) == (80, "person", "toothbrush", 20)
    assert len(set(COCO)) == 80 and len(set(VOC)) == 20
