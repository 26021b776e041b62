"""Which ONNX operators can be imported, from and up to which operator set, and by which function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import onnx

from cnngraph.frontend.contents import EVALUATORS
from cnngraph.ir.graph import Value

if TYPE_CHECKING:
    from cnngraph.frontend.context import NodeContext

Importer = Callable[["NodeContext"], "Value | tuple[Value | None, ...]"]

OLDEST_OPSET = 7
NEWEST_OPSET = int(onnx.defs.onnx_opset_version())


class OpRange(NamedTuple):
    """An operator of the standard domain and the operator sets, both ends included, in which it is imported."""

    op: str
    since: int
    until: int


@dataclass(frozen=True)
class _Entry:
    since: int
    until: int
    function: Importer


_IMPORTERS: dict[str, list[_Entry]] = {}


def importer(*ops: str, since: int = 1, until: int = NEWEST_OPSET) -> Callable[[Importer], Importer]:
    """Register the decorated function for the ONNX operators ``ops`` of operator sets ``since`` to ``until``.

    ``since`` counts in operator sets of the model: the function must handle every version of the operator in that range.
    """

    def register(function: Importer) -> Importer:
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


def is_known(op: str, opset: int) -> bool:
    """Whether nodes of this type can be imported, if only where they compute shapes."""
    return find_importer(op, opset) is not None or op in EVALUATORS


def supported_ops() -> list[OpRange]:
    """The operators of the standard domain, sorted, with the operator sets in which each exists and is imported."""
    rows: list[OpRange] = []
    for op, entries in _IMPORTERS.items():
        first = min(s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == op and not s.domain)
        rows.extend(OpRange(op, max(entry.since, OLDEST_OPSET, first), entry.until) for entry in entries)
    return sorted(rows)


def shape_only_ops() -> list[str]:
    """The operators that are understood only where they compute shapes from known numbers, sorted."""
    return sorted(set(EVALUATORS) - set(_IMPORTERS))
