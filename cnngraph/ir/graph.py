"""The graph: values, nodes, and the mutators through which every pass changes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnngraph.errors import InternalError
from cnngraph.ir.types import DType, TensorType

if TYPE_CHECKING:
    from cnngraph.eager.tail import Tail
    from cnngraph.ops.base import Op


class Value:
    """A tensor in the graph. Identity is the object; ``name`` (an original ONNX tensor name) is for people only.

    Attributes:
        type: dtype, shape and layout. Changed only by :meth:`Graph.set_type`.
        producer: the node that makes it, or None for inputs and constants.
        data: the array of a constant, else None.
        users: nodes that read it, once per reading input.
        names: every ONNX tensor name that this value stands for.
    """

    __slots__ = ("data", "names", "producer", "type", "users")

    def __init__(
        self, type_: TensorType, producer: Node | None = None, data: np.ndarray | None = None, names: tuple[str, ...] = ()
    ) -> None:
        self.type = type_
        self.producer = producer
        self.data = data
        self.users: list[Node] = []
        self.names = names

    @property
    def is_constant(self) -> bool:
        """Whether the value is known at compile time."""
        return self.data is not None

    def __repr__(self) -> str:
        return f"Value({self.type}{', const' if self.is_constant else ''})"


class Node:
    """An operation: frozen ``op`` (with its attributes), ordered inputs (None = absent), outputs, and provenance.

    ``origin`` holds the names of the ONNX nodes it came from, in graph order, through every rewrite.
    """

    __slots__ = ("inputs", "op", "origin", "outputs")

    def __init__(self, op: Op, inputs: tuple[Value | None, ...], outputs: tuple[Value, ...], origin: tuple[str, ...]) -> None:
        self.op = op
        self.inputs = inputs
        self.outputs = outputs
        self.origin = origin

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    def input(self, index: int) -> Value:
        """Input ``index``, which must be present."""
        value = self.inputs[index]
        if value is None:
            raise InternalError(f"{self.op.name} lacks input {index}", node=self.label)
        return value

    @property
    def label(self) -> str:
        """The ONNX node names joined, for messages."""
        return "+".join(self.origin) or self.op.name

    def __repr__(self) -> str:
        return f"Node({self.op.name}, {self.label})"


class Graph:
    """A network in topological order with named inputs and outputs.

    ``tail`` is what runs after it, operator by operator, on outputs that the graph computes for it.
    ``stage`` is the guarantee the graph currently gives (see :mod:`cnngraph.ir.verify`). The only ways to change
    nodes and values are :meth:`add`, :meth:`replace_uses`, :meth:`rewire`, :meth:`erase`, :meth:`set_type` and
    :meth:`constant`.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.inputs: list[tuple[str, Value]] = []
        self.outputs: list[tuple[str, Value]] = []
        self._after: dict[Node | None, Node | None] = {None: None}  # a ring: None stands between the last node and the first
        self._before: dict[Node | None, Node | None] = {None: None}
        self.stage = "imported"
        self.tail: Tail | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in topological order, as a snapshot that is safe to iterate while rewriting."""
        order = []
        node = self._after[None]
        while node is not None:
            order.append(node)
            node = self._after[node]
        return tuple(order)

    def __len__(self) -> int:
        return len(self._after) - 1

    def __contains__(self, node: Node) -> bool:
        return node in self._after

    def drop_constants(self) -> None:
        """Let go of the constants' arrays at once (values and nodes refer to each other); the graph is of no further use."""
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    value.data = None
        for _, value in self.outputs:
            value.data = None

    # construction (used by the importer)

    def add_input(self, name: str, type_: TensorType) -> Value:
        """Declare a graph input."""
        value = Value(type_, names=(name,))
        self.inputs.append((name, value))
        return value

    def add_output(self, name: str, value: Value) -> None:
        """Declare a graph output; order is the model's."""
        self.outputs.append((name, value))

    # the mutators

    def add(self, op: Op, inputs: Sequence[Value | None], *, origin: Iterable[str] = (), before: Node | None = None) -> tuple[Value, ...]:
        """Append a node, or insert it before another, and return its outputs, typed by ``op.infer``."""
        types = op.infer(*(None if v is None else v.type for v in inputs))
        node = Node(op, tuple(inputs), (), tuple(dict.fromkeys(origin)))
        node.outputs = tuple(Value(t, producer=node) for t in types)
        for value in inputs:
            if value is not None:
                value.users.append(node)
        self._link(node, before)
        return node.outputs

    def replace_uses(self, old: Value, new: Value) -> None:
        """Make every reader of ``old``, graph outputs included, read ``new``. ``new`` takes over ``old``'s names."""
        if old is new:
            return
        for user in set(old.users):
            user.inputs = tuple(new if v is old else v for v in user.inputs)
        new.users.extend(old.users)
        old.users = []
        self.outputs = [(name, new if value is old else value) for name, value in self.outputs]
        new.names = tuple(dict.fromkeys(new.names + old.names))

    def erase(self, node: Node) -> None:
        """Remove a node none of whose outputs is read."""
        for value in node.outputs:
            if self.is_used(value):
                raise InternalError("erasing a node whose result is used", node=node.label)
        for operand in node.inputs:
            if operand is not None:
                operand.users.remove(node)
        self._unlink(node)
        for value in node.outputs:
            value.producer = None  # no cycle remains that would keep the operands' arrays until some later garbage collection

    def set_type(self, value: Value, type_: TensorType) -> None:
        """Change a value's type (its layout, in practice)."""
        value.type = type_

    def constant(self, data: np.ndarray, names: tuple[str, ...] = ()) -> Value:
        """A new constant; the array is taken over, made contiguous and read-only."""
        array = np.ascontiguousarray(data).reshape(np.shape(data))
        if array is data and array.flags.writeable:
            array = array.view()
        array.flags.writeable = False
        return Value(TensorType(DType.of(array), array.shape), data=array, names=names)

    def rewire(self, node: Node, inputs: Sequence[Value | None]) -> None:
        """Let ``node`` read other values of the same logical types (a value in another layout, in practice)."""
        if tuple(inputs) == node.inputs:
            return
        for value in node.inputs:
            if value is not None:
                value.users.remove(node)
        node.inputs = tuple(inputs)
        for value in node.inputs:
            if value is not None:
                value.users.append(node)

    # queries

    def is_used(self, value: Value) -> bool:
        """Whether a node or a graph output reads the value."""
        return bool(value.users) or self.is_output(value)

    def is_output(self, value: Value) -> bool:
        """Whether the value is a graph output."""
        return any(out is value for _, out in self.outputs)

    def constants(self) -> list[Value]:
        """Every constant in use, each once, in order of first use."""
        seen: dict[Value, None] = {}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value.is_constant:
                    seen[value] = None
        for _, value in self.outputs:
            if value.is_constant:
                seen[value] = None
        return list(seen)

    def _link(self, node: Node, following: Node | None) -> None:
        """Put ``node`` before another, or at the end."""
        previous = self._before[following]
        self._after[previous], self._after[node] = node, following
        self._before[following], self._before[node] = node, previous

    def _unlink(self, node: Node) -> None:
        previous, following = self._before.pop(node), self._after.pop(node)
        self._after[previous], self._before[following] = following, previous
