"""Which results reach the outputs pixel by pixel: segmentation, detection, super-resolution; not classification.

Where a dense layer or a global pooling follows, rounding errors of thousands of pixels average out. In an output that is a map each pixel
keeps its own, and the largest of them is what a user sees.
"""

from __future__ import annotations

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Dense, MatMul, Reduce


def reach_pixels(graph: Graph) -> frozenset[Node]:
    """The nodes from which a path leads to an output without a sum over pixels.

    Such sums are dense layers, matrix products, reductions over spatial axes, and what makes one pixel of an image ``[N, C, *spatial]``.
    """
    seen: set[Node] = set()
    waiting = [value for _, value in graph.outputs]
    while waiting:
        node = waiting.pop().producer
        if node is None or node in seen or _sums_pixels(node):
            continue
        seen.add(node)
        waiting.extend(value for value in node.inputs if value is not None)
    return frozenset(seen)


def _sums_pixels(node: Node) -> bool:
    if isinstance(node.op, (Dense, MatMul)):
        return True
    if isinstance(node.op, Reduce):
        return any(axis >= 2 for axis in node.op.axes)
    read = node.inputs[0] if node.inputs else None
    return read is not None and _one_pixel(node.outputs[0]) and not _one_pixel(read)


def _one_pixel(value: Value) -> bool:
    shape = value.type.shape
    return len(shape) >= 3 and all(extent == 1 for extent in shape[2:])
