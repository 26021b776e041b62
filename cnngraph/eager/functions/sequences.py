"""Sequences (Python lists) and optionals (None when empty)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnngraph.eager.registry import Call, Datum, eager, scalar
from cnngraph.errors import InvalidInputError


def _position(call: Call, index: int, length: int, limit: int) -> int:
    position = int(scalar(call.inputs[index], "the position"))
    if not -length <= position < limit:
        raise InvalidInputError(f"position {position} is outside a sequence of length {length}")
    return position + length if position < 0 else position


def _sequence(call: Call, index: int = 0) -> list[Any]:
    value = call.inputs[index]
    if not isinstance(value, list):
        raise InvalidInputError("the input is no sequence")
    return value


@eager("SequenceEmpty")
def sequence_empty(call: Call) -> Datum:
    """No element."""
    return []


@eager("SequenceConstruct")
def sequence_construct(call: Call) -> Datum:
    """The inputs as a sequence."""
    return list(call.inputs)


@eager("SequenceInsert")
def sequence_insert(call: Call) -> Datum:
    """A copy with one element more."""
    items = list(_sequence(call))
    given = len(call.inputs) > 2 and call.inputs[2] is not None
    items.insert(_position(call, 2, len(items), len(items) + 1) if given else len(items), call.inputs[1])
    return items


@eager("SequenceErase")
def sequence_erase(call: Call) -> Datum:
    """A copy with one element less."""
    items = list(_sequence(call))
    if not items:
        raise InvalidInputError("the sequence is empty")
    given = len(call.inputs) > 1 and call.inputs[1] is not None
    del items[_position(call, 1, len(items), len(items)) if given else -1]
    return items


@eager("SequenceAt")
def sequence_at(call: Call) -> Datum:
    """One element."""
    items = _sequence(call)
    return items[_position(call, 1, len(items), len(items))]


@eager("SequenceLength")
def sequence_length(call: Call) -> Datum:
    """The number of elements, int64."""
    return np.array(len(_sequence(call)), np.int64)


@eager("ConcatFromSequence")
def concat_from_sequence(call: Call) -> Datum:
    """The elements joined along an axis, a new one if ``new_axis``."""
    items, axis = _sequence(call), int(call.attr("axis"))
    return np.stack(items, axis) if call.attr("new_axis", 0) else np.concatenate(items, axis)


@eager("SplitToSequence")
def split_to_sequence(call: Call) -> Datum:
    """Parts of a tensor: of equal sizes, of given sizes, or (without sizes) single slices."""
    data, axis = call.array(0), int(call.attr("axis", 0))
    extent = data.shape[axis]
    if len(call.inputs) < 2 or call.inputs[1] is None:
        parts = np.split(data, extent, axis) if extent else []
        return [part if call.attr("keepdims", 1) else np.squeeze(part, axis) for part in parts]
    sizes = np.asarray(call.inputs[1])
    if sizes.ndim == 0:
        cuts = list(range(int(sizes), extent, int(sizes)))
    elif int(sizes.sum()) != extent:
        raise InvalidInputError(f"sizes {sizes.tolist()} do not split {extent}")
    else:
        cuts = np.cumsum(sizes)[:-1].tolist()
    return np.split(data, cuts, axis)


@eager("Optional")
def optional(call: Call) -> Datum:
    """The input, or an empty optional."""
    return call.inputs[0] if call.inputs else None


@eager("OptionalHasElement")
def optional_has_element(call: Call) -> Datum:
    """Whether there is a value, bool."""
    return np.array(bool(call.inputs) and call.inputs[0] is not None)


@eager("OptionalGetElement")
def optional_get_element(call: Call) -> Datum:
    """The value, which must be there."""
    if call.inputs[0] is None:
        raise InvalidInputError("the optional is empty")
    return call.inputs[0]
