"""Pictures as network inputs: resized, cropped, normalised and laid out; without Pillow, and equal to it bit for bit.

A picture is a uint8 array (height, width, channels) or (height, width), or anything that NumPy converts to one, such as a Pillow image;
:func:`resize` also takes float32, such as heat maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cnngraph.errors import UsageError

_PRECISION = 22  # bits behind the point of Pillow's weights


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants done to a picture: resize, then crop the centre, then ``(pixel * scale - mean) / std``.

    Attributes:
        size: height and width of the input.
        shorter: size of the shorter side before the centre is cropped; None to stretch the picture to ``size``.
        scale: factor of the pixels 0 to 255.
        mean, std: one number for all channels, or one a channel, in the order of the result's channels.
        order: "rgb" or "bgr".
        layout: "nchw" or "nhwc".
        filter: "bilinear", "bicubic", "lanczos", "box" or "nearest".
    """

    size: tuple[int, int] = (224, 224)
    shorter: int | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: str = "rgb"
    layout: str = "nchw"
    filter: str = "bilinear"


TORCHVISION = Preprocessing(shorter=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Of torchvision's classification networks."""
KERAS_CAFFE = Preprocessing(scale=1.0, mean=(103.939, 116.779, 123.68), order="bgr")
"""Of Keras' VGG and ResNet."""
KERAS_TF = Preprocessing(scale=1 / 127.5, mean=(1.0,))
"""Of Keras' Inception, Xception, MobileNet, NASNet and ResNetV2: -1 to 1."""


def preprocess(picture: object, how: Preprocessing) -> np.ndarray:
    """One picture as a float32 batch of one: (1, C, H, W), or (1, H, W, C) for the layout "nhwc".

    Raises:
        UsageError: for something that is no picture, a crop larger than the picture, or settings that do not fit its channels.
    """
    pixels = _pixels(picture)
    if how.order not in ("rgb", "bgr") or how.layout not in ("nchw", "nhwc"):
        raise UsageError(f'order is "rgb" or "bgr" and layout "nchw" or "nhwc", not "{how.order}" and "{how.layout}"')
    if how.shorter is None:
        pixels = resize(pixels, how.size, how.filter)
    else:
        pixels = center_crop(resize(pixels, shorter_side(pixels.shape[:2], how.shorter), how.filter), how.size)
    if how.order == "bgr":
        pixels = pixels[:, :, ::-1]
    result = (pixels.astype(np.float32) * np.float32(how.scale) - _each("mean", how.mean, pixels)) / _each("std", how.std, pixels)
    if how.layout == "nchw":
        result = result.transpose(2, 0, 1)
    return np.ascontiguousarray(result[None], np.float32)


def shorter_side(size: tuple[int, ...], shorter: int) -> tuple[int, int]:
    """The (height, width) of the same proportions whose shorter side is ``shorter``; the longer is rounded down, as torchvision does."""
    height, width = size
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


def center_crop(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle (height, width) of (H, W, ...); halves are rounded to even, as torchvision does.

    Raises:
        UsageError: if the picture is smaller.
    """
    if picture.shape[0] < size[0] or picture.shape[1] < size[1]:
        raise UsageError(f"a picture of {picture.shape[0]} x {picture.shape[1]} pixels has no middle of {size[0]} x {size[1]}")
    top, left = (round((have - want) / 2) for have, want in zip(picture.shape, size, strict=False))
    return picture[top : top + size[0], left : left + size[1]]


def resize(
    picture: object, size: tuple[int, int], filter: str = "bilinear", box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """Resize as Pillow's ``Image.resize``: bit for bit its result for 8-bit grey and RGB pictures, and for float32 ones (mode "F").

    Args:
        picture: uint8 or float32, (H, W) or (H, W, C); the channels do not know of each other (Pillow multiplies colours by alpha before).
        size: height and width of the result.
        filter: "bilinear", "bicubic", "lanczos" or "box", all smoothing when they shrink; or "nearest".
        box: the part of the picture to resize, (left, top, right, bottom); default: all of it.

    Returns:
        (height, width) or (height, width, C) of the same type.

    Raises:
        UsageError: for something that is no picture, a size below 1, an unknown filter or a box that is not inside the picture.
    """
    pixels = _pixels(picture, np.uint8, np.float32)
    flat = np.ndim(np.asarray(picture)) == 2
    height, width = pixels.shape[:2]
    left, top, right, bottom = box or (0.0, 0.0, float(width), float(height))
    if filter not in _FILTERS and filter != "nearest":
        raise UsageError(f"filter is one of {', '.join([*_FILTERS, 'nearest'])}, not {filter}")
    if min(size) < 1 or not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(f"cannot resize the box {(left, top, right, bottom)} of a picture of {width} x {height} to {size[1]} x {size[0]}")
    for axis, count, low, high in ((1, size[1], left, right), (0, size[0], top, bottom)):
        if filter == "nearest":
            pixels = np.take(pixels, _nearest(count, low, high), axis)
        elif (count, low, high) != (pixels.shape[axis], 0, count):
            pixels = _resample(pixels, axis, count, low, high, filter)
    return pixels[:, :, 0] if flat else pixels


def _pixels(picture: object, *types: type) -> np.ndarray:
    """(H, W, C) of one of the types, uint8 if none is given."""
    pixels = np.asarray(picture)
    if pixels.dtype not in (types or (np.uint8,)) or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise UsageError(f"a picture is uint8 of shape (height, width, channels), not {pixels.dtype} of shape {pixels.shape}")
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _each(name: str, values: tuple[float, ...], pixels: np.ndarray) -> np.ndarray:
    if len(values) not in (1, pixels.shape[2]):
        raise UsageError(f"{name} has {len(values)} numbers for {pixels.shape[2]} channels; give one, or one a channel")
    if name == "std" and 0 in values:
        raise UsageError("std must not be zero")
    return np.array(values, np.float32)


def _nearest(count: int, low: float, high: float) -> np.ndarray:
    step = (high - low) / count
    # Pillow adds the steps up, and so do these sums, in the same order.
    return np.cumsum(np.concatenate([[low + step * 0.5], np.full(count - 1, step)])).astype(np.int64)


def _resample(pixels: np.ndarray, axis: int, count: int, low: float, high: float, filter: str) -> np.ndarray:
    """Weighted sums along one axis: of uint8 in fixed point, rounded to 8 bits; of float32 in float64, rounded once."""
    starts, weights = _weights(pixels.shape[axis], count, low, high, filter)
    fixed = pixels.dtype == np.uint8
    if fixed:
        weights = np.trunc(weights * (1 << _PRECISION) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    shape = [1] * pixels.ndim
    shape[axis] = count
    total = np.zeros([count if i == axis else extent for i, extent in enumerate(pixels.shape)], weights.dtype)
    for tap in range(weights.shape[1]):
        places = np.minimum(starts + tap, pixels.shape[axis] - 1)
        total += np.take(pixels, places, axis).astype(weights.dtype) * weights[:, tap].reshape(shape)
    if fixed:
        return np.clip((total + (1 << (_PRECISION - 1))) >> _PRECISION, 0, 255).astype(np.uint8)
    return total.astype(np.float32)


def _weights(size: int, count: int, low: float, high: float, filter: str) -> tuple[np.ndarray, np.ndarray]:
    """First pixel of every result, and its weights, float64 (count, taps)."""
    shape, reach = _FILTERS[filter]
    scale = (high - low) / count
    stretch = max(scale, 1.0)
    support = reach * stretch
    starts = np.zeros(count, np.int64)
    weights = np.zeros((count, math.ceil(support) * 2 + 1))
    for index in range(count):
        centre = low + (index + 0.5) * scale
        first, last = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), size)
        values = [shape((place - centre + 0.5) * (1.0 / stretch)) for place in range(first, last)]
        total = sum(values)
        starts[index] = first
        for tap, value in enumerate(values):
            weights[index, tap] = value / total if total != 0 else value
    return starts, weights


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "box": (_box, 0.5),
}
