"""``cnngraph profile``: the time of every step."""

from __future__ import annotations

from typing import Any

import click

from cnngraph.cli.feeds import make_feeds
from cnngraph.cli.model import Compilation, compile_options, model_argument, open_program
from cnngraph.cli.output import emit, json_option, table


@click.command("profile")
@model_argument
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Batch size.")
@click.option("--repeat", type=click.IntRange(min=1), default=10, show_default=True, help="Runs; the least time of each step counts.")
@click.option("--sort/--no-sort", default=False, help="Slowest steps first, instead of the order of execution.")
@click.option("--by", type=click.Choice(["step", "kernel"]), default="step", show_default=True, help="One row a step, or a kernel.")
@compile_options
@json_option
def command(model: str, batch: int, repeat: int, sort: bool, by: str, how: Compilation, as_json: bool) -> None:
    """Time every step of MODEL (an ONNX file or a .cnng artifact) on one thread, on random inputs."""
    program = open_program(model, how)
    feeds = make_feeds(program.inputs, fill="random", batch=batch).arrays
    rows = rates(program.profile(feeds, repeat), program.report.get("selection", []), batch)
    if by == "kernel":
        rows = by_kernel(rows)
    if sort:
        rows.sort(key=lambda row: -row["milliseconds"])
    total = sum(row["milliseconds"] for row in rows)
    data = {"model": model, "batch": batch, "threads": 1, "milliseconds": total, "by": by, "steps": rows}
    emit("profile", data, as_json, lambda: show(rows, total))


def rates(steps: list[dict[str, Any]], selection: list[dict[str, Any]], batch: int) -> list[dict[str, Any]]:
    """The measured steps with their share of the time and, where the compiler counted the work, GFLOP/s."""
    work = {entry["node"]: 2 * entry.get("macs", 0) + entry.get("flops", 0) for entry in selection}
    total = sum(step["seconds"] for step in steps) or 1.0
    rows = []
    for step in steps:
        flops = work.get(step["nodes"], 0) * batch
        rows.append(
            {
                "kernel": step["kernel"],
                "nodes": step["nodes"],
                "milliseconds": step["seconds"] * 1e3,
                "percent": 100 * step["seconds"] / total,
                "flops": flops or None,
                "gflops_per_second": flops / step["seconds"] / 1e9 if flops and step["seconds"] > 0 else None,
            }
        )
    return rows


def by_kernel(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a kernel: the sums over the steps that call it."""
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        into = merged.setdefault(
            row["kernel"], {"kernel": row["kernel"], "nodes": "", "calls": 0, "milliseconds": 0.0, "percent": 0.0, "flops": 0}
        )
        into["calls"] += 1
        into["nodes"] = row["nodes"] if into["calls"] == 1 else f"{into['calls']} steps"
        into["milliseconds"] += row["milliseconds"]
        into["percent"] += row["percent"]
        into["flops"] += row["flops"] or 0
    for into in merged.values():
        seconds = into["milliseconds"] / 1e3
        into["gflops_per_second"] = into["flops"] / seconds / 1e9 if into["flops"] and seconds > 0 else None
        into["flops"] = into["flops"] or None
    return list(merged.values())


def show(rows: list[dict[str, Any]], total: float) -> None:
    """Print the table for people."""
    table(
        None,
        ["nodes", "kernel", "ms", "%", "GFLOP/s"],
        [[_short(row["nodes"]), _short(row["kernel"]), row["milliseconds"], row["percent"], row["gflops_per_second"]] for row in rows],
        footer=["total", "", total, "", ""],
    )


def _short(text: str, limit: int = 70) -> str:
    return text if len(text) <= limit else text[: limit // 2] + "…" + text[-limit // 2 :]
