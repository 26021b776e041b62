"""Execute a graph by the NumPy reference of every operator: the judge of passes and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cnngraph.errors import InvalidInputError
from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.types import Sym


def interpret(graph: Graph, feeds: Mapping[str, np.ndarray], dtype: type[np.floating] | None = None) -> dict[str, np.ndarray]:
    """Outputs of ``graph`` by name. ``dtype=np.float64`` computes every float tensor in double precision."""
    results = interpret_values(graph, feeds, [value for _, value in graph.outputs], dtype)
    return {name: array for (name, _), array in zip(graph.outputs, results, strict=True)}


def interpret_values(
    graph: Graph, feeds: Mapping[str, np.ndarray], values: Sequence[Value], dtype: type[np.floating] | None = None
) -> list[np.ndarray]:
    """Arrays of any values of the graph.

    Raises:
        InvalidInputError: a feed is missing, or the feeds disagree on the batch size.
    """

    def widen(array: np.ndarray, is_float: bool) -> np.ndarray:
        return array.astype(dtype) if dtype is not None and is_float else array

    batch = _batch(graph, feeds)
    arrays: dict[Value, np.ndarray] = {value: widen(np.asarray(feeds[name]), value.type.dtype.is_float) for name, value in graph.inputs}
    wanted = set(values)
    readers = {value: len(value.users) for node in graph.nodes for value in node.outputs}
    for node in graph.nodes:
        operands: list[np.ndarray | None] = []
        for value in node.inputs:
            if value is None:
                operands.append(None)
            elif value.data is not None:
                operands.append(widen(value.data, value.type.dtype.is_float))
            else:
                operands.append(arrays[value])
        for value, array in zip(node.outputs, node.op.bind(batch).reference(*operands), strict=True):
            arrays[value] = array
        for value in node.inputs:
            if value in readers:
                readers[value] -= 1
                if readers[value] == 0 and value not in wanted:
                    arrays.pop(value, None)
    return [widen(v.data, v.type.dtype.is_float) if v.data is not None else arrays[v] for v in values]


def _batch(graph: Graph, feeds: Mapping[str, np.ndarray]) -> int:
    batch: int | None = None
    for name, value in graph.inputs:
        if name not in feeds:
            raise InvalidInputError(f"input {name!r} is missing")
        for dim, size in zip(value.type.shape, np.shape(feeds[name]), strict=False):
            if isinstance(dim, Sym):
                found = size // dim.scale
                if batch is not None and batch != found:
                    raise InvalidInputError(f"input {name!r} has batch {found}, another input {batch}")
                batch = found
    return 1 if batch is None else batch
