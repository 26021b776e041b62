"""``cnngraph summary``: layers, parameters, multiply-adds and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli.explain import show_precision
from cnngraph.cli.memory import memory_facts, show_memory
from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument, open_fixed_program
from cnngraph.cli.output import emit, json_option, plain, table
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.analysis.summary import Count, Summary

COUNTS = ("onnx", "keras", "folded")


@click.command("summary")
@model_argument
@click.option("--count", type=click.Choice(COUNTS), default="onnx", show_default=True, help="What counts as a parameter.")
@click.option("--memory", is_flag=True, help="Also compile, and show the memory plan.")
@compile_options
@json_option
def command(model: str, count: Count, memory: bool, how: Compilation, as_json: bool) -> None:
    """List the layers of MODEL (an ONNX file): output shape, parameters and multiply-adds of each, and the totals."""
    from cnngraph.analysis.summary import CONVENTIONS, summarize
    from cnngraph.frontend.reader import read_model
    from cnngraph.frontend.signature import declare
    from cnngraph.options import Limits

    if is_artifact(model):
        raise UsageError(f"'{printable(model)}' does not keep the layers; give the ONNX model, or use cnngraph inspect")
    proto, _ = read_model(model, Limits())
    declare(proto, how.shapes)
    found = summarize(proto, count)
    program = open_fixed_program(model, how) if memory or how.precision != "f32" else None
    plan = program.memory_report() if program is not None and memory else None
    precision = program.report.get("precision") if program is not None else None
    data: dict[str, Any] = {
        "model": model,
        "graph": found.model,
        "count": found.count,
        "convention": CONVENTIONS[found.count],
        "layers": [
            {"name": row.name, "type": row.type, "output_shape": row.output_shape, "parameters": row.params, "macs": row.macs}
            for row in found.rows
        ],
        "totals": {
            "parameters": found.params,
            "trainable": found.trainable,
            "macs": found.macs,
            "unknown_macs": found.unknown_macs,
            "weight_layers": found.weight_layers,
            "depth": found.depth,
        },
        **({"memory": memory_facts(plan)} if plan is not None else {}),
        **({"precision": plain(precision)} if precision is not None else {}),
    }

    def show() -> None:
        show_layers(found, CONVENTIONS[found.count])
        if plan is not None:
            show_memory(plan)
        if precision is not None:
            show_precision(precision["kept_f32"])
            click.echo(f"bf16: {precision['nodes']} results in bfloat16, the {len(precision['kept_f32'])} above in float32")

    emit("summary", data, as_json, show)


def show_layers(found: Summary, convention: str) -> None:
    """Print the table and the totals."""
    table(
        None,
        ["layer", "type", "output shape", "parameters", "multiply-adds"],
        [[row.name, row.type, _shape(row.output_shape), row.params, "?" if row.macs is None else row.macs] for row in found.rows],
        footer=["total", "", "", found.params, found.macs],
    )
    click.echo(f"parameters: {found.params:,} (--count {found.count}: {convention})")
    if found.non_trainable:
        click.echo(f"trainable: {found.trainable:,}, not trainable: {found.non_trainable:,}")
    click.echo(f"multiply-adds of one image: {found.macs:,} (convolutions and matrix products, without biases)")
    if found.unknown_macs:
        click.echo(f"not counted, because a shape is not known: {found.unknown_macs}; --shape gives the shapes of inputs")
    click.echo(f"weight layers: {found.weight_layers}, on the longest path: {found.depth}")


def _shape(shape: Sequence[int | None] | None) -> str:
    return "?" if shape is None else f"({', '.join(map(str, shape))})"
