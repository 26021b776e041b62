"""AffineGrid against onnxruntime, one image included."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from cnngraph.errors import InvalidModelError
from cnngraph.frontend import import_model
from tests.frontend.against_onnxruntime import compare
from tests.frontend.support import floats, model, node, run


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("spatial", [(4, 7), (3, 2, 5), (5, 2)])
@pytest.mark.parametrize("images", [1, 2])
def test_positions_as_onnxruntime(images: int, spatial: tuple[int, ...], align_corners: int) -> None:
    rank = len(spatial)
    size = np.array([images, 3, *spatial], np.int64)
    compare("AffineGrid", [floats(images, rank, rank + 1), size], 1, 20, constants=(1,), align_corners=align_corners)


def test_the_batch_stays_free_where_the_size_follows_it() -> None:
    nodes = [node("Shape", "x", "size"), node("AffineGrid", "theta size", "y")]
    proto = model(nodes, {"x": ["n", 3, 4, 7], "theta": ["n", 2, 3]}, opset=20)
    for images in (1, 3):
        feeds = {"x": floats(images, 3, 4, 7), "theta": floats(images, 2, 3)}
        y = run(import_model(proto), feeds)["y"]
        places = [(2 * np.arange(d) + 1) / d - 1 for d in (4, 7)]
        points = np.stack([*np.meshgrid(places[1], places[0]), np.ones((4, 7))], -1)
        np.testing.assert_allclose(y, np.einsum("hwc,nkc->nhwk", points, feeds["theta"]), atol=1e-6)


@pytest.mark.parametrize("dims", [[2, 3, 4], [2, 2, 2]])
def test_matrices_that_do_not_suit_the_size(dims: list[int]) -> None:
    proto = model([node("AffineGrid", "x s", "y")], {"x": (TensorProto.FLOAT, dims)}, weights={"s": np.array([2, 3, 4, 7])}, opset=20)
    with pytest.raises(InvalidModelError, match="do not suit"):
        import_model(proto)
