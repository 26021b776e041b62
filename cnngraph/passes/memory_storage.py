"""Which values share memory: aliases, slices of concatenations, results written over a dying operand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import Dim, Sym, per_image, round_up
from cnngraph.kernels.template import BatchStride, KernelCall, Pointer
from cnngraph.ops import Concat

ALIGNMENT = 64


@dataclass(eq=False)
class Storage:
    """Memory that holds one or more values.

    Attributes:
        nbytes: size, for one image if ``batched``; a multiple of the alignment.
        first, last: step numbers between which the contents matter, inclusive.
        members: the values in it, with their offset in bytes within one image.
    """

    nbytes: int
    batched: bool
    batch_stride: int
    first: int
    last: int
    members: dict[Value, int] = field(default_factory=dict)
    output: int | None = None


class Storages:
    """The storage of every value that a node computes, after sharing.

    Attributes:
        of: storage and byte offset of each computed value.
        absorbed: Concat nodes whose parts are written in place, so that nothing remains to do.
        alias_of: values that are an input or constant under another name.
    """

    def __init__(self, graph: Graph, calls: Mapping[Node, KernelCall | None]) -> None:
        self.graph = graph
        self.calls = calls
        self.step = {node: i for i, node in enumerate(graph.nodes)}
        self.end = len(self.step)
        self.of: dict[Value, tuple[Storage, int]] = {}
        self.alias_of: dict[Value, Value] = {}
        self.absorbed: set[Node] = set()
        self.outputs = {value for _, value in graph.outputs}
        planned = self._plan_concats()
        for node in graph.nodes:
            self._place(node, planned)
        self._assign_outputs()

    def storages(self) -> list[Storage]:
        """Each storage once, by first use."""
        return list({storage: None for storage, _ in self.of.values()})

    def _lifetime(self, value: Value) -> tuple[int, int]:
        assert value.producer is not None
        first = self.step[value.producer]
        last = max((self.step[user] for user in value.users), default=first)
        return first, self.end if value in self.outputs else last

    def _plan_concats(self) -> dict[Value, tuple[Value, int]]:
        """For every part that can be written into a concatenation: that concatenation's value and the byte offset."""
        placed: dict[Value, tuple[Value, int]] = {}
        for node in reversed(self.graph.nodes):  # outer concatenations first, so that nested ones find their place
            if not isinstance(node.op, Concat) or node.op.axis != 1 or self.calls[node] is None:
                continue
            if not all(self._can_be_part(v, node, placed) for v in node.inputs) or not _takes_batch_stride(self.calls, node.output):
                continue
            if len(set(node.inputs)) != len(node.inputs):
                continue
            offset = 0
            block = node.output.type.layout.block
            parts: list[tuple[Value, int]] = []
            for i, value in enumerate(node.inputs):
                assert value is not None
                channels = value.type.shape[1]
                if value.type.layout != node.output.type.layout or not isinstance(channels, int):
                    break
                if channels % block and i + 1 < len(node.inputs):
                    break
                parts.append((value, offset))
                offset += _image_bytes(value)
            else:
                for value, at in parts:
                    placed[value] = (node.output, at)
                self.absorbed.add(node)
        return placed

    def _can_be_part(self, value: Value | None, node: Node, placed: Mapping[Value, tuple[Value, int]]) -> bool:
        if value is None or value.producer is None or value in self.outputs or value in placed:
            return False
        producer = value.producer
        if producer not in self.absorbed and (self.calls[producer] is None or len(producer.outputs) != 1):
            return False
        if value.type.shape[0] != node.output.type.shape[0] or not _one_image_axis(value):
            return False
        return _takes_batch_stride(self.calls, value)

    def _place(self, node: Node, planned: Mapping[Value, tuple[Value, int]]) -> None:
        call = self.calls[node]
        for value in node.outputs:
            if value in self.of:
                self._extend(value)
                continue
            if call is None and len(node.outputs) == 1 and _is_alias(node):
                source = node.input(0)
                if source in self.of:
                    storage, offset = self.of[source]
                    if _contiguous(storage, source):
                        self._join(value, storage, offset)
                        continue
                else:
                    self.alias_of[value] = self.alias_of.get(source, source)
                    continue
            if value in planned:
                whole, at = planned[value]
                storage, offset = self._root(whole, planned)
                self._join(value, storage, offset + at)
                continue
            taken = self._overwrite(node, call, value)
            if taken is not None:
                self._join(value, taken, 0)
                continue
            self._new(value)

    def _root(self, value: Value, planned: Mapping[Value, tuple[Value, int]]) -> tuple[Storage, int]:
        """Storage of a concatenation, made when its first part is."""
        offset = 0
        while value in planned:
            value, at = planned[value]
            offset += at
        if value not in self.of:
            self._new(value)
        storage, base = self.of[value]
        return storage, base + offset

    def _new(self, value: Value) -> None:
        first, last = self._lifetime(value)
        size = value.type.nbytes
        batched = isinstance(size, Sym)
        stride = per_image(value.type.physical_elements)
        if not batched and value.type.rank and isinstance(value.type.shape[0], int) and value.type.shape[0]:
            stride = stride // value.type.shape[0]
        storage = Storage(round_up(max(per_image(size), 1), ALIGNMENT), batched, stride, first, last)
        storage.members[value] = 0
        self.of[value] = (storage, 0)

    def _join(self, value: Value, storage: Storage, offset: int) -> None:
        first, last = self._lifetime(value)
        storage.first, storage.last = min(storage.first, first), max(storage.last, last)
        storage.members[value] = offset
        self.of[value] = (storage, offset)

    def _extend(self, value: Value) -> None:
        storage, _ = self.of[value]
        first, last = self._lifetime(value)
        storage.first, storage.last = min(storage.first, first), max(storage.last, last)

    def _overwrite(self, node: Node, call: KernelCall | None, value: Value) -> Storage | None:
        """The storage of an operand that dies here and may be written over."""
        if call is None or value in self.outputs:
            return None
        for operand in call.overwrites:
            if operand not in self.of or operand in self.outputs:
                continue
            storage, offset = self.of[operand]
            readers = [v for v in node.inputs if v is not None and v in self.of and self.of[v][0] is storage]
            if storage.last != self.step[node] or offset or len(readers) != 1 or len(storage.members) and not _contiguous(storage, operand):
                continue
            if storage.output is None and not any(m in self.outputs for m in storage.members) and operand.type == value.type:
                return storage
        return None

    def _assign_outputs(self) -> None:
        """Let graph outputs live in the caller's arrays where the storage is theirs alone."""
        for index, (_, value) in enumerate(self.graph.outputs):
            if value not in self.of:
                continue
            storage, offset = self.of[value]
            exact = all(_image_bytes(m) <= _image_bytes(value) for m in storage.members)
            if storage.output is None and offset == 0 and exact and _contiguous(storage, value):
                storage.output = index


def _is_alias(node: Node) -> bool:
    from cnngraph.passes.choose_layout import ALIASES

    return isinstance(node.op, ALIASES)


def _image_bytes(value: Value) -> int:
    """Bytes of one image of a value (of all of it when nothing depends on the batch and there is no first axis)."""
    total = per_image(value.type.nbytes)
    first: Dim = value.type.shape[0] if value.type.rank else 1
    return total if isinstance(first, Sym) else total // max(first, 1)


def _one_image_axis(value: Value) -> bool:
    first = value.type.shape[0]
    return first == Sym(1) or isinstance(first, int)


def _contiguous(storage: Storage, value: Value) -> bool:
    """Whether consecutive images of ``value`` follow each other without a gap."""
    size = per_image(value.type.physical_elements)
    first = value.type.shape[0] if value.type.rank else 1
    if isinstance(first, int):
        size //= max(first, 1)
        if first == 1:
            return True
    else:
        size //= 1
    return storage.batch_stride == size


def _takes_batch_stride(calls: Mapping[Node, KernelCall | None], value: Value) -> bool:
    """Whether every kernel that touches ``value`` asks for its batch stride, so that it may lie inside a larger buffer."""
    nodes = {*value.users, *([value.producer] if value.producer else [])}
    for node in nodes:
        if isinstance(node.op, Concat) and node.op.axis == 1:
            continue
        call = calls[node]
        if call is None:
            return False
        arguments = call.arguments.values()
        touched = any(isinstance(a, Pointer) and a.value is value for a in arguments)
        if touched and not any(isinstance(a, BatchStride) and a.value is value for a in arguments):
            return False
    return True
