"""What 8 bits cost, layer by layer: signal-to-quantisation-noise ratios and ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from cnngraph.quantize.insert import isolated, quantized_weights, weight_axis
from cnngraph.quantize.plan import Unit
from cnngraph.quantize.quantizer import Feeds, Progress, Quantized, Quantizer, with_taps

_AT_ONCE = 24
"""Units whose copies run in one program: their results are all held at the same time."""


@dataclass(frozen=True)
class LayerReport:
    """One integer operator.

    Attributes:
        name, kind: of its node.
        alone_db: SQNR of its result where this operator alone is quantised, in decibels; infinite where nothing is lost.
        network_db: SQNR of its result in the whole quantised network, errors from before it included.
        weight_db: SQNR of its weights, None without any.
        observed: smallest and largest result seen in float.
        represented: what the ends of the 8 bits stand for.
        scale, zero_point: of its result.
    """

    name: str
    kind: str
    alone_db: float
    network_db: float
    weight_db: float | None
    observed: tuple[float, float]
    represented: tuple[float, float]
    scale: float
    zero_point: int


def sqnr(signal: float, noise: float) -> float:
    """Decibels of the sums of squares of signal and noise."""
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


class _Powers:
    """Sums of squares of a signal and of the error in it."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, wanted: np.ndarray, got: np.ndarray) -> None:
        exact = wanted.astype(np.float64)
        self.signal += float(np.sum(exact * exact))
        self.noise += float(np.sum((exact - got) ** 2))

    @property
    def decibels(self) -> float:
        return sqnr(self.signal, self.noise)


def layer_reports(
    quantizer: Quantizer, quantized: Quantized, samples: Sequence[Feeds], progress: Progress | None = None
) -> list[LayerReport]:
    """A report on every integer operator, that with the lowest SQNR of its own first."""
    units = quantized.plan.units
    alone = {unit.name: _Powers() for unit in units}
    whole = {unit.name: _Powers() for unit in units}
    chunks = [units[i : i + _AT_ONCE] for i in range(0, len(units), _AT_ONCE)]
    beside, copies = isolated(quantizer.network, quantized.plan, quantized.parameters, quantizer.options.weight_bits)
    for number, chunk in enumerate(chunks):
        floats = [name for unit in chunk for name in unit.outputs]
        own = [name for unit in chunk for name in copies[unit.name]]
        through = [quantized.dequantized[name] for name in floats]
        first = quantizer.compile(_pruned(beside.model(dict.fromkeys((*floats, *own), onnx.TensorProto.FLOAT)), {*floats, *own}))
        second = quantizer.compile(_pruned(with_taps(quantized.model, through), set(through)))
        for index, feeds in enumerate(samples):
            wanted, got = first.run(feeds), second.run(feeds)
            for unit in chunk:
                for name, copy in zip(unit.outputs, copies[unit.name], strict=True):
                    alone[unit.name].add(wanted[name], wanted[copy])
                    whole[unit.name].add(wanted[name], got[quantized.dequantized[name]])
            if progress is not None:
                progress("measuring", number * len(samples) + index + 1, len(chunks) * len(samples))
    reports = [_report(quantizer, quantized, unit, alone[unit.name].decibels, whole[unit.name].decibels) for unit in units]
    return sorted(reports, key=lambda r: r.alone_db)


def _report(quantizer: Quantizer, quantized: Quantized, unit: Unit, alone: float, whole: float) -> LayerReport:
    tensor = unit.outputs[0]
    found = quantized.parameters[tensor]
    weights = None
    if unit.has_weights:
        w, axis = quantizer.network.constants[unit.node.input[1]], weight_axis(unit.node)
        integers, scale = quantized_weights(w, None, 1.0, axis, quantizer.options.weight_bits)
        powers = _Powers()
        powers.add(w, integers * scale.reshape([-1 if i == axis else 1 for i in range(w.ndim)]))
        weights = powers.decibels
    return LayerReport(
        unit.name, unit.kind, alone, whole, weights, quantized.observed[tensor], (found.low, found.high), float(found.scale),
        found.zero_point,
    )  # fmt: skip


def _pruned(model: onnx.ModelProto, wanted: set[str]) -> onnx.ModelProto:
    """Only the outputs of these names."""
    kept = [value for value in model.graph.output if value.name in wanted]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return model


def agreement(quantizer: Quantizer, model: onnx.ModelProto, samples: Sequence[Feeds], expected: np.ndarray) -> float:
    """Percentage of samples whose largest output number is at the expected place."""
    return float((predictions(quantizer, model, samples) == expected).mean() * 100)


def predictions(quantizer: Quantizer, model: onnx.ModelProto, samples: Sequence[Feeds]) -> np.ndarray:
    """The place of the largest number of the first output, for each sample; of a single number for all samples, 0."""
    program = quantizer.compile(model)
    return np.concatenate(list(_argmax(next(iter(program.run(feeds).values())) for feeds in samples)))


def _argmax(outputs: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for array in outputs:
        yield array.reshape(len(array) if array.ndim else 1, -1).argmax(axis=1)
