"""Whether the last bits of a result decide about whole steps: numbers that are rounded to integers further on.

Integerised networks (weights and activations that are integers in float tensors) compute conv -> scale -> floor. There an error of
one part in ten million becomes an error of one, so the passes keep the order of arithmetic in front of such a step.
"""

from __future__ import annotations

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ops import Bits, Cast, Concat, Elementwise, Expression, Identity, Pad, Pool, Reshape, Slice, Transpose

_STEPS = frozenset({"floor", "ceil", "round", "sign"})
_FINE = 2**16 - 1
"""Steps of a range so fine that one of them is no more than an error of float32 arithmetic after a few layers."""
_PASSED_ON = (Cast, Concat, Elementwise, Identity, Pad, Pool, Reshape, Slice, Transpose)


def rounded_later(value: Value) -> Node | None:
    """The node that rounds ``value``, or what element-wise operators, pooling and movement make of it, to integers; or None.

    The search ends at convolutions, dense layers and all else that sums over channels.
    """
    seen: set[Value] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if current in seen or not current.type.dtype.is_float:
            continue
        seen.add(current)
        for user in current.users:
            if _rounds(user):
                return user
            if isinstance(user.op, _PASSED_ON):
                waiting.extend(user.outputs)
    return None


def keeps_order(node: Node) -> Node | None:
    """The node for whose sake the arithmetic of ``node`` must not be reordered, ``node`` itself if its epilogue rounds; or None."""
    epilogue = getattr(node.op, "epilogue", None)
    if isinstance(epilogue, Expression) and _has_step(epilogue):
        return node
    return next((found for value in node.outputs if (found := rounded_later(value)) is not None), None)


def _rounds(node: Node) -> bool:
    if isinstance(node.op, Elementwise):
        return _has_step(node.op.expression)
    if isinstance(node.op, Cast):
        return not node.op.to.is_float and node.op.to.value != "bool"
    return isinstance(node.op, Bits)


def _has_step(expression: Expression) -> bool:
    """Whether a result is rounded to integers, other than to those of 16 bits."""
    fine = any(i.fn == "clip" and np.isfinite(i.params).all() and i.params[1] - i.params[0] >= _FINE for i in expression.instrs)
    return not fine and any(instr.fn in _STEPS for instr in expression.instrs)
