"""``cnngraph explain``: which rewrites were refused, and why each node got its kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument, open_fixed_program
from cnngraph.cli.output import emit, json_option, plain, table
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram


@click.command("explain")
@model_argument
@click.option("--node", metavar="TEXT", help="Only nodes whose name contains this.")
@click.option("--all", "everything", is_flag=True, help="Also the kernel families that are for other operators altogether.")
@compile_options
@json_option
def command(model: str, node: str | None, everything: bool, how: Compilation, as_json: bool) -> None:
    """Say why nodes of MODEL (an ONNX file) were not fused, and what every kernel family said of them."""
    if is_artifact(model):
        raise UsageError(f"'{printable(model)}' does not keep the compiler's decisions; give the ONNX model")
    found = decisions(open_fixed_program(model, how))
    if node is not None:
        found = {key: [entry for entry in entries if node in entry["node"]] for key, entries in found.items()}
    emit("explain", {"model": model, **found}, as_json, lambda: show_decisions(found, everything))


def decisions(program: Program | TailedProgram) -> dict[str, list[dict[str, Any]]]:
    """Refused rewrites, nodes that a precision leaves in float32, and kernel choices, as plain data."""
    return {
        "rejections": plain(program.report["rejections"]),
        "kept_f32": plain(program.report.get("precision", {}).get("kept_f32", [])),
        "selection": plain(program.report["selection"]),
    }


def show_decisions(data: dict[str, Any], everything: bool = False) -> None:
    """Print the tables; unless ``everything``, without the families whose reason is that the operator is another one."""
    if data["rejections"]:
        table("rewrites refused", ["pass", "node", "reason"], [[r["pass"], r["node"], r["reason"]] for r in data["rejections"]])
    else:
        click.echo("no rewrite was refused")
    if data["kept_f32"]:
        show_precision(data["kept_f32"])
    rows = []
    for entry in data["selection"]:
        rows.append([entry["node"], entry["chosen"], _cycles(entry["costs"].get(entry["chosen"])), ""])
        others = {**{name: f"{_cycles(cost)} cycles" for name, cost in entry["costs"].items()}, **entry["refused"]}
        rows += [
            ["", f"  not {name}", "", reason]
            for name, reason in others.items()
            if name != entry["chosen"] and (everything or not reason.startswith("not "))
        ]
    table("kernel of each node", ["node", "kernel family", "cycles an image", "reason"], rows)


def show_precision(kept: list[dict[str, Any]]) -> None:
    """Print the nodes that stay float32 where the precision is bf16."""
    table("results in float32", ["node", "operator", "reason"], [[k["node"], k["op"], k["reason"]] for k in kept])


def _cycles(cost: float | None) -> str:
    return "" if cost is None else f"{cost:,.0f}"
