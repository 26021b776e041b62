"""A constant zero Pad of the spatial axes => the pads of the convolution or pooling that reads it.

Exact for a convolution, whose own padding is zero too (on integers the zero point, so that is what the Pad must add). For average
pooling only with count_include_pad, where padding counts the same; not for max pooling, which pads with minus infinity, unless the Pad
does so too or the input is known to be non-negative: then the zeros may be left to minus infinity if every window still holds a real
element, which is checked.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops import Conv, Elementwise, Pad, Pool, QLinearConv
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import erase_unused, only_user, other_reader, replace

_NON_NEGATIVE = ("relu", "sigmoid", "exp", "abs", "softplus", "hard_sigmoid", "sqrt")


@dataclass(frozen=True)
class FoldPad(Pass):
    """conv(pad(x)) => conv'(x), likewise pooling where it is exact."""

    name: ClassVar[str] = "fold_pad"

    def run(self, graph: Graph, context: PassContext) -> int:
        """See the module's description."""
        changes = 0
        for node in graph.nodes:
            if not isinstance(node.op, Pad):
                continue
            reason = self._fold(graph, node)
            if reason is None:
                changes += 1
            else:
                context.reject(self.name, node, reason)
        return changes

    def _fold(self, graph: Graph, node: Node) -> str | None:
        pad, rank = node.op, node.output.type.rank
        assert isinstance(pad, Pad)
        if pad.mode != "constant" or pad.value not in (_zero_of_reader(node), -np.inf):
            return f"it pads with {pad.mode} {pad.value}, not with zeros"
        if not pads_space(pad, rank):
            return "it pads other axes than the spatial ones, or crops"
        reader = only_user(graph, node.output)
        if reader is None:
            return f"its result is {other_reader(graph, node.output, node)}"
        if not isinstance(reader.op, (Conv, Pool, QLinearConv)) or reader.inputs[0] is not node.output:
            return f"its reader is {reader.op.name}"
        spatial = rank - 2
        begins, ends = pad.pads[2:rank], pad.pads[rank + 2 :]
        old = reader.op.pads
        pads = tuple(a + b for a, b in zip(old, begins + ends, strict=True))
        if np.isinf(pad.value) and (not isinstance(reader.op, Pool) or reader.op.kind != "max"):
            return "it pads with minus infinity, and its reader is not max pooling"
        if isinstance(reader.op, Pool):
            reason = _pool_refusal(reader.op, node.input(0), pads, spatial, exact=bool(np.isinf(pad.value)))
            if reason is not None:
                return reason
        replace(
            graph, reader, dataclasses.replace(reader.op, pads=pads), [node.input(0), *reader.inputs[1:]], (*node.origin, *reader.origin)
        )
        erase_unused(graph, node)
        return None


def pads_space(pad: Pad, rank: int) -> bool:
    """Whether a Pad of a tensor of ``rank`` axes adds to spatial ones only, and crops none."""
    return rank >= 3 and not any((*pad.pads[:2], *pad.pads[rank : rank + 2])) and min(pad.pads) >= 0


def _zero_of_reader(node: Node) -> float:
    """What the padding of the first reader counts as: the zero point of a convolution of integers, else 0."""
    reader = next(iter(node.output.users), None)
    zero = reader.inputs[2] if reader is not None and isinstance(reader.op, QLinearConv) else None
    if zero is None:
        return 0.0
    return float(zero.data.reshape(-1)[0]) if zero.data is not None and zero.data.size == 1 else float("nan")


def _pool_refusal(pool: Pool, source: Value, pads: tuple[int, ...], spatial: int, *, exact: bool) -> str | None:
    """``exact``: the Pad adds minus infinity, as max pooling does."""
    if pool.indices:
        return "the indices of the maxima would change"
    for axis in range(spatial):
        if max(pads[axis], pads[spatial + axis]) >= pool.dilations[axis] * (pool.kernel[axis] - 1) + 1:
            return "a window could lie in the padding alone"
    if pool.kind == "average":
        if (not pool.count_include_pad and any(pool.pads)) or pool.ceil_mode:
            return "the average would count padding differently"
        return None if pool.count_include_pad else "the average counts the zeros of the Pad, but not the padding of the pool"
    producer = source.producer
    safe = exact or (producer is not None and _is_non_negative(producer))
    if not safe:
        return "max pooling pads with minus infinity and its input may be negative"
    if pool.ceil_mode or any(d != 1 for d in pool.dilations):
        return "max pooling with ceil_mode or dilation"
    return None


def _is_non_negative(node: Node) -> bool:
    """Whether a node's results are never negative (they may be NaN)."""
    if isinstance(node.op, Elementwise):
        expression = node.op.expression
    elif isinstance(node.op, Conv) and node.op.epilogue is not None:
        expression = node.op.epilogue
    else:
        return False
    if not expression.instrs:
        return False
    last = expression.instrs[-1]
    return last.fn in _NON_NEGATIVE or (last.fn == "clip" and last.params[0] >= 0)
