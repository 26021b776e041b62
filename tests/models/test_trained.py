"""The trained digit network, its held-out set, and how a digit is prepared."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import cnngraph_models
from cnngraph.errors import InvalidInputError, UsageError
from cnngraph_models import digits


def test_held_out_accuracy() -> None:
    path = cnngraph_models.trained_path("digits_lenet.onnx")
    assert path.stat().st_size < 1_000_000
    images, labels = digits.held_out()
    assert images.shape == (360, 8, 8)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [36] * 10
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"input": digits.preprocess(images)})
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (probabilities.argmax(1) == labels).mean() >= 0.98


def test_the_file_is_a_valid_model_with_a_free_batch() -> None:
    model = onnx.load(cnngraph_models.trained_path("digits_lenet.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_held_out_digits_come_from_scikit_learn_and_are_no_training_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    everything = datasets.load_digits()
    known = {image.tobytes(): int(label) for image, label in zip(everything.images.astype(np.uint8), everything.target, strict=True)}
    assert len(known) == len(everything.target)
    images, labels = digits.held_out()
    assert [known[image.tobytes()] for image in images] == labels.tolist()


def test_preprocess_enlarges_bilinearly() -> None:
    image = np.zeros((1, 8, 8))
    image[0, :, :] = np.arange(8) * 2
    x = digits.preprocess(image)
    assert x.shape == (1, 1, 32, 32)
    assert x.dtype == np.float32
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    np.testing.assert_allclose(x[0, 0, 5], centres * 2 / 16, atol=1e-6)
    np.testing.assert_allclose(x[0, 0], digits.preprocess(image.transpose(0, 2, 1))[0, 0].T, atol=1e-6)
    assert digits.preprocess(np.zeros((0, 8, 8))).shape == (0, 1, 32, 32)


@pytest.mark.parametrize("wrong", [np.zeros((8, 8)), np.zeros((1, 28, 28)), np.full((1, 8, 8), 17.0), np.full((1, 8, 8), np.nan)])
def test_preprocess_refuses_what_is_no_digit(wrong: np.ndarray) -> None:
    with pytest.raises(InvalidInputError):
        digits.preprocess(wrong)


def test_text_shows_every_digit_and_its_prediction() -> None:
    images = np.zeros((7, 8, 8), np.uint8)
    images[:, 2:6, 3] = 16
    text = digits.as_text(images, [1, 2, 3, 4, 5, 6, 7], [0.5] * 7)
    assert text.count("██") == 7 * 4
    assert "7 ( 50.0%)" in text
    assert len(text.rstrip().splitlines()) == 2 * 9 + 1


def test_trained_path_knows_only_its_files() -> None:
    for name in ("../cnngraph_models/__init__.py", "other.onnx", ""):
        with pytest.raises(UsageError):
            cnngraph_models.trained_path(name)
