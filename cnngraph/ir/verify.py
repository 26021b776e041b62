"""Check that a graph keeps the promises of its stage; run after every pass."""

from __future__ import annotations

from collections import Counter

from cnngraph.errors import CnngraphError, InternalError
from cnngraph.ir.graph import Graph, Node, Value

_PLAIN_STAGES = ("imported", "canonical", "fused")


def verify(graph: Graph, after: str) -> None:
    """Recompute every type from the operators and check order, uses and provenance.

    Args:
        graph: the graph to check.
        after: name of the pass that just ran, for the message.

    Raises:
        InternalError: an invariant is broken; the message names the pass and the node.
    """
    defined: set[Value] = {value for _, value in graph.inputs}
    uses: dict[Value, Counter[Node]] = {}
    for node in graph.nodes:

        def fail(message: str, node: Node = node) -> InternalError:
            return InternalError(f"after pass {after}: {message}", node=node.label)

        if not node.outputs:
            raise fail("a node without outputs")
        if not node.origin:
            raise fail(f"{node.op.name} does not say which ONNX node it came from")
        for value in node.inputs:
            if value is None:
                continue
            if not value.is_constant and value not in defined:
                raise fail(f"{node.op.name} reads a value that no earlier node defines")
            uses.setdefault(value, Counter())[node] += 1
        try:
            types = node.op.infer(*(None if v is None else v.type.with_layout(type(v.type.layout)()) for v in node.inputs))
        except CnngraphError as error:
            raise fail(f"{node.op.name} no longer infers: {error}") from error
        if len(types) != len(node.outputs):
            raise fail(f"{node.op.name} has {len(node.outputs)} outputs but infers {len(types)}")
        for value, type_ in zip(node.outputs, types, strict=True):
            if value.producer is not node or value in defined:
                raise fail("an output with another producer")
            if (value.type.dtype, value.type.shape) != (type_.dtype, type_.shape):
                raise fail(f"{node.op.name} is typed {value.type} but infers {type_}")
            if graph.stage in _PLAIN_STAGES and not value.type.layout.plain:
                raise fail(f"layout {value.type.layout} before layouts are chosen")
            defined.add(value)
    for value, counts in uses.items():
        if Counter(value.users) != counts:
            raise InternalError(f"after pass {after}: the users of {value} are not those that read it")
    for name, value in graph.outputs:
        if not value.is_constant and value not in defined:
            raise InternalError(f"after pass {after}: output {name!r} is not computed")
