"""Convolutions and dense layers in the emulator against float64, under several orders of warps."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.ir.interpret import interpret
from cnngraph.ops import Conv, Dense
from cnngraph.ops.expression import Expression, Instr
from cnngraph_cuda.executor import plan_launch
from cnngraph_cuda.target import SHARED_LIMITS, resolve
from cnngraph_cuda.templates.conv_plan import choose_tile

from .support import ORDERS, TOLERANCE, Net, build, compare, emulate

CASES = {
    "3x3": {"c": 8, "k": 24, "hw": (6, 5)},
    "3x3_channels_5_to_19": {"c": 5, "k": 19, "hw": (6, 5)},
    "1x1": {"c": 40, "k": 70, "kernel": (1, 1), "pad": 0, "hw": (5, 7)},
    "1x1_stride_2": {"c": 16, "k": 16, "kernel": (1, 1), "pad": 0, "stride": 2, "hw": (7, 7)},
    "7x7_stem": {"c": 3, "k": 16, "kernel": (7, 7), "pad": 3, "stride": 2, "hw": (13, 13)},
    "5x3_dilated": {"c": 7, "k": 9, "kernel": (5, 3), "pad": 2, "dilation": 2, "hw": (9, 8)},
    "groups": {"c": 16, "k": 32, "group": 2, "hw": (5, 5)},
    "no_pad_long_sum": {"c": 70, "k": 8, "pad": 0, "hw": (4, 4)},
    "one_channel": {"c": 1, "k": 3, "hw": (4, 6)},
    "relu_residual": {"c": 8, "k": 12, "hw": (5, 5), "epilogue": "residual"},
    "by_channel_and_image": {"c": 8, "k": 12, "hw": (4, 4), "epilogue": "channel"},
}


SEVERAL = ("3x3", "1x1_stride_2", "groups", "relu_residual")
"""Cases that are also run warp by warp, from the last to the first."""


def network(c, k, hw, kernel=(3, 3), pad=1, stride=1, dilation=1, group=1, epilogue="", seed=0):
    net = Net(c, *hw, seed=seed)
    op = Conv(kernel, (stride,) * 2, (pad,) * 4, (dilation,) * 2, group)
    weights = net.weights(k, c // group, *kernel, scale=0.3)
    bias = net.weights(k)
    if epilogue == "residual":
        other = net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1)), net.x, net.weights(k, c, 1, 1), None)
        expression = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,))))
        y = net.node(Conv(kernel, (stride,) * 2, (pad,) * 4, (dilation,) * 2, group, expression), net.x, weights, bias, other)
    elif epilogue == "channel":
        scale = net.add_input("s", net.x.type.__class__(net.x.type.dtype, (net.x.type.shape[0], k, 1, 1)))
        expression = Expression(4, (Instr("mul", (0, 1)), Instr("mul", (4, 2)), Instr("add", (5, 3)), Instr("leaky_relu", (6,), (0.1,))))
        op = Conv(kernel, (stride,) * 2, (pad,) * 4, (dilation,) * 2, group, expression)
        y = net.node(op, net.x, weights, bias, net.weights(1, k, 1, 1), scale, net.weights(1))
    else:
        y = net.node(op, net.x, weights, bias)
    net.add_output("y", y)
    return net


@pytest.mark.parametrize("precision", ["f32", "tf32", "f16"])
@pytest.mark.parametrize("case", CASES)
def test_conv(case, precision):
    used = compare(
        network(**CASES[case]), isa=f"sm_90:{precision}:8:64x32", orders=("lockstep", "backward") if case in SEVERAL else ("lockstep",)
    )
    assert "conv_gemm" in used


@pytest.mark.parametrize("precision", ["f32", "tf32", "f16"])
@pytest.mark.parametrize("batch", [16, pytest.param(256, marks=pytest.mark.slow)])
def test_larger_tiles(precision, batch):
    net = network(c=32, k=130, hw=(8, 8), kernel=(1, 1), pad=0)
    compare(net, isa=f"sm_90:{precision}:{batch * 64}", batch=batch // 16, orders=("lockstep", "shuffled"))


@pytest.mark.parametrize("case", ["3x3_channels_5_to_19", "7x7_stem", "groups", "relu_residual"])
def test_bf16(case):
    compare(network(**CASES[case]), isa="sm_80:bf16", orders=("backward",))


def test_one_spatial_axis():
    net = Net(6, 11)
    y = net.node(Conv((3,), (2,), (1, 1), (1,)), net.x, net.weights(10, 6, 3), None)
    net.add_output("y", y)
    compare(net, isa="sm_90:f16")


@pytest.mark.parametrize("precision", ["f32", "tf32", "f16"])
@pytest.mark.parametrize("sizes", [(10, 3), (64, 40), (130, 9)])
def test_dense(precision, sizes):
    net = Net(sizes[0])
    y = net.node(Dense(Expression.of("relu")), net.x, net.weights(*sizes, scale=0.2), net.weights(sizes[1]))
    y = net.node(Dense(), y, net.weights(sizes[1], 7), None)
    net.add_output("y", y)
    compare(net, isa=f"sm_80:{precision}", batch=5)


def test_activation_after_the_sum():
    net = Net(8, 4, 4)
    y = net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 1, Expression.of("sigmoid")), net.x, net.weights(8, 8, 1, 1), None)
    net.add_output("y", y)
    compare(net, isa="sm_90:f16")


@pytest.mark.parametrize("precision", ["f32", "tf32", "f16"])
@pytest.mark.parametrize(("kernel", "pad"), [(3, 1), (1, 0)])
def test_sums_divided_among_blocks(kernel, pad, precision):
    net = network(c=72 if kernel == 3 else 300, k=40, hw=(5, 6), kernel=(kernel, kernel), pad=pad, epilogue="residual")
    program, _ = build(net, isa=f"sm_90:{precision}:1")
    x = np.random.default_rng(5).standard_normal((1, *net.inputs[0][1].type.shape[1:])).astype(np.float32)
    expected = interpret(
        network(c=x.shape[1], k=40, hw=(5, 6), kernel=(kernel, kernel), pad=pad, epilogue="residual"), {"x": x}, np.float64
    )
    for order in ("lockstep", "shuffled"):
        got, device = emulate(program, {"x": x}, ORDERS[order])
        assert any(launch.grid[2] > 1 for launch in device.launches)
        assert np.abs(got["y"] - expected["y"]).max() <= TOLERANCE[precision] * np.abs(expected["y"]).max()
    many = [plan_launch(step, 4096, [0] * 8).grid for step in program.data.steps]
    assert all(z == 1 for _, _, z in many)


def test_split_blocks_never_exceed_their_workspace():
    program, _ = build(network(c=256, k=64, hw=(7, 7)), isa="sm_90:f16:1")
    for batch in range(1, 200, 7):
        for step in program.data.steps:
            launch = plan_launch(step, batch, [0] * 8)
            if launch.grid[2] > 1:
                x, y, z = launch.grid
                bm, bn = (int(re.search(rf"_{t}(\d+)_", program.data.kernels[step.kernel].name).group(1)) for t in ("bm", "bn"))
                assert x * y * z * bm * bn * 4 + 4096 <= program.data.scratch
                assert x * y <= 1024


@pytest.mark.parametrize(
    ("arch", "precision"), [(a, p) for a in SHARED_LIMITS for p in ("f32", "tf32", "f16") if (a, p) != ("sm_75", "tf32")]
)
def test_tiles_fit_the_architecture(arch, precision):
    for batch in (1, 64, 4096):
        target = resolve(f"{arch}:{precision}:{batch}")
        for outputs in (8, 64, 1000):
            tile = choose_tile(batch * 196, outputs, 1, target)
            assert tile.shared <= target.shared
            assert tile.threads <= 256
            lanes = target.lanes
            assert tile.bm * tile.bn % (lanes * tile.threads) == 0
            assert tile.threads * lanes % tile.bn == 0


@pytest.mark.parametrize("tile", ["256x128", "128x128", "128x64", "64x64", "64x32"])
def test_tile_by_name(tile):
    net = network(c=16, k=24, hw=(6, 5), epilogue="residual")
    program, _ = build(net, isa=f"sm_90:f16:8:{tile}")
    bm, bn = tile.split("x")
    names = [k.name for k in program.data.kernels if k.name.startswith("conv_gemm")]
    assert names
    assert all(f"_bm{bm}_bn{bn}_" in name for name in names)
    compare(network(c=16, k=24, hw=(6, 5), epilogue="residual"), isa=f"sm_90:f16:8:{tile}", orders=("backward",))


def test_tile_that_does_not_fit():
    with pytest.raises(UsageError, match="no tile of 256x128"):
        build(network(c=16, k=24, hw=(6, 5)), isa="sm_86:f16:8:256x128")
