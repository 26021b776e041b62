"""``cnngraph quantize``: a model with 8-bit weights and activations in the QDQ form."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cnngraph.cli.calibration import Reading, data_options, make_options, progress_bar, quantize_options, read_samples
from cnngraph.cli.model import Compilation, compile_options, is_artifact, model_argument
from cnngraph.cli.output import atomic_write, emit, json_option, size, table
from cnngraph.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command("quantize")
@model_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The file to write; default: MODEL with .int8.onnx, in this folder.")
@data_options
@quantize_options
@compile_options
@json_option
def command(model: str, output: Path | None, reading: Reading, choices: Mapping[str, Any], how: Compilation, as_json: bool) -> None:
    """Quantise MODEL (an ONNX file) to 8 bits with scales from sample data.

    Weights are int8 with a scale for each output channel, activations uint8. The result holds QuantizeLinear and DequantizeLinear
    pairs, which cnngraph, onnxruntime and OpenVINO turn into integer arithmetic.
    """
    from cnngraph.quantize import Quantizer

    if is_artifact(model):
        raise UsageError(f"'{printable(model)}' is compiled already; give the ONNX model")
    start = time.perf_counter()
    quantizer = Quantizer(model, make_options(choices, how))
    samples = read_samples(quantizer.inputs, reading)
    with progress_bar() as progress:
        quantizer.calibrate(samples.batches, progress)
    result = quantizer.quantize()
    path = output or Path(Path(model).with_suffix(".int8.onnx").name)
    with atomic_write(path) as file:
        file.write(result.model.SerializeToString(deterministic=True))
    nbytes = path.stat().st_size
    data: dict[str, Any] = {
        "model": model,
        "file": str(path),
        "bytes": nbytes,
        "seconds": time.perf_counter() - start,
        "samples": samples.count,
        "method": choices["method"],
        "quantized": [{"node": unit.name, "kind": unit.kind} for unit in result.plan.units],
        "left": [{"node": name, "reason": reason} for name, reason in result.plan.left.items()],
        "tensors": [
            {"name": name, "scale": float(p.scale), "zero_point": p.zero_point, "observed": result.observed[name]}
            for name, p in result.parameters.items()
        ],
    }

    def show() -> None:
        if data["left"]:
            table("left in float32", ["node", "reason"], [[entry["node"], entry["reason"]] for entry in data["left"]])
        layers = sum(unit.has_weights for unit in result.plan.units)
        click.echo(
            f"{len(data['quantized'])} operators quantised, {layers} of them with weights; {samples.count} samples, {data['seconds']:.1f} s"
        )
        click.echo(f"{path} ({size(nbytes)})")

    emit("quantize", data, as_json, show)
