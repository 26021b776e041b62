"""Evaluate ONNX nodes one by one on NumPy values.

A node is imported with all its inputs' contents known, through the same importers as at compile time, and the operators that makes
are executed by their references. So every operator has one definition; only those without a static form have functions of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from cnngraph.eager.functions.objects import MOVES_STRINGS, encode_strings, is_strings
from cnngraph.eager.plans import Bench, Plan, Plans, WatchedTensor
from cnngraph.eager.registry import EAGER, Datum
from cnngraph.eager.tail import Tail
from cnngraph.errors import CnngraphError, InvalidInputError, InvalidModelError, UnsupportedError, printable
from cnngraph.frontend.attributes import check_arity, check_input_types, decode_attributes, schema_of
from cnngraph.frontend.bodies import Bodies, call_attributes, function_opsets, resolve_references, schema_body
from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import find_importer
from cnngraph.frontend.scope import MAX_DEPTH, captured
from cnngraph.frontend.tensors import TensorReader
from cnngraph.ir.types import DType, TensorType
from cnngraph.options import Limits


@dataclass(frozen=True)
class Frame:
    """The names that a body's nodes see, and the operator sets in which it is written."""

    opsets: Mapping[str, int]
    values: Mapping[str, Datum]
    depth: int = 0


class Evaluator:
    """Evaluates nodes of one model."""

    def __init__(self, bodies: Bodies, limits: Limits | None = None) -> None:
        self._bodies = bodies
        self._limits = limits or Limits()
        self._reader = TensorReader(None, self._limits)
        self._plans = Plans()

    def node(self, node: onnx.NodeProto, frame: Frame, label: str) -> list[Datum]:
        """The outputs of ``node``.

        Raises:
            InvalidInputError, InvalidModelError, UnsupportedError: naming the node.
        """
        try:
            return self._node(node, frame, label)
        except CnngraphError as error:
            raise (error if error.node is not None else type(error)(f"{node.op_type}: {error}", node=label)) from error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidInputError(f"{printable(node.op_type)}: {printable(str(error))}", node=label) from error

    def _node(self, node: onnx.NodeProto, frame: Frame, label: str) -> list[Datum]:
        standard = node.domain in ("", "ai.onnx")
        op = node.op_type if standard else f"{node.domain}::{node.op_type}"
        inputs = [frame.values[name] if name else None for name in node.input]
        local = self._bodies.local(node)
        if local is not None:
            return self._call(node, frame, label, local, inputs)
        opset = frame.opsets[""]
        if op in EAGER:
            made = EAGER[op](_Call(self, node, frame, label, op, inputs))
            return list(made) if isinstance(made, tuple) else [made]
        if op == "Identity" and not isinstance(inputs[0], np.ndarray):
            return [inputs[0]]
        if op in MOVES_STRINGS and any(map(is_strings, inputs)):
            return self._move_strings(node, frame, label, inputs)
        types = [None if x is None else _type(x) for x in inputs]
        if find_importer(op, opset) is None:
            body = schema_body(node, opset if standard else frame.opsets.get(node.domain, 1), types)
            if body is None:
                raise UnsupportedError("this operator is not supported")
            return self._call(node, frame, label, body, inputs)
        return self._tensors(node, op, frame, label, inputs, types)

    def _move_strings(self, node: onnx.NodeProto, frame: Frame, label: str, inputs: Sequence[Datum]) -> list[Datum]:
        """The outputs of an operator that moves strings; of those computed from strings, the ones of int64 numbers are strings again."""
        coded, strings = encode_strings(list(inputs))
        values = {name: value for name, value in zip(node.input, coded, strict=True) if name}
        results = self._node(node, Frame(frame.opsets, values, frame.depth), label)
        if node.op_type in ("Shape", "Size", "Equal"):
            return results
        return [r if r is None else strings[np.asarray(r)] for r in results]

    def _context(
        self, node: onnx.NodeProto, op: str, frame: Frame, label: str, inputs: Sequence[Datum], types: Sequence[TensorType | None]
    ) -> tuple[NodeContext, Bench, list[WatchedTensor | None]]:
        schema = schema_of(op, frame.opsets[""])
        attributes = decode_attributes(node, schema, self._reader)
        if schema is not None:
            check_arity(node, schema)
            check_input_types(schema, types)
        bench = Bench(self._limits)
        tensors = [None if t is None else bench.tensor(i, np.asarray(x), t) for i, (x, t) in enumerate(zip(inputs, types, strict=True))]
        return NodeContext(bench, op, frame.opsets[""], label, attributes, tensors, list(node.output)), bench, tensors

    def _tensors(
        self, node: onnx.NodeProto, op: str, frame: Frame, label: str, inputs: Sequence[Datum], types: Sequence[TensorType | None]
    ) -> list[Datum]:
        opset = frame.opsets[""]
        plan = self._plans.find(node, opset, types, inputs)
        if plan is None:
            ctx, bench, tensors = self._context(node, op, frame, label, inputs, types)
            function = find_importer(op, opset)
            assert function is not None
            made = function(ctx)
            values = [*(made if isinstance(made, tuple) else (made,))][: len(node.output)]
            for index, name in enumerate(node.output):
                if name and (index >= len(values) or values[index] is None):
                    raise UnsupportedError(f"output {index} is not supported")
            seen = {i: np.array(inputs[i]) for i, tensor in enumerate(tensors) if tensor is not None and tensor.seen}
            plan = Plan(node, bench.graph, tuple(values), seen)
            self._plans.keep(plan, opset, types)
        return list(plan.run(inputs))

    def _call(self, node: onnx.NodeProto, frame: Frame, label: str, function: onnx.FunctionProto, inputs: Sequence[Datum]) -> list[Datum]:
        if frame.depth >= MAX_DEPTH:
            raise InvalidModelError(f"functions or subgraphs lie more than {MAX_DEPTH} deep; a function may call itself")
        if len(inputs) > len(function.input):
            raise InvalidModelError(f"the function {printable(function.name)} has fewer inputs than the node")
        values: dict[str, Datum] = {}
        for index, name in enumerate(function.input):
            if index < len(inputs) and node.input[index]:
                values[name] = inputs[index]
        attributes = call_attributes(node, function)
        inner = Frame(function_opsets(function, frame.opsets), values, frame.depth + 1)
        for position, proto in enumerate(function.node):
            step = resolve_references(proto, attributes)
            kept = [name if name in values else "" for name in step.input]
            if list(step.input) != kept:
                copy = onnx.NodeProto()
                copy.CopyFrom(step)
                while kept and not kept[-1]:
                    kept.pop()
                copy.input[:] = kept
                step = copy
            self._bind(values, step, self.node(step, inner, f"{label}/{step.name or f'{step.op_type}_{position}'}"))
        return [values.get(name) for name in function.output[: len(node.output)]]

    def graph(self, graph: onnx.GraphProto, frame: Frame, arguments: Sequence[Datum], label: str) -> list[Datum]:
        """The outputs of a subgraph that sees the names of ``frame``."""
        if frame.depth >= MAX_DEPTH:
            raise InvalidModelError(f"functions or subgraphs lie more than {MAX_DEPTH} deep")
        if len(arguments) != len(graph.input):
            raise InvalidModelError(f"the graph '{printable(graph.name)}' has {len(graph.input)} inputs, but gets {len(arguments)}")
        values = dict(frame.values)
        values.update((info.name, value) for info, value in zip(graph.input, arguments, strict=True))
        for tensor in graph.initializer:
            values[tensor.name] = self._reader.decode_any(tensor)
        inner = Frame(frame.opsets, values, frame.depth + 1)
        for position, node in enumerate(graph.node):
            missing = [name for name in (*node.input, *captured(node)) if name and name not in values]
            if missing:
                raise InvalidModelError(f"nothing is called '{printable(missing[0])}' here", node=label)
            self._bind(values, node, self.node(node, inner, f"{label}/{node.name or f'{node.op_type}_{position}'}"))
        return [values[info.name] for info in graph.output]

    @staticmethod
    def _bind(values: dict[str, Datum], node: onnx.NodeProto, results: Sequence[Datum]) -> None:
        for index, name in enumerate(node.output):
            if name:
                if index >= len(results):
                    raise UnsupportedError(f"{node.op_type}: output {index} is not supported")
                values[name] = results[index]

    def tail(self, tail: Tail, values: dict[str, Datum], wanted: Sequence[str]) -> dict[str, Datum]:
        """The outputs ``wanted`` of a tail; ``values`` holds its feeds, direct inputs and constants by key."""
        needed = {tail.outputs[name] for name in wanted}
        chosen = []
        for step in reversed(tail.steps):
            if needed.intersection(filter(None, step.results)):
                needed.update(key for _, key in step.operands)
                chosen.append(step)
        for step in reversed(chosen):
            frame = Frame(dict(step.opsets), {name: values[key] for name, key in step.operands})
            results = self.node(step.node, frame, step.label)
            if len(results) < len(step.results):
                raise UnsupportedError(f"{step.node.op_type}: output {len(results)} is not supported", node=step.label)
            values.update((key, result) for key, result in zip(step.results, results, strict=False) if key)
        return {name: values[tail.outputs[name]] for name in wanted}


def _type(value: Datum) -> TensorType:
    if not isinstance(value, np.ndarray) and not np.isscalar(value):
        raise UnsupportedError(f"an input is a {'sequence' if isinstance(value, list) else type(value).__name__}, not a tensor")
    array = np.asarray(value)
    try:
        return TensorType(DType.of(array), array.shape)
    except ValueError:
        raise UnsupportedError(f"an input has the type {array.dtype.name}, which this operator does not take here") from None


class _Call:
    """What a function of :mod:`cnngraph.eager.functions` sees of its node."""

    def __init__(self, evaluator: Evaluator, node: onnx.NodeProto, frame: Frame, label: str, op: str, inputs: Sequence[Datum]) -> None:
        self._evaluator, self._node, self._frame, self._label = evaluator, node, frame, label
        self.op, self.opset, self.inputs, self.output_count = op, frame.opsets[""], inputs, len(node.output)
        self._attributes = {a.name: a for a in node.attribute}

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute as Python has it: text, tuple, NumPy array, graph; ``default`` where the node lacks it."""
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode("utf-8")
        if isinstance(value, onnx.TensorProto):
            return self._evaluator._reader.decode_any(value)
        if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
            return tuple(value)
        if attribute.type == onnx.AttributeProto.STRINGS:
            return tuple(item.decode("utf-8") for item in value)
        return value

    def run(self, graph: onnx.GraphProto, arguments: Sequence[Datum]) -> list[Datum]:
        """Evaluate a subgraph, which sees the names around the node; returns its outputs."""
        return self._evaluator.graph(graph, self._frame, arguments, self._label)

    def node(self, op: str, inputs: Sequence[Datum], **attributes: Any) -> list[Datum]:
        """Evaluate another operator of one output in the same operator set."""
        names = [f"x{i}" if x is not None else "" for i, x in enumerate(inputs)]
        frame = Frame(self._frame.opsets, {n: x for n, x in zip(names, inputs, strict=True) if n}, self._frame.depth + 1)
        return self._evaluator.node(helper.make_node(op, names, ["y"], **attributes), frame, self._label)

    def array(self, index: int) -> np.ndarray:
        """Input ``index``; raises InvalidInputError unless it is there and a tensor."""
        if index >= len(self.inputs) or not isinstance(self.inputs[index], np.ndarray):
            raise InvalidInputError(f"input {index} must be a tensor")
        value = self.inputs[index]
        assert isinstance(value, np.ndarray)
        return value
