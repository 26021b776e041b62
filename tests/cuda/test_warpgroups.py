"""Tensor cores of a warpgroup (sm_90a): numerics, what the emulator must catch, what the assembler makes of it."""

from __future__ import annotations

import re

import pytest

from cnngraph_cuda.jit import missing_packages
from cnngraph_cuda.target import COPIES

from .support import build, compare, run_product, shown_by_some_order, single_product
from .test_compiled import assemble_kernels, conv_net
from .test_conv import CASES, network
from .test_emulator import WRONG, without

TILES = ("128x256", "256x128", "128x128", "128x64", "64x128", "64x64")


@pytest.mark.parametrize("precision", ["f16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("bf16", "tf32"))])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("copies", COPIES)
def test_convolution(case, precision, copies):
    used = compare(network(**CASES[case]), isa=f"sm_90a:{precision}:8:128x64:{copies}", orders=("lockstep",))
    assert "conv_gemm" in used


@pytest.mark.parametrize("precision", ["f16", pytest.param("tf32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tile", TILES)
def test_every_tile(tile, precision):
    net = network(**CASES["relu_residual"])
    compare(net, isa=f"sm_90a:{precision}:8:{tile}", orders=("shuffled",))
    program, _ = build(network(**CASES["relu_residual"]), isa=f"sm_90a:{precision}:8:{tile}")
    assert any("_group1_" in kernel.name for kernel in program.data.kernels)


@pytest.fixture(scope="module", params=["f16", pytest.param("tf32", marks=pytest.mark.slow)])
def product(request):
    return single_product(f"sm_90a:{request.param}:1:128x64:cp_async", 80, 72)


@pytest.mark.parametrize("order", ["lockstep", "forward", "backward", "shuffled"])
def test_sound_kernel(product, order):
    error, stats = run_product(product, order=order)
    assert error < 2e-3
    assert stats.mma > 0


def without_wait(source: str) -> str:
    """Sums taken over without waiting for them."""
    return re.sub(r"wide_sums_0 = wgmma_wait_\d+\(wide_sums_0\)", "pass", source)


def late_wait(source: str) -> str:
    """A wait before the commit, which waits for nothing."""
    waited = re.sub(r" +wide_sums_0 = wgmma_wait_\d+\(wide_sums_0\)\n", "", source)
    return waited.replace("wgmma_commit()", "wide_sums_0 = wgmma_wait_64(wide_sums_0)\n        wgmma_commit()")


def refill_too_early(source: str) -> str:
    """Copies into the buffer that the tensor cores read."""
    return re.sub(r"(write = i32?\(?)(\d+)", lambda m: f"{m.group(1)}0", source, count=1)


MUTATIONS = {
    "no wgmma.fence": without("wgmma_fence()"),
    "no wait for the sums": without_wait,
    "wait before the commit": late_wait,
    "no commit": without("wgmma_commit()"),
    "no fence between the proxies": without("proxy_fence()"),
    "fence after the barrier": lambda s: s.replace(
        "proxy_fence()\n        cuda.syncthreads()", "cuda.syncthreads()\n        proxy_fence()"
    ),
    "no wait for the copies": without("cp_wait2()"),
    "no barrier": lambda s: s.replace("        proxy_fence()\n        cuda.syncthreads()", "        proxy_fence()"),
    "no swizzle when writing": lambda s: s.replace("^ i32(row & 7)", "^ i32(0)"),
    "descriptor without swizzle": without("1073741888", "64"),
    "descriptor with another stride": without("1073741888", "1073741856"),
    "buffer refilled while it is read": refill_too_early,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_spoilt_kernels_are_caught(product, mutation):
    assert shown_by_some_order(lambda order: run_product(product, MUTATIONS[mutation], order)[0] > WRONG), "no order of warps shows it"


WAYS = {"cp_async": (128, 3, 0), "weights": (88, 3, 1), "rows": (128, 1, 2), "windows": (128, 3, 3)}
"""Channels and size of a kernel, and the constant TMA that follows."""


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize(
    ("precision", "tile", "way"),
    [
        pytest.param(p, t, way, marks=() if (p, t) == ("f16", "128x64") and way != "weights" else pytest.mark.slow)
        for p in ("f16", "tf32") for t in TILES for way in WAYS
    ],
)  # fmt: skip
def test_compiled(precision, tile, way):
    channels, kernel, how = WAYS[way]
    copies = "tma" if how else "cp_async"
    isa = f"sm_90a:{precision}:4096:{tile}:{copies}"
    kernels = [k for k in build(conv_net(channels, channels, kernel), isa=isa)[0].data.kernels if "_group1_" in k.name]
    ((name, ptx, report),) = assemble_kernels(kernels, isa)
    columns = re.search(r"_wn(\d+)_", name).group(1)
    # short loops are unrolled
    step = "k16.f32.f16.f16" if precision == "f16" else "k8.f32.tf32.tf32"
    assert len(re.findall(rf"wgmma\.mma_async\.sync\.aligned\.m64n{columns}{re.escape(step)}", ptx)) in (4, 8, 12)
    assert all(f"{what}.sync.aligned" in ptx for what in ("wgmma.fence", "wgmma.commit_group", "wgmma.wait_group"))
    assert "fence.proxy.async.shared::cta" in ptx
    assert ("TMA=" in kernels[0].source) == (how > 0) and (not how or f"TMA={how}," in kernels[0].source)
    stages = int(re.search(r"_st(\d+)_", name).group(1))
    boxes, windows, pieces = (ptx.count(f"cp.async.{what}") for what in ("bulk.tensor.2d", "bulk.tensor.4d", "cg.shared.global"))
    asked = ptx.count("mbarrier.arrive.expect_tx")
    assert (boxes, windows) == (asked * (2 if how == 2 else 1), asked * (how == 3)) and (pieces == 0) == (how > 1)
    assert (asked >= stages if how else asked == 0) and ptx.count("mbarrier.init") == (stages if how else 0)
    assert ("mbarrier.try_wait.parity" in ptx) == ("fence.mbarrier_init.release.cluster" in ptx) == (how > 0)
    assert ptx.count(".b8 " + name) == ptx.count("cvta.param.u64") == min(how, 2)
    assert ".extern .shared .align 1024" in ptx
    assert ".local" not in ptx
    assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0)
    threads, blocks = (int(re.search(rf"_{what}(\d+)", name).group(1)) for what in ("threads", "blocks"))
    assert report.registers * threads * blocks <= 65536
