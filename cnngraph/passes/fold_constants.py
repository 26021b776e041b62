"""Nodes that depend on constants only become constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.errors import InternalError
from cnngraph.ir.graph import Graph, Node
from cnngraph.ir.types import Sym
from cnngraph.ops.movement import Shape
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import symbolic


@dataclass(frozen=True)
class FoldConstants(Pass):
    """A node whose inputs are all constant becomes its reference result, computed in the tensors' own dtype.

    A ``Shape`` whose dimensions do not depend on the batch is constant whatever its input.

    Attributes:
        max_operations: nodes that need more arithmetic than this are left to the compiled program, because the
            references are slow.
    """

    name: ClassVar[str] = "fold_constants"
    max_operations: int = 1 << 28

    def run(self, graph: Graph, context: PassContext) -> int:
        """Fold in topological order, so that chains fold in one run."""
        changes = 0
        for node in graph.nodes:
            results = self._results(node, context)
            if results is None:
                continue
            for value, data in zip(node.outputs, results, strict=True):
                if data.dtype != value.type.dtype.numpy or data.shape != value.type.shape:
                    raise InternalError(
                        f"the reference of {node.op.name} gave {data.dtype}{list(data.shape)} instead of {value.type}", node=node.label
                    )
                graph.replace_uses(value, graph.constant(data))
            graph.erase(node)
            changes += 1
        return changes

    def _results(self, node: Node, context: PassContext) -> tuple[np.ndarray, ...] | None:
        if isinstance(node.op, Shape):
            shape = _static_shape(node)
            if shape is not None:
                return (shape,)
        if not node.inputs or any(v is not None and not v.is_constant for v in node.inputs) or symbolic(node.op):
            return None
        size = 0
        for value in node.outputs:
            nbytes = value.type.nbytes
            if isinstance(nbytes, Sym):
                return None
            size += nbytes
        inputs = tuple(None if v is None else v.data for v in node.inputs)
        allowed = max(context.max_fold_bytes, sum(data.nbytes for data in inputs if data is not None))
        if size > allowed:
            context.reject(self.name, node, f"the constant would take {size} bytes, more than the {allowed} allowed")
            return None
        cost = node.op.cost(tuple(None if v is None else v.type for v in node.inputs), tuple(v.type for v in node.outputs))
        if cost.macs + cost.flops > self.max_operations:
            context.reject(self.name, node, f"it takes {cost.macs + cost.flops} operations, more than the {self.max_operations} allowed")
            return None
        with np.errstate(all="ignore"):
            return tuple(np.asarray(result) for result in node.op.reference(*inputs))


def _static_shape(node: Node) -> np.ndarray | None:
    op, value = node.op, node.input(0)
    assert isinstance(op, Shape)
    dims = value.type.shape[op.start : op.end]
    if any(isinstance(d, Sym) for d in dims):
        return None
    return np.array(dims, np.int64)
