"""Every family against onnxruntime: the fused graph by its references at small sizes, and compiled programs.

``python -m tests.models.test_against_onnxruntime [names]`` compiles networks, by default all, at their own sizes.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
import pytest

import cnngraph
import cnngraph_models
from cnngraph.frontend import import_model
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.pipeline import optimize
from tests.frontend.support import run

ort = pytest.importorskip("onnxruntime")

TOLERANCE = 1e-3  # of the largest result
INFO = {info.name: info for info in cnngraph_models.list_models()}
SIZES: dict[str, tuple[int, ...]] = {
    "cifar_resnet29": (3, 32, 32), "mini_xception": (3, 60, 61), "xception": (3, 75, 71), "inception_v3": (3, 75, 91),
    "googlenet": (3, 80, 81), "mobilenet": (3, 64, 64), "mobilenet_v2": (3, 33, 64), "mobilenet_v3_small": (3, 64, 64),
    "mobilenet_v3_large": (3, 64, 32), "densenet121": (3, 64, 32), "nasnet_mobile": (3, 65, 64), "efficientnet_b0": (3, 63, 64),
    "resnet50_v2": (3, 32, 33), "resnet50_dct": (64, 4, 4), "squeezenet1_0": (3, 64, 64), "squeezenet1_1": (3, 63, 64),
    "shufflenet_v1_g3": (3, 64, 64), "shufflenet_v2": (3, 64, 64), "unet_resize": (3, 16, 16),
    "autoencoder": (3, 31, 40), "autoencoder_latent2": (1, 28, 28), "espcn": (1, 20, 15), "audio_m5": (1, 8000),
    "audio_m5_stereo": (2, 8000),
    "mobile_facenet": (3, 48, 48), "jpeg_dct": (1, 64, 48), "capsnet": (1, 28, 28), "cyclegan": (3, 32, 40),
}  # fmt: skip
SLOW_SIZES = {
    "inception_resnet_v2": (3, 75, 91),
    "unet_valid": (1, 188, 188),
    "efficientnet_b3": (3, 64, 64),
    "cifar_resnet1001": (3, 32, 32),
    "yolo_v1": (3, 64, 64),
    "yolo_v3": (3, 32, 64),
    "pix2pix": (3, 256, 256),
    "unet": (3, 16, 32),
    "retinanet": (3, 64, 64),
    "mask_rcnn": (3, 64, 80),
}
COMPILED = ("capsnet",)
SLOWLY_COMPILED = (
    "audio_m5_stereo", "resnet50_v2", "resnet50_dct", "densenet121", "inception_v3", "xception", "mobilenet_v3_large", "shufflenet_v1_g3",
    "nasnet_mobile", "efficientnet_b0", "unet", "unet_resize", "autoencoder", "autoencoder_latent2", "espcn", "cyclegan", "pix2pix",
    "yolo_v3", "retinanet", "mask_rcnn", "mobile_facenet",
)  # fmt: skip


def problem(name: str, shape: tuple[int, ...], images: int) -> tuple[onnx.ModelProto, np.ndarray, dict[str, np.ndarray]]:
    """A network, input images and onnxruntime's results."""
    info = INFO[name]
    model = cnngraph_models.build(name, seed=1, input_shape=shape, batch=info.batch or "dynamic")
    count = info.batch or images
    x = np.random.default_rng(2).uniform(*info.input_range, (count, *shape)).astype(np.float32)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return model, x, dict(zip([output.name for output in session.get_outputs()], session.run(None, {"input": x}), strict=True))


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference in units of the largest result."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max()) if theirs.size and theirs.any() else float(np.abs(ours).max(initial=0))


@pytest.mark.parametrize("name", [*SIZES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_SIZES)])
def test_fused_graph(name: str) -> None:
    model, x, theirs = problem(name, SIZES.get(name) or SLOW_SIZES[name], 2)
    graph = import_model(model)
    optimize(graph, CompileOptions(), PassContext())
    ours = run(graph, {"input": x})
    assert list(ours) == list(theirs) == list(INFO[name].outputs)
    for output, result in theirs.items():
        assert result.size
        assert error(ours[output], result) < 2e-5, output


@pytest.mark.parametrize("name", [*COMPILED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY_COMPILED)])
def test_compiled(name: str) -> None:
    model, x, theirs = problem(name, INFO[name].input_shape, 2)
    ours = cnngraph.compile(model).run({"input": x})
    for output, result in theirs.items():
        assert error(ours[output], result) < TOLERANCE, output


def main(names: list[str]) -> None:
    """Compile networks at their own sizes and print the seconds to compile and to run, and the errors of the outputs."""
    for name in names or INFO:
        model, x, theirs = problem(name, INFO[name].input_shape, 1)
        start = time.perf_counter()
        program = cnngraph.compile(model)
        compiled = time.perf_counter()
        ours = program.run({"input": x})
        ran = time.perf_counter()
        errors = {output: f"{error(ours[output], result):.1e}" for output, result in theirs.items()}
        sys.stdout.write(f"{name:<24}{compiled - start:7.1f} s {ran - compiled:7.3f} s  {errors}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
