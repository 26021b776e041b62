"""Whether a batch is better computed image by image, each by one thread, than layer by layer by all threads.

Image by image the intermediate results of one image stay in a core's caches, whatever the batch, and no thread waits for another between
the layers. Layer by layer the images share what is read of the weights. Measured on two cores with 1 MiB of private and 32 MiB of
shared cache, batch 8: SqueezeNet (11 MiB of packed weights), MobileNetV2 (13) and DenseNet-121 (42) take 5 to 10 percent less time image
by image, ResNet-18 (93) and ResNet-50 (158) the same within 3 percent.
"""

from __future__ import annotations

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import Sym
from cnngraph.ops import (
    LRN,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    ConvInteger,
    ConvTranspose,
    Dense,
    DequantizeLinear,
    Elementwise,
    Expand,
    Identity,
    MatMul,
    MatMulInteger,
    Pad,
    Pool,
    Predicate,
    QGemm,
    QLinearAveragePool,
    QLinearBinary,
    QLinearConv,
    QLinearGlobalAveragePool,
    QLinearMatMul,
    QLinearUnary,
    QTable,
    QuantizeLinear,
    Reduce,
    Reorder,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
    Where,
)
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.group_norm import GroupNorm

_MATRICES = (Dense, MatMul, MatMulInteger, QGemm, QLinearMatMul)
_EACH_IMAGE = (
    BatchNorm, Cast, Concat, Conv, ConvInteger, ConvTranspose, DequantizeLinear, Elementwise, Expand, GroupNorm, Identity, LRN, Pad, Pool,
    Predicate, QLinearAveragePool, QLinearBinary, QLinearConv, QLinearGlobalAveragePool, QLinearUnary, QTable, QuantizeLinear, Reduce,
    Reorder, Reshape, Resize, Slice, Softmax, TakeChannels, Transpose, Where, *_MATRICES,
)  # fmt: skip
"""Operators whose image ``i`` of the results depends on image ``i`` of the operands only, if all have the batch as their first axis."""

_MOST_WEIGHTS = 64 << 20
"""Bytes of weights up to which intermediate results count for more."""
_BYTES_A_CYCLE = 16
_MATRIX_SHARE = 0.05
"""Share of the time that reading the matrices of dense layers for every image anew may take."""


def refuse_by_image(graph: Graph, weights: int, cycles: float) -> str | None:
    """None if a batch of ``graph``, lowered, is computed image by image, else one sentence why not.

    Args:
        graph: the graph whose nodes become kernels.
        weights: bytes of all constants as the kernels read them.
        cycles: estimate of one image's time on one core.
    """
    if not graph.inputs:
        return "there is no input"
    for _, value in (*graph.inputs, *graph.outputs):
        if value.type.shape[:1] != (Sym(1),):
            return f"{value.type} has no batch as its first axis"
    for node in graph.nodes:
        refusal = _mixes_images(node)
        if refusal is not None:
            return f"{node.label}: {refusal}"
    if weights > _MOST_WEIGHTS:
        return f"{weights:,} bytes of weights are better read once for all images"
    operands = [v for node in graph.nodes if isinstance(node.op, _MATRICES) for v in node.inputs]
    matrices = sum(v.data.nbytes for v in operands if v is not None and v.data is not None)
    if matrices > _BYTES_A_CYCLE * _MATRIX_SHARE * cycles:
        return f"{matrices:,} bytes of dense layers are better read once for all images"
    return None


def _mixes_images(node: Node) -> str | None:
    """None if every image of the node's results depends on the same image of its operands only, else why not."""
    if not isinstance(node.op, _EACH_IMAGE):
        return f"{node.op.name} may mix the images"
    for value in (*node.inputs, *node.outputs):
        if value is not None and not value.is_constant:
            shape = value.type.shape
            if shape[:1] != (Sym(1),) or any(isinstance(d, Sym) for d in shape[1:]):
                return f"{value.type} has no batch as its first axis alone"
    return None
