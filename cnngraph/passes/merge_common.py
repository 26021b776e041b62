"""Equal computations and equal constants become one (common subexpression elimination)."""

from __future__ import annotations

import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.passes.base import Pass, PassContext

_SAMPLE = 4096


@dataclass(frozen=True)
class MergeCommon(Pass):
    """Constants of the same dtype, shape and bytes become one; so do nodes of equal op and inputs."""

    name: ClassVar[str] = "merge_common"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Merge constants first, then nodes in topological order, so that equal branches merge entirely."""
        return _merge_constants(graph) + _merge_nodes(graph)


def _merge_constants(graph: Graph) -> int:
    buckets: dict[Hashable, list[Value]] = {}
    changes = 0
    for value in graph.constants():
        bucket = buckets.setdefault(_fingerprint(value), [])
        for known in bucket:
            if _same_bytes(known, value):
                graph.replace_uses(value, known)
                changes += 1
                break
        else:
            bucket.append(value)
    return changes


def _fingerprint(value: Value) -> Hashable:
    """dtype, shape, and a checksum of at most 4096 bytes spread over the data; candidates are compared in full."""
    data = _bytes(value)
    return value.type, zlib.crc32(data[:: max(1, data.size // _SAMPLE)].tobytes())


def _same_bytes(a: Value, b: Value) -> bool:
    return a.data is b.data or bool(np.array_equal(_bytes(a), _bytes(b)))


def _bytes(value: Value) -> np.ndarray:
    assert value.data is not None
    return np.ascontiguousarray(value.data).reshape(-1).view(np.uint8)


def _merge_nodes(graph: Graph) -> int:
    seen: dict[Hashable, Node] = {}
    origins: dict[Node, tuple[str, ...]] = {}
    changes = 0
    for node in graph.nodes:
        # repr tells apart attributes that compare equal but are not the same computation: 0.0 and -0.0, 1 and True.
        known = seen.setdefault((node.op, repr(node.op), node.inputs), node)
        if known is node:
            continue
        for old, new in zip(node.outputs, known.outputs, strict=True):
            graph.replace_uses(old, new)
        graph.erase(node)
        origins[known] = origins.get(known, known.origin) + node.origin
        changes += 1
    for node, origin in origins.items():
        _set_origin(graph, node, origin)
    return changes


def _set_origin(graph: Graph, node: Node, origin: tuple[str, ...]) -> None:
    for old, new in zip(node.outputs, graph.add(node.op, node.inputs, origin=origin, before=node), strict=True):
        graph.replace_uses(old, new)
    graph.erase(node)
