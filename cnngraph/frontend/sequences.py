"""Sequences at import: one whose length is known is followed as the tensors in it, so that what reads them is compiled.

Exporters write them for lists in the source: a split whose parts are taken by number, a list appended to in a loop and joined. What
run time decides (positions or sizes that are computed, tensors that only the tail knows) is left to the tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnngraph.errors import InvalidModelError
from cnngraph.frontend.context import Tensor
from cnngraph.frontend.control_flow import Unroller, attribute, emit, number
from cnngraph.frontend.ordering import RawNode
from cnngraph.frontend.scope import Known, Parts, Scope

if TYPE_CHECKING:
    from cnngraph.frontend.nodes import NodeImporter

MAX_PARTS = 4096
"""Tensors into which one node may split its input; longer sequences are left to the tail."""


def _position(inputs: Sequence[Known], index: int, length: int, limit: int) -> int | None:
    """The position that input ``index`` gives in a sequence; None if only run time knows it."""
    given = number(inputs[index])
    if given is None:
        return None
    position = int(given)
    if not -length <= position < limit:
        raise InvalidModelError(f"position {position} is outside a sequence of length {length}")
    return position + length if position < 0 else position


def _tensors(inputs: Sequence[Known]) -> tuple[Tensor, ...] | None:
    tensors = tuple(t for t in inputs if isinstance(t, Tensor))
    return tensors if len(tensors) == len(inputs) else None


def _given(inputs: Sequence[Known], index: int) -> bool:
    return index < len(inputs) and inputs[index] is not None


def _empty(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    return [Parts(())]


def _construct(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    tensors = _tensors(inputs)
    return None if tensors is None else [Parts(tensors)]


def _insert(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    sequence, tensor = inputs[0], inputs[1]
    if not isinstance(sequence, Parts) or not isinstance(tensor, Tensor):
        return None
    length = len(sequence.tensors)
    position = _position(inputs, 2, length, length + 1) if _given(inputs, 2) else length
    return None if position is None else [Parts((*sequence.tensors[:position], tensor, *sequence.tensors[position:]))]


def _erase(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    if not isinstance(inputs[0], Parts):
        return None
    tensors = inputs[0].tensors
    if not tensors:
        raise InvalidModelError("the sequence is empty")
    position = _position(inputs, 1, len(tensors), len(tensors)) if _given(inputs, 1) else len(tensors) - 1
    return None if position is None else [Parts((*tensors[:position], *tensors[position + 1 :]))]


def _at(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    if not isinstance(inputs[0], Parts):
        return None
    tensors = inputs[0].tensors
    position = _position(inputs, 1, len(tensors), len(tensors))
    return None if position is None else [tensors[position]]


def _length(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    return [importer.constant(np.array(len(inputs[0].tensors), np.int64))] if isinstance(inputs[0], Parts) else None


def _concat(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    if not isinstance(inputs[0], Parts):
        return None
    tensors, axis, label = inputs[0].tensors, attribute(node, "axis", None), scope.path + node.label
    if not tensors or axis is None:
        raise InvalidModelError("the sequence is empty" if axis is not None else "attribute 'axis' is missing")
    parts: list[Known] = list(tensors)
    if attribute(node, "new_axis", 0):
        axes = importer.constant(np.array([axis], np.int64))
        parts = [emit(importer, scope, label, "Unsqueeze", [part, axes]) for part in parts]
    return [emit(importer, scope, label, "Concat", parts, axis=axis)]


def _split(importer: NodeImporter, node: RawNode, scope: Scope, inputs: Sequence[Known]) -> Sequence[Known] | None:
    data, axis, label = inputs[0], int(attribute(node, "axis", 0)), scope.path + node.label
    if not isinstance(data, Tensor):
        return None
    rank = data.type.rank
    if not -rank <= axis < rank:
        raise InvalidModelError(f"axis {axis} is outside a tensor of {rank} axes")
    extent, given = data.type.shape[axis], inputs[1] if _given(inputs, 1) else None
    if not isinstance(extent, int):
        return None
    if given is None:
        sizes = [1] * extent if extent <= MAX_PARTS else []
    elif not isinstance(given, Tensor) or given.content is None or given.content.symbolic:
        return None
    else:
        sizes = _sizes(given.content.array, extent)
    if not 0 < len(sizes) <= MAX_PARTS:
        return None
    ends = np.cumsum(sizes)
    at = importer.constant(np.array([axis], np.int64))
    parts: list[Known] = []
    for size, end in zip(sizes, ends, strict=True):
        first, last = (importer.constant(np.array([place], np.int64)) for place in (end - size, end))
        part = emit(importer, scope, label, "Slice", [data, first, last, at])
        if given is None and not attribute(node, "keepdims", 1):
            part = emit(importer, scope, label, "Squeeze", [part, at])
        parts.append(part)
    if any(part is None for part in parts):
        return [None]  # refused, and noted
    return _construct(importer, node, scope, parts)


def _sizes(split: np.ndarray, extent: int) -> list[int]:
    """Sizes of the parts of an axis of ``extent``: a number is the size of all but the last, which takes what is left."""
    if split.ndim == 0:
        size = int(split)
        if size < 1:
            raise InvalidModelError(f"an axis of {extent} cannot be split into parts of {size}")
        return [min(size, extent - first) for first in range(0, extent, size)] if extent // size <= MAX_PARTS else []
    sizes = [int(size) for size in split.reshape(-1)]
    if sum(sizes) != extent or min(sizes) < 0:
        raise InvalidModelError(f"sizes {sizes[:20]} do not split {extent}")
    return sizes


SEQUENCES: dict[str, Unroller] = {
    "SequenceEmpty": _empty, "SequenceConstruct": _construct, "SequenceInsert": _insert, "SequenceErase": _erase, "SequenceAt": _at,
    "SequenceLength": _length, "ConcatFromSequence": _concat, "SplitToSequence": _split,
}  # fmt: skip
"""None means that the tail has to do it."""
