"""Direct convolution: plain images by 1x1 filters (every row is copied, however the pixels are tiled), taps far apart, taps on padding."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.ir.types import BATCH, PLAIN, Layout
from cnngraph.kernels.template import Extent, LayoutRequest, Packed
from cnngraph.ops import Conv
from cnngraph_cpu.templates.conv_direct_plan import pack_weights
from cnngraph_cpu.templates.conv_geometry import collide, geometry, group_spans, padding_unread
from cnngraph_cpu.templates.tile_loops import ANY_TAIL
from tests.backends.template_cases import Case, plan, requests, run_emulated

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


@pytest.mark.parametrize("channels", [3, 16])
def test_the_only_plane_of_the_result_may_lie_on_padding(channels: int) -> None:
    """A kernel of one plane, of which one is computed, in front of the image."""
    op = Conv((1, 3, 3), (3, 1, 1), (2, 1, 1, 0, 1, 1), (1, 1, 1), 1, None)
    weights = _RNG.standard_normal((40, channels, 1, 3, 3)).astype(np.float32)
    case = Case("conv_direct", op, ((BATCH, channels, 1, 4, 5), weights, _RNG.standard_normal(40).astype(np.float32)))
    for isa in ("avx512", "avx2"):
        for request in requests(case, isa):
            run_emulated(case, isa, request)


@pytest.mark.parametrize(("channels", "stride", "dilation"), [(16, 1, 4), (20, 1, 9), (16, 2, 5), (3, 1, 6), (32, 1, 30)])
def test_rows_of_taps_far_apart(channels: int, stride: int, dilation: int) -> None:
    op = Conv((3, 3), (stride, stride), (dilation,) * 4, (dilation, dilation), 1, None)
    weights = _RNG.standard_normal((40, channels, 3, 3)).astype(np.float32)
    case = Case("conv_direct", op, ((BATCH, channels, 13, 17), weights, _RNG.standard_normal(40).astype(np.float32)))
    for isa in ("avx512", "avx2", "sse4"):
        for request in requests(case, isa):
            run_emulated(case, isa, request)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "dilation", "size"),
    [
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (7, 7)),  # two rows a tile, an odd number of them
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (8, 7)),
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (5, 28)),
        ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (14, 14)),
        ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), (9, 13)),
        ((5, 5), (1, 1), (2, 2, 2, 2), (1, 1), (6, 6)),
        ((5, 4), (1, 2), (3, 2, 1, 1), (1, 1), (7, 11)),
        ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), (7, 9)),
        ((3, 3), (1, 1), (3, 4, 3, 4), (1, 1), (4, 4)),  # whole tiles on padding
        ((7, 7), (1, 1), (3, 3, 3, 3), (1, 1), (3, 3)),
        ((1, 7), (1, 1), (0, 3, 0, 3), (1, 1), (9, 8)),
        ((3,), (1,), (1, 1), (1,), (40,)),
        ((3, 3, 3), (1, 1, 1), (1, 1, 1, 1, 1, 1), (1, 1, 1), (3, 5, 7)),
    ],
)
def test_taps_on_padding_are_passed_over(
    kernel: tuple[int, ...], stride: tuple[int, ...], pads: tuple[int, ...], dilation: tuple[int, ...], size: tuple[int, ...]
) -> None:
    op = Conv(kernel, stride, pads, dilation, 1, None)
    weights = (_RNG.standard_normal((72, 18, *kernel)) / 8).astype(np.float32)
    case = Case("conv_direct", op, ((BATCH, 18, *size), weights, _RNG.standard_normal(72).astype(np.float32)))
    for isa in ("avx512", "avx2"):
        for request in requests(case, isa):
            _, call = plan(case, isa, request)
            constants = dict(call.spec.constants)
            assert constants["TAIL_COLS"] == ANY_TAIL or "SKIP_ROWS" in constants or "SKIP_COLUMNS" in constants
            run_emulated(case, isa, request)


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "dilation", "in_place"),
    [
        ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), True),
        ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), True),
        ((3, 3), (2, 2), (0, 0, 1, 1), (1, 1), True),
        ((1, 3), (1, 1), (0, 1, 0, 1), (1, 1), True),
        ((5, 3), (1, 1), (2, 1, 2, 1), (1, 1), True),
        ((3, 3), (2, 2), (2, 2, 2, 2), (2, 2), True),
        ((3, 5), (1, 1), (1, 2, 1, 2), (1, 1), False),  # of the first tap two pixels of a tile lie on padding
        ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), False),
        ((1, 1), (1, 1), (1, 1, 1, 1), (1, 1), False),  # the tap lies on padding on both sides
    ],
)
def test_padded_images_are_read_in_place(
    kernel: tuple[int, ...], stride: tuple[int, ...], pads: tuple[int, ...], dilation: tuple[int, ...], in_place: bool
) -> None:
    """Where taps on padding are passed over pixel by pixel, rows are not copied; emulated pointers refuse what lies outside of x."""
    weights = (_RNG.standard_normal((32, 20, *kernel)) / 8).astype(np.float32)
    case = Case("conv_direct", Conv(kernel, stride, pads, dilation, 1, None), ((BATCH, 20, 9, 46), weights, None))
    request = LayoutRequest((Layout(16), None, None), (Layout(16),))
    node, call = plan(case, "avx512", request)
    assert call.spec.constant("TR") == 1 and call.spec.constant("TC") > 1
    assert padding_unread(geometry(node), 1, call.spec.constant("TC")) is in_place
    assert (call.spec.constant("SOURCE") == 0) is in_place
    run_emulated(case, "avx512", request)


@pytest.mark.parametrize(
    ("channels", "stride", "pads", "dilation", "size", "in_place"),
    [
        (6, (1, 1), (0, 0, 0, 0), (1, 1), (14, 33), True),
        (3, (2, 2), (0, 0, 0, 0), (2, 1), (15, 34), True),
        (1, (1, 1), (0, 0, 0, 0), (1, 1), (12, 40), True),
        (9, (1, 1), (0, 0, 0, 0), (1, 1), (12, 20), False),  # more planes than lines of cache that begin in the same set
        (5, (2, 1), (2, 1, 2, 1), (1, 1), (11, 21), False),
        (1, (1, 1), (1, 17, 1, 17), (1, 1), (9, 5), False),  # padding of more than a vector
        (4, (1, 2), (0, 3, 2, 0), (1, 3), (7, 48), False),
        (3, (1, 1, 1), (0, 0, 0, 0, 0, 0), (1, 1, 1), (4, 8, 18), False),
        (2, (1, 1, 2), (1, 1, 1, 1, 1, 1), (1, 2, 1), (3, 9, 21), False),
    ],
)
def test_plain_images_are_read_plane_by_plane(
    channels: int, stride: tuple[int, ...], pads: tuple[int, ...], dilation: tuple[int, ...], size: tuple[int, ...], in_place: bool
) -> None:
    """Without padding in place, else from rows copied as they are; single channels along contiguous taps."""
    kernel = (3,) * len(size)
    outputs = 50_000 // (int(np.prod(size)) // int(np.prod(stride)) * channels * len(size) ** 2) + 17  # more work than small problems
    weights = (_RNG.standard_normal((outputs, channels, *kernel)) / 8).astype(np.float32)
    case = Case("conv_direct", Conv(kernel, stride, pads, dilation, 1, None), ((BATCH, channels, *size), weights, None))
    for isa in ("avx512", "avx2", "sse4"):
        if (request := requests(case, isa)[0]).inputs[0] == PLAIN:
            constants = dict(plan(case, isa, request)[1].spec.constants)
            assert constants["SOURCE"] == (0 if in_place else 2)
            assert constants["MERGED"] == (channels == 1) and constants.get("PLANAR", 0) == (channels > 1)
            run_emulated(case, isa, request)
        else:
            assert channels >= {"avx512": 16, "avx2": 8, "sse4": 4}[isa]


def test_small_problems_are_read_plane_by_plane() -> None:
    weights = _RNG.standard_normal((16, 2, 3, 3)).astype(np.float32)
    for pads in ((0, 0, 0, 0), (1, 1, 1, 1)):
        case = Case("conv_direct", Conv((3, 3), (1, 1), pads, (1, 1), 1, None), ((BATCH, 2, 6, 9), weights, None))
        request = requests(case, "avx512")[0]
        assert plan(case, "avx512", request)[1].spec.constant("TAIL_COLS") == ANY_TAIL
        run_emulated(case, "avx512", request)


def test_blocks_that_begin_in_the_same_sets_collide() -> None:
    way = 128 * 1024
    assert collide(16, 2 * way, 4096)
    assert not collide(8, 2 * way, way)
    assert not collide(16, way + 4096, 4096)
    assert collide(16, way + 4096, 10 * 4096)


@pytest.mark.parametrize(
    ("channels", "outputs", "group", "kernel", "size"),
    [(48, 60, 3, 1, (9, 13)), (60, 72, 3, 1, (7, 7)), (90, 30, 2, 1, (8, 7)), (24, 36, 3, 3, (7, 9)), (40, 40, 20, 3, (9, 11))],
)
def test_groups_that_cut_blocks(channels: int, outputs: int, group: int, kernel: int, size: tuple[int, int]) -> None:
    """A tile reads the channels of its own groups only, from the middle of a block to the middle of another."""
    pad = kernel // 2
    op = Conv((kernel, kernel), (1, 1), (pad,) * 4, (1, 1), group, None)
    weights = _RNG.standard_normal((outputs, channels // group, kernel, kernel)).astype(np.float32)
    case = Case("conv_direct", op, ((BATCH, channels, *size), weights, _RNG.standard_normal(outputs).astype(np.float32)))
    for isa in ("avx512", "avx2", "sse4"):
        for request in requests(case, isa):
            _, call = plan(case, isa, request)
            table = call.arguments["block_table"]
            assert isinstance(table, Packed)
            assert call.spec.constant("GROUPED") == 1
            assert (table.data[1] - table.data[0]).min() < channels
            run_emulated(case, isa, request)


def test_weights_of_groups_are_stored_without_those_of_others() -> None:
    w = np.arange(40 * 20, dtype=np.float32).reshape(40, 20, 1, 1) + 1
    op = Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 2, None)
    node, _ = plan(
        Case("conv_direct", op, ((BATCH, 40, 14, 14), w, None)), "avx512", LayoutRequest((Layout(16), None, None), (Layout(16),))
    )
    g = geometry(node)
    spans = group_spans(g, 16)
    assert spans == [(0, 20), (0, 40), (20, 40)]
    packed = pack_weights(w, g, spans, 16, 16)
    assert packed.shape == (3, 40 * 16)
    np.testing.assert_array_equal(packed[0, : 20 * 16].reshape(20, 16), w[:16, :, 0, 0].T)
    assert not packed[0, 20 * 16 :].any()
    straddling = packed[1].reshape(40, 16)
    np.testing.assert_array_equal(straddling[:20, :4], w[16:20, :, 0, 0].T)
    np.testing.assert_array_equal(straddling[20:, 4:], w[20:32, :, 0, 0].T)
    assert not straddling[:20, 4:].any()


@pytest.mark.parametrize(("channels", "outputs", "size"), [(32, 16, (112, 112)), (24, 144, (56, 56)), (384, 96, (14, 14))])
def test_threads_get_equal_shares_of_pointwise_layers(channels: int, outputs: int, size: tuple[int, int]) -> None:
    """Few channel tiles, or an odd number of them: the rows are shared, in an even number of blocks."""
    op = Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 1, None)
    case = Case("conv_direct", op, ((BATCH, channels, *size), np.ones((outputs, channels, 1, 1), np.float32), None))
    _, call = plan(case, "avx512", LayoutRequest((Layout(16), None, None), (Layout(16),)))
    numbers = {name: argument.value for name, argument in call.arguments.items() if isinstance(argument, Extent)}
    assert -(-int(numbers["rows_out"]) // int(numbers["block_rows"])) % 2 == 0  # type: ignore[arg-type]
