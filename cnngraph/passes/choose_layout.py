"""Choose a kernel template and a layout for every node; insert the reorders that remain.

Nodes are visited in graph order. A node's template is the cheapest that accepts it. Of the layout combinations the
template offers, the one that moves the fewest elements wins, the template's own order deciding ties. A value
is reordered at most once into each layout: every reader that wants that layout shares the result, so chains of blocked
kernels meet no reorder between them. Nodes without a template, and graph outputs, are plain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnngraph.analysis.channels import reach_channels
from cnngraph.analysis.pixels import reach_pixels
from cnngraph.analysis.rounding import keeps_order
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import PLAIN, Layout, Sym, TensorType, keeps_blocks, per_image
from cnngraph.kernels.template import LayoutRequest, Selection, Target, Template
from cnngraph.ops import Identity, Reorder, Reshape
from cnngraph.tuning.keys import key_of

Choices = Mapping[str, tuple[str, str]]
"""By the key of a layer: name of a template, and of one of its variants or "" for what it does by itself."""

ALIASES = (Reshape, Identity)
"""Operators that move nothing when plain: their output shares the input's storage."""


class LayoutChoice:
    """What :func:`choose_layout` decided: the template of each node (None: the NumPy reference), and why."""

    def __init__(self) -> None:
        self.templates: dict[Node, Template | None] = {}
        self.selections: list[Selection] = []
        self.reorders = 0
        self.unknown: list[str] = []
        self.pixels: frozenset[Node] = frozenset()
        self.channels: frozenset[Node] = frozenset()


def estimated_cycles(selections: Sequence[Selection]) -> float:
    """Of one image, on one core."""
    return sum(s.costs.get(s.chosen, 0.0) for s in selections)


def choose_layout(graph: Graph, templates: Sequence[Template], target: Target, choices: Choices | None = None) -> LayoutChoice:
    """Set the layout of every value in ``graph`` (which becomes stage ``laid_out``) and pick every node's template.

    ``choices`` replace what the costs say; those that cannot be followed are listed in ``LayoutChoice.unknown``.
    """
    choice = LayoutChoice()
    choice.pixels, choice.channels = reach_pixels(graph), reach_channels(graph)
    copies: dict[tuple[Value, Layout], Value] = {}
    by_op: dict[type, list[Template]] = {}

    def in_layout(value: Value, layout: Layout, before: Node | None, origin: tuple[str, ...]) -> Value:
        if value.type.layout == layout:
            return value
        found = copies.get((value, layout))
        if found is None:
            (found,) = graph.add(Reorder(layout), [value], origin=origin, before=before)
            graph.set_type(found, found.type.with_layout(layout))
            copies[value, layout] = found
            copies[found, value.type.layout] = value
            choice.reorders += 1
            assert found.producer is not None
            pick(found.producer, by_op.setdefault(Reorder, list(templates)), target, choice)
        return found

    for node in graph.nodes:
        template = pick(node, templates, target, choice, choices)
        if template is None:
            kept = _kept_layout(node)
            wanted = LayoutRequest(tuple(kept for _ in node.inputs), tuple(kept for _ in node.outputs))
        else:
            wanted = best_request(template, node, target)
        replaced = []
        for value, layout in zip(node.inputs, wanted.inputs, strict=True):
            if value is None or layout is None or value.type.layout == layout:
                replaced.append(value)
            else:
                replaced.append(in_layout(value, layout, node, node.origin))
        graph.rewire(node, replaced)
        for value, layout in zip(node.outputs, wanted.outputs, strict=True):
            graph.set_type(value, value.type.with_layout(layout))

    for index, (name, value) in enumerate(graph.outputs):
        if not value.type.layout.plain:
            origin = value.producer.origin if value.producer is not None else (name,)
            graph.outputs[index] = (name, in_layout(value, PLAIN, None, origin))
    graph.stage = "laid_out"
    return choice


def _kept_layout(node: Node) -> Layout:
    """The layout of a node without a template: plain, but blocks stay where a reshape leaves images and channels alone."""
    if not isinstance(node.op, Reshape):
        return PLAIN
    x, y = node.input(0).type, node.output.type
    return x.layout if keeps_blocks(x, y) and not x.layout.last else PLAIN


def forget_layouts(graph: Graph) -> None:
    """Undo :func:`choose_layout`: every value is plain again, and the graph of stage ``fused``."""
    for node in graph.nodes:
        if isinstance(node.op, Reorder):
            graph.replace_uses(node.output, node.input(0))
            graph.erase(node)
    for node in graph.nodes:
        for value in node.outputs:
            graph.set_type(value, value.type.with_layout(PLAIN))
    graph.stage = "fused"


def best_request(template: Template, node: Node, target: Target) -> LayoutRequest:
    """The layouts that ``template`` would use for ``node`` as its operands are now."""
    return min(template.layouts(node, target), key=lambda request: _moved(node, request))


def candidates_of(template: Template, node: Node, target: Target) -> Mapping[str, Template]:
    """Variants of ``template`` that may be measured for ``node``; empty for templates that offer none."""
    offer = getattr(template, "candidates", None)
    return offer(node, target) if offer is not None else {}


def pick(
    node: Node, templates: Sequence[Template], target: Target, choice: LayoutChoice, choices: Choices | None = None
) -> Template | None:
    """Record in ``choice`` the template of ``choices``, or the cheapest that may compute ``node``, or None; and return it."""
    selection = Selection(node, "alias" if isinstance(node.op, ALIASES) else "reference")
    best: Template | None = None
    if not isinstance(node.op, ALIASES):
        moved = _batch_elsewhere(node)
        for template in templates:
            refusal = template.accepts(node, target)
            if refusal is None and template.reorders_arithmetic and (rounding := keeps_order(node)) is not None:
                refusal = f"{rounding.label} rounds the result to integers, so the order of arithmetic is kept"
            if refusal is None and node in choice.pixels and getattr(template, "rounds_tiles", False):
                refusal = "pixels of the result reach an output, and no sum over them evens out errors of tiles"
            if refusal is None and node in choice.channels and getattr(template, "parts_channels", False):
                refusal = "channels of the result reach an output, where they are compared, so all are summed in one order"
            if refusal is None and moved is not None and not getattr(template, "any_batch_axis", False):
                refusal = f"{moved} has the batch in another place than the first axis"
            if refusal is not None:
                selection.refused[template.name] = refusal
                continue
            selection.costs[template.name] = template.cost(node, target)
            if best is None or selection.costs[template.name] < selection.costs[best.name]:
                best = template
        if best is not None and choices:
            best = _chosen(node, best, templates, target, selection, choice, choices)
        if best is not None:
            selection.chosen = best.name
    choice.templates[node] = best
    choice.selections.append(selection)
    return best


def _chosen(
    node: Node, best: Template, templates: Sequence[Template], target: Target, selection: Selection, choice: LayoutChoice, choices: Choices
) -> Template:
    """The template that ``choices`` name for the node, or ``best`` if they name none, or one that may not compute it."""
    name, variant = choices.get(key_of(node), (best.name, ""))
    found = next((t for t in templates if t.name == name and name in selection.costs), None)
    if found is not None and variant:
        found = candidates_of(found, node, target).get(variant)
    if found is None:
        choice.unknown.append(f"{node.label}: {name} {variant}".rstrip())
        return best
    selection.variant = variant
    return found


def _batch_elsewhere(node: Node) -> TensorType | None:
    """A tensor of ``node`` whose axes after the first depend on the batch size."""
    values = (v for v in (*node.inputs, *node.outputs) if v is not None)
    return next((v.type for v in values if any(isinstance(d, Sym) for d in v.type.shape[1:])), None)


def _moved(node: Node, request: LayoutRequest) -> int:
    """Elements that would have to be reordered before the node could run in ``request``."""
    moved = 0
    for value, layout in zip(node.inputs, request.inputs, strict=True):
        if value is not None and layout is not None and value.type.layout != layout:
            moved += per_image(value.type.physical_elements)
    return moved
