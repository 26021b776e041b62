"""Operators by family; importing this package registers them all."""

from cnngraph.ops.base import REGISTRY, Cost, Op
from cnngraph.ops.cast import BitCast, Cast
from cnngraph.ops.conv import Conv
from cnngraph.ops.conv_transpose import ConvTranspose
from cnngraph.ops.deform import DeformConv, GridSample
from cnngraph.ops.dense import Dense, MatMul
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.geometry import Col2Im, MaxUnpool
from cnngraph.ops.indexing import (
    ArgReduce,
    GatherElements,
    GatherND,
    OneHot,
    ReverseSequence,
    ScatterElements,
    ScatterND,
    TensorScatter,
    TopK,
    Trilu,
)
from cnngraph.ops.logic import Bits, Predicate, Where
from cnngraph.ops.losses import NLLLoss
from cnngraph.ops.math import Cumulative, Det, Einsum
from cnngraph.ops.movement import Concat, Expand, Gather, Identity, Pad, Reorder, Reshape, Shape, Slice, Transpose
from cnngraph.ops.norm import LRN, BatchNorm
from cnngraph.ops.pool import Pool
from cnngraph.ops.quantized import (
    DequantizeLinear,
    DynamicQuantizeLinear,
    MatMulInteger,
    QGemm,
    QLinearMatMul,
    QuantizeLinear,
)
from cnngraph.ops.quantized_conv import ConvInteger, QLinearAveragePool, QLinearConv, QLinearGlobalAveragePool, QLinearSoftmax
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary, QTable
from cnngraph.ops.quantized_range import RangeOfParts, RangeParameters
from cnngraph.ops.recurrent import Recurrent, RecurrentSteps
from cnngraph.ops.reduce import Reduce
from cnngraph.ops.resize import Resize
from cnngraph.ops.roi import MaxRoiPool, RoiAlign
from cnngraph.ops.signal import DFT, STFT
from cnngraph.ops.softmax import Softmax

__all__ = [
    "DFT",
    "LRN",
    "REGISTRY",
    "STFT",
    "ArgReduce",
    "BatchNorm",
    "BitCast",
    "Bits",
    "Cast",
    "Col2Im",
    "Concat",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cost",
    "Cumulative",
    "DeformConv",
    "Dense",
    "DequantizeLinear",
    "Det",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elementwise",
    "Expand",
    "Expression",
    "Gather",
    "GatherElements",
    "GatherND",
    "GridSample",
    "Identity",
    "Instr",
    "MatMul",
    "MatMulInteger",
    "MaxRoiPool",
    "MaxUnpool",
    "NLLLoss",
    "OneHot",
    "Op",
    "Pad",
    "Pool",
    "Predicate",
    "QGemm",
    "QLinearAveragePool",
    "QLinearBinary",
    "QLinearConv",
    "QLinearGlobalAveragePool",
    "QLinearMatMul",
    "QLinearSoftmax",
    "QLinearUnary",
    "QTable",
    "QuantizeLinear",
    "RangeOfParts",
    "RangeParameters",
    "Recurrent",
    "RecurrentSteps",
    "Reduce",
    "Reorder",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RoiAlign",
    "ScatterElements",
    "ScatterND",
    "Shape",
    "Slice",
    "Softmax",
    "TensorScatter",
    "TopK",
    "Transpose",
    "Trilu",
    "Where",
]
