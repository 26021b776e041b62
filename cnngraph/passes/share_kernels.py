"""Let layers share kernels, where the best tile of each would be a kernel of its own and another layer's is nearly as good.

Every distinct kernel costs a second or two of compiling, and a network whose maps have many widths has many best register tiles.
Kernels are given up one at a time, the one first whose layers lose the least, as long as no layer loses more than
:data:`MOST_OF_A_LAYER` of its estimated cycles and the network no more than :data:`MOST_OF_A_NETWORK`. A template takes part by a method
``like`` (:class:`cnngraph.kernels.template.Template`). The decision depends on the graph and the target alone, not on which kernels
happen to be in a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cnngraph.ir.graph import Graph, Node
from cnngraph.kernels.template import KernelSpec, Target, Template
from cnngraph.passes.choose_layout import LayoutChoice

MOST_OF_A_LAYER = 0.03
MOST_OF_A_NETWORK = 0.01


@dataclass(frozen=True)
class _Move:
    """A layer with the kernel of others: the variant of its template and the estimated cycles that it costs more than the best."""

    template: Template
    extra: float


class _Sharing:
    def __init__(self, graph: Graph, choice: LayoutChoice, target: Target) -> None:
        self.choice, self.target = choice, target
        self.costs: dict[Node, float] = {}
        self.extra: dict[Node, float] = {}
        self.users: dict[KernelSpec, list[Node]] = {}
        self._found: dict[tuple[object, KernelSpec], _Move | None] = {}
        specs: dict[object, KernelSpec] = {}
        for node in graph.nodes:
            template = choice.templates[node]
            if template is not None and hasattr(template, "like"):
                self.costs[node], self.extra[node] = template.cost(node, target), 0.0
                alike = _alike(node)
                if alike not in specs:
                    specs[alike] = template.plan(node, target).typed().spec
                self.users.setdefault(specs[alike], []).append(node)

    def without(self, spec: KernelSpec) -> tuple[float, Mapping[Node, tuple[KernelSpec, _Move]]] | None:
        """Cycles lost, and where its layers go, if the kernel ``spec`` is given up; None if one of them fits no other kernel."""
        moves = {}
        for node in self.users[spec]:
            offers = [(other, self._move(node, other)) for other in self.users if other != spec]
            possible = [(other, move) for other, move in offers if move is not None]
            if not possible:
                return None
            moves[node] = min(possible, key=lambda offer: offer[1].extra)
        return sum(move.extra - self.extra[node] for node, (_, move) in moves.items()), moves

    def give_up(self, spec: KernelSpec, moves: Mapping[Node, tuple[KernelSpec, _Move]]) -> None:
        """Move its layers."""
        del self.users[spec]
        for node, (other, move) in moves.items():
            self.users[other].append(node)
            self.choice.templates[node] = move.template
            self.extra[node] = move.extra

    def _move(self, node: Node, spec: KernelSpec) -> _Move | None:
        key = (_alike(node), spec)
        if key not in self._found:
            self._found[key] = self._found_move(node, spec)
        return self._found[key]

    def _found_move(self, node: Node, spec: KernelSpec) -> _Move | None:
        template = self.choice.templates[node]
        assert template is not None
        if template.name != spec.template:
            return None
        variant = template.like(node, self.target, spec)  # type: ignore[attr-defined]
        if variant is None:
            return None
        extra = variant.cost(node, self.target) - self.costs[node]
        if extra > MOST_OF_A_LAYER * self.costs[node] or variant.plan(node, self.target).typed().spec != spec:
            return None
        return _Move(variant, extra)


def _alike(node: Node) -> tuple[object, ...]:
    """What a template knows of a node but for the numbers of its constants."""
    return node.op, *((value.type, value.is_constant) if value is not None else None for value in (*node.inputs, *node.outputs))


def share_kernels(graph: Graph, choice: LayoutChoice, target: Target) -> int:
    """Replace templates in ``choice`` by variants that share kernels; returns how many kernels fewer there are."""
    sharing = _Sharing(graph, choice, target)
    chosen = sum(selection.costs.get(selection.chosen, 0.0) for selection in choice.selections)
    given_up = 0
    while True:
        offers = [(spec, sharing.without(spec)) for spec in sharing.users]
        possible = [(lost[0], spec, lost[1]) for spec, lost in offers if lost is not None]
        if not possible:
            return given_up
        lost, spec, moves = min(possible, key=lambda offer: offer[0])
        if sum(sharing.extra.values()) + lost > MOST_OF_A_NETWORK * chosen:
            return given_up
        sharing.give_up(spec, moves)
        given_up += 1
