"""Tuning within a budget: which variants of which layers are measured, in what order, and what follows from it.

The default compilation comes first and stays wherever nothing better is found. Variants are measured against it layer by layer, the most
promising first: the time that a layer takes in the network, divided by the variant's place in the cost model's order. What shows a gain
is measured a second time. Every measurement is recorded, so that a later run goes on where this one stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cnngraph.errors import UsageError, printable
from cnngraph.ir.graph import Graph
from cnngraph.kernels.template import Backend, Target, Template
from cnngraph.options import CompileOptions
from cnngraph.passes.choose_layout import candidates_of, choose_layout, forget_layouts
from cnngraph.runtime.cpus import default_threads, usable_cpus
from cnngraph.tuning.layers import Layer, layers_of
from cnngraph.tuning.records import LEAST_GAIN, Record, Records

ANOTHER_ALGORITHM = 0.5
"""Costs of two algorithms compare less surely than those of two tiles, so another one is measured though it seems twice as expensive."""


@dataclass(frozen=True)
class Variant:
    """A way to compute a layer: a template and the name under which it offers this variant ("" for what it does by itself)."""

    template: Template
    name: str = ""


@dataclass(frozen=True)
class State:
    """How far tuning is, for people: seconds spent and to spend, measurements done and known, layers improved, the layer at hand."""

    seconds: float
    budget: float
    done: int
    total: int
    improved: int
    layer: str


TuneProgress = Callable[[State], None]


class Measurer(Protocol):
    """What times layers."""

    def prepare(self, wanted: Sequence[tuple[Layer, Variant]]) -> None:
        """Compile what will be measured next, in parallel."""
        ...

    def single(self, layer: Layer, default: Variant) -> float:
        """Least seconds of the default."""
        ...

    def pair(self, layer: Layer, default: Variant, other: Variant) -> tuple[float, float]:
        """Least seconds of the default and of another variant, in turn."""
        ...


@dataclass
class Tuned:
    """What tuning decided.

    Attributes:
        choices: for :func:`cnngraph.passes.choose_layout.choose_layout`.
        report: for the program's report: ``cpu``, ``versions``, ``measured``, ``known``, ``seconds``, and ``choices``, a row each.
    """

    choices: dict[str, tuple[str, str]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


class Search:
    """Measures within a budget; ``clock`` counts seconds."""

    def __init__(
        self,
        measurer: Measurer,
        records: Records,
        isa: str,
        threads: int,
        budget: float,
        clock: Callable[[], float] = time.monotonic,
        progress: TuneProgress | None = None,
    ) -> None:
        self.measurer, self.records, self.isa, self.threads = measurer, records, isa, threads
        self.budget, self.clock, self.progress = budget, clock, progress
        self.start = clock()
        self.measured = self.total = self.done = 0
        self.together = usable_cpus()
        self._improved: set[str] = set()

    def run(self, work: Sequence[tuple[Layer, Variant, Sequence[Variant]]]) -> None:
        """Measure the variants (third) of layers against the default (second) until all are or the budget is spent."""
        self.total = sum(1 + len(variants) for _, _, variants in work if variants)
        order = self._defaults(work)
        for first in range(0, len(order), self.together):
            batch = [(work[number], work[number][2][rank]) for number, rank in order[first : first + self.together]]
            new = [(layer, other) for (layer, default, _), other in batch if self._known(layer, default, other) is None]
            if new and self._late():
                return
            self.measurer.prepare(new)
            for (layer, default, _), other in batch:
                if self._known(layer, default, other) is None:
                    if self._late():
                        return
                    self._measure(layer, default, other)
                self._tell(layer)

    def _defaults(self, work: Sequence[tuple[Layer, Variant, Sequence[Variant]]]) -> list[tuple[int, int]]:
        """Measure the defaults; (number of the layer, number of its variant) in the order in which variants are worth measuring."""
        order = []
        for first in range(0, len(work), self.together):
            batch = [entry for entry in work[first : first + self.together] if entry[2]]
            new = [(layer, default) for layer, default, _ in batch if self._known(layer, default, default) is None]
            if new and self._late():
                return []
            self.measurer.prepare(new)
            for number, (layer, default, variants) in enumerate(work[first : first + self.together], first):
                if not variants:
                    continue
                known = self._known(layer, default, default)
                if known is None:
                    if self._late():
                        return []
                    seconds = self.measurer.single(layer, default)
                    known = self._keep(layer, default, default, seconds, seconds, confirmed=False)
                self._tell(layer)
                weight = known.default_seconds * layer.count
                order += [(-weight / (1 + rank), number, rank) for rank in range(len(variants))]
        return [(number, rank) for _, number, rank in sorted(order)]

    def _measure(self, layer: Layer, default: Variant, other: Variant) -> None:
        usual, seconds = self.measurer.pair(layer, default, other)
        confirmed = False
        if seconds <= usual * (1 - LEAST_GAIN):
            again = self.measurer.pair(layer, default, other)
            confirmed = again[1] <= again[0] * (1 - LEAST_GAIN)
            if again[1] / again[0] > seconds / usual:
                usual, seconds = again
        if self._keep(layer, default, other, seconds, usual, confirmed=confirmed).better:
            self._improved.add(layer.key)

    def _keep(self, layer: Layer, default: Variant, other: Variant, seconds: float, usual: float, *, confirmed: bool) -> Record:
        record = Record(
            self.isa, self.threads, layer.key, layer.context, default.template.name, other.template.name, other.name, seconds, usual,
            confirmed,
        )  # fmt: skip
        self.records.add(record)
        self.measured += 1
        return record

    def _known(self, layer: Layer, default: Variant, other: Variant) -> Record | None:
        of_layer = self.records.of(self.isa, layer.key, layer.context, default.template.name)
        found = [r for r in of_layer if (r.template, r.variant, r.threads) == (other.template.name, other.name, self.threads)]
        if found and found[-1].better:
            self._improved.add(layer.key)
        return found[-1] if found else None

    def _late(self) -> bool:
        return self.clock() - self.start >= self.budget

    def _tell(self, layer: Layer) -> None:
        self.done += 1
        if self.progress is not None:
            spent, title = self.clock() - self.start, printable(layer.key.rpartition(" ")[0], 60)
            self.progress(State(spent, self.budget, self.done, self.total, len(self._improved), title))


def variants_of(layer: Layer, choice_costs: dict[str, float], templates: Sequence[Template], target: Target) -> list[Variant]:
    """All that may compute the layer but the default, most promising first: by the cost model, other algorithms before other tiles.

    ``choice_costs`` are the templates that were not refused for the node, so that arithmetic modes and rounding are respected.
    """
    found: list[tuple[float, int, Variant]] = []
    for template in templates:
        if template.name not in choice_costs:
            continue
        offered = {"": template, **candidates_of(template, layer.node, target)}
        for name, variant in offered.items():
            if name or template.name != layer.template:
                cost = variant.cost(layer.node, target) * (1 if name else ANOTHER_ALGORITHM)
                found.append((cost, len(found), Variant(variant, name)))
    return [variant for _, _, variant in sorted(found, key=lambda entry: entry[:2])]


def tune(
    graph: Graph,
    templates: Sequence[Template],
    backend: Backend,
    target: Target,
    options: CompileOptions,
    progress: TuneProgress | None = None,
    measurer: Measurer | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Choices for ``graph``, which is of stage ``fused`` and stays as it is.

    With ``options.tune_budget`` variants are measured on this machine; without it the records in ``options.tune_records`` decide alone,
    so that every machine compiles the same.

    Raises:
        UsageError: the file of records cannot be read or written, or is of another machine and there is a budget.
        InvalidInputError: it holds no records.
    """
    from cnngraph.tuning.measure import LayerTimer

    path = options.tune_records
    threads = options.threads or default_threads()
    try:
        records = Records.of_this_machine(path) if options.tune_budget is not None or path is None else Records.read(path)
        choice = choose_layout(graph, templates, target)
        costs = {selection.node: selection.costs for selection in choice.selections}
        by_name = {template.name: template for template in templates}
        layers = layers_of(graph, choice)
        search = None
        if options.tune_budget is not None:
            timer = measurer or LayerTimer(templates, backend, target, options, threads)
            search = Search(timer, records, target.isa, threads, options.tune_budget, clock, progress)
            search.run([
                (layer, Variant(by_name[layer.template]), variants_of(layer, costs[layer.node], templates, target)) for layer in layers
            ])  # fmt: skip
            records.write()
        tuned = Tuned()
        rows = []
        for layer in layers:
            best = records.best(target.isa, layer.key, layer.context, layer.template, threads, costs[layer.node])
            if best is not None:
                tuned.choices[layer.key] = best.template, best.variant
                rows.append({
                    "layer": layer.key, "count": layer.count, "default": best.default, "template": best.template, "variant": best.variant,
                    "seconds": best.seconds, "default_seconds": best.default_seconds, "threads": best.threads,
                })  # fmt: skip
    except OSError as error:
        raise UsageError(f"tuning records '{printable(str(path))}': {error.strerror or error}") from error
    finally:
        forget_layouts(graph)
    tuned.report = {
        "cpu": records.cpu, "versions": records.versions, "measured": search.measured if search else 0,
        "variants": search.total if search else None, "seconds": clock() - search.start if search else 0.0, "choices": rows,
    }  # fmt: skip
    return tuned
