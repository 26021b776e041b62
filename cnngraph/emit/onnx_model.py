"""The optimised graph as an ONNX model: folded and fused as the compiler has it, with epilogues as nodes of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

import cnngraph
from cnngraph.errors import LimitExceededError, Problem, UnsupportedError, UsageError, printable
from cnngraph.frontend import BatchNotSymbolicError, ContentsNeededError, FreeDimensionsError, import_model
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType, Sym
from cnngraph.ops.expression import Expression
from cnngraph.options import CompileOptions
from cnngraph.passes.base import PassContext
from cnngraph.pipeline import optimize

OPSET, IR_VERSION = 21, 10
OWN_FORMS = ("lower_integers", "integer_convolutions")
"""Passes whose results are forms of this compiler's own."""

_LARGEST = 2_000_000_000
"""Bytes of a model that protobuf surely takes."""


class Inexpressible(Exception):
    """A node has no form in ONNX; the argument says why."""


def optimized_model(
    source: Any,
    options: CompileOptions,
    shapes: Mapping[str, Sequence[Any]] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """The model ``source`` after all passes that do not depend on the machine, as an ONNX model of operator set 21.

    Raises:
        UnsupportedError: nodes without a form in ONNX; all are listed.
        UsageError: dimensions of the inputs are free.
        LimitExceededError: more than protobuf takes.
        CnngraphError: whatever importing raises.
    """
    try:
        graph = import_model(source, shapes=shapes, constants=constants, limits=options.limits)
    except (FreeDimensionsError, BatchNotSymbolicError, ContentsNeededError) as error:
        raise UsageError(f"the input shapes must be fixed, up to the batch: {error}") from error
    options = dataclasses.replace(options, disabled_passes=(*options.disabled_passes, *OWN_FORMS))
    optimize(graph, options, PassContext(max_fold_bytes=options.limits.max_fold_bytes))
    return model_of(graph)


def model_of(graph: Graph) -> onnx.ModelProto:
    """A graph of stage ``fused`` as an ONNX model; see :func:`optimized_model`."""
    if graph.tail is not None:
        raise UnsupportedError("an optimised ONNX model cannot hold nodes whose results' shapes depend on data")
    writer = Writer(graph)
    problems = []
    for node in graph.nodes:
        try:
            writer.node(node)
        except Inexpressible as error:
            problems.append(Problem(node.label, node.op.name, str(error)))
    if problems:
        raise UnsupportedError(f"{len(problems)} nodes have no form in ONNX:", problems)
    return writer.model()


class Writer:
    """Collects ONNX nodes and initializers. Rules for operators are in ``onnx_rules`` and ``onnx_quantized``."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []
        self._bytes = 0
        self._names: dict[Value, str] = {}
        self._taken = {name for name, _ in (*graph.inputs, *graph.outputs)}
        self._labels: set[str] = set()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        for name, value in graph.inputs:
            self._names[value] = name
        for name, value in graph.outputs:
            if value.producer is not None and value not in self._names:
                self._names[value] = name

    def node(self, node: Node) -> None:
        """Write a node of the graph."""
        from cnngraph.emit import onnx_quantized, onnx_rules

        kind = type(node.op).__name__
        rule: Callable[[Writer, Node, Any], None] | None = onnx_rules.RULES.get(kind) or onnx_quantized.RULES.get(kind)
        if rule is None:
            raise Inexpressible("there is no rule for this operator")
        rule(self, node, node.op)

    def name(self, value: Value) -> str:
        """The tensor name of a value; constants are stored."""
        found = self._names.get(value)
        if found is None:
            if value.data is not None:
                found = self.constant(value.data)
            else:
                found = self.fresh(next((n for n in value.names if n), "t"))
            self._names[value] = found
        return found

    def fresh(self, wish: str = "t") -> str:
        """A tensor name that is not in use."""
        return _unused(self._taken, wish)

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """Store an initializer; small equal ones once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (str(array.dtype), array.shape, array.tobytes() if array.nbytes < 4096 else b"")
        if array.nbytes < 4096 and key in self._constants:
            return self._constants[key]
        self._bytes += array.nbytes
        if self._bytes > _LARGEST:
            raise LimitExceededError("the optimised model is larger than a protobuf message may be")
        name = self.fresh(name)
        self._stored.append(onnx.numpy_helper.from_array(array, name))
        if array.nbytes < 4096:
            self._constants[key] = name
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        """Store a vector of int64."""
        return self.constant(np.array(numbers, np.int64))

    def like(self, dtype: DType, number: float) -> str:
        """Store a number of the type ``dtype``."""
        return self.constant(np.array(number, dtype.numpy))

    def emit(self, op: str, inputs: Sequence[str], outputs: Sequence[str] | str | None = None, label: str = "", **attributes: Any) -> str:
        """Add an ONNX node; returns the name of its first output, new unless given."""
        names = [self.fresh()] if outputs is None else [outputs] if isinstance(outputs, str) else list(outputs)
        kept = {key: value for key, value in attributes.items() if value is not None}
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(onnx.helper.make_node(op, list(inputs), names, name=_unused(self._labels, printable(label or op, 400)), **kept))
        return names[0]

    def apply(self, expression: Expression, operands: Sequence[str], dtype: DType, output: str, label: str) -> None:
        """Write an expression's instructions as nodes; ``output`` is the result."""
        from cnngraph.emit.onnx_rules import instruction

        values = list(operands)
        for number, instr in enumerate(expression.instrs):
            last = number + 1 == len(expression.instrs)
            values.append(instruction(self, instr, [values[a] for a in instr.args], dtype, output if last else self.fresh(), label))
        if not expression.instrs:
            self.emit("Identity", [values[0]], output, label)

    def model(self) -> onnx.ModelProto:
        """Everything written, as a checked model."""
        for name, value in self.graph.outputs:
            if self.name(value) != name:
                self.emit("Identity", [self.name(value)], name)
        domains = {"": OPSET} | {node.domain: 1 for node in self.nodes if node.domain}
        proto = onnx.helper.make_graph(
            self.nodes, self.graph.name or "graph", [_info(n, v) for n, v in self.graph.inputs],
            [_info(n, v) for n, v in self.graph.outputs], initializer=self._stored,
        )  # fmt: skip
        model = onnx.helper.make_model(
            proto, producer_name="cnngraph", producer_version=cnngraph.__version__, ir_version=IR_VERSION,
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in domains.items()],
        )  # fmt: skip
        onnx.checker.check_model(model)
        return model


def _unused(taken: set[str], wish: str) -> str:
    """``wish``, or that with a number, which is then taken."""
    name, number = wish, 0
    while name in taken:
        number += 1
        name = f"{wish}_{number}"
    taken.add(name)
    return name


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    shape = [str(dim) if isinstance(dim, Sym) else int(dim) for dim in value.type.shape]
    return onnx.helper.make_tensor_value_info(name, element(value.type.dtype), shape)


def element(dtype: DType) -> int:
    """ONNX's number of an element type."""
    try:
        return int(onnx.helper.np_dtype_to_tensor_dtype(dtype.numpy))
    except (KeyError, ValueError):
        raise Inexpressible(f"the type {dtype.value} has no number") from None
