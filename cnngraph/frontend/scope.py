"""What the names of an ONNX graph, a subgraph or a function body stand for while it is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from cnngraph.errors import InvalidModelError, printable
from cnngraph.frontend.context import Tensor

MAX_DEPTH = 64
"""Functions and subgraphs inside each other that are followed before a model is taken to be recursive."""


@dataclass(eq=False)
class Late:
    """A result that only the tail knows, at run time: its shape depends on data, or it is no tensor of numbers.

    Attributes:
        key: its name in the tail.
        depends: names of the graph inputs whose numbers it depends on.
    """

    key: str
    depends: frozenset[str] = frozenset()


@dataclass(eq=False)
class Parts:
    """A sequence of known length.

    Attributes:
        tensors: its elements.
        late: the same for the tail, once that needs it.
    """

    tensors: tuple[Tensor, ...]
    late: Late | None = None


Known = Tensor | Late | Parts | None
"""What a name stands for; None is the result of a refused node."""


@dataclass(eq=False)
class Scope:
    """The names that the nodes of one body see.

    Attributes:
        opsets: version of each operator set, by domain ("" the standard one).
        path: prefix of the labels of its nodes, for messages and provenance.
        parent: the scope around a subgraph; None for the model's graph and for function bodies, which see nothing outside.
        depth: number of bodies around it.
    """

    opsets: Mapping[str, int]
    path: str = ""
    parent: Scope | None = None
    depth: int = 0
    tensors: dict[str, Known] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors or (self.parent is not None and name in self.parent)

    def __getitem__(self, name: str) -> Known:
        if name in self.tensors:
            return self.tensors[name]
        if self.parent is None:
            raise InvalidModelError(f"nothing is called '{printable(name)}'")
        return self.parent[name]

    def __setitem__(self, name: str, value: Known) -> None:
        self.tensors[name] = value

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return self.opsets[""]

    def inner(self, label: str) -> Scope:
        """The scope of a subgraph of the node ``label``."""
        return Scope(self.opsets, f"{label}/", self, self._deeper())

    def function(self, label: str, opsets: Mapping[str, int]) -> Scope:
        """The scope of the body of a function called by the node ``label``."""
        return Scope(opsets, f"{label}/", None, self._deeper())

    def _deeper(self) -> int:
        if self.depth >= MAX_DEPTH:
            raise InvalidModelError(f"functions or subgraphs lie more than {MAX_DEPTH} deep; a function may call itself")
        return self.depth + 1


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among the attributes of ``node``."""
    found = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            found.append(attribute.g)
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            found.extend(attribute.graphs)
    return found


def free_names(graph: onnx.GraphProto) -> set[str]:
    """Names that ``graph`` reads from the scopes around it."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    used: set[str] = {v.name for v in graph.output}
    for node in graph.node:
        used.update(node.input)
        for inner in subgraphs(node):
            used |= free_names(inner)
        own.update(node.output)
    return {name for name in used - own if name}


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that the subgraphs of ``node`` read from the scopes around them."""
    return set[str]().union(*(free_names(graph) for graph in subgraphs(node)))
