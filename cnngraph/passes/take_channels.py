"""Chains of reshapes, transposes, slices, gathers and concatenations that only move whole channels => one TakeChannels.

Channel shuffles (Zhang et al., "ShuffleNet", 2018), with the concatenation before and the split after them, become one copy that blocked
kernels meet without a reorder. What a chain does is found by running its operators on the numbers of the elements and
comparing every one, so no pattern of shapes has to be recognised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType, Sym, bind_shape, product
from cnngraph.ops import Concat, Gather, Identity, Reshape, Slice, Transpose
from cnngraph.ops.channels import TakeChannels
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, replace

_MOVES = (Reshape, Transpose, Slice, Gather, Concat, Identity)
_LANES = 16
"""Channels of the widest block. Concatenations and slices of whole blocks cost nothing as they are."""


@dataclass(frozen=True)
class TakeWholeChannels(Pass):
    """A chain of moves whose result is a choice of whole channels of tensors of the same extents => TakeChannels.

    Refuses: chains that move pixels or images, that have more than ``max_inputs`` tensors or ``max_elements`` elements, and
    those without a shuffle whose slices and concatenations take whole blocks, which need no copy at all.
    """

    name: ClassVar[str] = "take_channels"
    max_inputs: int = 8
    max_elements: int = 1 << 22

    def run(self, graph: Graph, context: PassContext) -> int:
        """Last chains first, so that what a chain reads counts as read by no move."""
        changes = 0
        for node in reversed(list(graph.nodes)):
            if node not in graph or not self._ends_chain(graph, node):
                continue
            region, sources = _chain(node)
            if self._worthwhile(node, region, sources):
                changes += self._replace(graph, node, region, sources)
        return changes

    @staticmethod
    def _ends_chain(graph: Graph, node: Node) -> bool:
        if not _is_move(node) or not node.outputs or not 3 <= node.output.type.rank <= 5:
            return False
        return graph.is_output(node.output) or any(not _is_move(user) for user in node.output.users)

    def _worthwhile(self, node: Node, region: list[Node], sources: list[Value]) -> bool:
        out = node.output.type
        if not sources or len(sources) > self.max_inputs or not all(isinstance(d, int) and d > 0 for d in out.shape[1:]):
            return False
        for value in sources:
            shape = value.type.shape
            if value.is_constant or len(shape) != out.rank or shape[0] != out.shape[0] or shape[2:] != out.shape[2:]:
                return False
            if not isinstance(shape[1], int) or shape[1] == 0:
                return False
        if sum(product(bind_shape(v.type.shape, 1)) for v in (*sources, node.output)) > self.max_elements:
            return False
        if any(isinstance(n.op, (Transpose, Gather)) for n in region):
            return True
        uneven = any(_uneven(n) for n in region)
        return uneven and out.rank >= 4 and all(v.producer is not None for v in sources)

    def _replace(self, graph: Graph, node: Node, region: list[Node], sources: list[Value]) -> int:
        symbolic = isinstance(node.output.type.shape[0], Sym)
        channels = _channels(node, region, sources, 1)
        if channels is None or (symbolic and _channels(node, region, sources, 2) != channels):
            return 0
        used = [i for i, (a, b) in enumerate(_spans(sources)) if any(a <= c < b for c in channels)]
        spans, kept = _spans(sources), _spans([sources[i] for i in used])
        moved = {c: kept[j][0] + c - spans[i][0] for j, i in enumerate(used) for c in range(*spans[i])}
        chosen = tuple(moved[c] for c in channels)
        inputs = [sources[i] for i in used]
        if len(inputs) == 1 and chosen == tuple(range(kept[0][1])):
            graph.replace_uses(node.output, inputs[0])
        else:
            origin = tuple(dict.fromkeys(name for n in region for name in n.origin))
            replace(graph, node, TakeChannels(chosen), inputs, origin)
        for old in reversed(region):
            if old in graph:
                erase_unused(graph, old)
        return 1


def _is_move(node: Node) -> bool:
    """Whether a node only moves float32 or 8-bit elements, in a way known at compile time."""
    if not isinstance(node.op, _MOVES) or node.output.type.dtype not in (DType.F32, DType.I8, DType.U8):
        return False
    return not isinstance(node.op, Gather) or node.input(1).is_constant


def _uneven(node: Node) -> bool:
    """Whether a concatenation or slice of channels cuts blocks."""
    op = node.op
    if isinstance(op, Concat):
        parts = [v.type.shape[1] for v in node.inputs[:-1] if v is not None and v.type.rank > 1]
        return op.axis == 1 and any(not isinstance(c, int) or c % _LANES for c in parts)
    return isinstance(op, Slice) and len(op.starts) > 1 and (op.starts[1] % _LANES != 0 or op.steps[1] != 1)


def _chain(node: Node) -> tuple[list[Node], list[Value]]:
    """The moves that lead to ``node``, in order, and the values they start from.

    Behind a concatenation a slice or gather ends the chain: else the chain of a network's last shuffle would reach through all
    others.
    """
    region: dict[Node, None] = {}
    sources: dict[Value, None] = {}

    def visit(current: Node, joined: bool) -> None:
        if current in region:
            return
        joined = joined or isinstance(current.op, Concat)
        data = current.inputs[:1] if isinstance(current.op, Gather) else current.inputs
        for value in data:
            assert value is not None
            producer = value.producer
            if producer is None or not _is_move(producer) or (joined and isinstance(producer.op, (Slice, Gather))):
                sources[value] = None
            else:
                visit(producer, joined)
        region[current] = None

    visit(node, False)
    return list(region), list(sources)


def _spans(sources: list[Value]) -> list[tuple[int, int]]:
    """First and end of every source's channels when they are joined."""
    out, at = [], 0
    for value in sources:
        count = value.type.shape[1]
        assert isinstance(count, int)
        out.append((at, at + count))
        at += count
    return out


def _channels(node: Node, region: list[Node], sources: list[Value], batch: int) -> tuple[int, ...] | None:
    """The channel of the joined sources that each channel of the result is, or None if the chain does anything else."""
    shapes = [bind_shape(v.type.shape, batch) for v in sources]
    arrays: dict[Value, np.ndarray] = {}
    at = 0
    for value, shape in zip(sources, shapes, strict=True):
        arrays[value] = np.arange(at, at + product(shape)).reshape(shape)
        at += product(shape)
    for move in region:
        operands = [v.data if v is not None and v.is_constant else arrays[v] if v is not None else None for v in move.inputs]
        (arrays[move.output],) = move.op.bind(batch).reference(*operands)
    joined = np.concatenate([arrays[v] for v in sources], axis=1)
    got = arrays[node.output]
    heads = joined.reshape(batch, joined.shape[1], -1)[0, :, 0]
    order = np.argsort(heads)
    firsts = got.reshape(batch, got.shape[1], -1)[0, :, 0]
    found = order[np.minimum(np.searchsorted(heads[order], firsts), heads.size - 1)]
    if not np.array_equal(joined[:, found], got):
        return None
    return tuple(int(c) for c in found)
