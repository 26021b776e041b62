"""If, Loop and Scan whose condition or trip count is known at run time only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.eager.registry import Call, Datum, eager, scalar
from cnngraph.errors import InvalidInputError

MAX_TRIPS = 1_000_000
"""Iterations after which a loop is refused."""


@eager("If")
def if_(call: Call) -> tuple[Datum, ...]:
    """The chosen branch's outputs."""
    branch = "then_branch" if scalar(call.inputs[0], "the condition") else "else_branch"
    return tuple(call.run(call.attr(branch), ()))


@eager("Loop")
def loop(call: Call) -> tuple[Datum, ...]:
    """Carried values of the last iteration, then every iteration's scan outputs stacked."""
    trips = None if call.inputs[0] is None else int(scalar(call.inputs[0], "the trip count"))
    going = True if len(call.inputs) < 2 or call.inputs[1] is None else bool(scalar(call.inputs[1], "the condition"))
    body = call.attr("body")
    carried = list(call.inputs[2:])
    stacked: list[list[Datum]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    count = 0
    while going and (trips is None or count < trips):
        if count >= MAX_TRIPS:
            raise InvalidInputError(f"the loop runs more than {MAX_TRIPS} times")
        results = call.run(body, [np.array(count, np.int64), np.array(going), *carried])
        going, carried = bool(scalar(results[0], "the condition")), results[1 : 1 + len(carried)]
        for rows, row in zip(stacked, results[1 + len(carried) :], strict=True):
            rows.append(row)
        count += 1
    return (*carried, *(_stack(rows, body.output[1 + len(carried) + i]) for i, rows in enumerate(stacked)))


def _stack(rows: Sequence[Datum], info: object) -> np.ndarray:
    if rows:
        return np.stack([np.asarray(row) for row in rows])
    from cnngraph.frontend.tensors import element_type

    tensor = info.type.tensor_type  # type: ignore[attr-defined]
    dims = [d.dim_value if d.WhichOneof("value") == "dim_value" else 0 for d in tensor.shape.dim]
    return np.zeros([0, *dims], element_type(tensor.elem_type).numpy)


@eager("Scan")
def scan(call: Call) -> tuple[Datum, ...]:
    """Final states, then scan outputs, as ONNX defines Scan 8 (with a batch axis) and 9 (with axes)."""
    if call.opset < 9:
        return _scan_8(call)
    body, count = call.attr("body"), int(call.attr("num_scan_inputs"))
    states, scanned = list(call.inputs[: len(call.inputs) - count]), [np.asarray(x) for x in call.inputs[len(call.inputs) - count :]]
    outputs = len(body.output) - len(states)
    axes = call.attr("scan_input_axes", (0,) * count)
    directions = call.attr("scan_input_directions", (0,) * count)
    out_axes = call.attr("scan_output_axes", (0,) * outputs)
    out_directions = call.attr("scan_output_directions", (0,) * outputs)
    moved = [np.moveaxis(x, axis, 0)[:: -1 if backward else 1] for x, axis, backward in zip(scanned, axes, directions, strict=True)]
    states, rows = _iterate(call, states, moved)
    results = []
    for index, (axis, backward) in enumerate(zip(out_axes, out_directions, strict=True)):
        stacked = _stack(rows[index][:: -1 if backward else 1], body.output[len(states) + index])
        results.append(np.ascontiguousarray(np.moveaxis(stacked, 0, axis)))
    return (*states, *results)


def _iterate(call: Call, states: list[Datum], scanned: Sequence[np.ndarray]) -> tuple[list[Datum], list[list[Datum]]]:
    body = call.attr("body")
    lengths = {len(x) for x in scanned}
    if len(lengths) != 1:
        raise InvalidInputError(f"the scanned inputs have different lengths: {sorted(lengths)}")
    rows: list[list[Datum]] = [[] for _ in range(len(body.output) - len(states))]
    for index in range(lengths.pop()):
        results = call.run(body, [*states, *(np.ascontiguousarray(x[index]) for x in scanned)])
        states = results[: len(states)]
        for row, result in zip(rows, results[len(states) :], strict=True):
            row.append(result)
    return states, rows


def _scan_8(call: Call) -> tuple[Datum, ...]:
    body, count = call.attr("body"), int(call.attr("num_scan_inputs"))
    lengths, operands = call.inputs[0], [np.asarray(x) for x in call.inputs[1:]]
    states, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    directions = call.attr("directions", (0,) * count)
    finals: list[list[Datum]] = []
    outputs: list[list[np.ndarray]] = []
    for batch in range(len(scanned[0])):
        length = scanned[0].shape[1] if lengths is None else int(np.asarray(lengths)[batch])
        moved = [x[batch][:length][:: -1 if backward else 1] for x, backward in zip(scanned, directions, strict=True)]
        last, rows = _iterate(call, [s[batch] for s in states], moved)
        finals.append(last)
        stacked = [_stack(r, body.output[len(states) + i]) for i, r in enumerate(rows)]
        full = scanned[0].shape[1]
        outputs.append([np.concatenate([r, np.zeros((full - len(r), *r.shape[1:]), r.dtype)]) for r in stacked])
    return (*(np.stack(parts) for parts in zip(*finals, strict=True)), *(np.stack(parts) for parts in zip(*outputs, strict=True)))
