"""Resizing, cropping and normalising, bit for bit as Pillow resizes."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.vision import KERAS_CAFFE, KERAS_TF, TORCHVISION, Preprocessing, center_crop, preprocess, resize, shorter_side

Image = pytest.importorskip("PIL.Image")

FILTERS = {"bilinear": "BILINEAR", "bicubic": "BICUBIC", "lanczos": "LANCZOS", "box": "BOX", "nearest": "NEAREST"}


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise on a gradient: overshoots at edges, and every value from 0 to 255."""
    rng = np.random.default_rng(seed)
    shape = (height, width, channels) if channels else (height, width)
    ramp = np.linspace(0, 255, width).reshape(1, width, *([1] * bool(channels)))
    return np.clip(ramp + rng.integers(-255, 256, shape) * (rng.uniform(size=shape) < 0.5), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize(
    ("source", "target"),
    [((40, 60), (17, 23)), ((13, 9), (50, 41)), ((31, 64), (31, 20)), ((64, 31), (20, 31)), ((5, 7), (5, 7)), ((1, 1), (3, 2))],
)
def test_equals_pillow(source: tuple[int, int], target: tuple[int, int], filter: str) -> None:
    for channels in (0, 3):
        pixels = picture(*source, channels)
        expected = np.asarray(Image.fromarray(pixels).resize(target[::-1], getattr(Image.Resampling, FILTERS[filter])))
        np.testing.assert_array_equal(resize(pixels, target, filter), expected)


@pytest.mark.parametrize("filter", FILTERS)
def test_boxes_equal_pillow(filter: str) -> None:
    pixels = picture(50, 70)
    for box in ((10, 5, 60, 45), (0.5, 3.25, 33.75, 49.5), (69, 49, 70, 50)):
        expected = Image.fromarray(pixels).resize((24, 31), getattr(Image.Resampling, FILTERS[filter]), box=box)
        np.testing.assert_array_equal(resize(pixels, (31, 24), filter, box), np.asarray(expected))


@pytest.mark.parametrize("filter", FILTERS)
def test_heat_maps_equal_pillow(filter: str) -> None:
    heat = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
    for target in ((224, 200), (3, 4)):
        expected = np.asarray(Image.fromarray(heat).resize(target[::-1], getattr(Image.Resampling, FILTERS[filter])))
        np.testing.assert_array_equal(resize(heat, target, filter), expected)


def test_torchvisions_pipeline() -> None:
    pixels = picture(300, 421)
    image = Image.fromarray(pixels).resize((int(256 * 421 / 300), 256), Image.Resampling.BILINEAR)
    left = round((image.width - 224) / 2)
    middle = np.asarray(image.crop((left, 16, left + 224, 240)), np.float64)
    expected = (middle / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    result = preprocess(pixels, TORCHVISION)
    assert result.shape == (1, 3, 224, 224) and result.dtype == np.float32
    np.testing.assert_allclose(result[0], expected.transpose(2, 0, 1), atol=2e-6)
    np.testing.assert_array_equal(preprocess(Image.fromarray(pixels), TORCHVISION), result)


def test_keras_pipelines() -> None:
    pixels = picture(100, 90)
    image = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR), np.float64)
    caffe = preprocess(pixels, KERAS_CAFFE)
    np.testing.assert_allclose(caffe[0, 0], image[:, :, 2] - 103.939, atol=1e-4)
    np.testing.assert_allclose(caffe[0, 2], image[:, :, 0] - 123.68, atol=1e-4)
    inception = preprocess(pixels, Preprocessing(scale=KERAS_TF.scale, mean=KERAS_TF.mean, layout="nhwc"))
    assert inception.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(inception[0], image / 127.5 - 1, atol=1e-6)


def test_sizes() -> None:
    assert shorter_side((300, 421), 256) == (256, 359)
    assert shorter_side((421, 300), 256) == (359, 256)
    pixels = picture(9, 8)
    np.testing.assert_array_equal(center_crop(pixels, (4, 5)), pixels[2:6, 2:7])
    assert center_crop(pixels, (9, 8)).shape == pixels.shape


def test_grey_pictures_keep_their_rank() -> None:
    assert resize(picture(9, 8, 0), (4, 4)).shape == (4, 4)
    assert resize(picture(9, 8, 1), (4, 4)).shape == (4, 4, 1)
    assert preprocess(picture(9, 8, 0), Preprocessing(size=(4, 4))).shape == (1, 1, 4, 4)


def test_wrong_arguments() -> None:
    pixels = picture(9, 8)
    with pytest.raises(UsageError, match="uint8"):
        resize(pixels.astype(np.float64), (4, 4))
    with pytest.raises(UsageError, match="uint8"):
        preprocess(pixels.astype(np.float32), TORCHVISION)
    with pytest.raises(UsageError, match="filter"):
        resize(pixels, (4, 4), "cubic")
    for box in ((0, 0, 9, 9), (3, 3, 3, 4)):
        with pytest.raises(UsageError, match="box"):
            resize(pixels, (4, 4), box=box)
    with pytest.raises(UsageError, match="middle"):
        center_crop(pixels, (10, 8))
    for wrong in (Preprocessing(mean=(1.0, 2.0)), Preprocessing(std=(0.0,)), Preprocessing(order="gbr"), Preprocessing(layout="chw")):
        with pytest.raises(UsageError):
            preprocess(pixels, wrong)
