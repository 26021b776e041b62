"""How many leading steps of a network a batch is better taken through image by image, each by one thread, than layer by layer by all.

Image by image the intermediate results of one image stay in a core's caches, whatever the batch, and no thread waits for another
between the layers. Layer by layer the images share what is read of the weights. Results are large and weights small in front, the
reverse behind, so where a network has more weights than caches hold, its front alone is computed image by image. Measured on two
cores with 1 MiB of private and 32 MiB of shared cache, batch 8: SqueezeNet (11 MiB of packed weights), MobileNetV2 (13) and
DenseNet-121 (42) take 5 to 10 percent less time image by image, ResNet-50 (193) and Inception-v3 (128) in float32 with their fronts so
4 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import Sym, per_image
from cnngraph.kernels.template import KernelCall, Packed, Pointer
from cnngraph.ops import (
    LRN,
    ArgReduce,
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
    Gather,
    GridSample,
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
from cnngraph.passes.choose_layout import ALIASES

_MATRICES = (Dense, MatMul, MatMulInteger, QGemm, QLinearMatMul)
_EACH_IMAGE = (
    ArgReduce, BatchNorm, Cast, Concat, Conv, ConvInteger, ConvTranspose, DequantizeLinear, Elementwise, Expand, Gather, GridSample,
    GroupNorm, Identity, LRN, Pad, Pool, Predicate, QLinearAveragePool, QLinearBinary, QLinearConv, QLinearGlobalAveragePool,
    QLinearUnary, QTable, QuantizeLinear, Reduce, Reorder, Reshape, Resize, Slice, Softmax, TakeChannels, Transpose, Where, *_MATRICES,
)  # fmt: skip
"""Operators whose image ``i`` of the results depends on image ``i`` of the operands only, if all have the batch as their first axis."""

_MOST_WEIGHTS = 64 << 20
"""Bytes of weights up to which intermediate results count for more."""
_LEAST_RESULTS = 256 << 10
"""Bytes of intermediate results of an image below which those of a small batch stay in private caches, too."""
_BYTES_A_CYCLE = 16
_MATRIX_SHARE = 0.05
"""Share of the time that reading the matrices of dense layers for every image anew may take."""


@dataclass(frozen=True)
class Apart:
    """The first ``nodes`` nodes of a graph are computed image by image, the others together for ``reason`` (None: there are no others)."""

    nodes: int
    reason: str | None


TOGETHER = Apart(0, "all steps are computed together")


def choose_apart(graph: Graph, calls: Mapping[Node, KernelCall | None], cycles: float) -> Apart:
    """How a batch is computed.

    Args:
        graph: a lowered graph.
        calls: the kernel of each node, None for those that NumPy computes and for those that are nothing but another name.
        cycles: estimate of one image's time on one core.
    """
    if not graph.inputs:
        return Apart(0, "there is no input")
    count, refusal = len(graph.nodes), None
    for place, node in enumerate(graph.nodes):
        refusal = _mixes_images(node, calls[node])
        if refusal is not None:
            count, refusal = place, f"{node.label}: {refusal}"
            break
    known: set[int] = set()
    weights = [_weights(calls[node], known) for node in graph.nodes[:count]]
    heavy = _too_heavy(graph.nodes[:count], sum(weights), cycles)
    if heavy is not None:
        count, refusal = _lightest_cut(graph.nodes[:count], calls, weights), heavy
    if refusal is not None and sum(_result_bytes(node, calls[node]) for node in graph.nodes[:count]) < _LEAST_RESULTS:
        count = 0
    return Apart(count, refusal)


def _too_heavy(nodes: Sequence[Node], weights: int, cycles: float) -> str | None:
    """None if the weights of ``nodes`` may be read for every image, else why not."""
    if weights > _MOST_WEIGHTS:
        return f"{weights:,} bytes of weights are better read once for all images"
    operands = [v for node in nodes if isinstance(node.op, _MATRICES) for v in node.inputs]
    matrices = sum(v.data.nbytes for v in operands if v is not None and v.data is not None)
    if matrices > _BYTES_A_CYCLE * _MATRIX_SHARE * cycles:
        return f"{matrices:,} bytes of dense layers are better read once for all images"
    return None


def _lightest_cut(nodes: Sequence[Node], calls: Mapping[Node, KernelCall | None], weights: Sequence[int]) -> int:
    """The number of leading nodes whose results exceed their weights by most: what an image brings to memory, and what it saves."""
    gain, best, cut = 0, 0, 0
    for place, (node, read) in enumerate(zip(nodes, weights, strict=True), 1):
        gain += _result_bytes(node, calls[node]) - read
        if gain > best:
            best, cut = gain, place
    return cut


def _weights(call: KernelCall | None, known: set[int]) -> int:
    """Bytes of a call's constants that are not ``known``; they are then."""
    arguments = call.arguments.values() if call is not None else ()
    packed = [a.data for a in arguments if isinstance(a, Packed)]
    constant = [a.value.data for a in arguments if isinstance(a, Pointer) and a.value.data is not None]
    new = {id(data): data.nbytes for data in (*packed, *constant) if id(data) not in known}
    known.update(new)
    return sum(new.values())


def _result_bytes(node: Node, call: KernelCall | None) -> int:
    """Bytes of one image that a node reads and writes; concatenations mostly do nothing, as their parts are written in place."""
    if call is None or isinstance(node.op, Concat):
        return 0
    values = dict.fromkeys(v for v in (*node.inputs, *node.outputs) if v is not None and not v.is_constant)
    return sum(per_image(v.type.nbytes) for v in values)


def _mixes_images(node: Node, call: KernelCall | None) -> str | None:
    """None if every image of the node's results depends on the same image of its operands only, else why not."""
    if call is None and not isinstance(node.op, ALIASES):
        return f"{node.op.name} has no kernel"
    if not isinstance(node.op, _EACH_IMAGE):
        return f"{node.op.name} may mix the images"
    for value in (*node.inputs, *node.outputs):
        if value is not None and not value.is_constant:
            shape = value.type.shape
            if shape[:1] != (Sym(1),) or any(isinstance(d, Sym) for d in shape[1:]):
                return f"{value.type} has no batch as its first axis alone"
    return None
