"""Every classic network against onnxruntime: several batches and thread counts from one compilation, and identical bits."""

from __future__ import annotations

import numpy as np
import pytest

import cnngraph
import cnngraph_models

ort = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-4
SMALL = ["lenet5", "keras_cnn_small", "keras_cnn_same", "residual_block", "cifar_resnet29"]
MEDIUM = ["alexnet", "alexnet_bn", "flowers17_alexnet", "resnet18", "resnet50", "squeezenet1_1", "mobilenet_v2"]
LARGE = ["flowers17_vgg", "vgg16", "vgg19", "resnet34", "resnet101", "resnet152", "resnet50_v1_5"]


def reference(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """onnxruntime's result without its optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("name", [*SMALL, *MEDIUM, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)])
def test_matches_onnxruntime_and_keeps_bits(name: str) -> None:
    model = cnngraph_models.build(name).SerializeToString()
    program = cnngraph.compile(model, threads=2)
    assert not program.report["reference_steps"], "every step of a classic network has a kernel"
    spec = program.inputs[0]
    x = np.random.default_rng(3).standard_normal((3, *spec.shape[1:])).astype(np.float32)
    three = program.run({spec.name: x})
    for (output, ours), theirs in zip(three.items(), reference(model, {spec.name: x}), strict=True):
        scale = np.abs(theirs).max()
        assert np.abs(ours - theirs).max() <= TOLERANCE * scale, output
        one_thread = program.run({spec.name: x}, threads=1)[output]
        np.testing.assert_array_equal(ours, one_thread)
        for image in range(3):
            alone = program.run({spec.name: x[image : image + 1]})[output]
            np.testing.assert_array_equal(ours[image : image + 1], alone)


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_exact_math_is_closer(name: str) -> None:
    model = cnngraph_models.build(name).SerializeToString()
    program = cnngraph.compile(model, math="exact")
    spec = program.inputs[0]
    x = np.random.default_rng(4).standard_normal((1, *spec.shape[1:])).astype(np.float32)
    (theirs,) = reference(model, {spec.name: x})
    assert np.abs(program.run({spec.name: x})[program.outputs[0].name] - theirs).max() <= 2e-5 * np.abs(theirs).max()


def test_memory_plan_is_near_the_lower_bound() -> None:
    for name in ("lenet5", "resnet18", "vgg16", "alexnet", "squeezenet1_1"):
        memory = cnngraph.compile(cnngraph_models.build(name, fill="zeros")).memory_report()
        assert memory["peak"] <= 1.10 * memory["lower_bound"], name
