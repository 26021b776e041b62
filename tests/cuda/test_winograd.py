"""Winograd convolution in float32: emulated against float64, spoilt, compiled, launched, and when it is chosen."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from cnngraph.errors import UsageError
from cnngraph.ir.interpret import interpret
from cnngraph.ops import Concat, Conv
from cnngraph.ops.expression import Expression
from cnngraph.options import CompileOptions
from cnngraph.pipeline import compile_graph
from cnngraph_cuda import CudaBackend, gpu_check, gpu_tasks
from cnngraph_cuda.executor import plan_launch
from cnngraph_cuda.jit import missing_packages
from cnngraph_cuda.lanes import LANE_FUNCTIONS, Lanes
from cnngraph_cuda.problems import WINOGRAD
from cnngraph_cuda.target import SHARED_LIMITS, resolve
from cnngraph_cuda.templates.winograd_plan import BLOCKS, G, blocks_of, pack_weights

from .support import ORDERS, Net, SourceOnly, build, compare, emulate, shown_by_some_order
from .test_compiled import assemble_kernels, conv_net
from .test_conv import network

KINDS = [block.outputs for block in BLOCKS]
CASES = {
    "even": {"c": 8, "k": 24, "hw": (6, 4)},
    "ragged": {"c": 5, "k": 19, "hw": (7, 5)},
    "one_channel_one_pixel": {"c": 1, "k": 3, "hw": (1, 1)},
    "several_blocks_and_steps": {"c": 21, "k": 70, "hw": (9, 8)},
    "not_padded": {"c": 12, "k": 8, "hw": (5, 6), "pad": 0},
    "padded_by_three": {"c": 9, "k": 8, "hw": (3, 2), "pad": 3},
    "residual": {"c": 10, "k": 36, "hw": (5, 5), "epilogue": "residual"},
    "by_channel_and_image": {"c": 8, "k": 12, "hw": (4, 4), "epilogue": "channel"},
}


@pytest.mark.parametrize("outputs", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_conformance(case, outputs):
    orders = tuple(ORDERS) if case == "several_blocks_and_steps" else ("lockstep", "shuffled")
    assert "winograd" in compare(network(**CASES[case]), isa=f"sm_90:f32:8:winograd{outputs}", batch=3, orders=orders)


def joined():
    """Two convolutions padded unevenly, whose results are the halves of one tensor."""
    net = Net(6, 7, 6)
    parts = [net.node(Conv((3, 3), (1, 1), (2, 0, 0, 1), (1, 1)), net.x, net.weights(k, 6, 3, 3), net.weights(k)) for k in (8, 20)]
    net.add_output("y", net.node(Concat(1), *parts))
    return net


def test_uneven_pads_into_a_concatenation():
    isa = "sm_80:f32:8:winograd32"
    assert {k.name.partition("_sm_")[0] for k in build(joined(), isa=isa)[0].data.kernels} == {"winograd", "relayout"}
    compare(joined(), isa=isa, orders=("backward",))


def test_long_sums_stay_within_the_bound():
    compare(network(c=300, k=8, hw=(4, 4)), isa="sm_90:f32:8:winograd32", batch=1, tolerance=2e-5)


def test_transformed_weights():
    weights = np.random.default_rng(0).standard_normal((40, 11, 3, 3)).astype(np.float32)
    packed = pack_weights(weights, 32)
    assert packed.shape == (2, 2, 16, 8, 32)
    expected = np.einsum("ai,kcij,bj->abck", G, weights.astype(np.float64), G).reshape(16, 11, 40)
    whole = packed.transpose(2, 1, 3, 0, 4).reshape(16, 16, 64)
    np.testing.assert_allclose(whole[:, :11, :40], expected, rtol=1e-6, atol=1e-7)
    assert not whole[:, 11:].any() and not whole[:, :, 40:].any()


SPOILT = {
    "no wait": ("cp_wait0()", "pass"),
    "no barrier in the loop": ("        cp_wait0()\n        cuda.syncthreads()", "        cp_wait0()"),
    "one buffer": ("write = i32(32896 - write)", "write = i32(write)"),
    "no barrier before the sums are left": ("\n    cuda.syncthreads()\n    sts4", "\n    sts4"),
    "no barrier before the sums are read": ("\n    cuda.syncthreads()\n    column", "\n    column"),
    "no padding of the image": ("below(i32(tile_column", "below(i32(0 * tile_column"),
    "tiles beyond the last": ("both(tile < tiles,", "both(tile < i32(tiles + 8),"),
}


@pytest.fixture(scope="module")
def layer():
    """Three steps of two blocks: the program, its input, the true result."""
    net = network(c=21, k=20, hw=(10, 9))
    x = np.random.default_rng(1).standard_normal((2, 21, 10, 9)).astype(np.float32)
    expected = interpret(net, {"x": x}, np.float64)["y"]
    return build(net, isa="sm_90:f32:8:winograd32")[0], x, expected


def test_sound_kernel(layer):
    assert error_of(layer) < 3e-6


def error_of(layer, old="# none", new="", order="forward"):
    """Relative error of the kernel with a piece of its text replaced."""
    program, x, expected = layer
    kernels = list(program.data.kernels)
    (at,) = [i for i, k in enumerate(kernels) if k.name.startswith("winograd")]
    assert old in kernels[at].source or not new
    program.data.kernels[at] = dataclasses.replace(kernels[at], source=kernels[at].source.replace(old, new))
    try:
        got = emulate(program, {"x": x}, ORDERS[order])[0]["y"]
    finally:
        program.data.kernels[:] = kernels
    error = np.abs(got - expected).max() / np.abs(expected).max()
    return error if np.isfinite(error) else np.inf


@pytest.mark.parametrize("spoilt", SPOILT)
def test_spoilt_kernels_are_caught(layer, spoilt):
    orders = ("forward", "backward", "shuffled")
    assert shown_by_some_order(lambda order: error_of(layer, *SPOILT[spoilt], order) > 1e-3, orders), "no order of warps shows it"


def test_lanes_beyond_the_channels_are_not_read():
    """They hold infinity here, which no weight of 0 makes good."""
    net = Net(4, 5, 5)
    x = net.node(Conv((1, 1), (1, 1), (0,) * 4, (1, 1), 1, Expression.of("reciprocal")), net.x, net.weights(13, 4, 1, 1), net.weights(13))
    net.add_output("y", net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1)), x, net.weights(8, 13, 3, 3), None))
    feed = np.random.default_rng(2).standard_normal((1, 4, 5, 5)).astype(np.float32)
    expected = interpret(net, {"x": feed}, np.float64)["y"]
    program, _ = build(net, isa="sm_90:f32:8:winograd32")
    assert error_of((program, feed, expected)) < 2e-5
    assert error_of((program, feed, expected), "channel < channels", "channel < i32(channels + 1)") == np.inf


def test_shared_memory_is_used_without_conflicts(layer, monkeypatch):
    """Lanes that a multiprocessor serves together (32 for 4 bytes, eight neighbours for 16) name every bank once, or the same word."""
    most = {}

    def watch(method, words_of):
        def watching(lanes, address, *rest):
            words = words_of(rest)
            if lanes._size == BLOCKS[1].shared:
                for group in (lanes._array(address) // 4).reshape(-1, 32 if words == 1 else 8):
                    banks = np.unique(np.unique(group)[:, None] + np.arange(words)) % 32
                    most[method, words] = max(most.get((method, words), 0), np.bincount(banks).max())
            return true(lanes, address, *rest)

        true = getattr(Lanes, method)
        return watching

    loads, stores = watch("shared_load", lambda rest: rest[0]), watch("shared_store", len)
    monkeypatch.setitem(LANE_FUNCTIONS, "lds4", lambda lanes, at: loads(lanes, at, 4))
    for name in ("sts1", "sts4"):
        monkeypatch.setitem(LANE_FUNCTIONS, name, stores)
    error_of(layer)
    assert most == {("shared_load", 4): 1, ("shared_store", 1): 1, ("shared_store", 4): 1}


def test_launch():
    program, _ = build(network(c=13, k=70, hw=(10, 9)), isa="sm_90:f32:8:winograd64")
    (step,) = [s for s in program.data.steps if program.data.kernels[s.kernel].name.startswith("winograd")]
    for batch in (1, 7):
        launch = plan_launch(step, batch, [0] * 8)
        assert launch.grid == ((batch * 25 + 31) // 32, 2, 1)
        assert (launch.threads, launch.shared) == (256, BLOCKS[0].shared)


@pytest.mark.parametrize("arch", SHARED_LIMITS)
def test_blocks_fit_the_architecture(arch):
    blocks = blocks_of(resolve(f"{arch}:f32"))
    assert [b.outputs for b in blocks] == ([] if arch == "sm_75" else KINDS)
    assert blocks_of(resolve(f"{arch}:f16")) == ()


def chosen(net, isa):
    """The template of the convolution."""
    (selection,) = [s for s in build(net, isa=isa)[1].selections if isinstance(s.node.op, Conv)]
    return selection.chosen, selection.refused.get("winograd", "")


@pytest.mark.parametrize(("batch", "c", "size", "template"), [(8, 64, 56, "winograd"), (1, 64, 7, "conv_gemm"), (128, 256, 14, "winograd")])
def test_choice_by_estimate(batch, c, size, template):
    assert chosen(network(c=c, k=c, hw=(size, size)), f"sm_90:f32:{batch}")[0] == template


@pytest.mark.parametrize(
    ("layer_of", "isa", "reason"),
    [
        ({}, "sm_90:tf32", "precision f32"),
        ({}, "sm_90:f16", "precision f32"),
        ({}, "sm_75:f32", "too little shared memory"),
        ({}, "sm_90:f32:8:64x32", "a tile of matrix products"),
        ({"stride": 2}, "sm_90:f32", "needs a 3x3 kernel"),
        ({"dilation": 2}, "sm_90:f32", "needs a 3x3 kernel"),
        ({"group": 2}, "sm_90:f32", "needs a 3x3 kernel"),
        ({"kernel": (1, 3)}, "sm_90:f32", "needs a 3x3 kernel"),
    ],
)
def test_refusals(layer_of, isa, reason):
    template, refused = chosen(network(c=8, k=8, hw=(9, 9), **layer_of), isa)
    assert template == "conv_gemm" and reason in refused


def test_unknown_kind_of_block():
    with pytest.raises(UsageError, match="no Winograd kernel of 48 outputs"):
        build(network(c=8, k=8, hw=(4, 4)), isa="sm_90:f32:8:winograd48")


@pytest.mark.parametrize(("math", "expected"), [("f32", True), ("exact", False)])
def test_exact_arithmetic_leaves_it_out(monkeypatch, math, expected):
    monkeypatch.setattr(CudaBackend, "compile", SourceOnly.compile)
    monkeypatch.setattr(CudaBackend, "driver", SourceOnly.driver)
    program = compile_graph(network(c=64, k=64, hw=(56, 56)), CompileOptions(backend="cuda", isa="sm_90", math=math))
    assert any(k.name.startswith("winograd") for k in program.data.kernels) is expected


@pytest.mark.parametrize("name", WINOGRAD[1:])
def test_problem_of_the_check(name, monkeypatch):
    given = gpu_check.parser().parse_args(["--precision", "f32", "--sanitize"])
    given.network, given.batch, given.copies = [], [], []
    tasks = [t for t in gpu_check.tasks_of("conformance", given, "sm_90", 3) if t["name"] == name]
    assert [t.get("tile") for t in tasks] == [None, "winograd64", "winograd32"]
    assert len({gpu_check.label(t) for t in tasks}) == len({gpu_tasks.file_of(t) for t in tasks}) == 3
    monkeypatch.setattr(CudaBackend, "compile", SourceOnly.compile)
    monkeypatch.setattr(CudaBackend, "driver", SourceOnly.driver)
    from cnngraph_cuda.device import EmulatedDevice

    row = gpu_tasks.run_task(tasks[2], EmulatedDevice)
    assert row["passed"] and row["repeatable"] and "winograd" in row["kernels"]


def test_times_of_both_methods(monkeypatch):
    compiled = []

    def compile_network(name, arch, precision, batch, tile=""):
        compiled.append(tile)
        return build(conv_net(hw=28), isa=f"{arch}:{precision}:{batch}" + (tile and ":" + tile))[0]

    def time_network(data, batch, device, repeat, steps):
        return {"steps": [{"kernel": data.kernels[s.kernel].name, "nodes": "all", "seconds": 1.0} for s in data.steps]}

    monkeypatch.setattr(gpu_tasks, "compile_network", compile_network)
    monkeypatch.setattr(gpu_tasks, "time_network", time_network)
    (row,) = gpu_tasks.compare_tiles("net", "sm_90", "f32", 8, None, 1)
    assert compiled == ["", "64x32", "64x64", "128x128", "winograd64", "winograd32"]
    assert {k for k, v in row.items() if v == 1.0} == set(compiled[1:])


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize(
    ("arch", "outputs"),
    [
        ("sm_80", 32),
        ("sm_90", 64),
        *(pytest.param(a, k, marks=pytest.mark.slow) for a in ("sm_80", "sm_90", "sm_90a", "sm_100") for k in KINDS),
    ],
)
def test_compiled(arch, outputs):
    isa = f"{arch}:f32:8:winograd{outputs}"
    kernels = [k for k in build(conv_net(), isa=isa)[0].data.kernels if k.name.startswith("winograd")]
    ((name, ptx, report),) = assemble_kernels(kernels, isa)
    assert "fma.rn.f32" in ptx and "cp.async.cg.shared.global" in ptx and "ld.shared.v4.f32" in ptx and ".local" not in ptx
    assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0)
    blocks = int(re.search(r"_blocks(\d+)", name).group(1))
    assert report.registers * 256 * blocks <= 65536
