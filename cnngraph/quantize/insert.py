"""Write the QDQ form: pairs of QuantizeLinear and DequantizeLinear on tensors, 8-bit weights, 32-bit biases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from cnngraph.quantize.network import Network, attribute
from cnngraph.quantize.plan import Plan, Unit
from cnngraph.quantize.ranges import Parameters

_LARGEST_BIAS = float(2**31 - 2**8)
_BIAS_STEPS = float(2**24)


def quantized_weights(w: np.ndarray, bias: np.ndarray | None, x_scale: float, axis: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 weights and their scales, one a channel along ``axis``; the bias must fit 32 bits of their product with x's."""
    most = float((1 << (bits - 1)) - 1)
    rows = np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1).astype(np.float64)
    scale = np.abs(rows).max(axis=1, initial=0.0) / most
    if bias is not None:
        magnitude = np.abs(np.broadcast_to(bias.reshape(-1), scale.shape)).astype(np.float64) / x_scale
        scale = np.where(scale > 0, np.maximum(scale, magnitude / _LARGEST_BIAS), magnitude / _BIAS_STEPS)
    rounded = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(w.ndim)]
    integers = np.clip(np.rint(w / rounded.reshape(shape)), -most, most).astype(np.int8)
    return integers, rounded


def weight_axis(node: onnx.NodeProto) -> int:
    """The axis of the output channels among those of the weights."""
    return 0 if node.op_type == "Conv" or (node.op_type == "Gemm" and attribute(node, "transB", 0)) else 1


class Writer:
    """Adds quantised tensors to a network; nodes gather in ``nodes``."""

    def __init__(self, network: Network, parameters: Mapping[str, Parameters], bits: int) -> None:
        self.network, self.parameters, self.bits = network, parameters, bits
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._taken = {*network.constants, *(n for node in network.nodes for n in (*node.input, *node.output))}
        self._taken |= {value.name for value in network.inputs}

    def name(self, text: str) -> str:
        """``text``, or a variation of it that is not taken."""
        while text in self._taken:
            text += "'"
        self._taken.add(text)
        return text

    def constant(self, name: str, array: np.ndarray) -> str:
        """A new initialiser."""
        name = self.name(name)
        self.constants[name] = array
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: int) -> str:
        """A new node with one output."""
        self.nodes.append(helper.make_node(op, inputs, [output], self.name(f"{output}/{op}"), **attributes))  # type: ignore[arg-type]
        return output

    def pair(self, source: str, tensor: str, result: str | None = None) -> str:
        """Quantise ``source`` by the parameters of ``tensor`` and dequantise it again."""
        found = self.parameters[tensor]
        scale = self.constant(f"{source}/scale", np.array(found.scale, np.float32))
        zero = self.constant(f"{source}/zero_point", np.array(found.zero_point, np.uint8))
        integers = self.add("QuantizeLinear", [source, scale, zero], self.name(f"{source}/quantized"))
        return self.add("DequantizeLinear", [integers, scale, zero], result or self.name(f"{source}/dequantized"))

    def weights(self, unit: Unit) -> list[str]:
        """Dequantised weights and, if there is one, bias of a layer, as input names."""
        node, axis = unit.node, weight_axis(unit.node)
        w = self.network.constants[node.input[1]]
        bias = self.network.array(node.input[2]) if len(node.input) > 2 else None
        x_scale = self.parameters[unit.inputs[0]].scale
        integers, scale = quantized_weights(w, bias, float(x_scale), axis, self.bits)
        inputs = [
            self.constant(f"{unit.name}/weight", integers), self.constant(f"{unit.name}/weight_scale", scale),
            self.constant(f"{unit.name}/weight_zero_point", np.zeros(scale.shape, np.int8)),
        ]  # fmt: skip
        names = [self.add("DequantizeLinear", inputs, self.name(f"{unit.name}/weight_dequantized"), axis=axis)]
        if bias is not None:
            unit_scale = (np.float32(x_scale) * scale).astype(np.float32)
            numbers = np.rint(np.broadcast_to(bias.reshape(-1), scale.shape) / unit_scale.astype(np.float64))
            inputs = [
                self.constant(f"{unit.name}/bias", np.clip(numbers, -(2**31), 2**31 - 1).astype(np.int32)),
                self.constant(f"{unit.name}/bias_scale", unit_scale),
                self.constant(f"{unit.name}/bias_zero_point", np.zeros(scale.shape, np.int32)),
            ]
            names.append(self.add("DequantizeLinear", inputs, self.name(f"{unit.name}/bias_dequantized"), axis=0))
        return names


def insert(network: Network, plan: Plan, parameters: Mapping[str, Parameters], bits: int = 8) -> tuple[Network, dict[str, str]]:
    """A new network in the QDQ form, and for each tensor of the plan the name of its dequantised values."""
    writer = Writer(network, parameters, bits)
    outputs = set(network.output_names)
    units = {unit.name: unit for unit in plan.units}
    dequantized: dict[str, str] = {}
    inputs = {value.name for value in network.inputs}

    def quantize(tensor: str) -> None:
        """Readers of the tensor get the dequantised one; an output of the graph keeps its name."""
        if tensor in outputs and tensor not in inputs:
            inner = writer.name(f"{tensor}/float")
            for other in writer.nodes:
                for index, name in enumerate(other.output):
                    if name == tensor:
                        other.output[index] = inner
            dequantized[tensor] = writer.pair(inner, tensor, tensor)
        else:
            dequantized[tensor] = writer.pair(tensor, tensor)

    for tensor in plan.tensors:
        if tensor in inputs:
            quantize(tensor)
    for node in network.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        unit = units.get(node.name)
        if unit is not None and unit.has_weights:
            names = writer.weights(unit)
            del copy.input[1:]
            copy.input.extend(names)
        _redirect(copy, dequantized)
        writer.nodes.append(copy)
        for name in node.output:
            if name in plan.tensors:
                quantize(name)
    return network.with_nodes(writer.nodes, writer.constants), dequantized


def isolated(network: Network, plan: Plan, parameters: Mapping[str, Parameters], bits: int = 8) -> tuple[Network, dict[str, list[str]]]:
    """The float network with a quantised copy of every unit beside it, fed by the quantised float tensors.

    Returns the network, and for each unit the names of what its copy computes.
    """
    writer = Writer(network, parameters, bits)
    pairs: dict[str, str] = {}
    results: dict[str, list[str]] = {}
    for unit in plan.units:
        for name in unit.inputs:
            if name not in pairs:
                pairs[name] = writer.pair(name, name)
        copy = onnx.NodeProto()
        copy.CopyFrom(unit.node)
        copy.name = writer.name(f"{unit.name}/alone")
        if unit.has_weights:
            names = writer.weights(unit)
            del copy.input[1:]
            copy.input.extend(names)
        _redirect(copy, pairs)
        made = [writer.name(f"{name}/alone") if name else "" for name in copy.output]
        del copy.output[:]
        copy.output.extend(made)
        writer.nodes.append(copy)
        if unit.activation is not None:
            bound = onnx.NodeProto()
            bound.CopyFrom(unit.activation)
            bound.name = writer.name(f"{unit.activation.name}/alone")
            bound.input[0] = made[0]
            bound.output[0] = writer.name(f"{unit.outputs[0]}/bounded")
            writer.nodes.append(bound)
            made = [bound.output[0]]
        results[unit.name] = [writer.pair(name, tensor) for name, tensor in zip(filter(None, made), unit.outputs, strict=True)]
    return network.with_nodes([*network.nodes, *writer.nodes], writer.constants), results


def _redirect(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    for index, name in enumerate(node.input):
        if name in renamed:
            node.input[index] = renamed[name]
    for entry in node.attribute:
        for body in (entry.g, *entry.graphs) if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) else ():
            for inner in body.node:
                _redirect(inner, renamed)
            for value in body.output:
                value.name = renamed.get(value.name, value.name)
