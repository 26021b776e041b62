"""An ONNX model as quantisation edits it: named nodes, constants as arrays, and who reads what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference, version_converter

from cnngraph.errors import InvalidModelError, UnsupportedError, printable
from cnngraph.frontend.reader import Source, read_model
from cnngraph.frontend.tensors import TensorReader, element_type
from cnngraph.options import Limits

OLDEST_OPSET = 13
"""The first operator set whose DequantizeLinear takes one scale a channel."""


@dataclass(frozen=True)
class InputSpec:
    """A graph input: name, NumPy's name of its type, and shape with None for free dimensions."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Network:
    """A model whose nodes all have unique names and whose initialisers are arrays.

    Attributes:
        nodes: in topological order, as in the file.
        constants: initialisers by name.
        inputs, outputs: those of the graph, without initialisers.
        ranks: number of axes of the tensors for which shape inference knows it.
    """

    def __init__(self, model: onnx.ModelProto, base: str | None, limits: Limits | None = None) -> None:
        model = _with_per_channel_scales(model)
        self.header = onnx.ModelProto()
        self.header.CopyFrom(model)
        self.header.ClearField("graph")
        graph = model.graph
        if graph.sparse_initializer:
            raise UnsupportedError("sparse initialisers cannot be quantised")
        self.name = graph.name
        reader = TensorReader(base, limits or Limits())
        self._others = [t for t in graph.initializer if t.data_type == onnx.TensorProto.STRING]
        self.constants: dict[str, np.ndarray] = {
            t.name: reader.decode(t) for t in graph.initializer if t.data_type != onnx.TensorProto.STRING
        }
        self.inputs = [value for value in graph.input if value.name not in self.constants]
        self.outputs = list(graph.output)
        self.nodes: list[onnx.NodeProto] = []
        taken = {node.name for node in graph.node}
        seen: set[str] = set()
        for index, node in enumerate(graph.node):
            own = onnx.NodeProto()
            own.CopyFrom(node)
            if not own.name or own.name in seen:
                stem, number = own.name or own.op_type, index
                while f"{stem}_{number}" in taken:
                    number += len(graph.node)
                own.name = f"{stem}_{number}"
                taken.add(own.name)
            seen.add(own.name)
            self.nodes.append(own)
        self._taken = {*self.constants, *(n for node in self.nodes for n in (*node.input, *node.output)), *(v.name for v in self.inputs)}
        self.ranks = _ranks(model)

    @classmethod
    def read(cls, source: Source, limits: Limits | None = None) -> Network:
        """From a path, bytes or a ``ModelProto``.

        Raises:
            InvalidModelError, LimitExceededError: the model cannot be read.
            UnsupportedError: its operator set is older than 13 and onnx cannot convert it, or it has sparse weights.
        """
        bounds = limits or Limits()
        return cls(*read_model(source, bounds), bounds)

    @property
    def input_specs(self) -> list[InputSpec]:
        """Names, types and shapes of the inputs."""
        specs = []
        for value in self.inputs:
            tensor = value.type.tensor_type
            dims = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
            specs.append(InputSpec(value.name, element_type(tensor.elem_type).value, dims))
        return specs

    @property
    def output_names(self) -> list[str]:
        """Names of the graph's outputs."""
        return [value.name for value in self.outputs]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.output if name}

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, once per input; bodies of control flow count as their node."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in _read_names(node):
                found.setdefault(name, []).append(node)
        return found

    def only_reader(self, name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
        """The one node that reads ``name``, if it is no output of the graph and has exactly one reader."""
        users = readers.get(name, [])
        return users[0] if len(users) == 1 and name not in self.output_names else None

    def array(self, name: str) -> np.ndarray | None:
        """The constant of this name, or None."""
        return self.constants.get(name) if name else None

    def fresh(self, name: str) -> str:
        """``name``, or a variation of it that no tensor has."""
        while name in self._taken:
            name += "'"
        self._taken.add(name)
        return name

    def with_nodes(self, nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> Network:
        """The same inputs and outputs around other nodes, with further constants."""
        other = copy(self)
        other.nodes, other.constants = nodes, {**self.constants, **constants}
        return other

    def model(self, extra_outputs: Mapping[str, int] | None = None) -> onnx.ModelProto:
        """The model; ``extra_outputs`` adds tensors by name, with their ONNX element types, as outputs."""
        used = {name for node in self.nodes for name in _read_names(node)} | set(self.output_names)
        outputs = [*self.outputs]
        known = set(self.output_names)
        for name, code in (extra_outputs or {}).items():
            if name not in known:
                outputs.append(helper.make_tensor_value_info(name, code, None))
        tensors = [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in used]
        tensors += [t for t in self._others if t.name in used]
        result = onnx.ModelProto()
        result.CopyFrom(self.header)
        result.graph.CopyFrom(helper.make_graph(self.nodes, self.name or "graph", self.inputs, outputs, tensors))
        return result


def attribute(node: onnx.NodeProto, name: str, default: int | float) -> int | float:
    """A number among the attributes of a node."""
    for entry in node.attribute:
        if entry.name == name:
            return entry.f if entry.type == onnx.AttributeProto.FLOAT else entry.i
    return default


def _read_names(node: onnx.NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for entry in node.attribute:
        for body in (entry.g, *entry.graphs) if entry.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) else ():
            for inner in body.node:
                yield from _read_names(inner)
            yield from (value.name for value in body.output)


def _with_per_channel_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions or min(versions) >= OLDEST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # onnx's converter raises errors of several unrelated classes
        reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0], 300)
        needed = f"quantisation by channel needs operator set {OLDEST_OPSET}"
        raise UnsupportedError(f"{needed}; the model has {min(versions)} and cannot be converted: {reason}") from error


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    try:
        graph = shape_inference.infer_shapes(model).graph
    except (shape_inference.InferenceError, ValueError) as error:
        raise InvalidModelError(f"the shapes cannot be inferred: {printable(str(error), 300)}") from error
    infos = (*graph.input, *graph.value_info, *graph.output)
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in infos if i.type.tensor_type.HasField("shape")}
    return ranks | {tensor.name: len(tensor.dims) for tensor in graph.initializer}
