"""What is particular to the backend in a graph: its element types, its widest concatenations, and the refusal of other nodes."""

from __future__ import annotations

import dataclasses

import numpy as np

from cnngraph.errors import CnngraphError, UnsupportedError, printable
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType, Sym, numel
from cnngraph.ops import Cast, Concat, Dense, MatMul, Reduce, Reshape
from cnngraph.ops.quantized import DequantizeLinear, QuantizeLinear
from cnngraph.passes.choose_layout import ALIASES, LayoutChoice

_NAMING = (Cast, DequantizeLinear)


def lower_precision(graph: Graph, dtype: DType) -> None:
    """Compute in ``dtype`` what the graph computes in float32; inputs and outputs keep their types.

    Raises:
        UnsupportedError: a weight is too large for the type, or an operator does not take it.
    """
    if dtype is DType.F32:
        return
    _retarget(graph, dtype)
    casts: set[Node | None] = set()
    for _, value in graph.inputs:
        if value.type.dtype is DType.F32 and value.users:
            first = graph.nodes[0]
            readers = list(dict.fromkeys(value.users))
            (cast,) = graph.add(Cast(dtype), [value], origin=readers[0].origin, before=first)
            casts.add(cast.producer)
            for reader in readers:
                graph.rewire(reader, [cast if v is value else v for v in reader.inputs])
    narrow: dict[Value, Value] = {}
    wanted = {id(value): value.type.dtype for _, value in graph.outputs}
    for node in graph.nodes:
        if node in casts:
            continue
        inputs: list[Value | None] = []
        for place, operand in enumerate(node.inputs):
            exact = place == 1 and isinstance(node.op, (QuantizeLinear, DequantizeLinear))  # a rounded scale would move whole steps
            if operand is not None and operand.is_constant and operand.type.dtype is DType.F32 and not exact:
                if operand not in narrow:
                    narrow[operand] = graph.constant(_narrowed(operand, dtype, node.label), operand.names)
                inputs.append(narrow[operand])
            else:
                inputs.append(operand)
        graph.rewire(node, inputs)
        try:
            types = node.op.infer(*(None if v is None else v.type for v in node.inputs))
        except CnngraphError as error:
            raise UnsupportedError(f"{node.op.name} ({printable(node.label, 200)}) does not compute in {dtype.value}: {error}") from None
        for value, type_ in zip(node.outputs, types, strict=True):
            graph.set_type(value, type_)
    for index, (name, value) in enumerate(graph.outputs):
        if value.type.dtype is not wanted[id(value)]:
            origin = value.producer.origin if value.producer is not None else (name,)
            (back,) = graph.add(Cast(wanted[id(value)]), [value], origin=origin)
            back.names = value.names
            graph.outputs[index] = (name, back)


def _retarget(graph: Graph, dtype: DType) -> None:
    """Operators that name float32 as the type of their result name ``dtype`` instead."""
    for node in graph.nodes:
        if getattr(node.op, "to", None) is not DType.F32 or not isinstance(node.op, _NAMING):
            continue
        outputs = graph.add(dataclasses.replace(node.op, to=dtype), node.inputs, origin=node.origin, before=node)
        for old, new in zip(node.outputs, outputs, strict=True):
            new.names = old.names
            graph.replace_uses(old, new)
            graph.set_type(new, old.type)  # until its reader's types are known, too
        graph.erase(node)


def split_concatenations(graph: Graph, most: int) -> None:
    """Concatenations of more than ``most`` parts become nested ones, which costs no copy along the channels where none did."""
    for node in graph.nodes:
        if not isinstance(node.op, Concat) or len(node.inputs) <= most:
            continue
        axis = node.op.axis
        parts = [v for v in node.inputs if v is not None]
        while len(parts) > most:
            groups = [parts[i : i + most] for i in range(0, len(parts), most)]
            parts = [g[0] if len(g) == 1 else graph.add(Concat(axis), g, origin=node.origin, before=node)[0] for g in groups]
        (whole,) = graph.add(Concat(axis), parts, origin=node.origin, before=node)
        graph.replace_uses(node.output, whole)
        graph.erase(node)


def lower_products(graph: Graph) -> None:
    """Products with a constant matrix become dense layers, which have the fast kernel."""
    for node in graph.nodes:
        if not isinstance(node.op, MatMul):
            continue
        left, right = node.input(0), node.input(1)
        if not right.is_constant or right.type.rank != 2 or left.type.rank < 2 or isinstance(left.type.shape[-1], Sym):
            continue
        shape = left.type.shape
        flat = left
        if len(shape) > 2:
            (flat,) = graph.add(Reshape((numel(shape[:-1]), shape[-1])), [left], origin=node.origin, before=node)
        (whole,) = graph.add(Dense(), [flat, right, None], origin=node.origin, before=node)
        if len(shape) > 2:
            (whole,) = graph.add(Reshape(node.output.type.shape), [whole], origin=node.origin, before=node)
        graph.replace_uses(node.output, whole)
        graph.erase(node)


def split_reductions(graph: Graph) -> None:
    """Reductions over axes with others between them become several, where the parts of the result combine as its elements do."""
    for node in graph.nodes:
        op = node.op
        if not isinstance(op, Reduce) or not node.output.type.dtype.is_float or op.kind not in ("sum", "mean", "max", "min", "prod"):
            continue
        shape = node.input(0).type.shape
        runs: list[list[int]] = []
        for axis in sorted(op.axes):
            if runs and all(shape[between] == 1 for between in range(runs[-1][-1] + 1, axis)):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        if len(runs) < 2:
            continue
        value = node.input(0)
        for run in reversed(runs):
            (value,) = graph.add(Reduce(op.kind, tuple(run), True), [value], origin=node.origin, before=node)
        if not op.keepdims:
            (value,) = graph.add(Reshape(node.output.type.shape), [value], origin=node.origin, before=node)
        graph.replace_uses(node.output, value)
        graph.erase(node)


def _narrowed(value: Value, dtype: DType, label: str) -> np.ndarray:
    assert value.data is not None
    with np.errstate(over="ignore"):
        out = value.data.astype(dtype.numpy)
    if np.isinf(out.astype(np.float32)).sum() != np.isinf(value.data).sum():
        raise UnsupportedError(f"a constant of {printable(label, 200)} is too large for {dtype.value}; compile in precision f32 or tf32")
    return np.asarray(out)


def refuse_missing(choice: LayoutChoice, allow: bool) -> None:
    """Every node must have a kernel, or ``allow`` be set.

    Raises:
        UnsupportedError: naming each operator without one, with the reasons.
    """
    missing = [s for s in choice.selections if s.chosen == "reference" and not isinstance(s.node.op, ALIASES)]
    if not missing or allow:
        return
    lines = []
    for selection in missing[:20]:
        op = selection.node.op.name
        telling = {reason for reason in selection.refused.values() if not reason.startswith(("not ", "neither "))}
        reasons = "; ".join(sorted(telling)) or "no kernel of this operator"
        lines.append(f"{op} ({printable(selection.node.label, 100)}): {reasons}")
    more = f"\n... and {len(missing) - 20} more" if len(missing) > 20 else ""
    listed = "\n".join(lines)
    raise UnsupportedError(f"{len(missing)} operators have no CUDA kernel; --allow-cpu-ops would compute them on the CPU:\n{listed}{more}")
