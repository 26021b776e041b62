"""If, Loop and Scan at import: the branch that is taken, iterations unrolled. What run time decides is left to the tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from cnngraph.errors import InvalidModelError, printable
from cnngraph.frontend.context import Tensor
from cnngraph.frontend.ordering import RawNode, raw_nodes
from cnngraph.frontend.scope import Known, Late, Scope

if TYPE_CHECKING:
    from cnngraph.frontend.nodes import NodeImporter

Unroller = Callable[["NodeImporter", RawNode, Scope, Sequence[Known]], "Sequence[Known] | None"]

MAX_UNROLLED = 4096
"""Nodes that unrolling may make of one loop; longer ones run in the tail."""

_PLAIN = {"": 18}
"""The operator set of the nodes that this module makes itself."""


def _graph(node: RawNode, name: str) -> onnx.GraphProto:
    for attribute in node.proto.attribute:
        if attribute.name == name and attribute.type == onnx.AttributeProto.GRAPH:
            return attribute.g
    raise InvalidModelError(f"the graph '{name}' is missing")


def attribute(node: RawNode, name: str, default: Any) -> Any:
    """The value of an attribute of ``node``."""
    for given in node.proto.attribute:
        if given.name == name:
            return helper.get_attribute_value(given)
    return default


def number(known: Known) -> Any:
    """The single number of a tensor if it is known, else None."""
    if isinstance(known, Tensor) and known.content is not None and not known.content.symbolic and known.content.array.size == 1:
        return known.content.array.reshape(())[()]
    return None


def emit(importer: NodeImporter, scope: Scope, label: str, op: str, inputs: Sequence[Known], **attributes: Any) -> Known:
    """One node of this module's own, in a scope of its own."""
    inner = scope.function(label, _PLAIN)
    names = [f"x{i}" for i in range(len(inputs))]
    inner.tensors.update(zip(names, inputs, strict=True))
    importer.nodes(raw_nodes([helper.make_node(op, names, ["y"], **attributes)]), inner, ["y"])
    return inner["y"]


def _body(importer: NodeImporter, graph: onnx.GraphProto, scope: Scope, label: str, arguments: Sequence[Known]) -> list[Known]:
    if len(arguments) != len(graph.input):
        raise InvalidModelError(f"the graph '{printable(graph.name)}' has {len(graph.input)} inputs, but gets {len(arguments)}")
    inner = scope.inner(label)
    inner.tensors.update((info.name, value) for info, value in zip(graph.input, arguments, strict=True))
    return importer.body(graph, inner)


def _if(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    condition = number(inputs[0])
    if condition is None:
        return None
    return _body(importer, _graph(node, "then_branch" if condition else "else_branch"), scope, scope.path + node.label, ())


def _loop(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    body = _graph(node, "body")
    given = [*inputs, None, None][: max(len(inputs), 2)]
    trips = number(given[0]) if node.inputs and node.inputs[0] else np.int64(1 << 62)
    condition = number(given[1]) if len(node.inputs) > 1 and node.inputs[1] else np.True_
    if trips is None or condition is None or any(isinstance(t, Late) for t in inputs):
        return None
    carried: list[Known] = list(given[2:])
    rows: list[list[Known]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    before, count = len(importer.problems), 0
    label = scope.path + node.label
    while condition and count < trips:
        if (count + 1) * max(len(body.node), 1) > MAX_UNROLLED:
            del importer.problems[before:]  # the tail runs it after all; what was refused while unrolling does not count
            return None
        arguments = [importer.constant(np.array(count, np.int64)), importer.constant(np.array(bool(condition))), *carried]
        results = _body(importer, body, scope, f"{label}/{count}", arguments)
        condition = number(results[0])
        if condition is None or any(isinstance(r, Late) for r in results):
            del importer.problems[before:]  # the tail runs it after all; what was refused while unrolling does not count
            return None
        carried = list(results[1 : 1 + len(carried)])
        for row, result in zip(rows, results[1 + len(carried) :], strict=True):
            row.append(result)
        count += 1
    if rows and not count:
        return None
    return [*carried, *(_stacked(importer, scope, label, row, 0) for row in rows)]


def _stacked(importer: NodeImporter, scope: Scope, label: str, row: Sequence[Known], axis: int) -> Known:
    if any(part is None for part in row):
        return None
    axes = importer.constant(np.array([axis], np.int64))
    parts = [emit(importer, scope, label, "Unsqueeze", [part, axes]) for part in row]
    return parts[0] if len(parts) == 1 else emit(importer, scope, label, "Concat", parts, axis=axis)


def _scan(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    if scope.opset < 9 or any(not isinstance(t, Tensor) for t in inputs):
        return None
    body, count = _graph(node, "body"), int(attribute(node, "num_scan_inputs", 0))
    if not 0 < count <= len(inputs) or len(body.output) < len(inputs) - count:
        raise InvalidModelError("num_scan_inputs does not fit the node's inputs and outputs")
    states, scanned = list(inputs[: len(inputs) - count]), [t for t in inputs[len(inputs) - count :] if isinstance(t, Tensor)]
    outputs = len(body.output) - len(states)
    axes = attribute(node, "scan_input_axes", [0] * count)
    directions = attribute(node, "scan_input_directions", [0] * count)
    out_axes = attribute(node, "scan_output_axes", [0] * outputs)
    out_directions = attribute(node, "scan_output_directions", [0] * outputs)
    if not len(axes) == len(directions) == count or not len(out_axes) == len(out_directions) == outputs:
        raise InvalidModelError("the axes and directions do not fit the scan inputs and outputs")
    if any(not -t.type.rank <= axis < t.type.rank for t, axis in zip(scanned, axes, strict=True)):
        raise InvalidModelError("a scan axis is outside its tensor")
    lengths = {t.type.shape[axis] for t, axis in zip(scanned, axes, strict=True)}
    length = lengths.pop() if len(lengths) == 1 else -1
    if not isinstance(length, int) or length < 1 or length * max(len(body.node), 1) > MAX_UNROLLED:
        return None
    label, before = scope.path + node.label, len(importer.problems)
    rows: list[list[Known]] = [[] for _ in range(outputs)]
    for step in range(length):
        slices = []
        for tensor, axis, backward in zip(scanned, axes, directions, strict=True):
            index = importer.constant(np.array(length - 1 - step if backward else step, np.int64))
            slices.append(emit(importer, scope, label, "Gather", [tensor, index], axis=axis))
        results = _body(importer, body, scope, f"{label}/{step}", [*states, *slices])
        if any(isinstance(r, Late) for r in results):
            del importer.problems[before:]  # the tail runs it after all; what was refused while unrolling does not count
            return None
        states = list(results[: len(states)])
        for row, result in zip(rows, results[len(states) :], strict=True):
            row.append(result)
    stacked = []
    for row, axis, backward in zip(rows, out_axes, out_directions, strict=True):
        if axis < 0 and isinstance(row[0], Tensor):
            axis += row[0].type.rank + 1
        stacked.append(_stacked(importer, scope, label, row[::-1] if backward else row, axis))
    return [*states, *stacked]


CONTROL_FLOW: dict[str, Unroller] = {"If": _if, "Loop": _loop, "Scan": _scan}
