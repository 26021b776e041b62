"""Direct convolution: plain images by 1x1 filters (every row is copied, however the pixels are tiled), taps far apart."""

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


@pytest.mark.parametrize(("channels", "stride", "dilation"), [(16, 1, 4), (20, 1, 9), (16, 2, 5), (3, 1, 6), (32, 1, 30)])
def test_rows_of_taps_far_apart(channels: int, stride: int, dilation: int) -> None:
    op = Conv((3, 3), (stride, stride), (dilation,) * 4, (dilation, dilation), 1, None)
    weights = _RNG.standard_normal((40, channels, 3, 3)).astype(np.float32)
    case = Case("conv_direct", op, ((BATCH, channels, 13, 17), weights, _RNG.standard_normal(40).astype(np.float32)))
    for isa in ("avx512", "avx2", "sse4"):
        for request in requests(case, isa):
            run_emulated(case, isa, request)
