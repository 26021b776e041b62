"""Which nodes become integer, and which tensors therefore get a scale."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
import onnx

from cnngraph.errors import UsageError, printable
from cnngraph.quantize.network import Network

LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
SUMS = frozenset({"Add", "Mul"})
POOLS = frozenset({"AveragePool", "GlobalAveragePool"})
FUNCTIONS = frozenset({"Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Relu", "Sigmoid", "Softplus", "Tanh"})
MOVEMENT = frozenset(
    {"DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators whose results have the scale of their input; so have padding by zeros and nearest neighbours."""
BOUNDS = frozenset({"Relu", "Clip"})
"""Activations that only bound the result before them, so that both are one integer operator."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A node that becomes integer.

    Attributes:
        node: the operator.
        inputs: the tensors that must be quantised.
        outputs: the tensors that are, after the activation.
        activation: the Relu or Clip between the operator and the quantisation.
    """

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    activation: onnx.NodeProto | None = None

    @property
    def name(self) -> str:
        """Name of the operator's node."""
        return str(self.node.name)

    @property
    def kind(self) -> str:
        """Operator, with its activation."""
        return self.node.op_type + (f"+{self.activation.op_type}" if self.activation is not None else "")

    @property
    def has_weights(self) -> bool:
        """Whether the operator has constant weights."""
        return self.node.op_type in LAYERS


@dataclass
class Plan:
    """What to quantise.

    Attributes:
        units: in graph order.
        tensors: every tensor that gets a scale and zero point, in order of first use.
        left: name and reason of the nodes that stay float although their kind could be integer.
        groups: tensors that must share one scale with another, as pairs.
        joined: concatenations: result and operands.
    """

    units: list[Unit] = field(default_factory=list)
    tensors: dict[str, None] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    groups: list[tuple[str, str]] = field(default_factory=list)
    joined: list[tuple[str, ...]] = field(default_factory=list)


def make_plan(network: Network, exclude: Collection[str] = ()) -> Plan:
    """Layers with constant weights become integer, and what lies between them.

    Raises:
        UsageError: an excluded name is that of no node.
    """
    unknown = sorted(set(exclude) - {node.name for node in network.nodes})
    if unknown:
        raise UsageError(f"no node is called {printable(unknown[0])}; names are those of the model after its normalisations are folded")
    return _Planner(network, frozenset(exclude)).plan()


class _Planner:
    def __init__(self, network: Network, exclude: frozenset[str]) -> None:
        self.network, self.exclude = network, exclude
        self.readers = network.readers()
        self.quantized: set[str] = set()
        self.units: dict[str, Unit] = {}
        self.result = Plan()
        self.fused: set[str] = set()

    def plan(self) -> Plan:
        for node in self.network.nodes:
            if node.op_type in LAYERS and node.domain in ("", "ai.onnx"):
                self._consider(node, self._layer)
        for node in self.network.nodes:
            if node.domain in ("", "ai.onnx") and node.name not in self.fused:
                rule = self._rule(node)
                if rule is not None:
                    self._consider(node, rule)
        self._drop_useless_tails()
        plan = self.result
        for node in self.network.nodes:
            unit = self.units.get(node.name)
            if unit is None:
                continue
            plan.units.append(unit)
            plan.tensors.update(dict.fromkeys((*unit.inputs, *unit.outputs)))
            if node.op_type in MOVEMENT or node.op_type in ("Pad", "Resize"):
                plan.groups.extend((unit.inputs[0], name) for name in unit.outputs)
            elif node.op_type == "Concat":
                plan.joined.append((unit.outputs[0], *unit.inputs))
        return plan

    def _rule(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], Unit | str] | None:
        if node.op_type in SUMS:
            return self._sum
        if node.op_type in POOLS or node.op_type in FUNCTIONS or node.op_type in MOVEMENT or node.op_type in ("Concat", "ReduceMean"):
            return self._between
        if node.op_type in ("Pad", "Resize"):
            return self._moved
        return None

    def _consider(self, node: onnx.NodeProto, rule: Callable[[onnx.NodeProto], Unit | str]) -> None:
        found: Unit | str = "excluded" if node.name in self.exclude else rule(node)
        if isinstance(found, str):
            self.result.left[node.name] = found
            return
        self.units[node.name] = found
        self.quantized.update((*found.inputs, *found.outputs))
        if found.activation is not None:
            self.fused.add(found.activation.name)

    def _layer(self, node: onnx.NodeProto) -> Unit | str:
        w = self.network.array(node.input[1])
        has_bias = len(node.input) > 2 and bool(node.input[2])
        bias = self.network.array(node.input[2]) if has_bias else None
        if w is None or (has_bias and bias is None):
            return "its weights are computed at run time"
        if w.dtype.name != "float32" or node.input[0] in self.network.constants:
            return f"its weights are {w.dtype.name}" if w.dtype.name != "float32" else "its input is constant"
        if node.op_type != "Conv" and w.ndim != 2:
            return "its weights are not a matrix"
        if node.op_type == "Gemm":
            if any(entry.name in ("alpha", "beta") and entry.f != 1.0 for entry in node.attribute):
                return "it has factors alpha and beta"
            if any(entry.name == "transA" and entry.i for entry in node.attribute):
                return "its input is transposed"
            if bias is not None and bias.size not in (1, w.shape[0], w.shape[1]):
                return "its bias is not one number a column"
        return self._with_activation(node, (node.input[0],))

    def _moved(self, node: onnx.NodeProto) -> Unit | str:
        """Padding and nearest neighbours."""
        mode = next((entry.s for entry in node.attribute if entry.name == "mode"), b"constant" if node.op_type == "Pad" else b"nearest")
        if node.op_type == "Resize" and mode != b"nearest":
            return "it interpolates"
        padding = self.network.array(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
        if node.op_type == "Pad" and mode == b"constant" and (padding is None or padding.any()):
            return "it pads by other numbers than zero"
        return self._between(node)

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Whether a float operand would be quantised behind ``node`` anyway, so that it may be in front."""
        names = [name for name in node.input if name not in self.network.constants]
        return len(names) == len(node.input) and any(name in self.quantized for name in names) and self._is_wanted(node.output[0])

    def _is_wanted(self, name: str) -> bool:
        """Whether a layer reads a tensor as integers, or what movement makes of it."""
        movement = (reader for reader in self.readers.get(name, []) if reader.op_type in (MOVEMENT | {"Pad"}))
        return name in self.quantized or any(self._is_wanted(result) for reader in movement for result in reader.output if result)

    def _sum(self, node: onnx.NodeProto) -> Unit | str:
        if any(name in self.network.constants for name in node.input):
            return "an operand is constant"
        missing = next((name for name in node.input if name not in self.quantized), None)
        if missing is not None and not (node.op_type == "Add" and self._joins(node)):
            return f"its operand {printable(missing)} is float"
        return self._with_activation(node, tuple(node.input))

    def _between(self, node: onnx.NodeProto) -> Unit | str:
        inputs = tuple(node.input) if node.op_type == "Concat" else (node.input[0],)
        missing = next((name for name in inputs if name not in self.quantized), None)
        if missing is not None and not (node.op_type == "Concat" and self._joins(node)):
            return f"its input {printable(missing)} is float"
        if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
            return "its positions are asked for"
        outputs = tuple(name for name in node.output if name)
        return Unit(node, inputs, outputs)

    def _with_activation(self, node: onnx.NodeProto, inputs: tuple[str, ...]) -> Unit:
        reader = self.network.only_reader(node.output[0], self.readers)
        bounds = reader is not None and reader.op_type in BOUNDS and reader.name not in self.exclude and reader.input[0] == node.output[0]
        if reader is not None and bounds and all(name in self.network.constants for name in reader.input[1:] if name):
            return Unit(node, inputs, (reader.output[0],), reader)
        return Unit(node, inputs, (node.output[0],))

    def _drop_useless_tails(self) -> None:
        """Leave functions and movement float that no integer node reads: their results would only lose precision."""
        activations = {u.activation.name: u.name for u in self.units.values() if u.activation is not None}
        for node in reversed(self.network.nodes):
            if node.name not in self.units or node.op_type not in (FUNCTIONS | MOVEMENT | {"Pad", "Resize"}) or node.op_type == "MaxPool":
                continue
            readers = [reader.name for name in node.output for reader in self.readers.get(name, [])]
            if not any(name in self.units or name in activations for name in readers):
                del self.units[node.name]
                self.result.left[node.name] = "no integer node reads its result"
