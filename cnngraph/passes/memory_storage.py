"""Which values share memory: linked values, and results written over an operand that dies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Sym, per_image, round_up
from cnngraph.kernels.template import KernelCall
from cnngraph.passes.memory_links import Links

ALIGNMENT = 64


@dataclass(eq=False)
class Storage:
    """Memory that holds one or more values.

    Attributes:
        size: bytes, for one image if ``batched``.
        first, last: step numbers between which the contents matter, inclusive.
        members: the values in it, with their offset in bytes.
        output: number of the graph output whose array this is, or None.
    """

    size: int
    batched: bool
    first: int
    last: int
    members: dict[Value, int] = field(default_factory=dict)
    output: int | None = None

    @property
    def nbytes(self) -> int:
        """``size`` rounded up to the alignment."""
        return round_up(max(self.size, 1), ALIGNMENT)


class Storages:
    """The storage of every value that a node computes, after sharing.

    Attributes:
        of: storage and byte offset of each computed value.
        views: values that are (part of) a graph input or constant: that value and the byte offset.
        absorbed: nodes with nothing left to do.
        batch_strides: elements between images, of values whose images do not follow each other without a gap.
    """

    def __init__(self, graph: Graph, calls: Mapping[Node, KernelCall | None]) -> None:
        self._step = {node: i for i, node in enumerate(graph.nodes)}
        self._outputs = {value for _, value in graph.outputs}
        self._links = Links(graph, calls)
        self.absorbed = self._links.absorbed
        self.of: dict[Value, tuple[Storage, int]] = {}
        self.views: dict[Value, tuple[Value, int]] = {}
        groups: dict[Value, Storage] = {}
        for node in graph.nodes:
            for value in node.outputs:
                root, offset = self._links.resolve(value)
                if root.producer is None:
                    self.views[value] = root, offset
                else:
                    self._add(groups.setdefault(root, self._empty(root)), value, offset)
        for node in graph.nodes:
            for value in node.outputs:
                if value in groups:
                    self._settle(node, calls[node], value, groups[value])
        self._assign_outputs(graph)
        self.batch_strides = {
            value: self._links.batch_stride(value) for value in (*self.of, *self.views) if self._links.strided(value)
        }  # fmt: skip

    def storages(self) -> list[Storage]:
        """Each storage once, by first use."""
        return sorted({storage: None for storage, _ in self.of.values()}, key=lambda s: s.first)

    def _empty(self, root: Value) -> Storage:
        assert root.producer is not None
        size = root.type.nbytes
        step = self._step[root.producer]
        return Storage(per_image(size), isinstance(size, Sym), step, step)

    def _add(self, storage: Storage, value: Value, offset: int) -> None:
        assert value.producer is not None
        storage.first = min(storage.first, self._step[value.producer])
        ends = [self._step[user] for user in value.users]
        storage.last = max([storage.last, *ends, len(self._step) if value in self._outputs else -1])
        storage.members[value] = offset

    def _settle(self, node: Node, call: KernelCall | None, root: Value, group: Storage) -> None:
        """Give a group of linked values its storage: that of a dying operand if the kernel allows it, else its own."""
        taken = self._overwritten(node, call, root, group) or group
        if taken is not group:
            taken.last = max(taken.last, group.last)
            taken.members |= group.members
        for value, offset in group.members.items():
            self.of[value] = taken, offset

    def _overwritten(self, node: Node, call: KernelCall | None, root: Value, group: Storage) -> Storage | None:
        step = self._step[node]
        if call is None or group.first != step or len(node.outputs) != 1:
            return None
        for operand in call.overwrites:
            held = self.of.get(operand)
            if held is None or operand.type != root.type or operand in self._outputs:
                continue
            storage, offset = held
            readers = [v for v in node.inputs if v is not None and v in self.of and self.of[v][0] is storage]
            if (
                storage.last == step
                and offset == 0
                and storage.size == group.size
                and storage.batched == group.batched
                and len(readers) == 1
            ):
                return storage
        return None

    def _assign_outputs(self, graph: Graph) -> None:
        """Let graph outputs live in the caller's arrays, one storage an output."""
        for index, (_, value) in enumerate(graph.outputs):
            if value not in self.of:
                continue
            storage, offset = self.of[value]
            same = offset == 0 and storage.size == per_image(value.type.nbytes) and storage.batched == isinstance(value.type.nbytes, Sym)
            if storage.output is None and same and value.type.layout.plain:
                storage.output = index
