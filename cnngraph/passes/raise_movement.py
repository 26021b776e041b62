"""Transposes of preprocessed images move to the graph's input: bytes are moved before they become floats, channels stand on axis 1 after.

transpose(f(cast(input))) => f'(cast(transpose(input))). SinkMovement leaves transposes without an inverse behind the operators of
channels-last preprocessing (mean and scale by channel of the last axis), whose kernels want channels on axis 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Cast, DequantizeLinear, Elementwise, Transpose
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user


@dataclass(frozen=True)
class RaiseMovement(Pass):
    """transpose(f(input, constants)) => f(transpose(input), constants'), for chains that nothing else reads.

    Refuses casts to a narrower type, scales by axis, and chains that begin at something computed.
    """

    name: ClassVar[str] = "raise_movement"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit transposes in graph order."""
        return sum(_raise(graph, node, node.op) for node in graph.nodes if isinstance(node.op, Transpose))


def _raise(graph: Graph, node: Node, movement: Transpose) -> bool:
    chain: list[tuple[Node, int]] = []  # from the transpose to the input, each with the operand that leads there
    value, reader = node.input(0), node
    while value.producer is not None:
        inner = value.producer
        index = _operand(inner)
        if index is None or only_user(graph, value) is not reader:
            return False
        chain.append((inner, index))
        value, reader = inner.input(index), inner
    if not chain or value.is_constant:
        return False
    (moved,) = graph.add(movement, [value], origin=node.origin, before=node)
    for inner, index in reversed(chain):
        inputs = [_moved_constant(graph, v, movement.perm) if isinstance(inner.op, Elementwise) else v for v in inner.inputs]
        inputs[index] = moved
        (moved,) = graph.add(inner.op, inputs, origin=inner.origin, before=node)
    graph.replace_uses(node.output, moved)
    graph.erase(node)
    for inner, _ in chain:
        erase_unused(graph, inner)
    return True


def _operand(node: Node) -> int | None:
    """The one operand of the result's shape that is not constant, where the transpose can pass ``node``."""
    op, shape = node.op, node.output.type.shape
    if isinstance(op, Cast):
        return 0 if node.input(0).type.dtype.bits <= op.to.bits else None
    if isinstance(op, DequantizeLinear):
        single = not op.block_size and all(
            v is None or (v.is_constant and v.data is not None and v.data.size == 1) for v in node.inputs[1:]
        )
        return 0 if single else None
    if not isinstance(op, Elementwise):
        return None
    computed = [i for i, v in enumerate(node.inputs) if v is not None and not v.is_constant]
    return computed[0] if len(computed) == 1 and node.input(computed[0]).type.shape == shape else None


def _moved_constant(graph: Graph, value: Value | None, perm: tuple[int, ...]) -> Value | None:
    if value is None or value.data is None or value.data.size == 1:
        return value
    full = value.data.reshape((1,) * (len(perm) - value.data.ndim) + value.data.shape)
    return graph.constant(np.ascontiguousarray(full.transpose(perm)))
