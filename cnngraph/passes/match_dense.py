"""Matrix products with weights that folding made constant are dense layers, whose weights are packed when compiling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import Sym, numel
from cnngraph.ops import Dense, MatMul, Reshape, Transpose
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import replace


@dataclass(frozen=True)
class MatchDense(Pass):
    """matmul(x, constant [K,N]) => dense(x); of a tensor of more axes, dense(its rows). Refuses integers and sums over the batch.

    matmul(constant [M,K], x [K,batch]) => transpose(dense(transpose(x))): images are rows again, whose bits do not depend on how many
    there are.
    """

    name: ClassVar[str] = "match_dense"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit every matrix product."""
        return sum(_match(graph, node) or _match_columns(graph, node) for node in graph.nodes if isinstance(node.op, MatMul))


def _match(graph: Graph, node: Node) -> bool:
    x, w = node.input(0), node.input(1)
    if w.data is None or w.type.rank != 2 or x.data is not None or x.type.rank < 2 or not x.type.dtype.is_float:
        return False
    *leading, depth = x.type.shape
    if isinstance(depth, Sym):
        return False
    if len(leading) == 1:
        replace(graph, node, Dense(), [x, w, None])
        return True
    (rows,) = graph.add(Reshape((numel(leading), depth)), [x], origin=node.origin, before=node)
    (product,) = graph.add(Dense(), [rows, w, None], origin=node.origin, before=node)
    replace(graph, node, Reshape((*leading, w.type.shape[1])), [product])
    return True


def _match_columns(graph: Graph, node: Node) -> bool:
    w, x = node.input(0), node.input(1)
    if w.data is None or w.type.rank != 2 or x.data is not None or x.type.rank != 2 or not x.type.dtype.is_float:
        return False
    depth, images = x.type.shape
    if isinstance(depth, Sym) or not isinstance(images, Sym):
        return False
    (rows,) = graph.add(Transpose((1, 0)), [x], origin=node.origin, before=node)
    (product,) = graph.add(Dense(), [rows, graph.constant(np.ascontiguousarray(w.data.T)), None], origin=node.origin, before=node)
    replace(graph, node, Transpose((1, 0)), [product])
    return True
