"""Detectors: YOLO versions 1 and 3, RetinaNet, and a Mask R-CNN for one image."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from cnngraph.vision.anchors import level_anchors
from cnngraph_models.builder import Builder, Tensor
from cnngraph_models.catalog import ModelInfo, network
from cnngraph_models.layers import channels, conv_bn, leaky_relu, reshape, transpose, upsample
from cnngraph_models.resnet import entry, residual_stages
from cnngraph_models.weights import Moments

CLASSES = 80
PROPOSALS = 32


@network(
    ModelInfo(
        "yolo_v1", "YOLO version 1: 24 convolutions, a 7x7 grid of 30 numbers (Redmon et al. 2015)", (3, 448, 448), (7, 7, 30), "grid"
    )
)
def yolo_v1(b: Builder, x: Tensor) -> Tensor:
    """For each cell two boxes of five numbers, then twenty class scores."""
    count = 0

    def convs(y: Tensor, *layers: tuple[int, int]) -> Tensor:
        nonlocal count
        for filters, kernel in layers:
            count += 1
            y = b.conv(y, filters, kernel, stride=2 if count in (1, 22) else 1, pad=kernel // 2, name=f"conv{count}")
            y = leaky_relu(b, y, name=f"conv{count}_act")
        return y

    x = b.max_pool(convs(x, (64, 7)), 2, stride=2, name="pool1")
    x = b.max_pool(convs(x, (192, 3)), 2, stride=2, name="pool2")
    x = b.max_pool(convs(x, (128, 1), (256, 3), (256, 1), (512, 3)), 2, stride=2, name="pool3")
    x = b.max_pool(convs(x, *((256, 1), (512, 3)) * 4, (512, 1), (1024, 3)), 2, stride=2, name="pool4")
    x = convs(x, *((512, 1), (1024, 3)) * 2, (1024, 3), (1024, 3), (1024, 3), (1024, 3))
    x = leaky_relu(b, b.dense(b.flatten(x, name="flatten"), 4096, name="fc1"), name="fc1_act")
    x = b.dense(b.dropout(x, name="dropout"), 7 * 7 * 30, name="fc2")
    return reshape(b, x, (7, 7, 30), name="cells")


@network(
    ModelInfo(
        "yolo_v3", "YOLO version 3: Darknet-53, three scales of 3 x 85 numbers a cell (Redmon and Farhadi 2018)", (3, 416, 416),
        (255, 13, 13), "grid32", (0.0, 1.0), (("grid16", (255, 26, 26)), ("grid8", (255, 52, 52))),
    ),
    conv_bias=False,
)  # fmt: skip
def yolo_v3(b: Builder, x: Tensor) -> Mapping[str, Tensor]:
    """The outputs have strides 32, 16 and 8; sigmoids and exponentials are left to decoding."""

    def conv(y: Tensor, filters: int, kernel: int, name: str, stride: int = 1, *, residual: bool = False) -> Tensor:
        return conv_bn(b, y, filters, kernel, stride=stride, pad=kernel // 2, act="leaky_relu", residual=residual, name=name)

    x = conv(x, 32, 3, "stem")
    routes = []
    for stage, blocks in enumerate((1, 2, 8, 8, 4), 1):
        filters = 32 << stage
        x = conv(x, filters, 3, f"stage{stage}_down", 2)
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            y = conv(x, filters // 2, 1, f"{name}_1")
            x = b.add(x, conv(y, filters, 3, f"{name}_2", residual=True), name=f"{name}_add")
        routes.append(x)
    results = {}
    for stride, filters, route in ((32, 512, None), (16, 256, routes[3]), (8, 128, routes[2])):
        name = f"head{stride}"
        if route is not None:
            x = upsample(b, conv(x, filters, 1, f"{name}_reduce"), 2, name=f"{name}_up")
            x = b.concat((x, route), name=f"{name}_concat")
        for index in range(5):
            x = conv(x, filters if index % 2 == 0 else 2 * filters, 1 if index % 2 == 0 else 3, f"{name}_{index + 1}")
        y = conv(x, 2 * filters, 3, f"{name}_last")
        results[f"grid{stride}"] = b.conv(y, 3 * (5 + CLASSES), 1, bias=True, name=f"{name}_out")
    return results


@network(
    ModelInfo(
        "retinanet", "RetinaNet on ResNet-50, Keras example: feature pyramid, shared heads, 9 anchors a place (Lin et al. 2017)",
        (3, 512, 512), (49_104, CLASSES), more_outputs=(("deltas", (49_104, 4)),),
    ),
    epsilon=1.001e-5,
)  # fmt: skip
def retinanet(b: Builder, x: Tensor) -> Mapping[str, Tensor]:
    """Class probabilities and box deltas of all anchors: levels of stride 8 to 128, rows, columns, then anchors of a place."""
    c3, c4, c5 = residual_stages(b, entry(b, x))[1:]
    p3, p4, p5 = (b.conv(c, 256, 1, name=f"lateral{level}") for level, c in ((3, c3), (4, c4), (5, c5)))
    p4 = b.add(p4, upsample(b, p5, 2, name="up5"), name="merge4")
    p3 = b.add(p3, upsample(b, p4, 2, name="up4"), name="merge3")
    p3, p4, p5 = (b.conv(p, 256, 3, pad=1, name=f"pyramid{level}") for level, p in ((3, p3), (4, p4), (5, p5)))
    p6 = b.conv(c5, 256, 3, stride=2, pad="same", name="pyramid6")
    p7 = b.conv(b.relu(p6, name="pyramid6_relu"), 256, 3, stride=2, pad="same", name="pyramid7")
    anchors, results = 9, {}
    for head, per_anchor in (("class", CLASSES), ("box", 4)):
        parts = []
        for level, y in enumerate((p3, p4, p5, p6, p7), 3):

            def shared(y: Tensor, filters: int, layer: str, bias: float | None = None, level: int = level) -> Tensor:
                """The layer of one level; all levels use the weights of the first."""
                weights = None if level == 3 else f"{layer}_p3"
                return b.conv(y, filters, 3, pad=1, weights=weights, bias_value=bias, name=f"{layer}_p{level}")

            for index in range(1, 5):
                y = b.relu(shared(y, 256, f"{head}{index}"), name=f"{head}{index}_p{level}_relu")
            # Every class starts at a probability of 1 %, as focal loss wants.
            y = shared(y, anchors * per_anchor, f"{head}_out", -math.log(99) if head == "class" else None)
            y = transpose(b, y, (0, 2, 3, 1), name=f"{head}_p{level}_last")
            parts.append(reshape(b, y, (math.prod(y.shape) // per_anchor, per_anchor), name=f"{head}_p{level}_rows"))
        results[head] = b.concat(parts, name=f"{head}_concat")
    return {"probabilities": b.sigmoid(results["class"], name="sigmoid"), "deltas": results["box"]}


def _apply_deltas(b: Builder, boxes: Tensor, deltas: Tensor, size: tuple[int, ...], name: str) -> Tensor:
    """Boxes (x1, y1, x2, y2) moved by (dx, dy) of their size and stretched by exp(dw, dh), cut at the borders of the image."""
    corners = [channels(b, boxes, start, start + 2, name=f"{name}_{part}") for part, start in (("first", 0), ("second", 2))]
    extent = b.node("Sub", [corners[1], corners[0]], (2,), name=f"{name}_extent")
    half = b.constant(f"{name}.half", np.array(0.5, np.float32))
    centre = b.node("Add", [corners[0], b.node("Mul", [extent, half], (2,), name=f"{name}_half")], (2,), name=f"{name}_centre")
    move = b.node("Mul", [channels(b, deltas, 0, 2, name=f"{name}_dxy"), extent], (2,), name=f"{name}_move")
    centre = b.node("Add", [centre, move], (2,), name=f"{name}_moved")
    limit = b.constant(f"{name}.limit", np.array(math.log(1000 / 16), np.float32))
    stretch = b.node("Min", [channels(b, deltas, 2, 4, name=f"{name}_dwh"), limit], (2,), name=f"{name}_limited")
    extent = b.node("Mul", [extent, b.node("Exp", [stretch], (2,), name=f"{name}_exp")], (2,), name=f"{name}_stretched")
    reach = b.node("Mul", [extent, half], (2,), name=f"{name}_reach")
    ends = [b.node(op, [centre, reach], (2,), name=f"{name}_{op.lower()}") for op in ("Sub", "Add")]
    moved = b.node("Concat", ends, (4,), name=f"{name}_boxes", axis=1)
    borders = b.constant(f"{name}.borders", np.array([size[1], size[0]] * 2, np.float32))
    zero = b.constant(f"{name}.zero", np.array(0, np.float32))
    return b.node("Max", [b.node("Min", [moved, borders], (4,), name=f"{name}_below"), zero], (4,), name=f"{name}_cut")


def _region_align(b: Builder, x: Tensor, regions: Tensor, side: int, name: str) -> Tensor:
    images = b.constant(f"{name}.images", np.zeros(PROPOSALS, np.int64))
    return b.node(
        "RoiAlign", [x, regions, images], (x.shape[0], side, side), name=name, rows=PROPOSALS, output_height=side, output_width=side,
        sampling_ratio=2, spatial_scale=1 / 16,
    )  # fmt: skip


@network(
    ModelInfo(
        "mask_rcnn", "Mask R-CNN on ResNet-50 to stride 16, 32 proposals, one image (He et al. 2017)", (3, 256, 256), (4,), "boxes",
        more_outputs=(("scores", ()), ("labels", ()), ("masks", (CLASSES, 28, 28))), batch=1,
    ),
)  # fmt: skip
def mask_rcnn(b: Builder, x: Tensor) -> None:
    """Proposals by TopK, regions by RoiAlign, heads for class, box and mask, and NonMaxSuppression of the boxes."""
    size = x.shape[1:]
    x = b.relu(b.conv(residual_stages(b, entry(b, x), last=4)[-1], 256, 1, name="reduce"), name="reduce_relu")

    y = b.relu(b.conv(x, 256, 3, pad=1, name="rpn_conv"), name="rpn_relu")
    anchors = level_anchors(y.shape[1], y.shape[2], 16, 64.0, scales=(1.0, 2.0, 4.0)).astype(np.float32)
    places = 9 * y.shape[1] * y.shape[2]
    scores = transpose(b, b.conv(y, 9, 1, name="rpn_score"), (0, 2, 3, 1), name="rpn_score_last")
    deltas = transpose(b, b.conv(y, 36, 1, name="rpn_delta"), (0, 2, 3, 1), name="rpn_delta_last")
    _, indices = b.top_k(reshape(b, scores, (places,), name="rpn_scores"), PROPOSALS, name="rpn_top")
    flat = b.node("Reshape", [indices, b.constant("rpn_top.flat", np.array([PROPOSALS], np.int64))], (), name="rpn_index", rows=PROPOSALS)
    rows = b.node("Reshape", [deltas, b.constant("rpn_delta.shape", np.array([places, 4], np.int64))], (4,), name="rpn_deltas", rows=places)
    chosen = b.node("Gather", [b.constant("anchors", anchors), flat], (4,), name="rpn_anchors", rows=PROPOSALS, axis=0)
    moves = b.node("Gather", [rows, flat], (4,), name="rpn_moves", rows=PROPOSALS, axis=0)
    moves = b.scale(moves, 0.1, name="rpn_small_moves")
    regions = _apply_deltas(b, chosen, moves, size, "proposal")

    y = b.flatten(_region_align(b, x, regions, 7, "region7"), name="box_flatten")
    for index in (1, 2):
        y = b.relu(b.dense(y, 1024, name=f"box_fc{index}"), name=f"box_relu{index}")
    classes = b.softmax(b.dense(y, 1 + CLASSES, name="box_class"), name="box_softmax")
    moves = b.scale(b.dense(y, 4, name="box_delta"), 0.1, name="box_small_moves")
    boxes = _apply_deltas(b, regions, moves, size, "box")

    y = _region_align(b, x, regions, 14, "region14")
    for index in range(1, 5):
        y = b.relu(b.conv(y, 256, 3, pad=1, name=f"mask_conv{index}"), name=f"mask_relu{index}")
    y = b.relu(b.conv_transpose(y, 256, 2, stride=2, name="mask_up"), name="mask_up_relu")
    masks = b.sigmoid(b.conv(y, CLASSES, 1, name="mask_out"), name="mask_sigmoid")

    real = channels(b, classes, 1, 1 + CLASSES, name="real_classes")
    best = b.node("ReduceMax", [real], (), name="best_score", moments=Moments(), axes=[1], keepdims=0)
    label = b.node("ArgMax", [real], (), name="best_label", moments=Moments(), axis=1, keepdims=0)
    one = b.node(
        "Reshape", [boxes, b.constant("nms.boxes", np.array([1, PROPOSALS, 4], np.int64))], (PROPOSALS, 4), name="nms_boxes", rows=1
    )
    score = b.node(
        "Reshape", [best, b.constant("nms.scores", np.array([1, 1, PROPOSALS], np.int64))], (1, PROPOSALS), name="nms_scores", rows=1
    )
    limits = [b.constant("nms.most", np.array([PROPOSALS], np.int64)), b.constant("nms.iou", np.array([0.5], np.float32))]
    kept = b.node("NonMaxSuppression", [one, score, *limits], (3,), name="nms")
    survivors = b.node("Gather", [kept, b.constant("nms.column", np.array(2, np.int64))], (), name="nms_index", axis=1)
    for label_name, value in (("boxes", boxes), ("scores", best), ("labels", label), ("masks", masks)):
        result = b.node("Gather", [value, survivors], value.shape, name=f"kept_{label_name}", axis=0)
        kind = TensorProto.INT64 if label_name == "labels" else TensorProto.FLOAT
        b.output(result, label_name, data_type=kind, shape=("M", *value.shape))
