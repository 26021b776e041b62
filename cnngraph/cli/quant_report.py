"""``cnngraph quant-report``: what 8 bits cost layer by layer, and which layers to leave float for a wanted accuracy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from cnngraph.cli.calibration import Reading, Samples, data_options, make_options, progress_bar, quantize_options, read_samples
from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument
from cnngraph.cli.output import atomic_write, emit, json_option, table
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnngraph.quantize.quantizer import Progress, Quantizer
    from cnngraph.quantize.report import LayerReport
    from cnngraph.quantize.sensitivity import Search


@click.command("quant-report")
@model_argument
@data_options
@quantize_options
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="Show only the K worst layers.")
@click.option("--max-loss", type=click.FloatRange(min=0), metavar="POINTS", help="Search the layers to exclude so that no more is lost.")
@click.option("--write-exclude", type=click.Path(path_type=Path), metavar="FILE", help="Write the search's list, for --exclude-from.")
@compile_options
@json_option
def command(
    model: str,
    reading: Reading,
    choices: Mapping[str, Any],
    top: int | None,
    max_loss: float | None,
    write_exclude: Path | None,
    how: Compilation,
    as_json: bool,
) -> None:
    """Measure what 8 bits cost MODEL (an ONNX file, not yet quantised) layer by layer, the worst first.

    The accuracy is that on the labels of the data; without labels, the share of samples on which the quantised network's largest
    output is that of the float one.
    """
    from cnngraph.quantize import Quantizer
    from cnngraph.quantize.report import layer_reports

    if is_artifact(model):
        raise UsageError(f"'{printable(model)}' is compiled already; give the ONNX model")
    if write_exclude is not None and max_loss is None:
        raise UsageError("--write-exclude needs --max-loss")
    quantizer = Quantizer(model, make_options(choices, how))
    samples = read_samples(quantizer.inputs, reading)
    with progress_bar() as progress:
        quantizer.calibrate(samples.batches, progress)
        result = quantizer.quantize()
        layers = layer_reports(quantizer, result, samples.batches, progress)
        accuracy = _Accuracy(quantizer, samples)
        quantised = accuracy.of(quantizer.options.exclude)
        found = None if max_loss is None else _search(accuracy, layers, quantizer.options.exclude, max_loss, progress)
    if found is not None and write_exclude is not None:
        text = "".join(f"{name}\n" for name in found.exclude)
        with atomic_write(write_exclude) as file:
            file.write(text.encode())
    data: dict[str, Any] = {
        "model": model,
        "samples": samples.count,
        "method": choices["method"],
        "accuracy": {"measure": accuracy.measure, "float": accuracy.best, "quantized": quantised},
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "left": [{"node": name, "reason": reason} for name, reason in result.plan.left.items()],
    }
    if found is not None:
        data["search"] = {**dataclasses.asdict(found), "file": None if write_exclude is None else str(write_exclude)}
    emit("quant-report", data, as_json, lambda: _show(data, layers[:top], found))


class _Accuracy:
    """Accuracy in percent of quantised forms of one network."""

    def __init__(self, quantizer: Quantizer, samples: Samples) -> None:
        from cnngraph.quantize.report import predictions

        self.quantizer, self.samples = quantizer, samples
        of_float = predictions(quantizer, quantizer.float_model(), samples.batches)
        self.expected = samples.labels if samples.labels is not None else of_float
        self.measure = "labels" if samples.labels is not None else "agreement with float"
        self.best = float((of_float == self.expected).mean() * 100)

    def of(self, exclude: Sequence[str]) -> float:
        """The accuracy when these nodes stay float."""
        from cnngraph.quantize.plan import make_plan
        from cnngraph.quantize.report import agreement

        if not make_plan(self.quantizer.network, exclude).units:
            return self.best
        return agreement(self.quantizer, self.quantizer.quantize(exclude).model, self.samples.batches, self.expected)


def _search(
    accuracy: _Accuracy, layers: Sequence[LayerReport], exclude: tuple[str, ...], max_loss: float, progress: Progress | None
) -> Search:
    from cnngraph.quantize.plan import MOVEMENT
    from cnngraph.quantize.sensitivity import Search, search

    ranked = [layer.name for layer in layers if np.isfinite(layer.alone_db) and layer.kind not in MOVEMENT]
    most = 64
    advance = None if progress is None else lambda done: progress("searching", done, most)
    found = search(ranked, lambda names: accuracy.of((*exclude, *names)), accuracy.best - max_loss, most_trials=most, progress=advance)
    return Search((*exclude, *found.exclude), found.accuracy, found.trials, found.reached)


def _show(data: dict[str, Any], layers: Sequence[LayerReport], found: Search | None) -> None:
    table(
        None,
        ["node", "operator", "SQNR alone dB", "in network dB", "weights dB", "least", "most", "from", "to"],
        [
            [r.name, r.kind, _short(r.alone_db), _short(r.network_db), _short(r.weight_db), *map(_short, (*r.observed, *r.represented))]
            for r in layers
        ],
    )  # fmt: skip
    accuracy = data["accuracy"]
    shares = f"float {accuracy['float']:.2f} %, quantised {accuracy['quantized']:.2f} %"
    click.echo(f"{accuracy['measure']}: {shares} of {data['samples']} samples")
    if found is None:
        return
    for name in found.exclude:
        click.echo(f"exclude {printable(name)}")
    state = "" if found.reached else ", less than wanted"
    click.echo(f"with {len(found.exclude)} nodes in float: {found.accuracy:.2f} %{state}; {len(found.trials)} networks tried")
    if data["search"]["file"] is not None:
        click.echo(data["search"]["file"])


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
