"""``cnngraph models``: the classic networks as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cnngraph.cli.output import atomic_write, dims, emit, json_option, size, table
from cnngraph.errors import UsageError


class BatchType(click.ParamType):
    """A positive integer or ``dynamic``."""

    name = "N|dynamic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Parse the batch, or fail with a usage error."""
        if value == "dynamic" or isinstance(value, int):
            return value
        if not str(value).isdecimal() or not 0 < int(value) <= 1 << 20:
            self.fail(f"{value!r} is neither 'dynamic' nor a positive number", param, ctx)
        return int(value)


@click.group("models")
def command() -> None:
    """List or build the classic networks (seeded random weights)."""


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the networks that can be built."""
    networks = _package().list_models()
    data = [
        {
            "name": info.name,
            "description": info.description,
            "input": {"name": "input", "shape": info.input_shape},
            "output": {"name": info.output, "shape": info.output_shape},
        }
        for info in networks
    ]
    emit(
        "models list",
        {"models": data},
        as_json,
        lambda: table(None, ["name", "input", "output", "description"], [_row(entry) for entry in data]),
    )


@command.command("build")
@click.argument("name")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write; default: NAME.onnx in this folder.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the weights.")
@click.option("--batch", type=BatchType(), default="dynamic", show_default=True, help="A fixed batch size, or a free one.")
@json_option
def build_command(name: str, output: Path | None, seed: int, batch: int | str, as_json: bool) -> None:
    """Write the network NAME as an ONNX file."""
    model = _package().build(name, seed=seed, batch=batch)
    path = output or Path(f"{name}.onnx")
    with atomic_write(path) as file:
        file.write(model.SerializeToString(deterministic=True))
    nbytes = path.stat().st_size
    emit(
        "models build",
        {"name": name, "file": str(path), "bytes": nbytes, "seed": seed, "batch": batch},
        as_json,
        lambda: click.echo(f"{path} ({size(nbytes)})"),
    )


def _package() -> Any:
    try:
        import cnngraph_models
    except ImportError as error:
        raise UsageError("the package cnngraph_models is not installed") from error
    return cnngraph_models


def _row(entry: dict[str, Any]) -> list[str]:
    return [entry["name"], dims(("N", *entry["input"]["shape"])), dims(("N", *entry["output"]["shape"])), entry["description"]]
