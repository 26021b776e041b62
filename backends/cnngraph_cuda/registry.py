"""Every kernel family of the CUDA backend by name."""

from __future__ import annotations

from typing import Any

from cnngraph_cuda.templates.channels import Channels
from cnngraph_cuda.templates.conv_direct import ConvDirect
from cnngraph_cuda.templates.conv_plan import ConvGemm
from cnngraph_cuda.templates.conv_transpose import ConvTransposeGather
from cnngraph_cuda.templates.conv_transpose_direct import ConvTransposeDirect
from cnngraph_cuda.templates.conv_transpose_gemm import ConvTransposeGemm
from cnngraph_cuda.templates.copy_nd import CopyNd
from cnngraph_cuda.templates.depthwise import Depthwise
from cnngraph_cuda.templates.elementwise import EltwiseLast, EltwisePlain
from cnngraph_cuda.templates.eltwise_strided import EltwiseIntegers, EltwiseStrided
from cnngraph_cuda.templates.gather import GatherPlain
from cnngraph_cuda.templates.grid_sample import GridSamplePlain
from cnngraph_cuda.templates.group_norm import GroupNormLast
from cnngraph_cuda.templates.index import GatherComputed, GatherElementsComputed, GatherNDComputed, ScatterElementsLines
from cnngraph_cuda.templates.join import Join
from cnngraph_cuda.templates.logic import BitCastStrided, BitsStrided, CastStrided, PredicateStrided, WhereStrided
from cnngraph_cuda.templates.lrn import LocalResponse
from cnngraph_cuda.templates.matmul import MatMulPlain
from cnngraph_cuda.templates.matmul_gemm import MatMulGemm
from cnngraph_cuda.templates.nll_loss import NLLLossPlain
from cnngraph_cuda.templates.nothing import Nothing
from cnngraph_cuda.templates.places import CumulativeLines, OneHotStrided, TriluStrided
from cnngraph_cuda.templates.pool import PoolLast
from cnngraph_cuda.templates.pool_plain import MaxUnpoolPlain, PoolPlain
from cnngraph_cuda.templates.quantise import DequantizeStrided, QBinaryStrided, QuantizeStrided
from cnngraph_cuda.templates.range import RangeOfPartsKernel, RangeParametersKernel
from cnngraph_cuda.templates.reduce import ReduceSpatial
from cnngraph_cuda.templates.reduce_plain import ReducePlain
from cnngraph_cuda.templates.relayout import Relayout
from cnngraph_cuda.templates.resize import ResizeLast
from cnngraph_cuda.templates.roi_align import RoiAlignPlain
from cnngraph_cuda.templates.search import Search
from cnngraph_cuda.templates.softmax import SoftmaxPlain
from cnngraph_cuda.templates.winograd_plan import Winograd

TEMPLATES: dict[str, Any] = {
    template.name: template
    for template in (
        ConvGemm(), Winograd(), Depthwise(), ConvDirect(), ConvTransposeGemm(), ConvTransposeGather(), PoolLast(), ResizeLast(),
        Channels(), Join(), CopyNd(), ReduceSpatial(), ReducePlain(), SoftmaxPlain(), LocalResponse(), GroupNormLast(), MatMulGemm(),
        MatMulPlain(), Search(), GatherPlain(), EltwiseLast(), EltwisePlain(), EltwiseStrided(), EltwiseIntegers(), WhereStrided(),
        PredicateStrided(), BitsStrided(), CastStrided(), BitCastStrided(), GatherComputed(), GatherElementsComputed(),
        GatherNDComputed(), ScatterElementsLines(), QuantizeStrided(), DequantizeStrided(), QBinaryStrided(), RangeOfPartsKernel(),
        RangeParametersKernel(), Relayout(), Nothing(),
        PoolPlain(), MaxUnpoolPlain(), RoiAlignPlain(), TriluStrided(), OneHotStrided(), CumulativeLines(), NLLLossPlain(),
        GridSamplePlain(), ConvTransposeDirect(),
    )
}  # fmt: skip
