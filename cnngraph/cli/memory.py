"""The memory plan of a program for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from cnngraph.cli.output import size, table


def memory_facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as :meth:`Program.memory_report` gives it, with the peak over its lower bound."""
    bound = report["lower_bound"]
    return {**report, "ratio": report["peak"] / bound if bound else 1.0}


def show_memory(report: Mapping[str, Any], longest: int = 20) -> None:
    """Print sizes, and the storages of the arena in order of their first use (only the largest, if there are more than ``longest``)."""
    facts = memory_facts(report)
    table(
        "memory",
        ["what", "size"],
        [
            ["weights", size(facts["weights"])],
            ["arena, for each image", size(facts["peak"])],
            *([["of it handed over by steps image by image", size(facts["handover"])]] if facts.get("handover") else []),
            ["lower bound (largest sum of tensors alive at once)", size(facts["lower_bound"])],
            ["arena / lower bound", f"{facts['ratio']:.3f}"],
            ["reached at", facts["peak_step"] or "-"],
            ["independent of the batch", size(facts["static"])],
            ["scratch, for each thread", size(facts["scratch_per_thread"])],
        ],
    )
    storages = [s for s in facts["storages"] if s["offset"] is not None]
    kept = sorted(range(len(storages)), key=lambda i: -storages[i]["bytes"])[:longest]
    table(
        "arena",
        ["offset", "bytes", "from", "to", "tensors"],
        [[s["offset"], s["bytes"], s["first"], s["last"], ", ".join(s["names"])] for s in (storages[i] for i in sorted(kept))],
    )
    if len(kept) < len(storages):
        click.echo(f"and {len(storages) - len(kept)} smaller storages")
