"""Direct convolution of plain images by 1x1 filters: every row of the image is copied, however the pixels are tiled."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN
from cnngraph.ops import Conv
from tests.backends.template_cases import Case, requests, run_emulated

_RNG = np.random.default_rng(3)


@pytest.mark.parametrize("size", [(16, 20), (9, 28), (40,), (3, 8, 14)])
@pytest.mark.parametrize("channels", [3, 8])
def test_pointwise_convolution_of_a_plain_image(channels: int, size: tuple[int, ...]) -> None:
    ones = (1,) * len(size)
    op = Conv(ones, ones, (0,) * (2 * len(size)), ones, 1, None)
    outputs = 50_000 // (int(np.prod(size)) * channels) + 20  # more work than the problems that share one kernel
    weights = _RNG.standard_normal((outputs, channels, *ones)).astype(np.float32)
    case = Case("conv_direct", op, ((BATCH, channels, *size), weights, None))
    for isa in ("avx512", "avx2", "sse4"):
        offers = requests(case, isa)
        if isa == "avx512":
            assert offers[0].inputs[0] == PLAIN
        for request in offers:
            run_emulated(case, isa, request)
