"""What the command line adds to tuning: durations, the progress bar, the summary."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cnngraph.tuning.search import State, TuneProgress

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class DurationType(click.ParamType):
    """``90``, ``60s``, ``2m``, ``1.5h``: seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the duration, or fail with a usage error."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|min|h|)", str(value))
        if found is None:
            self.fail(f"{value!r} is not a duration such as 60s, 2m or 1.5h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@contextmanager
def tuning_progress(budget: float) -> Iterator[TuneProgress | None]:
    """A bar on standard error that shows how much of the budget is left, and what was found; None where that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.text import Text

    bar = Progress(
        TextColumn("tuning"), BarColumn(), TextColumn("{task.fields[left]}"), TextColumn("{task.description}", markup=False),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=1.0, left=_left(budget))

        def update(state: State) -> None:
            done = max(state.seconds / max(state.budget, 1e-9), state.done / max(state.total, 1))
            text = f"{state.done}/{state.total} variants, {state.improved} layers faster, {Text(state.layer).plain}"
            bar.update(task, completed=min(done, 1.0), description=text, left=_left(remaining(state)))

        yield update


def remaining(state: State) -> float:
    """Seconds that tuning will still take: what is left of the budget, or less if the variants are used up before."""
    if not state.done:
        return max(0.0, state.budget - state.seconds)
    at_this_rate = state.seconds / state.done * (state.total - state.done)
    return max(0.0, min(state.budget - state.seconds, at_this_rate))


def _left(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} left"


def summary(tuning: Mapping[str, Any]) -> str:
    """One line on what tuning did."""
    choices = tuning["choices"]
    saved = sum((row["default_seconds"] - row["seconds"]) * row["count"] for row in choices) * 1e3
    found = f"{len(choices)} layers have faster kernels, together {saved:.2f} ms" if choices else "no layer has a faster kernel"
    if tuning["variants"] is None:
        return f"tuning records of {tuning['cpu']}: {found}"
    return f"tuning: {tuning['measured']} of {tuning['variants']} variants measured in {tuning['seconds']:.0f} s; {found}"
