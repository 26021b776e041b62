"""Timing of layers on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cnngraph.kernels.template import Backend, Target, Template
from cnngraph.options import CompileOptions
from cnngraph.tuning.layers import LAYER, Layer, Lowered, lower_layer, random_feeds
from cnngraph.tuning.search import Variant

ROUNDS, LEAST_ROUNDS, REPEAT = 8, 3, 3
PAIR_SECONDS = 0.4
"""Rounds of one measurement, unless so much time has passed; each runs every variant ``REPEAT`` times after a run that does not count."""


class LayerTimer:
    """Compiles variants of layers and times them in turn; see :class:`cnngraph.tuning.search.Measurer`."""

    def __init__(self, templates: Sequence[Template], backend: Backend, target: Target, options: CompileOptions, threads: int) -> None:
        self._templates, self._how = templates, (backend, target, options)
        self._threads = threads
        self._lowered: dict[tuple[str, str, str], Lowered] = {}
        self._last: tuple[tuple[str, str, str], Callable[[], float]] | None = None

    def prepare(self, wanted: Sequence[tuple[Layer, Variant]]) -> None:
        """Compile what will be measured next, in parallel."""
        backend, target, _ = self._how
        self._lowered = {_name(layer, variant): self._lower(layer, variant) for layer, variant in wanted}
        backend.compile([spec for lowered in self._lowered.values() for spec in lowered.specs], target)

    def single(self, layer: Layer, default: Variant) -> float:
        """Least seconds of the default."""
        return self._least([self._default(layer, default)])[0]

    def pair(self, layer: Layer, default: Variant, other: Variant) -> tuple[float, float]:
        """Least seconds of the default and of another variant, in turn."""
        usual, seconds = self._least([self._default(layer, default), self._runner(layer, other)])
        return usual, seconds

    def _default(self, layer: Layer, default: Variant) -> Callable[[], float]:
        """The default is kept from one measurement to the next, which often is of the same layer."""
        wanted = _name(layer, default)
        if self._last is None or self._last[0] != wanted:
            self._last = wanted, self._runner(layer, default)
        return self._last[1]

    def _runner(self, layer: Layer, variant: Variant) -> Callable[[], float]:
        lowered = self._lowered.pop(_name(layer, variant), None) or self._lower(layer, variant)
        program = lowered.program(*self._how)
        feeds = random_feeds(program)

        def run() -> float:
            rows = program.profile(feeds, REPEAT, threads=self._threads)
            return sum(row["seconds"] for row in rows if row["nodes"] == LAYER)

        return run

    def _lower(self, layer: Layer, variant: Variant) -> Lowered:
        return lower_layer(layer, variant.template, self._templates, self._how[1])

    def _least(self, runs: Sequence[Callable[[], float]]) -> list[float]:
        best = [float("inf")] * len(runs)
        end, rounds = time.perf_counter() + PAIR_SECONDS, 0
        while rounds < LEAST_ROUNDS or (rounds < ROUNDS and time.perf_counter() < end):
            for number, run in enumerate(runs):
                best[number] = min(best[number], run())
            rounds += 1
        return best


def _name(layer: Layer, variant: Variant) -> tuple[str, str, str]:
    return layer.key, variant.template.name, variant.name
