"""``cnngraph compare``: how far the tensors of a model lie from those of another precision."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cnngraph.cli.feeds import FILLS, make_feeds
from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument
from cnngraph.cli.output import emit, json_option, table
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from cnngraph.analysis.differences import TensorDifference

REFERENCES = {"f32": "f32", "exact": "exact"}


@click.command("compare")
@model_argument
@click.option(
    "--ref",
    "reference",
    type=click.Choice(list(REFERENCES)),
    default="f32",
    show_default=True,
    help="What to compare with: float32, or float32 without reordered arithmetic.",
)
@click.option("-i", "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help=".npy, .npz or an image; repeat for more.")
@click.option("--fill", type=click.Choice(FILLS), help="Generate the inputs that no file gives. Without any input: random.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of --fill random.")
@click.option("--batch", type=click.IntRange(min=1), help="Batch size of generated inputs.")
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="Only the K tensors with the largest errors, and the outputs.")
@click.option("--max-error", type=click.FloatRange(min=0), metavar="SHARE", help="Fail if an output differs by more of its scale.")
@compile_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    model: str,
    reference: str,
    inputs: tuple[str, ...],
    fill: str | None,
    seed: int,
    batch: int | None,
    top: int | None,
    max_error: float | None,
    how: Compilation,
    as_json: bool,
) -> None:
    """Run MODEL (an ONNX file) as the options say and in a reference precision, and show the error of every tensor.

    Errors are the largest difference over the tensor's largest absolute value.
    """
    from cnngraph.analysis.differences import Comparison

    if is_artifact(model):
        raise UsageError(f"'{printable(model)}' has no tensors but its outputs; give the ONNX model")
    options = how.options()
    plain = dataclasses.replace(options, precision="f32", keep_f32=(), math=REFERENCES[reference])
    comparison = Comparison(model, options, plain, dict(how.shapes) or None)
    feeds = make_feeds(comparison.program.inputs, inputs, fill=fill, seed=seed, batch=batch)
    rows = comparison.run(feeds.arrays)
    outputs = [row for row in rows if row.output]
    failed = max_error is not None and any(not row.error <= max_error for row in outputs)
    data: dict[str, Any] = {
        "model": model, "precision": how.precision, "reference": reference, "isa": comparison.program.data.isa,
        "tensors": [_plain(row) for row in rows], "max_error": max_error, "failed": failed,
    }  # fmt: skip

    def show() -> None:
        shown = rows
        if top is not None:
            inner = sorted((row for row in rows if not row.output), key=lambda row: -row.error)
            shown = [*inner[:top], *outputs]
        table(
            None,
            ["tensor", "nodes", "stored as", "scale", "error", "SQNR dB"],
            [[row.tensor, row.node, row.stored, row.scale, f"{row.error:.2e}", f"{row.sqnr_db:.1f}"] for row in shown],
        )
        for row in outputs:
            click.echo(f"output {printable(row.tensor)}: {row.error:.2%} of its scale, SQNR {row.sqnr_db:.1f} dB")

    emit("compare", data, as_json, show)
    if failed:
        context.exit(1)


def _plain(row: TensorDifference) -> dict[str, Any]:
    """The row for JSON, which has no infinity."""
    return {**dataclasses.asdict(row), "sqnr_db": row.sqnr_db if np.isfinite(row.sqnr_db) else None}
