"""``cnngraph run``: one run of a model, results to a file or summarised."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from cnngraph.cli.arrays import write_arrays
from cnngraph.cli.feeds import FILLS, Feeds, make_feeds
from cnngraph.cli.images import Normalization
from cnngraph.cli.model import Compilation, compile_options, model_argument, open_program
from cnngraph.cli.output import dims, emit, json_option, table
from cnngraph.errors import InvalidInputError, UsageError, printable


class FloatListType(click.ParamType):
    """``0.485,0.456,0.406``."""

    name = "X,X,X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the list, or fail with a usage error."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406", param, ctx)
        if not all(np.isfinite(numbers)):
            self.fail(f"{value!r} holds a number that is not finite", param, ctx)
        return numbers


@click.command("run")
@model_argument
@click.option("-i", "--input", "inputs", multiple=True, metavar="[NAME=]FILE", help=".npy, .npz or an image; repeat for more.")
@click.option("--image", "images", multiple=True, type=click.Path(), help="The same as --input with an image file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the outputs to this .npz (or .npy, if there is only one).")
@click.option("--fill", type=click.Choice(FILLS), help="Generate the inputs that no file gives. Without any input: random.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of --fill random.")
@click.option("--batch", type=click.IntRange(min=1), help="Batch size of generated inputs.")
@click.option("--print-top", type=click.IntRange(min=1), metavar="K", help="Show the K largest numbers of each row of the first output.")
@click.option("--labels", type=click.Path(path_type=Path), help="Text file with one class name a line, for --print-top.")
@click.option("--mean", type=FloatListType(), default="0", show_default=True, help="Of images, after --scale; one number or one a channel.")
@click.option("--std", type=FloatListType(), default="1", show_default=True, help="Of images, after --scale.")
@click.option("--scale", type=float, default=1 / 255, help="Multiplies the pixels 0..255 of images; default 1/255.")
@click.option("--fit", type=click.Choice(["crop", "stretch"]), default="crop", show_default=True, help="How images get the input's shape.")
@click.option("--order", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True, help="Channel order of images.")
@compile_options
@json_option
def command(
    model: str,
    inputs: tuple[str, ...],
    images: tuple[str, ...],
    output: Path | None,
    fill: str | None,
    seed: int,
    batch: int | None,
    print_top: int | None,
    labels: Path | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: float,
    fit: str,
    order: str,
    how: Compilation,
    as_json: bool,
) -> None:
    """Run MODEL (an ONNX file or a .cnng artifact) once.

    Without any input the model gets random numbers, which shows that it works and how long it takes.
    """
    if output is not None and output.suffix not in (".npz", ".npy"):
        raise UsageError(f"'{printable(str(output))}': outputs are written as .npz or .npy")
    names = read_labels(labels) if labels is not None else None
    program = open_program(model, how)
    feeds = make_feeds(
        program.inputs, [*inputs, *images], fill=fill, seed=seed, batch=batch, image=Normalization(mean, std, scale, fit, order)
    )
    start = time.perf_counter()
    results = program.run(feeds.arrays)
    elapsed = time.perf_counter() - start
    members = write_arrays(output, results) if output is not None else {}
    data: dict[str, Any] = {
        "model": model,
        "inputs": [
            {"name": name, "shape": array.shape, "dtype": str(array.dtype), "source": feeds.sources[name]}
            for name, array in feeds.arrays.items()
        ],
        "outputs": [{**describe(name, array), "member": members.get(name)} for name, array in results.items()],
        "milliseconds": elapsed * 1e3,
        "file": None if output is None else str(output),
    }
    best = top(next(iter(results.values())), print_top, names) if print_top is not None else None
    if best is not None:
        data["top"] = best
    emit("run", data, as_json, lambda: show(data, feeds, best))


def describe(name: str, array: np.ndarray) -> dict[str, Any]:
    """Name, dtype, shape and, of numbers, smallest, largest and mean."""
    facts: dict[str, Any] = {"name": name, "dtype": str(array.dtype), "shape": array.shape}
    if array.size and array.dtype.kind in "fiub":
        facts |= {"min": float(array.min()), "max": float(array.max()), "mean": float(array.mean(dtype=np.float64))}
    return facts


def top(array: np.ndarray, count: int, labels: list[str] | None) -> list[list[dict[str, Any]]]:
    """For each image, the ``count`` largest numbers of the output with their positions in the flattened row."""
    rows = array.reshape(array.shape[0], -1) if array.ndim > 1 else array.reshape(1, -1)
    best = []
    for row in rows:
        order = np.argsort(-row.astype(np.float64), kind="stable")[:count]
        best.append(
            [
                {"index": int(i), "value": float(row[i]), "label": labels[i] if labels is not None and i < len(labels) else None}
                for i in order
            ]
        )
    return best


def read_labels(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        InvalidInputError: the file cannot be read as UTF-8 text.
    """
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the labels '{printable(str(path))}' cannot be read: {printable(str(error))}") from error


def show(data: dict[str, Any], feeds: Feeds, best: list[list[dict[str, Any]]] | None) -> None:
    """Print tables for people."""
    table(None, ["input", "shape", "dtype", "source"], [[x["name"], dims(x["shape"]), x["dtype"], x["source"]] for x in data["inputs"]])
    table(
        None,
        ["output", "shape", "dtype", "min", "max", "mean"],
        [[x["name"], dims(x["shape"]), x["dtype"], *(_number(x.get(k)) for k in ("min", "max", "mean"))] for x in data["outputs"]],
    )
    if best is not None:
        rows = []
        for i, entries in enumerate(best):
            image = feeds.files[i] if i < len(feeds.files) else str(i)
            rows += [
                [image if k == 0 else "", str(entry["index"]), entry["label"] or "", _number(entry["value"])]
                for k, entry in enumerate(entries)
            ]
        table(None, ["image", "class", "label", "value"], rows)
    click.echo(f"{data['milliseconds']:.2f} ms" + (f", written to {data['file']}" if data["file"] else ""))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
