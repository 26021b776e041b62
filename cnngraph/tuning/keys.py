"""How layers are told apart in tuning records."""

from __future__ import annotations

import hashlib

from cnngraph.analysis.rounding import keeps_order
from cnngraph.ir.graph import Node, Value
from cnngraph.ops import Reorder


def source_of(value: Value) -> Value:
    """The value before any change of its layout."""
    while value.producer is not None and isinstance(value.producer.op, Reorder):
        value = value.producer.input(0)
    return value


def key_of(node: Node) -> str:
    """What a choice of kernels may depend on, layouts apart: the operator, the types and which inputs are constant; a line of text.

    Weights do not enter, so that a network keeps its choices when it is trained anew.
    """
    sources = [None if v is None else source_of(v) for v in node.inputs]
    inputs = ["-" if v is None else f"{v.type.dtype.value}{list(map(str, v.type.shape))}{'c' * v.is_constant}" for v in sources]
    outputs = [f"{v.type.dtype.value}{list(map(str, v.type.shape))}" for v in node.outputs]
    shared = [next(i for i, other in enumerate(sources) if other is v) for v in sources]
    text = "\0".join([repr(node.op), *inputs, "->", *outputs, str(shared), str(keeps_order(node) is not None)])
    return f"{title_of(node)} {hashlib.sha256(text.encode()).hexdigest()[:20]}"


def title_of(node: Node) -> str:
    """The operator and its shapes, for people: ``Conv 3x3/2 64x56x56 -> 128x28x28``."""
    window = "x".join(map(str, getattr(node.op, "kernel", ())))
    stride = max(getattr(node.op, "strides", (1,)), default=1)
    group = getattr(node.op, "group", 1)
    words = [node.op.name, window + (f"/{stride}" if window and stride > 1 else ""), f"g{group}" if group > 1 else ""]
    before = next((v for v in node.inputs if v is not None and not v.is_constant), None)
    return " ".join(filter(None, [*words, *([_extents(before), "->"] if before is not None else []), _extents(node.output)]))


def _extents(value: Value) -> str:
    return "x".join(map(str, value.type.shape[1:])) or "scalar"
