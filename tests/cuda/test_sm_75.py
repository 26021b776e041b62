"""Programs for sm_75, which has half of what the others have: compiled, and its tiles in the emulator."""

from __future__ import annotations

import re

import pytest

from cnngraph.errors import UsageError
from cnngraph.ir.types import DType, TensorType
from cnngraph.ops import MatMul
from cnngraph_cuda.jit import missing_packages
from cnngraph_cuda.primitives import OLDER, PRIMITIVES
from cnngraph_cuda.problems import PROBLEMS
from cnngraph_cuda.problems import network as problem
from cnngraph_cuda.target import resolve

from .support import Net, build, compare
from .test_compiled import assemble_kernels, conv_net
from .test_conv import CASES, network


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_other_tensor_cores_are_refused(precision):
    with pytest.raises(UsageError, match=f"sm_75 has no tensor cores for {precision}"):
        resolve("sm_75", precision)


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("case", ["3x3_channels_5_to_19", "relu_residual"])
def test_convolution(case, precision):
    assert "conv_gemm" in compare(network(**CASES[case]), isa=f"sm_75:{precision}:4096")


def test_blocks_fit():
    net = Net(64, 256, 64, batch=64)
    net.add_output("y", net.node(MatMul(), net.x, net.add_input("o", TensorType(DType.F32, (64, 64, 64, 256)))))
    program, _ = build(net, isa="sm_75:f16")
    assert all(step.arguments[5][2] <= 64 * 1024 for step in program.data.steps)


def test_same_operands():
    for name, primitive in OLDER.items():
        other = PRIMITIVES[name]
        assert (primitive.tied, primitive.outs, primitive.ins, primitive.warp) == (other.tied, other.outs, other.ins, other.warp)


@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
@pytest.mark.parametrize("precision", ["f16", pytest.param("f32", marks=pytest.mark.slow)])
def test_compiled(precision):
    isa = f"sm_75:{precision}:4096"
    kernels = [k for k in build(conv_net(), isa=isa)[0].data.kernels if k.name.startswith("conv_gemm")]
    ((name, ptx, report),) = assemble_kernels(kernels, isa)
    assert ".target sm_75" in ptx and "cp.async" not in ptx and "max.NaN" not in ptx
    assert ("m16n8k8.row.col.f32.f16" in ptx) == (precision == "f16")
    assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0)
    assert report.registers * int(re.search(r"_threads(\d+)", name).group(1)) <= 65536


@pytest.mark.slow
@pytest.mark.skipif(missing_packages() is not None, reason=str(missing_packages()))
def test_every_kernel_family_compiles():
    families = set()
    for name in PROBLEMS:
        program, _ = build(problem(name), isa="sm_75:f16:2")
        new = [k for k in program.data.kernels if k.name.partition("_sm_")[0] not in families]
        families |= {k.name.partition("_sm_")[0] for k in new}
        for kernel, (_, _, report) in zip(new, assemble_kernels(new, "sm_75:f16"), strict=True):
            assert (report.spill_stores, report.spill_loads, report.stack) == (0, 0, 0), kernel.name
