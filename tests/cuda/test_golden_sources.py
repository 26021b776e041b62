"""Generated CUDA sources, compared with the files in ``golden/``. Rewrite those with ``CNNGRAPH_UPDATE_GOLDEN=1``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cnngraph_cuda.problems import network

from .support import build

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    "conv_gemm_f16_residual": ("conv with residual", "sm_90:f16:1", "conv_gemm"),
    "conv_gemm_f32": ("conv 1x1 256->128", "sm_80:f32:1", "conv_gemm"),
    "winograd_f32_residual": ("conv with residual", "sm_90:f32:1:winograd32", "winograd"),
    "depthwise_f16": ("depthwise 3x3", "sm_90:f16:1", "depthwise"),
    "max_pool_f32": ("max pool", "sm_80:f32:1", "pool"),
    "reduce_f16": ("global pool, dense, softmax", "sm_90:f16:1", "reduce_spatial"),
    "softmax_f32": ("global pool, dense, softmax", "sm_90:f32:1", "softmax"),
    "eltwise_f32": ("element-wise", "sm_90:f32:1", "eltwise_plain"),
    "relayout_f16": ("max pool", "sm_90:f16:1", "relayout"),
    "conv_transpose_f16": ("transposed convolution, dilated", "sm_90:f16:1", "conv_transpose"),
    "conv_transpose_gemm_f16": ("transposed convolution 3x3", "sm_90:f16:1", "conv_transpose_gemm"),
    "matmul_gemm_bf16": ("computed matrices, tiled", "sm_90:bf16:1", "matmul_gemm"),
    "where_f32": ("selection", "sm_90:f32:1", "where"),
    "gather_elements_f16": ("computed indices", "sm_90:f16:1", "gather_elements"),
    "conv_gemm_warpgroups_tf32": ("conv with residual", "sm_90a:tf32:1:128x64:cp_async", "conv_gemm"),
    "conv_gemm_tma_weights_f16": ("conv 3x3 stride 2", "sm_90a:f16:1:64x64", "conv_gemm"),
    "conv_gemm_tma_windows_f16": ("conv 3x3 64->64", "sm_90a:f16:1:64x64", "conv_gemm"),
    "conv_gemm_tma_rows_f16": ("conv 1x1 256->128", "sm_90a:f16:1:64x64", "conv_gemm"),
}


@pytest.mark.parametrize("case", CASES)
def test_source(case):
    problem, isa, family = CASES[case]
    program, _ = build(network(problem), isa=isa)
    source = [k.source for k in program.data.kernels if k.name.startswith(f"{family}_sm_")][-1]
    path = GOLDEN / f"{case}.py.txt"
    if os.environ.get("CNNGRAPH_UPDATE_GOLDEN"):
        path.write_text(source, encoding="utf-8")
    assert source == path.read_text(encoding="utf-8")
