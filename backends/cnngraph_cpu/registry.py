"""Every kernel family of the CPU backend by name."""

from __future__ import annotations

from cnngraph_cpu.templates.arg_reduce import ArgReducePlain
from cnngraph_cpu.templates.cast import CastFloats
from cnngraph_cpu.templates.conv_direct_plan import ConvDirect
from cnngraph_cpu.templates.conv_pairs import ConvPairs
from cnngraph_cpu.templates.conv_rows_plan import ConvRows
from cnngraph_cpu.templates.conv_tiles_plain import ConvTilesPlain
from cnngraph_cpu.templates.conv_tiles_plan import ConvTiles
from cnngraph_cpu.templates.conv_transpose_plan import ConvTransposeDirect
from cnngraph_cpu.templates.copy import ConcatCopy, GatherRows, ReorderKernel
from cnngraph_cpu.templates.copy_bytes import ConcatBytes, ReorderBytes, StridedBytes
from cnngraph_cpu.templates.copy_strided import CopyStrided, PadConstant
from cnngraph_cpu.templates.dense import DenseLayer, DensePairs
from cnngraph_cpu.templates.depthwise import Depthwise, DepthwiseComputed
from cnngraph_cpu.templates.elementwise import EltwiseBlocked, EltwisePlain
from cnngraph_cpu.templates.eltwise_long import CastFromLong, CastToLong, EltwiseLong
from cnngraph_cpu.templates.eltwise_strided import EltwiseStrided
from cnngraph_cpu.templates.grid_sample import GridSampleBilinear
from cnngraph_cpu.templates.group_norm import GroupNormBlocked
from cnngraph_cpu.templates.lrn import LocalResponse
from cnngraph_cpu.templates.matmul import MatMulPlain
from cnngraph_cpu.templates.pool import PoolBlocked
from cnngraph_cpu.templates.pool_indices import MaxUnpoolPlaces, PoolIndices
from cnngraph_cpu.templates.pool_plain import PoolPlain
from cnngraph_cpu.templates.qbroadcast import QBinaryChannel, QBinaryRows
from cnngraph_cpu.templates.qconv_plan import QConv
from cnngraph_cpu.templates.qconv_tiles_plain import QConvTilesPlain
from cnngraph_cpu.templates.qconv_tiles_plan import QConvTiles
from cnngraph_cpu.templates.qdense import QDense
from cnngraph_cpu.templates.qdepthwise import QDepthwise
from cnngraph_cpu.templates.qpointwise import Dequantize, Lookup, QBinary, Quantize
from cnngraph_cpu.templates.qpool import QAverageImage, QPool
from cnngraph_cpu.templates.qrange import RangeKernel, RangeParametersKernel
from cnngraph_cpu.templates.qsoftmax import QSoftmax
from cnngraph_cpu.templates.qwinograd_plan import QWinograd
from cnngraph_cpu.templates.recurrent import RecurrentKernel
from cnngraph_cpu.templates.reduce import ReduceSpatial
from cnngraph_cpu.templates.reduce_plain import ReducePlain
from cnngraph_cpu.templates.resize import ResizeRows
from cnngraph_cpu.templates.softmax import SoftmaxPlain
from cnngraph_cpu.templates.strassen_plan import Strassen, StrassenPairs
from cnngraph_cpu.templates.take import TakeRows
from cnngraph_cpu.templates.take_bytes import TakeBytes
from cnngraph_cpu.templates.take_channels import TakeChannelsBlocked, TakeChannelsPlain
from cnngraph_cpu.templates.take_channels_bytes import TakeChannelsBytes, TakeChannelsPlainBytes
from cnngraph_cpu.templates.winograd_block_float_plan import WinogradBlockFloat
from cnngraph_cpu.templates.winograd_pairs import WinogradPairs
from cnngraph_cpu.templates.winograd_plan import Winograd

TEMPLATES = {
    template.name: template
    for template in (
        ConvDirect(), ConvPairs(), ConvRows(), ConvTiles(), ConvTilesPlain(), Winograd(), WinogradPairs(), WinogradBlockFloat(),
        Strassen(), StrassenPairs(), ConvTransposeDirect(), Depthwise(), DepthwiseComputed(), DenseLayer(), DensePairs(), MatMulPlain(),
        PoolBlocked(), PoolPlain(),
        ReduceSpatial(), ReducePlain(), SoftmaxPlain(), LocalResponse(), EltwiseBlocked(), EltwisePlain(), EltwiseStrided(),
        EltwiseLong(), CastToLong(), CastFromLong(),
        ReorderKernel(), ConcatCopy(), GatherRows(), CopyStrided(), PadConstant(), ResizeRows(), GridSampleBilinear(), GroupNormBlocked(),
        TakeRows(), ArgReducePlain(), QConv(), QConvTiles(), QConvTilesPlain(), QWinograd(), QDepthwise(), QDense(), Quantize(),
        Dequantize(), QBinary(), Lookup(), QPool(), QAverageImage(), ReorderBytes(), ConcatBytes(), StridedBytes(), QBinaryChannel(),
        QBinaryRows(), QSoftmax(), CastFloats(), TakeChannelsBlocked(), TakeChannelsPlain(), PoolIndices(), MaxUnpoolPlaces(),
        RangeKernel(), RangeParametersKernel(), RecurrentKernel(), TakeBytes(), TakeChannelsBytes(),
        TakeChannelsPlainBytes(),
    )
}  # fmt: skip
