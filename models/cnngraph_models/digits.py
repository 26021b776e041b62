"""The handwritten digits that the trained network reads: the preparation of an image, the held-out set, and pictures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph_models import trained_path

SIDE = 32
LEVELS = 16.0


def preprocess(images: np.ndarray) -> np.ndarray:
    """Return digits as the trained network takes them.

    Args:
        images: (N, 8, 8) of any integer or float dtype, values 0 (paper) to 16 (ink).

    Returns:
        float32 (N, 1, 32, 32) with values 0 to 1, enlarged bilinearly with pixel centres at half integers.

    Raises:
        InvalidInputError: if the shape is not (N, 8, 8) or a value lies outside 0..16.
    """
    if images.ndim != 3 or images.shape[1:] != (8, 8):
        raise InvalidInputError(f"digits have the shape (N, 8, 8), not {images.shape}")
    scaled = images.astype(np.float32) / np.float32(LEVELS)
    if scaled.size and not (scaled.min() >= 0.0 and scaled.max() <= 1.0):
        raise InvalidInputError("digits have values from 0 to 16")
    weights = _bilinear(8, SIDE)
    return (weights @ scaled @ weights.T)[:, None]


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """Return the digits that training never saw: images uint8 (360, 8, 8) with values 0 to 16, and labels int64 (360,)."""
    with np.load(trained_path("digits_test.npz"), allow_pickle=False) as stored:
        return stored["images"], stored["labels"].astype(np.int64)


def as_text(images: np.ndarray, predictions: Sequence[int], probabilities: Sequence[float], columns: int = 6) -> str:
    """Digits drawn with block characters, each above its prediction and probability."""
    shades = " ░▒▓█"
    lines: list[str] = []
    for start in range(0, len(images), columns):
        row = range(start, min(start + columns, len(images)))
        lines.extend(
            "  ".join("".join(shades[min(4, int(v) * 5 // 17)] * 2 for v in images[i][y]) for i in row).rstrip()
            for y in range(images.shape[1])
        )
        lines.append("  ".join(f"{predictions[i]} ({probabilities[i]:6.1%})".ljust(16) for i in row).rstrip())
        lines.append("")
    return "\n".join(lines)


def save_sheet(
    images: np.ndarray,
    predictions: Sequence[int],
    probabilities: Sequence[float],
    labels: Sequence[int],
    path: str | Path,
    columns: int = 6,
) -> None:
    """A PNG of the digits with prediction and probability, wrong ones in red. Needs the extra ``images`` (Pillow)."""
    from PIL import Image, ImageDraw

    cell, caption = 96, 22
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (cell + 8) + 8, rows * (cell + caption + 8) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        x, y = 8 + i % columns * (cell + 8), 8 + i // columns * (cell + caption + 8)
        grey = Image.fromarray((255 - image.astype(np.float64) * 255 / 16).astype(np.uint8))
        sheet.paste(grey.resize((cell, cell), Image.Resampling.NEAREST).convert("RGB"), (x, y))
        right = predictions[i] == labels[i]
        draw.text((x, y + cell + 4), f"{predictions[i]}   {probabilities[i]:.1%}", fill="black" if right else "red")
    sheet.save(path)


def _bilinear(source: int, target: int) -> np.ndarray:
    """The (target, source) matrix of bilinear interpolation along one axis, edges repeated."""
    centres = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = np.minimum(centres.astype(np.int64), source - 2)
    fraction = centres - low
    weights = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    weights[rows, low] = 1 - fraction
    weights[rows, low + 1] += fraction.astype(np.float32)
    return weights
