"""Half-precision networks compute in float32: op(float16) => op(float32), with casts only where half precision comes in or goes out.

CPUs multiply float16 no faster than float32, and no kernel is specialised for it. The results lie closer to those of real numbers
than the model's own, because nothing is rounded between operators. ``math="exact"`` keeps every rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.errors import CnngraphError
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType
from cnngraph.ops import (
    LRN,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    ConvTranspose,
    DeformConv,
    Dense,
    Einsum,
    Elementwise,
    Expand,
    Gather,
    GridSample,
    Identity,
    MatMul,
    Op,
    Pad,
    Pool,
    Recurrent,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from cnngraph.ops.group_norm import GroupNorm
from cnngraph.passes.base import Pass, PassContext

HALVES = (DType.F16, DType.BF16)
ARITHMETIC: tuple[type[Op], ...] = (
    BatchNorm, Conv, ConvTranspose, DeformConv, Dense, Einsum, Elementwise, GridSample, GroupNorm, LRN, MatMul, Pool, Recurrent, Reduce,
    Resize, Softmax,
)  # fmt: skip
MOVEMENT: tuple[type[Op], ...] = (Concat, Expand, Gather, Identity, Pad, Reshape, Slice, Transpose)


@dataclass(frozen=True)
class WidenHalf(Pass):
    """op(float16) => cast(op'(cast(x))) in float32; casts that meet vanish. Nothing is done in graphs that only move half floats."""

    name: ClassVar[str] = "widen_half"
    changes_precision: ClassVar[bool] = True

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrite every operator of the two lists that reads half floats."""
        if not any(isinstance(n.op, ARITHMETIC) and _half(n) for n in graph.nodes):
            return 0
        wide: dict[Value, Value] = {}
        changes = 0
        for node in graph.nodes:
            if isinstance(node.op, Cast) and node.output.type.dtype in HALVES and node.input(0).type.dtype is DType.F32:
                wide[node.output] = node.input(0)
            elif isinstance(node.op, Cast) and node.op.to is DType.F32 and node.input(0) in wide:
                graph.replace_uses(node.output, wide[node.input(0)])
                changes += 1
            elif isinstance(node.op, ARITHMETIC + MOVEMENT) and _half(node):
                changes += self._widen(graph, node, wide)
        return changes

    def _widen(self, graph: Graph, node: Node, wide: dict[Value, Value]) -> bool:
        inputs = [v if v is None or v.type.dtype not in HALVES else _wide(graph, v, node, wide) for v in node.inputs]
        try:
            outputs = graph.add(node.op, inputs, origin=node.origin, before=node)
        except CnngraphError:  # an operator that takes this type only in half precision
            return False
        for old, new in zip(node.outputs, outputs, strict=True):
            result = new
            if old.type.dtype in HALVES:
                (result,) = graph.add(Cast(old.type.dtype), [new], origin=node.origin, before=node)
                wide[result] = new
            graph.replace_uses(old, result)
        graph.erase(node)
        return True


def _half(node: Node) -> bool:
    return any(v is not None and v.type.dtype in HALVES for v in node.inputs)


def _wide(graph: Graph, value: Value, before: Node, wide: dict[Value, Value]) -> Value:
    """``value`` as float32, made before the node ``before`` if it is new."""
    if value not in wide:
        if value.data is not None:
            wide[value] = graph.constant(value.data.astype(np.float32), value.names)
        else:
            (wide[value],) = graph.add(Cast(DType.F32), [value], origin=before.origin, before=before)
    return wide[value]
