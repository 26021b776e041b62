"""Kernels compiled for several architectures without a GPU: registers, spills, shared memory, instructions."""

from __future__ import annotations

import re

import pytest

from cnngraph.ir.types import BATCH, DType, TensorType
from cnngraph.ops import LRN, Conv, Elementwise, Pool, Reduce, Softmax
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.scalar import FUNCTIONS
from cnngraph_cuda.jit import missing_packages
from cnngraph_cuda.problems import PROBLEMS, network
from cnngraph_cuda.registry import TEMPLATES

from .support import Net, build

pytestmark = pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))


def assemble(net, isa):
    """(name, PTX, assembler's report) of every kernel of a network."""
    return assemble_kernels(build(net, isa=isa)[0].data.kernels, isa)


def assemble_kernels(kernels, isa):
    """The same of these kernels."""
    from cnngraph_cuda.compiler import cubin_of, parse_report, ptx_of

    arch = isa.split(":")[0]
    out = []
    for kernel in kernels:
        ptx = ptx_of(kernel.source, kernel.name, arch)
        cubin, log = cubin_of(ptx, kernel.name, arch)
        assert cubin.startswith(b"\x7fELF")
        out.append((kernel.name, ptx, parse_report(log)))
    return out


def conv_net(channels=64, outputs=64, kernel=3, hw=14, residual=True, seed=0):
    net = Net(channels, hw, hw, seed=seed)
    op = Conv((kernel, kernel), (1, 1), (kernel // 2,) * 4, (1, 1))
    expression = Expression(2, (Instr("add", (0, 1)), Instr("relu", (2,)))) if residual else None
    op = Conv(op.kernel, op.strides, op.pads, op.dilations, 1, expression)
    others = [net.x] if residual else []
    net.add_output("y", net.node(op, net.x, net.weights(outputs, channels, kernel, kernel), net.weights(outputs), *others))
    return net


INSTRUCTION = {
    "f32": r"fma\.rn\.f32",
    "bf16": r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.bf16",
    "tf32": r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32",
    "f16": r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16",
}  # fmt: skip


SPILLS = {("sm_100", "f32"): 16}
"""Four registers of a thread, where five blocks share a multiprocessor; what they cost has not been measured on such a device."""


@pytest.mark.parametrize(
    ("arch", "precision", "batch"),
    [
        ("sm_80", "f16", 1),
        ("sm_90", "f32", 8),
        pytest.param("sm_90", "tf32", 8, marks=pytest.mark.slow),
        pytest.param("sm_90a", "f16", 4096, marks=pytest.mark.slow),
        pytest.param("sm_100", "f32", 1, marks=pytest.mark.slow),
        pytest.param("sm_120", "bf16", 64, marks=pytest.mark.slow),
    ],
)
def test_matrix_product(arch, precision, batch):
    net = conv_net(kernel=5)  # 3x3 could be computed by Winograd's method
    ((name, ptx, report),) = [k for k in assemble(net, f"{arch}:{precision}:{batch}") if k[0].startswith("conv_gemm")]
    if arch.endswith("a"):  # of warpgroups, that read what bulk copies bring
        assert re.search(r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k16\.f32\.f16\.f16", ptx)
        assert "cp.async.bulk.tensor" in ptx
        assert "ldmatrix" not in ptx
    else:
        assert re.search(INSTRUCTION[precision], ptx)
        assert "cp.async.cg.shared.global" in ptx
        assert ("ldmatrix" in ptx) == (precision != "f32")
    assert ".local" not in ptx
    assert f".extern .shared .align {1024 if arch.endswith('a') else 128}" in ptx
    assert f".target {arch}" in ptx
    spills = SPILLS.get((arch, precision), 0)
    assert (report.spill_stores, report.spill_loads, report.stack) == (spills, spills, spills)
    assert report.registers <= 255
    threads, blocks = (int(re.search(rf"_{what}(\d+)", name).group(1)) for what in ("threads", "blocks"))
    assert report.registers * threads * blocks <= 65536


@pytest.mark.parametrize(
    ("isa", "telling"),
    [
        ("sm_80:f16:64", "ldmatrix.sync.aligned.m8n8.x4.trans"),
        pytest.param("sm_90:tf32:64", "m16n8k8.row.col.f32.tf32", marks=pytest.mark.slow),
        pytest.param("sm_100:f32:1", "fma.rn.f32", marks=pytest.mark.slow),
    ],
)
def test_product_of_computed_matrices(isa, telling):
    kernels = [k for k in build(network("computed matrices, tiled"), isa=isa)[0].data.kernels if k.name.startswith("matmul_gemm")]
    ((_, ptx, report),) = assemble_kernels(kernels, isa)
    assert telling in ptx and "cp.async.cg.shared.global" in ptx and ".local" not in ptx
    assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0)
    assert report.registers <= 168


def test_other_kernels():
    net = Net(12, 9, 9)
    x = net.node(Pool("max", (3, 3), (2, 2), (1,) * 4, (1, 1)), net.x)
    x = net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 12), x, net.weights(12, 1, 3, 3), None)
    x = net.node(Conv((3, 3), (1, 1), (1,) * 4, (1, 1), 4), x, net.weights(12, 3, 3, 3), None)
    x = net.node(LRN(5), x)
    x = net.node(Reduce("mean", (2, 3), False), x)
    net.add_output("y", net.node(Softmax(1), x))
    found = {}
    for name, ptx, report in assemble(net, "sm_80:f16"):
        found[name.partition("_sm_")[0]] = ptx
        assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0)
    assert set(found) == {"relayout", "pool", "depthwise", "conv_direct", "lrn", "reduce_spatial", "softmax"}
    assert "ld.global.v4" in found["pool"] and "st.global.v4" in found["depthwise"]
    assert "shfl.sync.bfly" in found["softmax"]


@pytest.mark.slow
def test_every_scalar_function_compiles():
    net = Net(8, 2, 2)
    value = net.x
    for fn, function in sorted(FUNCTIONS.items()):
        others = [net.add_input(f"{fn}{i}", TensorType(DType.F32, (BATCH, 8, 2, 2))) for i in range(1, function.arity)]
        value = net.node(Elementwise(Expression.of(fn, function.arity, (0.5, 0.7)[: function.params])), value, *others)
    net.add_output("y", value)
    assert len(assemble(net, "sm_80")) == len(FUNCTIONS)


ELSEWHERE = {
    "bit_cast", "bits", "conv_transpose_direct", "dequantize", "eltwise_integers", "gather_computed", "gather_nd", "max_unpool",
    "nll_loss", "nothing", "one_hot", "qbinary", "quantize", "range_of_parts", "range_parameters", "roi_align", "scatter_elements",
}  # fmt: skip
"""Families that files of their own compile for every architecture: of integers, of computed indices, of regions and losses."""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["sm_80:f16:2", "sm_90:f32:2", "sm_100:bf16:2"])
def test_every_kernel_family_compiles(isa):
    families = set()
    for name in PROBLEMS:
        net = network(name)
        program, _ = build(net, isa=isa)
        new = [k for k in program.data.kernels if k.name.partition("_sm_")[0] not in families | {"conv_gemm"}]
        for kernel, (_, _, report) in zip(new, assemble_kernels(new, isa), strict=True):
            families.add(kernel.name.partition("_sm_")[0])
            assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0), kernel.name
    assert set(TEMPLATES) - families <= {"conv_gemm", "winograd", "eltwise_plain", "eltwise_last"} | ELSEWHERE
