"""Every ONNX operator that can be imported, in whichever way."""

from __future__ import annotations

from typing import NamedTuple

import onnx

from cnngraph.eager.registry import EAGER
from cnngraph.frontend.bodies import has_schema_body
from cnngraph.frontend.control_flow import CONTROL_FLOW
from cnngraph.frontend.registry import NEWEST_OPSET, OLDEST_OPSET, supported_ops


class OpSupport(NamedTuple):
    """An operator, the operator sets in which it is imported, and how.

    Attributes:
        op: operator type, ``domain::name`` outside the standard domain.
        since: the first operator set; of the standard domain, or of the operator's own if ONNX defines that.
        until: the last one.
        how: ``importer``: it becomes operators of the graph; ``function body``: it is imported by the function by which ONNX defines
            it, if that function's own operators are supported; ``control flow``: the branch taken and the iterations are imported
            if they are known at compile time, else it is left to the tail; ``tail``: evaluated at run time, after the compiled part,
            unless its inputs are known at compile time.
    """

    op: str
    since: int
    until: int
    how: str


def imported_ops() -> list[OpSupport]:
    """All operators that can be imported, sorted; one with several importers has a row for each."""
    rows = [OpSupport(*row, "importer") for row in supported_ops()]
    importers = {row.op for row in rows}
    firsts: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        op = f"{schema.domain}::{schema.name}" if schema.domain else schema.name
        firsts[op] = min(schema.since_version, firsts.get(op, schema.since_version))
    for op, first in firsts.items():
        domain, _, name = op.rpartition("::")
        oldest, newest = (1, onnx.defs.get_schema(name, domain=domain).since_version) if domain else (OLDEST_OPSET, NEWEST_OPSET)
        since = max(first, oldest)
        if op in CONTROL_FLOW:
            rows.append(OpSupport(op, since, newest, "control flow"))
        elif op in EAGER:
            rows.append(OpSupport(op, since, newest, "tail"))
        elif op not in importers:
            defined = [version for version in range(since, newest + 1) if has_schema_body(name, version, domain)]
            if defined:
                rows.append(OpSupport(op, defined[0], newest, "function body"))
    return sorted(rows)
