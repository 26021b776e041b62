"""ConvTranspose as imported and as compiled, against onnxruntime over random attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

import cnngraph
from cnngraph.errors import CnngraphError, InvalidModelError
from cnngraph.frontend import import_model
from tests.frontend.support import floats, model, node, run_model

MODES = ("none", "pads", "padding", "shape", "SAME_UPPER", "SAME_LOWER", "VALID")


def attributes(rng: np.random.Generator, spatial: int, mode: str) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """Attributes, input shape and weight shape."""
    kernel = rng.integers(1, 5, spatial)
    strides = rng.integers(1, 4, spatial)
    dilations = rng.integers(1, 3, spatial)
    extents = rng.integers(2, 6 if spatial < 3 else 4, spatial)
    group = int(rng.choice([1, 1, 2, 3]))
    per_group_in, per_group_out = (int(v) for v in rng.integers(1, 5, 2))
    out: dict[str, Any] = {"strides": strides.tolist(), "dilations": dilations.tolist(), "group": group}
    natural = strides * (extents - 1) + dilations * (kernel - 1) + 1
    if mode in ("pads", "padding"):
        room = natural - 1
        begins = np.minimum(rng.integers(0, 3, spatial), room)
        ends = np.minimum(rng.integers(0, 3, spatial), room - begins)
        out["pads"] = [*begins.tolist(), *ends.tolist()]
    if mode in ("padding", "shape"):
        out["output_padding"] = [int(rng.integers(0, s)) for s in strides]  # onnxruntime refuses more
    if mode == "shape":
        out["output_shape"] = [int(max(1, n + rng.integers(-2, 1))) for n in natural]
    if mode.isupper():
        out["auto_pad"] = mode
    x = (2, group * per_group_in, *extents.tolist())
    return out, x, (group * per_group_in, per_group_out, *kernel.tolist())


def expected(proto: Any, x: np.ndarray) -> np.ndarray:
    proto.ir_version = 9
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def build(attrs: dict[str, Any], w: np.ndarray, bias: bool, dims: Any, opset: int = 17) -> Any:
    weights = {"w": w}
    if bias:
        weights["b"] = floats(w.shape[1] * attrs["group"], seed=5)
    return model([node("ConvTranspose", "x w b" if bias else "x w", "y", **attrs)], {"x": dims}, weights=weights, opset=opset)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_random_attributes_as_onnxruntime(spatial: int, mode: str) -> None:
    rng = np.random.default_rng([spatial, MODES.index(mode)])
    for trial in range(8):
        attrs, shape, w_shape = attributes(rng, spatial, mode)
        proto = build(attrs, floats(*w_shape, seed=trial), trial % 2 == 0, ["N", *shape[1:]], opset=11 if trial % 3 else 22)
        x = floats(*shape, seed=trial + 100)
        np.testing.assert_allclose(run_model(proto, x=x), expected(proto, x), rtol=1e-4, atol=1e-5, err_msg=str(attrs))


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_compiled_as_onnxruntime(spatial: int) -> None:
    rng = np.random.default_rng([9, spatial])
    for trial, mode in enumerate(("none", "pads", "padding", "SAME_UPPER")):
        attrs, shape, w_shape = attributes(rng, spatial, mode)
        proto = build(attrs, floats(*w_shape, seed=trial), True, ["N", *shape[1:]])
        program = cnngraph.compile(proto)
        assert not program.report["reference_steps"], program.report["reference_steps"]
        x = floats(*shape, seed=trial + 100)
        np.testing.assert_allclose(program.run({"x": x})["y"], expected(proto, x), rtol=1e-4, atol=1e-5, err_msg=str(attrs))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats(dtype: str) -> None:
    w, x = floats(4, 3, 3, 3).astype(dtype), floats(2, 4, 5, 5, seed=1).astype(dtype)
    element = 10 if dtype == "float16" else 11
    nodes = [node("ConvTranspose", "x w", "y", strides=[2, 2], pads=[1, 1, 1, 1])]
    proto = model(nodes, {"x": (element, ["N", 4, 5, 5])}, weights={"w": w}, output_type=element)
    single = model(nodes, {"x": ["N", 4, 5, 5]}, weights={"w": w.astype(np.float32)})
    result = run_model(proto, x=x)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected(single, x.astype(np.float32)), rtol=2e-3 if dtype == "float16" else 1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("attrs", "match"),
    [
        ({"strides": [1]}, "strides"),
        ({"pads": [0, 0]}, "pads"),
        ({"pads": [-1, 0, 0, 0]}, "pads"),
        ({"pads": [9, 9, 9, 9]}, "extents"),
        ({"auto_pad": "BOTH"}, "auto_pad"),
        ({"kernel_shape": [2, 2]}, "contradicts"),
        ({"output_shape": [7]}, "output_shape"),
        ({"group": 3}, "group"),
        ({"dilations": [0, 1]}, "dilations"),
    ],
)
def test_refusals(attrs: dict[str, Any], match: str) -> None:
    proto = model([node("ConvTranspose", "x w", "y", **attrs)], {"x": ["N", 4, 5, 5]}, weights={"w": floats(4, 3, 3, 3)})
    with pytest.raises(InvalidModelError, match=match):
        import_model(proto)


def test_a_free_spatial_extent_is_not_taken_for_a_batch() -> None:
    proto = model([node("ConvTranspose", "x w", "y")], {"x": [2, 4, "H", 5]}, weights={"w": floats(4, 3, 3, 3)})
    with pytest.raises(CnngraphError):
        import_model(proto)
