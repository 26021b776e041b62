"""The handwritten digits of the trained network: preprocessing, the held-out set, and pictures of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

SIZE = 32
"""Height and width of the network's input."""


def preprocess(images: np.ndarray) -> np.ndarray:
    """8x8 images with grey values 0..16 as the network's input.

    Args:
        images: ``[N, 8, 8]``, any numeric dtype.

    Returns:
        float32 ``[N, 1, 32, 32]``, bilinearly enlarged, in [-1, 1].
    """
    small = images.shape[-1]
    centres = np.clip((np.arange(SIZE) + 0.5) * small / SIZE - 0.5, 0, small - 1)
    low = np.floor(centres).astype(int)
    high = np.minimum(low + 1, small - 1)
    resize = np.zeros((SIZE, small))
    resize[np.arange(SIZE), low] += 1 - (centres - low)
    resize[np.arange(SIZE), high] += centres - low
    large = resize @ images.astype(np.float64) @ resize.T
    return np.ascontiguousarray((large / 8 - 1)[:, None].astype(np.float32))


def held_out() -> tuple[np.ndarray, np.ndarray]:
    """The images ``uint8 [N, 8, 8]`` and labels ``int64 [N]`` that training never saw."""
    from cnngraph_models import trained_path

    with np.load(trained_path("digits_test.npz"), allow_pickle=False) as data:
        return data["images"], data["labels"].astype(np.int64)


def as_text(images: np.ndarray, predictions: Sequence[int], probabilities: Sequence[float], columns: int = 6) -> str:
    """Digits drawn with block characters, each above its prediction and probability."""
    shades = " ░▒▓█"
    lines: list[str] = []
    for start in range(0, len(images), columns):
        row = range(start, min(start + columns, len(images)))
        for y in range(images.shape[1]):
            lines.append("  ".join("".join(shades[min(4, int(v) * 5 // 17)] * 2 for v in images[i][y]) for i in row).rstrip())
        lines.append("  ".join(f"{predictions[i]} ({probabilities[i]:6.1%})".ljust(16) for i in row).rstrip())
        lines.append("")
    return "\n".join(lines)


def save_sheet(
    images: np.ndarray, predictions: Sequence[int], probabilities: Sequence[float], labels: Sequence[int], path: str | Path, columns: int = 6
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
