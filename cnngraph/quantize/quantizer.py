"""The whole of it: a float model and samples in, a quantised model out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx

import cnngraph
from cnngraph.errors import InvalidInputError, UsageError, printable
from cnngraph.options import CompileOptions
from cnngraph.quantize.fold import fold
from cnngraph.quantize.insert import insert
from cnngraph.quantize.network import InputSpec, Network
from cnngraph.quantize.plan import Plan, make_plan
from cnngraph.quantize.ranges import METHODS, Observer, Parameters, parameters, share

if TYPE_CHECKING:
    from cnngraph.frontend.reader import Source
    from cnngraph.runtime.dynamic import DynamicProgram
    from cnngraph.runtime.session import Program
    from cnngraph.runtime.tailed import TailedProgram

Feeds = Mapping[str, np.ndarray]
Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        method: "minmax" keeps every number seen, "percentile" cuts off the rarest, "entropy" loses least information.
        percentile: share of the numbers that "percentile" keeps, in percent.
        exclude: names of nodes that stay float.
        weight_bits: 8, or 7 for peers whose products of bytes saturate (x86 before VNNI).
        compile: how the networks that are run for calibration are compiled.
        shapes: shapes of inputs that are free beyond the batch.
    """

    method: str = "minmax"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    weight_bits: int = 8
    compile: CompileOptions = field(default_factory=CompileOptions)
    shapes: Mapping[str, Sequence[int | str | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"the method is {self.method!r}; choose {', '.join(METHODS)}")
        if not 50 < self.percentile <= 100:
            raise UsageError(f"the percentile is {self.percentile}; it must be above 50 and at most 100")
        if self.weight_bits not in (7, 8):
            raise UsageError(f"weights have {self.weight_bits} bits; choose 7 or 8")


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantised model.

    Attributes:
        model: in the QDQ form.
        plan: what was quantised.
        parameters: by tensor.
        observed: smallest and largest number seen, by tensor.
        dequantized: the tensor of the model that holds each quantised tensor's numbers.
    """

    model: onnx.ModelProto
    plan: Plan
    parameters: Mapping[str, Parameters]
    observed: Mapping[str, tuple[float, float]]
    dequantized: Mapping[str, str]


class Quantizer:
    """Quantises one model, as often as asked, after observing its tensors once.

    Attributes:
        network: the model with normalisations folded.
        plan: everything that could be quantised.
    """

    def __init__(self, source: Source, options: QuantizeOptions | None = None) -> None:
        """Read and fold the model.

        Raises:
            InvalidModelError, UnsupportedError, LimitExceededError: the model cannot be read.
            UsageError: it has nothing to quantise, or is quantised already.
        """
        self.options = options or QuantizeOptions()
        self.network = Network.read(source, self.options.compile.limits)
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in self.network.nodes):
            raise UsageError("the model is quantised already")
        fold(self.network)
        self.plan = make_plan(self.network)
        if not any(unit.has_weights for unit in self.plan.units):
            reasons = "; ".join(f"{printable(name)}: {reason}" for name, reason in list(self.plan.left.items())[:5])
            raise UsageError("the model has no convolution or matrix product that can be quantised" + (f" ({reasons})" if reasons else ""))
        self._observers: dict[str, Observer] = {}

    @property
    def inputs(self) -> list[InputSpec]:
        """What a sample must hold."""
        return self.network.input_specs

    def compile(self, model: onnx.ModelProto) -> Program | TailedProgram | DynamicProgram:
        """A program of a float or quantised form of the model."""
        return cnngraph.compile(model, options=self.options.compile, shapes=dict(self.options.shapes) or None)

    def float_model(self, taps: Sequence[str] = ()) -> onnx.ModelProto:
        """The folded model with further float32 tensors as outputs."""
        return self.network.model(dict.fromkeys(taps, onnx.TensorProto.FLOAT))

    def calibrate(self, samples: Sequence[Feeds], progress: Progress | None = None) -> None:
        """Observe every tensor of the plan: its range, and unless the method is "minmax" its distribution in a second pass.

        Raises:
            InvalidInputError: no samples, or numbers among them that are not finite.
        """
        if not samples:
            raise InvalidInputError("there are no samples to calibrate with")
        for name, array in ((name, array) for feeds in samples for name, array in feeds.items()):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise InvalidInputError(f"the samples of input {printable(name)!r} hold numbers that are not finite")
        inputs = {value.name for value in self.network.inputs}
        taps = [name for name in self.plan.tensors if name not in inputs]
        program = self.compile(self.float_model(taps))
        observers = {name: Observer() for name in self.plan.tensors}
        passes = 1 if self.options.method == "minmax" else 2
        for number in range(passes):
            for name, array in _tensors(program, samples, list(self.plan.tensors), progress, number, passes):
                if number:
                    observers[name].count(array)
                else:
                    observers[name].extend(array)
        self._observers = observers

    def parameters(self, plan: Plan) -> dict[str, Parameters]:
        """Scale and zero point of every tensor of ``plan``."""
        ranges = {name: self._observers[name].range(self.options.method, self.options.percentile) for name in plan.tensors}
        return {name: parameters(*found) for name, found in share(ranges, plan.groups, plan.joined).items()}

    def quantize(self, exclude: Sequence[str] | None = None) -> Quantized:
        """The quantised model; ``exclude`` replaces the nodes that the options leave float.

        Raises:
            UsageError: a name is that of no node, or nothing remains to be quantised.
        """
        if not self._observers:
            raise UsageError("calibrate first")
        plan = make_plan(self.network, self.options.exclude if exclude is None else exclude)
        found = self.parameters(plan)
        network, dequantized = insert(self.network, plan, found, self.options.weight_bits)
        model = network.model()
        model.producer_name, model.producer_version = "cnngraph", cnngraph.__version__
        observed = {name: (self._observers[name].low, self._observers[name].high) for name in plan.tensors}
        return Quantized(model, plan, found, observed, dequantized)


def _tensors(
    program: Program | TailedProgram | DynamicProgram,
    samples: Sequence[Feeds],
    names: Sequence[str],
    progress: Progress | None,
    number: int,
    passes: int,
) -> Iterator[tuple[str, np.ndarray]]:
    wanted = frozenset(names)
    for index, feeds in enumerate(samples):
        for name, array in {**feeds, **program.run(feeds)}.items():
            if name in wanted:
                yield name, array
        if progress is not None:
            progress("calibrating", number * len(samples) + index + 1, passes * len(samples))


def with_taps(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """``model`` with further float32 tensors as outputs."""
    known = {value.name for value in model.graph.output}
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in dict.fromkeys(taps) if name not in known
    )
    return tapped
