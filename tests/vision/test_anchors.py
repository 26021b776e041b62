"""RetinaNet's anchors, deltas and image size; lecture facts 1.28 and 3.10."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.vision import decode_deltas, encode_deltas, fitted_size, level_anchors, retinanet_anchors
from cnngraph.vision.anchors import LEVELS, SCALES


def test_scales_and_strides() -> None:
    assert [round(scale, 4) for scale in SCALES] == [1, 1.2599, 1.5874]
    assert [1 << level for level in LEVELS] == [8, 16, 32, 64, 128]


def test_number_of_anchors() -> None:
    assert len(retinanet_anchors(512, 512)) == 49_104
    # Sides that no stride divides: the strided convolutions of the pyramid round up.
    assert len(retinanet_anchors(750, 1333)) == 9 * sum(-(-750 // s) * -(-1333 // s) for s in (8, 16, 32, 64, 128))


def test_areas_ratios_and_centres() -> None:
    boxes = level_anchors(3, 2, 16, 64.0)
    assert boxes.shape == (3 * 2 * 9, 4)
    width, height = (boxes[:, 2] - boxes[:, 0]), (boxes[:, 3] - boxes[:, 1])
    np.testing.assert_allclose((width / height)[:9], np.repeat([0.5, 1, 2], 3))
    np.testing.assert_allclose((width * height)[:9], np.tile(64.0**2 * np.array(SCALES) ** 2, 3))
    centres = np.stack([boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]], axis=1)[::9] / 2
    np.testing.assert_allclose(centres, [[8, 8], [24, 8], [8, 24], [24, 24], [8, 40], [24, 40]])


def test_first_square_of_the_largest_level() -> None:
    boxes = retinanet_anchors(512, 512)
    np.testing.assert_allclose(boxes[3], [4 - 16, 4 - 16, 4 + 16, 4 + 16])
    np.testing.assert_allclose(boxes[-16 * 9 + 3], [64 - 256, 64 - 256, 64 + 256, 64 + 256])


def test_deltas() -> None:
    anchors = retinanet_anchors(64, 64)
    np.testing.assert_allclose(decode_deltas(anchors, np.zeros_like(anchors)), anchors, atol=1e-4)
    one = np.array([[0.0, 0, 10, 20]])
    moved = decode_deltas(one, np.array([[1.0, -1, np.log(2) / 0.2, 0]]))
    np.testing.assert_allclose(moved, [[-4, -2, 16, 18]], rtol=1e-6)
    rng = np.random.default_rng(0)
    deltas = rng.standard_normal(anchors.shape)
    np.testing.assert_allclose(encode_deltas(anchors, decode_deltas(anchors, deltas)), deltas, atol=1e-4)
    with pytest.raises(UsageError, match="do not belong"):
        decode_deltas(anchors, deltas[1:])


def test_size_that_the_image_is_resized_to() -> None:
    assert fitted_size(1080, 1920) == (750, 1333)
    assert fitted_size(1920, 1080) == (1333, 750)
    assert fitted_size(600, 700) == (800, 933)
    assert fitted_size(1, 5000) == (1, 1333)
