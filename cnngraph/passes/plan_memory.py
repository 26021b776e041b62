"""Give every value a place: the caller's arrays, the weights, or an offset in one arena that scales with the batch.

Values that depend on the batch lie at ``offset*N`` in the arena, so one plan serves every batch size. The few that do not have a
static arena of their own. If the leading steps are computed image by image (:mod:`cnngraph.analysis.by_image`), what they hand
over to the others has memory for the whole batch beside the arena, which then never holds values of both parts at once.
Concatenations absorb their parts, reshapes share storage, and a kernel that allows it writes over an operand that dies there (see
:mod:`cnngraph.passes.memory_storage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.kernels.template import KernelCall, Scratch
from cnngraph.passes.memory_pack import check_packing, most_alive, pack
from cnngraph.passes.memory_storage import Storage, Storages
from cnngraph.runtime.program import ARENA, FIRST_IO, STATIC, handover_bytes


@dataclass(frozen=True)
class Place:
    """Address of a value: ``bases[base] + a*N + b`` bytes."""

    base: int
    a: int = 0
    b: int = 0


@dataclass
class MemoryPlan:
    """Where everything lies.

    Attributes:
        places: place of each computed value and graph input (constants get theirs when the program is built).
        batch_strides: elements between images, for values inside a larger buffer.
        arena, static_bytes: bytes per image, and bytes independent of the batch.
        late_arena: bytes of the arena that the steps use which are not computed image by image.
        handover: bytes per image of each storage that the leading steps hand over to the others.
        bound: largest sum of simultaneously live storages, per image.
        scratch: bytes each thread needs beyond the arena.
        copies: (graph output, value) pairs that no kernel writes where the caller wants them.
        absorbed: Concat nodes with nothing left to do.
    """

    places: dict[Value, Place] = field(default_factory=dict)
    batch_strides: dict[Value, int] = field(default_factory=dict)
    aliases: dict[Value, Value] = field(default_factory=dict)
    arena: int = 0
    late_arena: int = 0
    static_bytes: int = 0
    handover: list[int] = field(default_factory=list)
    bound: int = 0
    scratch: int = 0
    copies: list[tuple[int, Value]] = field(default_factory=list)
    absorbed: set[Node] = field(default_factory=set)
    rows: list[dict[str, Any]] = field(default_factory=list)
    peak_step: str = ""

    def report(self) -> dict[str, Any]:
        """Peak, lower bound, scratch and every storage's life and place, as plain data."""
        return {
            "peak": self.arena + handover_bytes(self.handover), "handover": handover_bytes(self.handover), "lower_bound": self.bound,
            "static": self.static_bytes, "scratch_per_thread": self.scratch, "peak_step": self.peak_step, "storages": self.rows,
        }  # fmt: skip


def plan_memory(graph: Graph, calls: Mapping[Node, KernelCall | None], apart: int = 0) -> MemoryPlan:
    """Plan storage for a lowered graph, which becomes stage ``planned``; its first ``apart`` nodes are computed image by image."""
    shared = Storages(graph, calls)
    plan = MemoryPlan(absorbed=shared.absorbed, batch_strides=shared.batch_strides)
    for i, (_, value) in enumerate(graph.inputs):
        plan.places[value] = Place(FIRST_IO + i)
    for value, (root, offset) in shared.views.items():
        if root.is_constant:
            plan.aliases[value] = root
        else:
            plan.places[value] = Place(FIRST_IO + [v for _, v in graph.inputs].index(root), 0, offset)
    first_output = FIRST_IO + len(graph.inputs)
    first_handover = first_output + len(graph.outputs)

    inside = [s for s in shared.storages() if s.output is None]
    batched = [s for s in inside if s.batched]
    fixed = [s for s in inside if not s.batched]
    passed = [s for s in batched if s.first < apart <= s.last]
    plan.handover = [s.size for s in passed]
    offsets: dict[Storage, int] = {}
    for late, part in ((False, [s for s in batched if s.last < apart]), (True, [s for s in batched if s.first >= apart])):
        found, size = pack(part)
        check_packing(found, size)
        offsets.update(found)
        plan.arena = max(plan.arena, size)
        plan.late_arena = size if late else 0
    fixed_offsets, plan.static_bytes = pack(fixed)
    check_packing(fixed_offsets, plan.static_bytes)
    offsets.update(fixed_offsets)
    plan.bound, step = most_alive(batched)

    for value, (storage, offset) in shared.of.items():
        if storage.output is not None:
            plan.places[value] = Place(first_output + storage.output, 0, offset)
        elif storage in passed:
            plan.places[value] = Place(first_handover + passed.index(storage), 0, offset)
        elif storage.batched:
            plan.places[value] = Place(ARENA, offsets[storage], offset)
        else:
            plan.places[value] = Place(STATIC, 0, offsets[storage] + offset)
    for index, (_, value) in enumerate(graph.outputs):
        held = shared.of.get(value)
        if held is None or held[0].output != index:
            plan.copies.append((index, value))
    scratch = [_scratch(call) for call in calls.values() if call is not None]
    plan.scratch = max(scratch, default=0)
    offsets.update((storage, plan.arena + handover_bytes(plan.handover[:number])) for number, storage in enumerate(passed))
    _describe(plan, graph, shared, offsets, passed)
    if batched:
        plan.peak_step = graph.nodes[step].label
    graph.stage = "planned"
    return plan


def _scratch(call: KernelCall) -> int:
    """Bytes of private memory of one call; several areas follow each other, each 64-byte aligned."""
    return sum(-(-a.nbytes // 64) * 64 for a in call.arguments.values() if isinstance(a, Scratch))


def _describe(plan: MemoryPlan, graph: Graph, shared: Storages, offsets: Mapping[Storage, int], passed: Sequence[Storage]) -> None:
    labels = [node.label for node in graph.nodes]
    for storage in shared.storages():
        names = [name for value in storage.members for name in value.names][:3]
        plan.rows.append({
            "names": names, "first": labels[storage.first], "last": labels[min(storage.last, len(labels) - 1)],
            "offset": offsets.get(storage), "bytes": storage.nbytes, "batched": storage.batched, "output": storage.output is not None,
            "handover": storage in passed,
        })  # fmt: skip
