"""The structure of an ONNX model without its weights: constants, shapes, and which layer owns which parameter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import TensorProto

from cnngraph.errors import InvalidModelError, printable

_SHAPE_CONSTANT_ELEMENTS = 1024
_TRANSPARENT = frozenset(
    {"Identity", "Cast", "DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
)
_CONSTANT_ATTRIBUTES = ("value_float", "value_int", "value_floats", "value_ints", "value_string", "value_strings")
MAX_ELEMENTS = 1 << 62
_INTEGERS = (TensorProto.INT64, TensorProto.INT32)

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Constant:
    """A tensor stored in the model.

    Attributes:
        name: its name in the graph.
        shape: its extents.
        data_type: its ``TensorProto.DataType``.
        elements: number of its elements.
    """

    name: str
    shape: tuple[int, ...]
    data_type: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Structure:
    """An indexed view of a model's main graph; the values of the weights are never read.

    Attributes:
        graph: the main graph.
        constants: initialisers and the tensors of Constant nodes, by name.
        nodes: the nodes other than Constant, in the order of the file, which ONNX requires to be topological.
        consumers: for each tensor, the indices into ``nodes`` that read it, in order.
        producer: for each tensor, the index of the node that makes it.
        outputs: names of the graph outputs.

    Raises:
        InvalidModelError: if a stored tensor has a negative extent or more elements than 64 bits can count.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.constants: dict[str, Constant] = {}
        for tensor in self.graph.initializer:
            self._register(tensor.name, tensor.dims, tensor.data_type)
        for sparse in self.graph.sparse_initializer:
            self._register(sparse.values.name, sparse.dims, sparse.values.data_type)
        self.nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output:
                self._register_node(node)
            else:
                self.nodes.append(node)
        self.consumers: dict[str, list[int]] = {}
        self.producer: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            for name in _reads(node):
                self.consumers.setdefault(name, []).append(index)
            for name in node.output:
                if name:
                    self.producer[name] = index
        self.outputs = {value.name for value in self.graph.output}
        self.inputs = [value for value in self.graph.input if value.name not in self.constants]
        self._fed = self._reached_by_inputs()

    def _reached_by_inputs(self) -> set[str]:
        """Names of the tensors that depend on an input of the graph."""
        fed = {value.name for value in self.inputs}
        for node in self.nodes:
            if any(name in fed for name in _reads(node)):
                fed.update(node.output)
        return fed

    @cached_property
    def single(self) -> dict[str, Shape]:
        """The shape of every tensor for one image."""
        return self.shapes(1)

    def _register(self, name: str, dims: Sequence[int], kind: int) -> None:
        if any(extent < 0 for extent in dims) or math.prod(dims) >= MAX_ELEMENTS:
            raise InvalidModelError(f"the constant {printable(name)} has the impossible shape {tuple(dims)}")
        self.constants[name] = Constant(name, tuple(dims), kind)

    def _register_node(self, node: onnx.NodeProto) -> None:
        name = node.output[0]
        for attribute in node.attribute:
            if attribute.name == "value":
                self._register(name, attribute.t.dims, attribute.t.data_type)
            elif attribute.name == "sparse_value":
                self._register(name, attribute.sparse_tensor.dims, attribute.sparse_tensor.values.data_type)
            elif attribute.name in _CONSTANT_ATTRIBUTES:
                count = len(attribute.floats) + len(attribute.ints) + len(attribute.strings)
                shape = (count,) if attribute.name.endswith("s") else ()
                kind = TensorProto.FLOAT if "float" in attribute.name else TensorProto.INT64
                self.constants[name] = Constant(name, shape, kind)

    def constant_behind(self, name: str) -> Constant | None:
        """The stored tensor that ``name`` is, or is made from by casts, transposes and dequantisation alone; else None."""
        for _ in range(len(self.nodes) + 1):
            if name in self.constants:
                return self.constants[name]
            index = self.producer.get(name)
            if index is None or self.nodes[index].op_type not in _TRANSPARENT or not self.nodes[index].input:
                return None
            name = self.nodes[index].input[0]
        return None

    def operand(self, node: onnx.NodeProto, position: int) -> Constant | None:
        """The tensor that input ``position`` of ``node`` always is, or None if it is absent or depends on an input of the graph.

        A tensor that the graph computes from constants alone counts with the shape that it has then.
        """
        if position >= len(node.input) or not node.input[position] or node.input[position] in self._fed:
            return None
        name = node.input[position]
        stored = self.constant_behind(name)
        if stored is not None:
            return stored
        shape = self.single.get(name)
        extents = tuple(extent for extent in shape if extent is not None) if shape is not None else ()
        known = shape is not None and len(extents) == len(shape) and math.prod(extents) < MAX_ELEMENTS
        return Constant(name, extents, TensorProto.FLOAT) if known else None

    def sole_consumer(self, name: str) -> int | None:
        """Index of the only node that reads ``name``, or None if others or the outside read it too."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def subgraph_elements(self, node: onnx.NodeProto) -> int:
        """Elements stored inside the bodies of ``node`` (If, Loop, Scan)."""
        return sum(_graph_elements(body) for body in _bodies(node))

    def shapes(self, batch: int | None) -> dict[str, Shape]:
        """Infer the shape of every tensor; a dimension that is not known is None, a tensor of unknown rank is missing.

        Args:
            batch: replaces a symbolic first dimension of the inputs; None keeps it symbolic.
        """
        light = self._without_weights(batch)
        try:
            inferred = onnx.shape_inference.infer_shapes(light, check_type=False, strict_mode=False, data_prop=True)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            inferred = light
        found: dict[str, Shape] = {name: constant.shape for name, constant in self.constants.items()}
        for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
            if value.name not in found and value.type.tensor_type.HasField("shape"):
                found[value.name] = tuple(_extent(dim) for dim in value.type.tensor_type.shape.dim)
        return found

    def _without_weights(self, batch: int | None) -> onnx.ModelProto:
        """A copy in which large constants are inputs, and nothing is claimed of inner or output shapes."""
        light = onnx.ModelProto(ir_version=max(self.model.ir_version, 4))
        light.opset_import.extend(self.model.opset_import)
        light.functions.extend(self.model.functions)
        declared = {"", "ai.onnx", *(opset.domain for opset in light.opset_import)}
        light.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in {node.domain for node in self.nodes} - declared)
        graph = light.graph
        graph.name = "light"
        small = {t.name for t in self.graph.initializer if t.data_type in _INTEGERS and math.prod(t.dims) <= _SHAPE_CONSTANT_ELEMENTS}
        graph.initializer.extend(t for t in self.graph.initializer if t.name in small)
        made = {node.output[0] for node in self.graph.node if node.op_type == "Constant" and node.output}
        for name, constant in self.constants.items():
            if name not in small and name not in made:
                graph.input.append(onnx.helper.make_tensor_value_info(name, constant.data_type, constant.shape))
        for value in self.inputs:
            copy = graph.input.add()
            copy.CopyFrom(value)
            dims = copy.type.tensor_type.shape.dim
            if batch is not None and dims and not dims[0].HasField("dim_value"):
                dims[0].dim_value = batch
        graph.node.extend(self.graph.node)
        for value in self.graph.output:
            result = graph.output.add(name=value.name)
            if value.type.HasField("tensor_type"):
                result.type.tensor_type.elem_type = value.type.tensor_type.elem_type
        return light


def _extent(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Every name that ``node`` or a body of it reads, once."""
    seen: set[str] = set()
    pending: list[onnx.NodeProto] = [node]
    while pending:
        current = pending.pop()
        for name in current.input:
            if name and name not in seen:
                seen.add(name)
                yield name
        for body in _bodies(current):
            pending.extend(body.node)
            for value in body.output:
                if value.name and value.name not in seen:
                    seen.add(value.name)
                    yield value.name


def _bodies(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def _graph_elements(graph: onnx.GraphProto) -> int:
    stored = sum(math.prod(tensor.dims) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            stored += sum(math.prod(a.t.dims) for a in node.attribute if a.name == "value")
        stored += sum(_graph_elements(body) for body in _bodies(node))
    return stored
