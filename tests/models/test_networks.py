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


@pytest.mark.parametrize("batch", ["dynamic", 2])
@pytest.mark.parametrize("name", INFO)
def test_models_pass_the_full_check(name: str, batch: Batch) -> None:
    model = cnngraph_models.build(name, fill="zeros", batch=batch)
    onnx.checker.check_model(model, full_check=True)
    info = INFO[name]
    (value,), (output,) = model.graph.input, model.graph.output
    assert (value.name, output.name) == ("input", info.output)
    for found, expected in ((value, info.input_shape), (output, info.output_shape)):
        first, *rest = found.type.tensor_type.shape.dim
        assert first.dim_param == "N" if batch == "dynamic" else first.dim_value == batch
        assert tuple(dim.dim_value for dim in rest) == expected
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


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


@pytest.mark.parametrize(
    "name", ["lenet5", "keras_cnn_small", "keras_cnn_same", "residual_block", "cifar_resnet29", "mini_xception", "flowers17_alexnet",
             "squeezenet1_1", "mobilenet_v2", "resnet18", "resnet50_v1_5"]
)  # fmt: skip
def test_outputs_are_finite_and_depend_on_the_image(name: str) -> None:
    info = INFO[name]
    model = cnngraph_models.build(name, seed=1)
    before = model.graph.node[-1].input[0] if model.graph.node[-1].op_type in ("Softmax", "Sigmoid") else info.output
    if before != info.output:
        model.graph.output.add(name=before)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(2).uniform(*info.input_range, (3, *info.input_shape)).astype(np.float32)
    (result,) = session.run([before], {"input": images})
    assert result.shape == (3, *info.output_shape)
    assert np.isfinite(result).all()
    assert 1e-3 < result.std() < 30
    assert (result - result.mean(0)).std() > 2e-3


def test_depth_does_not_change_the_scale() -> None:
    images = np.random.default_rng(2).uniform(-1, 1, (1, 3, 224, 224)).astype(np.float32)
    for name in ("resnet18_v1_5", "resnet152_v1_5"):
        model = cnngraph_models.build(name, seed=4)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {"input": images})
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
