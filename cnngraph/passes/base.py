"""What a pass is, and the driver that runs, times and verifies an ordered list of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node


@dataclass
class Rejection:
    """A rewrite that matched but was refused: where, by which pass, and the sentence a user reads."""

    pass_name: str
    node: str
    reason: str


@dataclass
class PassContext:
    """What passes may ask for and report to.

    Attributes:
        rejections: refusals, for ``--explain``.
        max_fold_bytes: constant folding creates no constant larger than this beyond its inputs' sizes.
    """

    rejections: list[Rejection] = field(default_factory=list)
    max_fold_bytes: int = 512 * 1024 * 1024

    def reject(self, pass_name: str, node: Node, reason: str) -> None:
        """Record why a rewrite at ``node`` was refused."""
        self.rejections.append(Rejection(pass_name, node.label, reason))


@dataclass(frozen=True)
class Pass:
    """Base of graph passes. A subclass's fields are its options; the first docstring line says what becomes what.

    ``changes_precision`` marks passes that ``math="exact"`` leaves out.
    """

    name: ClassVar[str] = ""
    changes_precision: ClassVar[bool] = False

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrite ``graph`` and return the number of changes."""
        raise TypeError(f"{type(self).__name__} defines no run")


@dataclass(frozen=True)
class PassRecord:
    """One line of ``--print-passes``."""

    name: str
    stage: str
    changes: int
    seconds: float
    nodes: int


def run_passes(
    graph: Graph,
    passes: Sequence[Pass],
    context: PassContext,
    verify: Callable[[Graph, str], None],
    after: Callable[[Graph, PassRecord], None] | None = None,
) -> list[PassRecord]:
    """Run ``passes`` in order; after each, ``verify(graph, pass_name)`` raises if an invariant is broken."""
    records = []
    for pass_ in passes:
        start = time.perf_counter()
        changes = pass_.run(graph, context)
        seconds = time.perf_counter() - start
        verify(graph, pass_.name)
        record = PassRecord(pass_.name, graph.stage, changes, seconds, len(graph))
        records.append(record)
        if after is not None:
            after(graph, record)
    return records
