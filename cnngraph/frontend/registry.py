"""Which ONNX operators can be imported, from and up to which operator set, and by which function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import onnx

from cnngraph.ir.graph import Value

if TYPE_CHECKING:
    from cnngraph.frontend.context import NodeContext

Importer = Callable[["NodeContext"], "Value | tuple[Value | None, ...]"]
F = TypeVar("F", bound=Importer)

OLDEST_OPSET = 7
NEWEST_OPSET = int(onnx.defs.onnx_opset_version())


class OpRange(NamedTuple):
    """An operator (``domain::name`` outside the standard domain) and the operator sets, both ends included, in which it is imported."""

    op: str
    since: int
    until: int


@dataclass(frozen=True)
class _Entry:
    since: int
    until: int
    function: Importer


_IMPORTERS: dict[str, list[_Entry]] = {}


def importer(*ops: str, since: int = 1, until: int = NEWEST_OPSET) -> Callable[[F], F]:
    """Register the decorated function for the ONNX operators ``ops`` of operator sets ``since`` to ``until``.

    An operator of another domain is written ``com.microsoft::QLinearAdd``; it has no schema, so that its importer checks
    the number and types of its inputs itself.

    ``since`` counts in operator sets of the model: the function must handle every version of the operator in that range.
    """

    def register(function: F) -> F:
        for op in ops:
            entries = _IMPORTERS.setdefault(op, [])
            if any(since <= e.until and e.since <= until for e in entries):
                raise ValueError(f"two importers of {op} overlap")
            entries.append(_Entry(since, until, function))
        return function

    return register


def find_importer(op: str, opset: int) -> Importer | None:
    """The function that imports ``op`` from a model of operator set ``opset``, or None."""
    for entry in _IMPORTERS.get(op, ()):
        if entry.since <= opset <= entry.until:
            return entry.function
    return None


def supported_ops() -> list[OpRange]:
    """The operators, sorted, with the operator sets of the standard domain in which each exists and is imported."""
    rows: list[OpRange] = []
    firsts: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            firsts[schema.name] = min(schema.since_version, firsts.get(schema.name, schema.since_version))
    for op, entries in _IMPORTERS.items():
        first = OLDEST_OPSET if "::" in op else firsts[op]
        rows.extend(OpRange(op, max(entry.since, OLDEST_OPSET, first), entry.until) for entry in entries)
    return sorted(rows)
