"""Every classic network against onnxruntime: several batches and thread counts from one compilation, and identical bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import cnngraph
import cnngraph_models
from cnngraph.frontend import import_model
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.passes.choose_layout import choose_layout
from cnngraph.passes.plan_memory import plan_memory
from cnngraph.passes.select_kernels import select_kernels
from cnngraph.pipeline import optimize
from cnngraph_cpu import backend

ort = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-4
SMALL = ["lenet5", "keras_cnn_small", "keras_cnn_same", "residual_block"]
MEDIUM = ["resnet18"]
LARGE = [
    "alexnet", "alexnet_bn", "flowers17_alexnet", "resnet50", "squeezenet1_1", "mobilenet_v2", "cifar_resnet29", "flowers17_vgg", "vgg16",
    "vgg19", "resnet34", "resnet101", "resnet152", "resnet50_v1_5",
]  # fmt: skip


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


@pytest.mark.parametrize("name", ["lenet5", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_exact_math_is_closer(name: str) -> None:
    model = cnngraph_models.build(name).SerializeToString()
    program = cnngraph.compile(model, math="exact")
    spec = program.inputs[0]
    x = np.random.default_rng(4).standard_normal((1, *spec.shape[1:])).astype(np.float32)
    (theirs,) = reference(model, {spec.name: x})
    assert np.abs(program.run({spec.name: x})[program.outputs[0].name] - theirs).max() <= 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    "name", ["lenet5", "alexnet", "cifar_resnet29", "mini_xception", "mobilenet_v2", "resnet50", "squeezenet1_1", "vgg19"]
)
def test_memory_plan_is_near_the_lower_bound(name: str) -> None:
    graph = import_model(cnngraph_models.build(name, fill="zeros"))
    optimize(graph, CompileOptions(), PassContext())
    target = backend.target("avx2")
    plan = plan_memory(graph, select_kernels(graph, choose_layout(graph, backend.templates(), target), target))
    assert plan.arena <= 1.10 * plan.bound
    if name == "vgg19":
        assert plan.arena <= 26_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_over_a_thousand_runs() -> None:
    program = cnngraph.compile(cnngraph_models.build("lenet5"))
    x = np.zeros((4, 1, 32, 32), np.float32)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(50):
        program.run({"input": x})
    before = resident()
    for _ in range(1000):
        program.run({"input": x})
    assert resident() - before < 2_000_000
