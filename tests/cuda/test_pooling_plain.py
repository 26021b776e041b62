"""Row-major pooling and its inverse, regions of interest, and convolutions by computed weights, in the emulator."""

from __future__ import annotations

import numpy as np
import pytest

from cnngraph.errors import InvalidInputError, UnsupportedError
from cnngraph.ir.graph import Graph
from cnngraph.ir.interpret import interpret
from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import Conv, ConvTranspose, Pool
from cnngraph.ops.expression import Expression
from cnngraph.ops.geometry import MaxUnpool
from cnngraph.ops.roi import RoiAlign
from cnngraph_cuda.jit import missing_packages

from .support import TOLERANCE, Net, build, emulate

POOLS = {
    "images": ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (7, 6)),
    "dilated": ((2, 3), (1, 2), (0, 1, 1, 0), (2, 1), (6, 5)),
    "line": ((4,), (3,), (1, 2), (1,), (11,)),
    "volume": ((2, 3, 2), (1, 2, 2), (1, 0, 1, 0, 1, 0), (1, 1, 1), (4, 5, 6)),
}


def run(graph, feeds, isa="sm_90", **changes):
    """(results, definitions, templates)"""
    with np.errstate(all="ignore"):
        expected = interpret(graph, feeds)
    program, choice = build(graph, isa=isa)
    got, _ = emulate(program, feeds, **changes)
    return got, expected, [s.chosen for s in choice.selections]


@pytest.mark.parametrize("storage_order", [0, 1])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.I8, DType.U8])
@pytest.mark.parametrize("case", POOLS)
def test_maxima_and_their_places(case, dtype, storage_order):
    kernel, strides, pads, dilations, spatial = POOLS[case]
    graph = Graph("test")
    x = graph.add_input("x", TensorType(dtype, (BATCH, 3, *spatial)))
    op = Pool("max", kernel, strides, pads, dilations, ceil_mode=case == "images", indices=True, storage_order=storage_order)
    for i, value in enumerate(graph.add(op, [x], origin=("pool",))):
        graph.add_output(f"y{i}", value)
    feed = np.random.default_rng(0).integers(0 if dtype is DType.U8 else -4, 5, (2, 3, *spatial)).astype(dtype.numpy)
    if dtype.is_float:
        feed[np.random.default_rng(1).random(feed.shape) < 0.1] = np.nan
        feed[np.random.default_rng(2).random(feed.shape) < 0.1] = -np.inf
    got, expected, used = run(graph, {"x": feed})
    assert "pool_plain" in used
    for name, want in expected.items():
        assert got[name].dtype == want.dtype
        np.testing.assert_array_equal(got[name], want)


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_volumes(kind, count_include_pad, precision):
    kernel, strides, pads, dilations, spatial = POOLS["volume"]
    if kind == "max" and count_include_pad:
        return
    net = Net(5, *spatial)
    net.add_output("y", net.node(Pool(kind, kernel, strides, pads, dilations, count_include_pad=count_include_pad), net.x))
    feed = np.random.default_rng(0).standard_normal((2, 5, *spatial)).astype(np.float32)
    got, expected, used = run(net, {"x": feed}, f"sm_90:{precision}")
    assert "pool_plain" in used
    np.testing.assert_allclose(got["y"], expected["y"], atol=4 * TOLERANCE[precision])


@pytest.mark.parametrize("overlap", [False, True])
def test_unpooling(overlap):
    graph = Graph("test")
    kernel, strides = ((3, 3), (2, 2)) if overlap else ((2, 2), (2, 2))
    spatial = (7, 9) if overlap else (6, 8)
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 3, *spatial)))
    best, places = graph.add(Pool("max", kernel, strides, (0,) * 4, (1, 1), indices=True), [x], origin=("pool",))
    graph.add_output("y", graph.add(MaxUnpool(spatial, spatial, kernel, strides, (0, 0)), [best, places], origin=("unpool",))[0])
    feed = np.random.default_rng(0).standard_normal((2, 3, *spatial)).astype(np.float32)
    got, expected, used = run(graph, {"x": feed})
    assert "max_unpool" in used
    np.testing.assert_array_equal(got["y"], expected["y"])


def test_unpooling_to_a_bad_place():
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 1, 2, 2)))
    places = graph.add_input("i", TensorType(DType.I64, (BATCH, 1, 2, 2)))
    graph.add_output("y", graph.add(MaxUnpool((4, 4), (4, 4), (2, 2), (2, 2), (0, 0)), [x, places], origin=("unpool",))[0])
    feeds = {"x": np.ones((1, 1, 2, 2), np.float32), "i": np.array([[[[0, 2], [8, 16]]]])}
    with pytest.raises(InvalidInputError, match="unpool: MaxUnpool index 16 is outside its plane"):
        emulate(build(graph)[0], feeds)


def regions(**changes):
    """A graph of RoiAlign, and feeds: regions inside, across the edges, of no size and outside the image."""
    settings = {"mode": "avg", "height": 3, "width": 4, "sampling": 2, "scale": 0.5, "half_pixel": True, **changes}
    graph = Graph("test")
    shapes = {"x": (3, 5, 9, 7), "rois": (6, 4)}
    values = [graph.add_input(name, TensorType(DType.F32, shape)) for name, shape in shapes.items()]
    values.append(graph.add_input("i", TensorType(DType.I64, (6,))))
    graph.add_output("y", graph.add(RoiAlign(**settings), values, origin=("align",))[0])
    boxes = np.array([[0, 0, 10, 12], [3.3, 2.1, 9.9, 17.7], [-5, -4, 6, 3], [8, 10, 30, 40], [4, 4, 4, 4], [50, 50, 60, 60]], np.float32)
    x = np.random.default_rng(0).standard_normal(shapes["x"]).astype(np.float32)
    return graph, {"x": x, "rois": boxes, "i": np.array([0, 1, 2, 2, 1, 0])}


@pytest.mark.parametrize("half_pixel", [False, True])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions_of_interest(mode, sampling, half_pixel):
    graph, feeds = regions(mode=mode, sampling=sampling, half_pixel=half_pixel)
    got, expected, used = run(graph, feeds)
    assert used == ["roi_align"]
    np.testing.assert_allclose(got["y"], expected["y"], atol=3e-6)


def test_regions_that_are_refused():
    graph, feeds = regions(sampling=0)
    program, _ = build(graph)
    for name, place, bad, what in (
        ("i", 3, 3, "a region of image 3, but there are 3"), ("i", 3, -1, "image -1"), ("rois", (2, 0), np.nan, "region 2 is not finite"),
        ("rois", (4, 3), np.inf, "region 4"), ("rois", (1, 2), 3e7, "region 1 .* too many samples"),
    ):  # fmt: skip
        spoilt = {**feeds, name: feeds[name].copy()}
        spoilt[name][place] = bad
        with pytest.raises(InvalidInputError), np.errstate(all="ignore"):
            interpret(graph, spoilt)
        with pytest.raises(InvalidInputError, match=what):
            emulate(program, spoilt)


@pytest.mark.parametrize("isa", ["sm_90", "sm_90:tf32", "sm_90:f16"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("group", "kernel", "spatial"), [(1, (3, 2), (5, 6)), (2, (3,), (9,)), (4, (2, 2, 2), (3, 4, 3))])
def test_convolutions_by_computed_weights(group, kernel, spatial, bias, isa):
    net = Net(8, *spatial)
    axes = len(kernel)
    w = net.add_input("w", TensorType(DType.F32, (12, 8 // group, *kernel)))
    b = net.add_input("b", TensorType(DType.F32, (12,))) if bias else None
    op = Conv(kernel, (1,) * axes, (1,) * 2 * axes, (1,) * axes, group, Expression.of("relu"))
    net.add_output("y", net.node(op, net.x, w, b))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal([2 if d is BATCH else d for d in v.type.shape]).astype(np.float32) for name, v in net.inputs}
    got, expected, used = run(net, feeds, isa)
    assert "conv_direct" in used
    assert np.abs(got["y"] - expected["y"]).max() <= TOLERANCE[isa.partition(":")[2] or "f32"] * np.abs(expected["y"]).max()


@pytest.mark.parametrize("isa", ["sm_90", "sm_90:f16"])
@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize(("group", "kernel", "spatial"), [(1, (3, 2), (5, 6)), (2, (3,), (9,)), (4, (2, 3, 2), (3, 4, 3))])
def test_transposed_convolutions(group, kernel, spatial, computed, isa):
    """By computed weights, and over three axes."""
    net = Net(8, *spatial)
    axes = len(kernel)
    shape = (8, 12 // group, *kernel)
    w = net.add_input("w", TensorType(DType.F32, shape)) if computed else net.weights(*shape, scale=0.3)
    b = net.add_input("b", TensorType(DType.F32, (12,))) if computed else net.weights(12)
    strides, dilations = (2,) * axes, (1,) * (axes - 1) + (2,)
    out = tuple((n - 1) * 2 + d * (k - 1) for n, k, d in zip(spatial, kernel, dilations, strict=True))
    op = ConvTranspose(kernel, strides, (1,) * axes, dilations, out, group, Expression.of("relu"))
    net.add_output("y", net.node(op, net.x, w, b))
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal([2 if d is BATCH else d for d in v.type.shape]).astype(np.float32) for name, v in net.inputs}
    got, expected, used = run(net, feeds, isa)
    assert not (computed or axes == 3) or "conv_transpose_direct" in used
    assert np.abs(got["y"] - expected["y"]).max() <= TOLERANCE[isa.partition(":")[2] or "f32"] * np.abs(expected["y"]).max()


def test_unpooling_to_another_shape_is_refused():
    graph = Graph("test")
    x = graph.add_input("x", TensorType(DType.F32, (BATCH, 1, 2, 2)))
    places = graph.add_input("i", TensorType(DType.I64, (BATCH, 1, 2, 2)))
    graph.add_output("y", graph.add(MaxUnpool((5, 5), (4, 4), (2, 2), (2, 2), (0, 0)), [x, places], origin=("unpool",))[0])
    with pytest.raises(UnsupportedError, match="another shape"):
        build(graph)


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("arch", ["sm_75", "sm_90", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100", "sm_120"))])
def test_compiled(arch):
    from .test_compiled import assemble

    nets = [regions(mode=mode, sampling=sampling)[0] for mode, sampling in (("avg", 0), ("max", 2))]
    kernel, strides, pads, dilations, spatial = POOLS["volume"]
    for dtype in (DType.F32, DType.I8):
        net = Net(4, *spatial, dtype=dtype)
        best, places = net.add(Pool("max", kernel, strides, pads, dilations, indices=True), [net.x], origin=("pool",))
        net.add_output("y", best)
        net.add_output("i", places)
        nets.append(net)
    net = Net(4, 6, 6)
    best, places = net.add(Pool("max", (2, 2), (2, 2), (0,) * 4, (1, 1), indices=True), [net.x], origin=("pool",))
    net.add_output("y", net.node(MaxUnpool((6, 6), (6, 6), (2, 2), (2, 2), (0, 0)), best, places))
    nets.append(net)
    net = Net(4, 6, 6)
    w = net.add_input("w", TensorType(DType.F32, (8, 4, 3, 3)))
    net.add_output("y", net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), net.x, w, None))
    nets.append(net)
    net = Net(4, 6, 6)
    w = net.add_input("w", TensorType(DType.F32, (4, 8, 3, 3)))
    net.add_output("y", net.node(ConvTranspose((3, 3), (2, 2), (1, 1), (1, 1), (11, 11), 1), net.x, w, None))
    nets.append(net)
    for net in nets:
        for name, _, report in assemble(net, arch):
            assert report.spill_stores == report.spill_loads == report.stack == 0, name
            assert report.registers <= 80, name
