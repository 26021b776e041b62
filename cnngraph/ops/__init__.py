"""Operators by family; importing this package registers them all."""

from cnngraph.ops.base import REGISTRY, Cost, Op
from cnngraph.ops.conv import Conv
from cnngraph.ops.conv_transpose import ConvTranspose
from cnngraph.ops.dense import Dense, MatMul
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.expression import Expression, Instr
from cnngraph.ops.movement import Cast, Concat, Expand, Gather, Identity, Pad, Reorder, Reshape, Shape, Slice, Transpose
from cnngraph.ops.norm import LRN, BatchNorm
from cnngraph.ops.pool import Pool
from cnngraph.ops.reduce import Reduce
from cnngraph.ops.softmax import Softmax

__all__ = [
    "LRN",
    "REGISTRY",
    "BatchNorm",
    "Cast",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cost",
    "Dense",
    "Elementwise",
    "Expand",
    "Expression",
    "Gather",
    "Identity",
    "Instr",
    "MatMul",
    "Op",
    "Pad",
    "Pool",
    "Reduce",
    "Reorder",
    "Reshape",
    "Shape",
    "Slice",
    "Softmax",
    "Transpose",
]
