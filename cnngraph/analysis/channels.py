"""Which results reach the outputs channel by channel: the scores of classes, of which the greatest is looked for.

Channels of equal weights have equal results as long as all are summed in one order. Where they are not, a tie is decided by rounding.
"""

from __future__ import annotations

from cnngraph.ir.graph import Graph, Node
from cnngraph.ops import Conv, Dense, MatMul
from cnngraph.ops.conv_transpose import ConvTranspose
from cnngraph.ops.recurrent import Cell


def reach_channels(graph: Graph) -> frozenset[Node]:
    """The nodes from which a path leads to an output without a sum over channels behind them: the last layers, and what follows."""
    seen: set[Node] = set()
    waiting = [value for _, value in graph.outputs]
    while waiting:
        node = waiting.pop().producer
        if node is None or node in seen:
            continue
        seen.add(node)
        if not _sums_channels(node):
            waiting.extend(value for value in node.inputs if value is not None)
    return frozenset(seen)


def _sums_channels(node: Node) -> bool:
    if isinstance(node.op, (Conv, ConvTranspose)):
        return node.op.group != node.input(0).type.shape[1]
    return isinstance(node.op, (Dense, MatMul, Cell))
