"""Single layers of a network: their identity, as graphs of their own, and as programs that can be timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cnngraph.errors import printable
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import PLAIN, DType, Layout, numel, per_image
from cnngraph.ir.verify import verify
from cnngraph.kernels.template import Backend, KernelCall, KernelSpec, Selection, Target, Template
from cnngraph.ops import Reorder
from cnngraph.options import CompileOptions
from cnngraph.passes.choose_layout import LayoutChoice, best_request, pick
from cnngraph.passes.plan_memory import MemoryPlan, plan_memory
from cnngraph.passes.select_kernels import select_kernels
from cnngraph.runtime.build import build_program
from cnngraph.runtime.session import Program
from cnngraph.tuning.keys import key_of, source_of

LAYER, EDGE = "layer", "edge"
"""Labels of the steps of a single layer's program: the layer with the reorders it asks for, and what only feeds and drains it."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The nodes of a laid-out graph that are alike, and how the default compilation treats them.

    Attributes:
        key: see :func:`key_of`.
        node: the first of them.
        template: name of the kernel family that the cost model chooses.
        arrives, leaves: layouts of the operands before any reorder for this node, and of the results.
        count: how many there are.
    """

    key: str
    node: Node
    template: str
    arrives: tuple[Layout | None, ...]
    leaves: tuple[Layout, ...]
    count: int

    @property
    def context(self) -> str:
        """The layouts as text."""
        return f"{','.join(map(str, self.arrives))} -> {','.join(map(str, self.leaves))}"


def layers_of(graph: Graph, choice: LayoutChoice) -> list[Layer]:
    """The distinct layers of a laid-out graph that have a kernel, in order of first use; reorders are none."""
    found: dict[str, Layer] = {}
    for node in graph.nodes:
        template = choice.templates[node]
        if template is None or isinstance(node.op, Reorder):
            continue
        key = key_of(node)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
            continue
        arrives = tuple(None if v is None else source_of(v).type.layout for v in node.inputs)
        found[key] = Layer(key, node, template.name, arrives, tuple(v.type.layout for v in node.outputs), 1)
    return list(found.values())


def bytes_of(node: Node) -> int:
    """Bytes that a layer must read and write for one image: operands, weights and results, each once, without padding."""
    values = dict.fromkeys(v for v in (*node.inputs, *node.outputs) if v is not None)
    return sum(per_image(numel(v.type.shape)) * v.type.dtype.itemsize for v in values)


def flops_of(node: Node) -> int:
    """Arithmetic operations of a layer for one image, a multiply-add as two, fused element-wise arithmetic included."""
    cost = node.op.cost(tuple(None if v is None else v.type for v in node.inputs), tuple(v.type for v in node.outputs))
    return 2 * cost.macs + cost.flops


def alone(node: Node) -> Graph:
    """A graph of stage ``fused`` that holds a copy of ``node`` alone; its inputs are those of the node that are not constant."""
    graph = Graph(printable(node.label, 200))
    made = _inputs(graph, node, tuple(PLAIN for _ in node.inputs))
    for i, value in enumerate(graph.add(node.op, made, origin=[LAYER])):
        graph.add_output(f"y{i}", value)
    graph.stage = "fused"
    return graph


@dataclass(frozen=True, eq=False)
class Lowered:
    """A layer with its kernel calls, not compiled yet."""

    graph: Graph
    choice: LayoutChoice
    calls: Mapping[Node, KernelCall | None]
    plan: MemoryPlan

    @property
    def specs(self) -> list[KernelSpec]:
        """The kernels that it needs."""
        return [call.spec for node, call in self.calls.items() if call is not None and node not in self.plan.absorbed]

    def program(self, backend: Backend, target: Target, options: CompileOptions) -> Program:
        """Compile it. Steps are labelled :data:`LAYER` or :data:`EDGE`."""
        return build_program(
            self.graph, self.calls, self.plan, backend.compile(self.specs, target), backend, target, options=options, records=(),
            rejections=(), selections=self.choice.selections,
        )  # fmt: skip


def lower_layer(layer: Layer, template: Template, templates: Sequence[Template], target: Target) -> Lowered:
    """One layer, computed by ``template``, between operands and results in the layouts of the default compilation.

    ``templates`` are asked for the reorders.

    Raises:
        InternalError: the template fails on the layer.
    """
    graph, choice = Graph(printable(layer.node.label, 200)), LayoutChoice()
    made = _inputs(graph, layer.node, layer.arrives)
    results = graph.add(layer.node.op, made, origin=[LAYER])
    node = graph.nodes[-1]
    request = best_request(template, node, target)
    copies: dict[tuple[Value, Layout], Value] = {}
    operands: list[Value | None] = []
    for value, layout in zip(made, request.inputs, strict=True):
        if value is not None and layout is not None and value.type.layout != layout:
            if (value, layout) not in copies:
                copies[value, layout] = _reordered(graph, value, layout, LAYER, node)
            value = copies[value, layout]
        operands.append(value)
    graph.rewire(node, operands)
    for i, (value, layout, left) in enumerate(zip(results, request.outputs, layer.leaves, strict=True)):
        graph.set_type(value, value.type.with_layout(layout))
        if layout != left:
            value = _reordered(graph, value, left, LAYER)
        graph.add_output(f"y{i}", value if left.plain else _reordered(graph, value, PLAIN, EDGE))
    for other in graph.nodes:
        if other is node:
            choice.templates[node] = template
            choice.selections.append(Selection(node, template.name, costs={template.name: template.cost(node, target)}))
        else:
            pick(other, templates, target, choice)
    graph.stage = "laid_out"
    verify(graph, "lower_layer")
    calls = select_kernels(graph, choice, target)
    return Lowered(graph, choice, calls, plan_memory(graph, calls))


def _inputs(graph: Graph, node: Node, layouts: Sequence[Layout | None]) -> list[Value | None]:
    """Operands like those of ``node`` in these layouts: new constants with the same arrays, and inputs of the graph."""
    made: dict[Value, Value] = {}
    for value, layout in zip(node.inputs, layouts, strict=True):
        if value is None or source_of(value) in made:
            continue
        source = source_of(value)
        if source.data is not None:
            made[source] = graph.constant(source.data)
            continue
        given = graph.add_input(f"x{len(graph.inputs)}", source.type.with_layout(PLAIN))
        made[source] = given if layout is None or layout.plain else _reordered(graph, given, layout, EDGE)
    return [None if v is None else made[source_of(v)] for v in node.inputs]


def _reordered(graph: Graph, value: Value, layout: Layout, label: str, before: Node | None = None) -> Value:
    (found,) = graph.add(Reorder(layout), [value], origin=[label], before=before)
    graph.set_type(found, found.type.with_layout(layout))
    return found


def random_feeds(program: Program, batch: int = 1) -> dict[str, np.ndarray]:
    """Numbers for the inputs of ``program``: normally distributed, or of 8 bits; wider integers, which may be indices, are zero."""
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in program.inputs:
        shape = [d if isinstance(d, int) else batch * int(d.rstrip("N") or 1) for d in spec.shape]
        dtype = DType(spec.dtype)
        if dtype.is_float:
            feeds[spec.name] = rng.standard_normal(shape, np.float32).astype(dtype.numpy)
        else:
            feeds[spec.name] = rng.integers(0, 100 if dtype.itemsize == 1 else 1, shape).astype(dtype.numpy)
    return feeds
