"""The nodes of an ONNX graph with their tensors' names, checked for single assignment and put in topological order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from cnngraph.errors import InvalidModelError, printable
from cnngraph.frontend.scope import captured
from cnngraph.frontend.tensors import text


@dataclass(frozen=True)
class RawNode:
    """An ONNX node, its names checked to be text.

    Attributes:
        proto: the node.
        label: its name, or ``<op>_<position>`` if it has none.
        op: operator type, with its domain if that is not the standard one.
        inputs, outputs: tensor names; empty ones are absent.
    """

    proto: onnx.NodeProto
    label: str
    op: str
    standard: bool
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def raw_nodes(protos: Iterable[onnx.NodeProto]) -> list[RawNode]:
    """The nodes in the order of the file."""
    nodes = []
    for index, proto in enumerate(protos):
        op, domain = text(proto.op_type, "operator type"), text(proto.domain, "domain")
        standard = domain in ("", "ai.onnx")
        label = text(proto.name, "node name") or f"{op}_{index}"
        inputs = tuple(text(name, "tensor name") for name in proto.input)
        outputs = tuple(text(name, "tensor name") for name in proto.output)
        nodes.append(RawNode(proto, label, op if standard else f"{domain}::{op}", standard, inputs, outputs))
    return nodes


def order_nodes(nodes: Sequence[RawNode], given: Iterable[str], outputs: Iterable[str]) -> list[RawNode]:
    """The nodes in topological order; the order of the file is kept if it is one.

    Args:
        nodes: all nodes of the graph.
        given: names of graph inputs and initializers.
        outputs: names of the graph outputs.

    Raises:
        InvalidModelError: a tensor is made twice or never, or the graph has a cycle.
    """
    known = set(given)
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in known or name in producer:
                other = f"node '{printable(nodes[producer[name]].label)}'" if name in producer else "a graph input or initializer"
                raise InvalidModelError(f"{printable(node.op)}: tensor '{printable(name)}' is already made by {other}", node=node.label)
            producer[name] = index
    is_sorted = True
    reads = [(*node.inputs, *sorted(name for name in captured(node.proto) if name in known or name in producer)) for node in nodes]
    for index, node in enumerate(nodes):
        for name in filter(None, reads[index]):
            if name not in known and name not in producer:
                raise InvalidModelError(f"{printable(node.op)}: input '{printable(name)}' is made by no node", node=node.label)
            is_sorted = is_sorted and producer.get(name, -1) < index
    for name in outputs:
        if name not in known and name not in producer:
            raise InvalidModelError(f"graph output '{printable(name)}' is made by no node")
    return list(nodes) if is_sorted else _sort(nodes, reads, producer)


def _sort(nodes: Sequence[RawNode], reads: Sequence[Sequence[str]], producer: dict[str, int]) -> list[RawNode]:
    import networkx as nx  # 15 MB, and few files need it

    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from((producer[name], i) for i in range(len(nodes)) for name in reads[i] if name in producer)
    try:
        return [nodes[i] for i in nx.topological_sort(graph)]
    except nx.NetworkXUnfeasible:
        cycle = [nodes[edge[0]].label for edge in nx.find_cycle(graph)]
    shown = " -> ".join(printable(label, 60) for label in [*cycle[:20], *(["..."] if len(cycle) > 20 else []), cycle[0]])
    raise InvalidModelError(f"the graph has a cycle: {shown}", node=cycle[0])
