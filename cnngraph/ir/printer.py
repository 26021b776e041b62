"""A graph as text: one node a line, numbered values, types, and the ONNX nodes each came from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cnngraph.errors import printable
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ops.expression import Expression

_LONGEST = 300


def format_graph(graph: Graph) -> str:
    """The graph as text, inputs first, then nodes in order, then outputs.

    Values are called ``%0, %1, ...`` in order of definition; constants are written in place, small ones with their contents.
    """
    numbers: dict[Value, int] = {}

    def name(value: Value | None) -> str:
        if value is None:
            return "-"
        if value.data is not None:
            return _constant(value.data)
        return f"%{numbers.setdefault(value, len(numbers))}"

    lines = [f"{name(value)}: {value.type} = input {printable(label)}" for label, value in graph.inputs]
    for node in graph.nodes:
        operands = ", ".join(name(value) for value in node.inputs)
        results = ", ".join(f"{name(value)}: {value.type}" for value in node.outputs)
        lines.append(f"{results} = {node.op.name}{_attributes(node)}({operands})  # {printable(node.label)}")
    lines += [f"output {printable(label)} = {name(value)}" for label, value in graph.outputs]
    return "\n".join(lines) + "\n"


def format_expression(expression: Expression, operands: tuple[str, ...] = ()) -> str:
    """An expression as nested calls: ``relu(add(x0, x1))``; ``operands`` replaces the names x0, x1, ...

    What would be longer than 300 characters is cut: a shared term is written where it is used, so the text of a hostile
    expression could grow exponentially.
    """
    terms = [operands[i] if i < len(operands) else f"x{i}" for i in range(expression.inputs)]
    for instr in expression.instrs:
        arguments = [terms[a] for a in instr.args] + [f"{p:g}" for p in instr.params]
        text = f"{instr.fn}({', '.join(arguments)})"
        terms.append(text if len(text) <= _LONGEST else f"{instr.fn}(…)")
    return terms[expression.result]


def _attributes(node: Node) -> str:
    shown = []
    for field in dataclasses.fields(node.op):
        value = getattr(node.op, field.name)
        if value is not None and not (field.default is not dataclasses.MISSING and value == field.default):
            shown.append(f"{field.name}={_attribute(value)}")
    return f"[{', '.join(shown)}]" if shown else ""


def _attribute(value: Any) -> str:
    if isinstance(value, Expression):
        return format_expression(value)
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "()"
    return printable(str(getattr(value, "value", value)))


def _constant(array: np.ndarray) -> str:
    if array.size == 1:
        return f"{array.reshape(()).item():g}" if array.dtype.kind in "fiu" else str(array.reshape(()).item())
    return f"{array.dtype.name}[{'x'.join(map(str, array.shape))}]"
