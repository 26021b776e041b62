"""Overlap, suppression and selection of boxes; lecture facts 3.13 and 3.14."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from cnngraph.errors import UsageError
from cnngraph.vision import center_to_corners, clip_boxes, corners_to_center, detections, iou, nms

ort = pytest.importorskip("onnxruntime")


def random_boxes(count: int, seed: int, grid: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 10, (count, 2)), rng.uniform(0.5, 6, (count, 2))
    boxes = np.concatenate([corner, corner + size], axis=1)
    return (np.round(boxes / grid) * grid if grid else boxes).astype(np.float32)


def test_iou_of_the_lecture() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    np.testing.assert_allclose(iou(boxes, boxes), [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]])


def test_iou_is_the_share_of_the_pixels() -> None:
    boxes = random_boxes(20, 1, grid=1.0).astype(int)
    masks = np.zeros((20, 20, 20), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    flat = masks.reshape(20, -1)
    both, either = (flat[:, None] & flat[None]).sum(2), (flat[:, None] | flat[None]).sum(2)
    np.testing.assert_allclose(iou(boxes, boxes), both / np.maximum(either, 1))


def test_iou_without_area() -> None:
    flat = np.array([[1.0, 1, 1, 5], [3, 3, 2, 2]])
    assert not iou(flat, flat).any()
    assert iou(np.zeros((0, 4)), flat).shape == (0, 2)
    with pytest.raises(UsageError, match=r"\(3,\)"):
        iou(np.zeros(3), flat)


def suppress(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float | None, limit: int) -> list[int]:
    """By onnxruntime's NonMaxSuppression."""
    infos = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, len(boxes), 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 1, len(boxes)]),
    ]
    numbers = [
        helper.make_tensor("most", TensorProto.INT64, [1], [limit]),
        helper.make_tensor("iou", TensorProto.FLOAT, [1], [iou_threshold]),
    ]
    if score_threshold is not None:
        numbers.append(helper.make_tensor("score", TensorProto.FLOAT, [1], [score_threshold]))
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", *(t.name for t in numbers)], ["kept"])
    result = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([node], "nms", infos, [result], numbers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (kept,) = session.run(None, {"boxes": boxes[None], "scores": scores[None, None]})
    return [int(row[2]) for row in kept]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_nms_matches_onnxruntime(seed: int, ties: bool) -> None:
    boxes = random_boxes(60, seed, grid=1.0 if ties else 0.0)
    scores = np.random.default_rng(seed + 100).uniform(0, 1, 60).astype(np.float32)
    if ties:  # equal scores, equal boxes and overlaps that are exactly the threshold
        scores = np.round(scores * 4) / np.float32(4)
        boxes[30:40] = boxes[:10]
        boxes[40:50] = boxes[40:50, [2, 3, 0, 1]]
    for iou_threshold in (0.0, 0.25, 0.5, 0.9):
        for score_threshold in (None, 0.5):
            for limit in (60, 5):
                ours = nms(boxes, scores, iou_threshold, score_threshold, limit)
                assert ours.tolist() == suppress(boxes, scores, iou_threshold, score_threshold, limit)


def test_nms_of_nothing_and_of_what_is_no_number() -> None:
    assert nms(np.zeros((0, 4)), np.zeros(0)).shape == (0,)
    boxes = np.array([[0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    assert nms(boxes, np.array([0.5, np.nan, 0.7])).tolist() == [2, 0]
    with pytest.raises(UsageError, match="3 boxes"):
        nms(boxes, np.zeros(2))


def test_detections_suppress_within_a_class_only() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([[0.9, 0.6], [0.8, 0.95], [0.3, 0.1]], np.float32)
    found = detections(boxes, scores, score_threshold=0.25)
    assert [(d.label, round(d.score, 2), d.box[0]) for d in found] == [(1, 0.95, 1.0), (0, 0.9, 0.0), (0, 0.3, 50.0)]
    assert detections(boxes, scores, score_threshold=0.25, limit=1) == found[:1]
    assert detections(boxes, scores, score_threshold=0.99) == []
    with pytest.raises(UsageError, match="classes"):
        detections(boxes, scores[:2])


def test_corners_and_centres() -> None:
    boxes = random_boxes(10, 3)
    np.testing.assert_allclose(center_to_corners(corners_to_center(boxes)), boxes, rtol=1e-5)
    np.testing.assert_allclose(corners_to_center(np.array([[1, 2, 5, 10]])), [[3, 6, 4, 8]])
    np.testing.assert_allclose(clip_boxes(np.array([[-1, -2, 50, 3]]), 20, 10), [[0, 0, 20, 3]])
