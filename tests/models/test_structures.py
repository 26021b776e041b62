"""What the lectures say of structures: residuals, separable convolutions, sound, encoders, capsules, faces, activation maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import cnngraph_models
from cnngraph.errors import UsageError
from cnngraph.frontend import import_model
from cnngraph.vision import class_activation_map, cosine_similarity, decode_v1, resize, retinanet_anchors
from cnngraph_models.builder import Builder, Fill, Tensor
from cnngraph_models.layers import instance_norm, leaky_relu, pad, swish
from cnngraph_models.special import dct_filters
from cnngraph_models.weights import Moments
from tests.frontend.support import run

RNG = np.random.default_rng(0)


def compute(shape: tuple[int, ...], layers: Callable[[Builder, Tensor], Tensor], x: np.ndarray, fill: Fill = "random") -> np.ndarray:
    """The result of a small network."""
    b = Builder("small", fill=fill, seed=3)
    b.output(layers(b, b.input("input", shape)), "output")
    model = b.finish()
    onnx.checker.check_model(model, full_check=True)
    return run(import_model(model), {"input": x.astype(np.float32)})["output"]


def results(name: str, x: np.ndarray, *more: str) -> dict[str, np.ndarray]:
    """The outputs of a network of the zoo, and further tensors of it."""
    model = cnngraph_models.build(name, input_shape=x.shape[1:])
    for tensor in more:
        model.graph.output.add(name=tensor)
    return run(import_model(model), {"input": x.astype(np.float32)})


def test_2_20_a_silent_branch_leaves_the_shortcut() -> None:
    x = RNG.standard_normal((2, 8, 9, 9)).astype(np.float32)

    def block(b: Builder, t: Tensor) -> Tensor:
        return b.add(t, b.conv(b.relu(b.conv(t, 4, 1, name="reduce"), name="relu"), 8, 3, pad=1, name="expand"), name="sum")

    np.testing.assert_array_equal(compute((8, 9, 9), block, x, "zeros"), x)
    assert np.abs(compute((8, 9, 9), block, x) - x).max() > 0.1


def test_2_22_towers_equal_one_pointwise_and_one_grouped_convolution() -> None:
    x = RNG.standard_normal((2, 12, 10, 10))
    pointwise, spatial = RNG.standard_normal((3, 4, 12)), RNG.standard_normal((3, 5, 4, 3, 3))

    def towers(b: Builder, t: Tensor) -> Tensor:
        parts = []
        for i in range(3):
            y = b.conv(t, 4, 1, bias=False, weights=pointwise[i], name=f"tower{i}_1x1")
            parts.append(b.conv(y, 5, 3, pad=1, bias=False, weights=spatial[i], name=f"tower{i}_3x3"))
        return b.concat(parts, name="concat")

    def reformulated(b: Builder, t: Tensor) -> Tensor:
        y = b.conv(t, 12, 1, bias=False, weights=pointwise, name="pointwise")
        return b.conv(y, 15, 3, pad=1, group=3, bias=False, weights=spatial, name="grouped")

    np.testing.assert_allclose(compute((12, 10, 10), towers, x), compute((12, 10, 10), reformulated, x), atol=1e-4)


def test_2_25_sound_is_an_image_of_one_row() -> None:
    x = RNG.standard_normal((2, 2, 400))

    def net(b: Builder, t: Tensor) -> Tensor:
        kernel = (1,) * (len(t.shape) - 2)
        y = b.max_pool(b.conv(t, 6, (*kernel, 20), stride=(*kernel, 4), name="conv"), (*kernel, 4), stride=(*kernel, 4), name="pool")
        return b.flatten(b.global_average_pool(b.batch_norm(y, name="bn"), name="mean"), name="flatten")

    np.testing.assert_allclose(compute((2, 400), net, x), compute((2, 1, 400), net, x[:, :, None]), atol=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (31, 33), (45, 30), (29, 41)])
def test_2_26_the_size_comes_back(size: tuple[int, int]) -> None:
    assert results("autoencoder", RNG.uniform(0, 1, (1, 3, *size)))["image"].shape == (1, 3, *size)


def test_2_26_pixels_are_shared_out_among_the_classes() -> None:
    shares = results("unet", RNG.uniform(-1, 1, (1, 3, 16, 32)))["probabilities"]
    assert shares.shape == (1, 2, 16, 32)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)


def test_2_27_unet_needs_sides_that_halve_four_times() -> None:
    with pytest.raises(UsageError, match="too small"):
        cnngraph_models.build("unet", input_shape=(3, 8, 8), fill="none")


def test_2_30_and_2_32_boxes_of_the_outputs() -> None:
    info = {entry.name: entry for entry in cnngraph_models.list_models()}
    assert int(np.prod(info["yolo_v1"].output_shape)) == 1470
    assert len(decode_v1(np.zeros(info["yolo_v1"].output_shape, np.float32))[0]) == 98
    for size in ((128, 192), (64, 96)):
        model = cnngraph_models.build("retinanet", input_shape=(3, *size), fill="none")
        rows = [output.type.tensor_type.shape.dim[1].dim_value for output in model.graph.output]
        assert rows == [len(retinanet_anchors(*size))] * 2


def test_2_33_one_face_has_distance_zero() -> None:
    faces = RNG.uniform(-1, 1, (3, 3, 48, 48))
    faces[2] = faces[0]
    embeddings = results("mobile_facenet", faces)["embedding"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    similar = cosine_similarity(embeddings, embeddings)
    assert similar[0, 2] == pytest.approx(1, abs=1e-6)
    assert similar[0, 1] < 1 - 1e-4


def test_2_34_lengths_of_capsules() -> None:
    lengths = results("capsnet", RNG.uniform(0, 1, (2, 1, 28, 28)))["lengths"]
    assert lengths.shape == (2, 10)
    assert (lengths > 0).all() and (lengths < 1).all()


def test_2_35_the_cosine_transform_of_blocks() -> None:
    pixels = RNG.integers(-128, 128, (1, 1, 24, 16)).astype(np.float64)
    coefficients = results("jpeg_dct", pixels)["coefficients"]
    assert coefficients.shape == (1, 64, 3, 2)
    places = np.arange(8)
    for u, v in ((0, 0), (0, 1), (3, 5), (7, 7)):
        scale = (0.5**0.5 if u == 0 else 1) * (0.5**0.5 if v == 0 else 1) / 4
        wave = np.cos((2 * places + 1) * u * np.pi / 16)[:, None] * np.cos((2 * places + 1) * v * np.pi / 16)
        expected = scale * (pixels[0, 0, 8:16, :8] * wave).sum()
        assert coefficients[0, 8 * u + v, 1, 0] == pytest.approx(expected, abs=1e-3)
    basis = dct_filters().reshape(64, 64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(64), atol=1e-12)


def test_2_37_instance_normalisation_is_batch_normalisation_of_one_image() -> None:
    x = RNG.standard_normal((2, 5, 6, 7)) * 3 + 1
    got = compute((5, 6, 7), lambda b, t: instance_norm(b, t, name="norm"), x)
    mean, variance = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    np.testing.assert_allclose(got, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5)


def test_2_37_reflected_borders() -> None:
    x = RNG.standard_normal((1, 1, 4, 5))
    got = compute((1, 4, 5), lambda b, t: pad(b, t, (1, 2), (3, 0), mode="reflect", name="pad"), x)
    np.testing.assert_array_equal(got, np.pad(x.astype(np.float32), ((0, 0), (0, 0), (1, 3), (2, 0)), mode="reflect"))


def test_3_11_class_activation_map() -> None:
    x = RNG.uniform(-1, 1, (1, 3, 224, 224))
    found = results("resnet18_v1_5", x, "conv5_block2_out.out", "avg_pool.out")
    model = cnngraph_models.build("resnet18_v1_5")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for label in (0, 7, 999):
        heat = class_activation_map(found["conv5_block2_out.out"][0], stored["predictions.weight"][label])
        assert heat.shape == (7, 7)
        logit = heat.sum() / 49 + stored["predictions.bias"][label]
        assert logit == pytest.approx(found["logits"][0, label], rel=1e-4, abs=1e-5)
        assert resize(heat.astype(np.float32), (224, 224)).shape == (224, 224)


def test_estimated_moments() -> None:
    samples = np.random.default_rng(1).normal(0.4, 1.3, 400_000)
    for layer, function in ((swish, samples / (1 + np.exp(-samples))), (leaky_relu, np.maximum(samples, 0.1 * samples))):
        b = Builder("moments")
        x = b.input("input", (4,))
        # A swish is taken to see a quarter more variance than it does.
        spread = 1.3**2 / (1.25 if layer is swish else 1)
        found = layer(b, Tensor(x.name, x.shape, Moments(0.4, spread)), name="layer").moments
        assert found.mean == pytest.approx(function.mean(), rel=0.01)
        assert found.variance == pytest.approx(function.var(), rel=0.01)
