"""The models themselves: valid, reproducible, and with weights that keep a signal alive."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import onnxruntime
import pytest

import cnngraph_models
from cnngraph.errors import UsageError
from cnngraph_models.builder import Batch, Builder
from cnngraph_models.weights import Moments, UniformSource

INFO = {info.name: info for info in cnngraph_models.list_models()}


HUGE = {
    "yolo_v1",
    "vgg16",
    "vgg19",
    "nasnet_large",
    "alexnet_slide_groups",
    "alexnet_bn_same",
}  # take seconds, and most of a gigabyte, to write
BATCHED = ("lenet5", "resnet18", "unet", "autoencoder", "retinanet", "shufflenet_v1_g3", "googlenet", "capsnet", "mask_rcnn", "audio_m5")


@pytest.mark.parametrize(
    ("name", "batch"),
    [*(pytest.param(name, "dynamic", marks=[pytest.mark.slow] * (name in HUGE)) for name in INFO), *((name, 2) for name in BATCHED)],
)
def test_models_pass_the_full_check(name: str, batch: Batch) -> None:
    info = INFO[name]
    if info.batch is not None:
        with pytest.raises(UsageError, match=f"batch of {info.batch}"):
            cnngraph_models.build(name, fill="zeros", batch=2)
        batch = info.batch
    model = cnngraph_models.build(name, fill="zeros", batch=batch)
    onnx.checker.check_model(model, full_check=True)
    (value,) = model.graph.input
    assert value.name == "input"
    assert [output.name for output in model.graph.output] == list(info.outputs)
    for found, expected in ((value, info.input_shape), *zip(model.graph.output, info.outputs.values(), strict=True)):
        first, *rest = found.type.tensor_type.shape.dim
        if info.batch is None or found is value:
            assert first.dim_param == "N" if batch == "dynamic" else first.dim_value == batch
        else:
            assert first.dim_param == "M", "as many as were detected"
        assert tuple(dim.dim_value for dim in rest) == expected
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_declared_shapes_are_the_real_ones() -> None:
    """Also where the input is not as large as usual."""
    for name, shape in (
        ("unet", (3, 32, 48)), ("autoencoder", (3, 30, 31)), ("densenet121", (3, 64, 96)), ("efficientnet_b0", (3, 63, 64)),
        ("googlenet", (3, 224, 256)), ("yolo_v3", (3, 64, 96)), ("retinanet", (3, 128, 192)), ("nasnet_mobile", (3, 65, 64)),
        ("mobile_facenet", (3, 48, 64)), ("inception_v3", (3, 91, 75)), ("shufflenet_v2", (3, 64, 96)),
    ):  # fmt: skip
        model = cnngraph_models.build(name, input_shape=shape, batch=2, fill="zeros")
        results = session_of(model).run(None, {"input": np.zeros((2, *shape), np.float32)})
        declared = [tuple(dim.dim_value for dim in output.type.tensor_type.shape.dim) for output in model.graph.output]
        assert [result.shape for result in results] == declared, name


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_the_same_seed_gives_the_same_bytes() -> None:
    first = cnngraph_models.build("resnet18", seed=5).SerializeToString()
    assert first == cnngraph_models.build("resnet18", seed=5).SerializeToString()
    assert first != cnngraph_models.build("resnet18", seed=6).SerializeToString()


def test_the_bytes_of_a_seed_never_change() -> None:
    weights = UniformSource(7).uniform(1000, -1.0, 1.0)
    assert hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest() == "ca5cf08ffdad9b68bd93fa9c9ffa1bdc8fea68f9c073e93d810d5a881382a6fa"


def test_uniform_numbers_fill_their_range() -> None:
    numbers = UniformSource(1).uniform(600_001, 2.0, 5.0).astype(np.float64)
    assert numbers.min() >= 2.0
    assert numbers.max() <= 5.0
    assert numbers.mean() == pytest.approx(3.5, abs=0.01)
    assert numbers.std() == pytest.approx(3 / np.sqrt(12), abs=0.01)
    assert len(np.unique(numbers)) > 500_000


def test_rectified_moments() -> None:
    samples = np.maximum(np.random.default_rng(0).normal(0.3, 1.5, 400_000), 0)
    moments = Moments(0.3, 2.25).rectified()
    assert moments.mean == pytest.approx(samples.mean(), rel=0.01)
    assert moments.variance == pytest.approx(samples.var(), rel=0.01)


# Smallest change of the results, of order one, from one image to another of noise: pooling averages noise away.
@pytest.mark.parametrize(
    ("name", "least"),
    [("lenet5", 0.1), ("keras_cnn_small", 0.1), ("keras_cnn_same", 0.1), ("residual_block", 0.1), ("cifar_resnet29", 2e-3),
     ("mini_xception", 2e-3), ("flowers17_alexnet", 0.05), ("squeezenet1_1", 2e-3), ("mobilenet", 2e-3), ("mobilenet_v2", 2e-3),
     ("mobilenet_v3_small", 2e-3), ("resnet18", 2e-3), ("resnet50_v1_5", 2e-3), ("resnet50_v2", 2e-3), ("densenet121", 2e-3),
     ("nasnet_mobile", 2e-3), ("efficientnet_b0", 2e-3), ("efficientnet_b3", 3e-4), ("googlenet", 2e-3), ("inception_v3", 5e-4),
     ("xception", 2e-3), ("shufflenet_v1_g3", 2e-3), ("shufflenet_v2", 2e-3), ("autoencoder", 0.1), ("autoencoder_latent2", 0.1),
     ("espcn", 0.05), ("unet", 0.05), ("pix2pix", 0.1), ("audio_m5", 0.02), ("audio_m5_stereo", 0.02), ("mobile_facenet", 2e-3),
     ("capsnet", 2e-3), ("jpeg_dct", 10)],
)  # fmt: skip
def test_outputs_are_finite_and_depend_on_the_image(name: str, least: float) -> None:
    info = INFO[name]
    model = cnngraph_models.build(name, seed=1)
    makers = {node.output[0]: node for node in model.graph.node}
    names = []
    for output in list(model.graph.output):
        maker = makers[output.name]
        before = maker.input[0] if maker.op_type in ("Softmax", "Sigmoid") else output.name
        names.append(before)
        if before != output.name:
            model.graph.output.add(name=before)
    images = np.random.default_rng(2).uniform(*info.input_range, (3, *info.input_shape)).astype(np.float32)
    for result, shape in zip(session_of(model).run(names, {"input": images}), info.outputs.values(), strict=True):
        assert result.shape == (3, *shape)
        assert np.isfinite(result).all()
        assert 1e-3 < result.std() < 100
        assert (result - result.mean(0)).std() > least


def test_depth_does_not_change_the_scale() -> None:
    images = np.random.default_rng(2).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    for name in ("resnet18_v1_5", "resnet152_v1_5"):
        model = cnngraph_models.build(name, seed=4)
        (logits,) = session_of(model).run(None, {"input": images})
        assert 0.2 < logits.std() < 5


def test_batch_norm_statistics_are_not_trivial() -> None:
    model = cnngraph_models.build("resnet18", seed=1)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 20
    for node in norms:
        scale, bias, mean, variance = (values[name] for name in node.input[1:])
        assert variance.min() > 0
        for statistic in (scale, bias, mean, variance):
            assert statistic.std() > 0.01


def test_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="resnet18"):
        cnngraph_models.build("resnet19")
    for wrong in (0, -1, True, "N"):
        with pytest.raises(UsageError, match="batch"):
            cnngraph_models.build("lenet5", batch=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed"):
        cnngraph_models.build("lenet5", seed=-1)
    with pytest.raises(UsageError, match="fill"):
        cnngraph_models.build("lenet5", fill="ones")  # type: ignore[arg-type]


def test_a_residual_sum_of_different_shapes_is_refused() -> None:
    b = Builder("broken")
    x = b.input("input", (3, 32, 32))
    with pytest.raises(UsageError, match=r"sum adds.*\(8, 30, 30\).*\(8, 32, 32\)"):
        b.add(b.conv(x, 8, 3, name="conv"), b.conv(x, 8, 1, name="shortcut"), name="sum")


def test_two_layers_of_one_name_are_refused() -> None:
    b = Builder("broken")
    x = b.relu(b.input("input", (3, 8, 8)), name="relu")
    with pytest.raises(UsageError, match="two layers"):
        b.relu(x, name="relu")
