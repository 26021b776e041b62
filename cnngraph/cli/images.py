"""Image files as network inputs: decoded, resized, cropped and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnngraph.errors import InvalidInputError, LimitExceededError, UsageError, printable

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Normalization:
    """``(pixel * scale - mean) / std`` per channel, where pixels go from 0 to 255.

    Attributes:
        mean, std: one number for all channels, or one a channel.
        scale: 1/255 unless the network wants pixels as they are.
        fit: "crop" keeps the aspect ratio and cuts the centre, "stretch" does not.
        order: "rgb" or "bgr".
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    fit: str = "crop"
    order: str = "rgb"


def read_image(path: Path, channels: int, height: int, width: int, how: Normalization) -> np.ndarray:
    """One image as float32 of shape (channels, height, width).

    Raises:
        UsageError: Pillow is not installed, the network's input is no image, or mean and std do not fit its channels.
        InvalidInputError: the file is missing or no image.
        LimitExceededError: the image has more pixels than Pillow allows.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise UsageError("reading images needs Pillow: pip install 'cnngraph[images]'") from error
    if channels not in _MODES:
        raise UsageError(f"the input has {channels} channels; an image gives 1, 3 or 4")
    shown = f"'{printable(str(path))}'"
    try:
        with Image.open(path) as file:
            image = file.convert(_MODES[channels])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise LimitExceededError(f"{shown}: {error}") from error
    except UnidentifiedImageError as error:
        raise InvalidInputError(f"{shown} is not an image of a known format") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or printable(str(error))}") from error
    image = image.resize((width, height), Image.Resampling.BILINEAR, box=_box(image.size, (width, height), how.fit))
    return _normalized(np.asarray(image, np.float32).reshape(height, width, channels), how)


def image_axes(sizes: Sequence[int]) -> tuple[int, int, int, bool]:
    """Channels, height and width of an input of these three extents, and whether its channels are the last of them.

    They are if only the last extent is one that an image file can have.
    """
    if sizes[2] in _MODES and sizes[0] not in _MODES:
        return sizes[2], sizes[0], sizes[1], True
    return sizes[0], sizes[1], sizes[2], False


def read_input_image(path: Path, sizes: Sequence[int], how: Normalization) -> np.ndarray:
    """One image as float32 of the three extents of an input, its channels first or last; raises what :func:`read_image` does."""
    channels, height, width, last = image_axes(sizes)
    image = read_image(path, channels, height, width, how)
    return np.ascontiguousarray(image.transpose(1, 2, 0)) if last else image


def resize_pixels(pixels: np.ndarray, height: int, width: int, how: Normalization) -> np.ndarray:
    """Pixels (H, W, channels) that are in memory already, like :func:`read_image` but interpolated without rounding.

    Raises:
        UsageError: Pillow is not installed, or mean and std do not fit the channels.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError("resizing images needs Pillow: pip install 'cnngraph[images]'") from error
    box = _box((pixels.shape[1], pixels.shape[0]), (width, height), how.fit)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR, box=box))
        for plane in np.moveaxis(pixels, -1, 0)
    ]
    return _normalized(np.stack(planes, axis=-1), how)


def _normalized(pixels: np.ndarray, how: Normalization) -> np.ndarray:
    channels = pixels.shape[-1]
    if how.order == "bgr" and channels == 3:
        pixels = pixels[:, :, ::-1]
    scaled = (pixels * np.float32(how.scale) - _per_channel("mean", how.mean, channels)) / _per_channel("std", how.std, channels)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)


def _per_channel(name: str, values: Sequence[float], channels: int) -> np.ndarray:
    if len(values) not in (1, channels):
        raise UsageError(f"--{name} has {len(values)} numbers; give one, or {channels}, one a channel")
    if name == "std" and 0 in values:
        raise UsageError("--std must not be zero")
    return np.asarray(values, np.float32)


def _box(actual: tuple[int, int], wanted: tuple[int, int], fit: str) -> tuple[float, float, float, float]:
    """The part of the image (left, upper, right, lower) that is resized: all of it, or the centre of the wanted aspect ratio."""
    width, height = actual
    if fit == "stretch":
        return 0, 0, width, height
    scale = min(width / wanted[0], height / wanted[1])
    dx, dy = (width - wanted[0] * scale) / 2, (height - wanted[1] * scale) / 2
    return dx, dy, width - dx, height - dy
