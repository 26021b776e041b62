"""Normalisations, softmax and losses."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import DType
from tests.fuzz.case import Array, Case, Draw, strategy

WIDE = (DType.F32, DType.F64, DType.F16, DType.BF16)


def _image(d: Draw, channels: int) -> tuple[int, ...]:
    return (d.int(1, 2), channels, *d.shape(1, 3, 1, 5))


def spread(d: Draw, shape: tuple[int, ...], dtype: DType) -> Array:
    """Multiples of 1/4, whose sums and squares are exact, so that a small variance is not lost in rounding."""
    return (d.array(shape, DType.F32, -12, 12).round() / 4).astype(dtype.numpy)


@strategy("BatchNormalization")
def batch_normalization(d: Draw) -> Case:
    channels = d.int(1, 5)
    shape = _image(d, channels) if d.flag(0.8) or d.opset < 9 else (d.int(1, 3), channels)
    rest = [d.floats((channels,), d.dtype(i)) for i in range(1, 4)] + [d.floats((channels,), d.dtype(4), 0.25, 2)]
    given = d.some(epsilon=lambda: d.pick(1e-5, 1e-3, 0.125), momentum=lambda: d.number(0, 1))
    outputs = 1
    if d.opset >= 14 and d.flag(0.2):
        given["training_mode"] = 1
        outputs = 3
    return d.case([spread(d, shape, d.dtype()), *rest], outputs, fixed=(1, 2, 3, 4), scaled=True, tolerance=1e-4, **given)


@strategy("InstanceNormalization")
def instance_normalization(d: Draw) -> Case:
    channels = d.int(1, 5)
    parts = [d.floats((channels,), d.dtype()) for _ in range(2)]
    return d.case(
        [spread(d, _image(d, channels), d.dtype()), *parts], fixed=(1, 2), scaled=True, tolerance=1e-4,
        **d.some(epsilon=lambda: d.pick(1e-5, 0.125)),
    )  # fmt: skip


@strategy("GroupNormalization")
def group_normalization(d: Draw) -> Case:
    groups = d.int(1, 3)
    channels = groups * d.int(1, 3)
    count = groups if d.opset < 21 else channels
    parts = [d.floats((count,), d.dtype()) for _ in range(2)]
    return d.case(
        [spread(d, _image(d, channels), d.dtype()), *parts], fixed=(1, 2), scaled=True, single=True, tolerance=1e-4, num_groups=groups,
        **d.some(epsilon=lambda: d.pick(1e-5, 0.125)),
    )  # fmt: skip


@strategy("LayerNormalization", "RMSNormalization")
def layer_normalization(d: Draw) -> Case:
    shape = d.shape(1, 4)
    axis = d.axis(len(shape))
    tail = shape[axis % len(shape) :]
    scale = d.floats(tail, d.dtype(1))
    given = d.some(epsilon=lambda: d.pick(1e-5, 0.125), axis=lambda: axis)
    if "axis" not in given:
        scale = d.floats(shape[-1:], d.dtype(1))
    x = spread(d, shape, d.dtype(0))
    if d.op == "RMSNormalization":
        return d.case([x, scale], fixed=(1,), scaled=True, single=True, tolerance=1e-4, **given)
    bias = d.floats(scale.shape, d.dtype(2)) if d.flag() else None
    return d.case([x, scale, bias], d.pick(1, 1, [0, 1, 2], [0, 2]), fixed=(1, 2), scaled=True, single=True, tolerance=1e-3, **given)


@strategy("MeanVarianceNormalization")
def mean_variance(d: Draw) -> Case:
    x = spread(d, (d.int(1, 3), d.int(1, 3), d.int(2, 4), d.int(1, 4)), d.dtype())
    return d.case([x], scaled=True, tolerance=1e-3, axes=sorted(a % 4 for a in d.axes(4, 1)) if d.flag(0.3) else None)


@strategy("LpNormalization")
def lp_normalization(d: Draw) -> Case:
    shape = d.shape(1, 4)
    return d.case([d.floats(shape, d.dtype())], **d.some(axis=lambda: d.axis(len(shape)), p=lambda: d.int(1, 2)))


@strategy("Softmax", "LogSoftmax", "Hardmax")
def softmax(d: Draw) -> Case:
    shape = d.shape(1, 4)
    low = -len(shape) if d.opset >= 11 else 0
    x = d.array(shape, d.dtype(), -9, 9)
    axis = d.int(low, len(shape) - 1) if d.flag() or (d.opset < 13 and len(shape) < 2) else None
    return d.case([x], tolerance=2e-5, scaled=True, axis=axis)


@strategy("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(d: Draw) -> Case:
    n, classes, rest = d.int(1, 3), d.int(1, 5), d.shape(0, 2, 1, 3)
    dtype = d.dtype(0)
    x = d.floats((n, classes, *rest), dtype)
    if d.op == "NegativeLogLikelihoodLoss":
        x = (-np.abs(x.astype(np.float64))).astype(dtype.numpy)
    target = d.indices((n, *rest), classes, d.dtype(1), False)
    weights = d.floats((classes,), dtype, 0.25, 2) if d.flag() else None
    given = d.some(reduction=lambda: d.pick("mean", "sum", "none"))
    if d.flag(0.4):
        ignored = d.int(-1, classes - 1)
        given["ignore_index"] = ignored
        spared = np.arange(target.size).reshape(target.shape) == 0
        others = (ignored + 1) % max(classes, 1) if ignored >= 0 else 0
        target = np.where(spared & (target == ignored), others, target).astype(target.dtype)
        if classes == 1 and ignored == 0:
            given["ignore_index"] = -1
        elif ignored < 0:
            target = np.where(~spared & (target == 0), ignored, target).astype(target.dtype)
    outputs = d.pick(1, 2) if d.op == "SoftmaxCrossEntropyLoss" else 1
    return d.case([x, target, weights], outputs, fixed=(2,), scaled=True, tolerance=2e-5, **given)
