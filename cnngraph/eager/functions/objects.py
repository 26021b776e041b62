"""What moves values that are no tensors of numbers: sequences and optionals as a whole, strings by numbers that stand for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from cnngraph.eager.registry import Call, Datum, eager
from cnngraph.errors import InvalidInputError

MOVES_STRINGS = frozenset(
    {
        "Compress", "Concat", "Equal", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape",
        "ReverseSequence",
        "Scatter",
        "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "DepthToSpace", "Split", "Squeeze", "Tile", "Transpose",
        "Trilu", "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators that only move, or compare, the elements of some inputs, so that numbers can stand for strings."""


def is_strings(value: Datum) -> bool:
    """Whether ``value`` is a tensor of strings."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "OSU"


def encode_strings(values: list[Datum]) -> tuple[list[Datum], np.ndarray]:
    """``values`` with int64 numbers for strings, equal ones for equal strings, and the strings by number (0 is the empty one)."""
    known: dict[Any, int] = {"": 0}
    coded: list[Datum] = []
    for value in values:
        if is_strings(value):
            numbers = [known.setdefault(item.decode("utf-8") if isinstance(item, bytes) else item, len(known)) for item in value.flat]
            coded.append(np.array(numbers, np.int64).reshape(value.shape))
        else:
            coded.append(value)
    return coded, np.array(list(known), object)


@eager("SequenceMap")
def sequence_map(call: Call) -> tuple[Datum, ...]:
    """The body for every element of the first sequence, with the matching elements of the others; tensors are passed whole."""
    first = call.inputs[0]
    if not isinstance(first, list):
        raise InvalidInputError("the first input is no sequence")
    if any(isinstance(other, list) and len(other) != len(first) for other in call.inputs):
        raise InvalidInputError("the sequences differ in length")
    rows = [call.run(call.attr("body"), [x[i] if isinstance(x, list) else x for x in call.inputs]) for i in range(len(first))]
    return tuple([row[k] for row in rows] for k in range(call.output_count))
