"""What stands before and after a network: pictures to inputs, outputs to labels, boxes and identities. NumPy only.

>>> from cnngraph.vision import TORCHVISION, preprocess, top_k
>>> x = preprocess(picture, TORCHVISION)
>>> for prediction in top_k(program.run({"input": x})["probabilities"]):
...     print(prediction.label, prediction.score)
"""

from __future__ import annotations

from cnngraph.vision.anchors import decode_deltas, encode_deltas, fitted_size, level_anchors, retinanet_anchors
from cnngraph.vision.boxes import Detection, center_to_corners, clip_boxes, corners_to_center, detections, iou, nms
from cnngraph.vision.classes import COCO, VOC, Prediction, class_activation_map, read_labels, top_k
from cnngraph.vision.embedding import cosine_similarity, recognize, same
from cnngraph.vision.images import KERAS_CAFFE, KERAS_TF, TORCHVISION, Preprocessing, center_crop, preprocess, resize, shorter_side
from cnngraph.vision.yolo import V3_ANCHORS, decode_v1, decode_v3

__all__ = [
    "COCO",
    "KERAS_CAFFE",
    "KERAS_TF",
    "TORCHVISION",
    "V3_ANCHORS",
    "VOC",
    "Detection",
    "Prediction",
    "Preprocessing",
    "center_crop",
    "center_to_corners",
    "class_activation_map",
    "clip_boxes",
    "corners_to_center",
    "cosine_similarity",
    "decode_deltas",
    "decode_v1",
    "decode_v3",
    "detections",
    "encode_deltas",
    "fitted_size",
    "iou",
    "level_anchors",
    "nms",
    "preprocess",
    "read_labels",
    "recognize",
    "resize",
    "retinanet_anchors",
    "same",
    "shorter_side",
    "top_k",
]
