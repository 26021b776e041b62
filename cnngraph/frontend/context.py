"""What an importer of one ONNX node sees: typed attributes, inputs, known contents, and the graph to emit into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from cnngraph.errors import InvalidModelError, UnsupportedError
from cnngraph.frontend.attributes import Attribute
from cnngraph.frontend.contents import Content
from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.types import Dim, Sym, SymbolicBatchError, TensorType
from cnngraph.ops.base import Op


@dataclass(eq=False)
class Tensor:
    """An ONNX tensor during import.

    Attributes:
        type: dtype and shape.
        value: where it is in the graph; None if only its contents are known (then made on demand).
        content: the numbers if they are known, entries that depend on the batch size included.
        from_shape: computed from shapes alone, so that it would be known if the batch size were.
        depends: names of the graph inputs whose numbers it depends on.
    """

    type: TensorType
    value: Value | None = None
    content: Content | None = None
    from_shape: bool = False
    depends: frozenset[str] = frozenset()


class ContentUnknown(UnsupportedError):
    """The numbers of an input are needed at import but are computed at run time from graph inputs ``depends``."""

    def __init__(self, message: str, depends: frozenset[str]) -> None:
        self.depends = depends
        super().__init__(message)


class Builder(Protocol):
    """What a node context needs from the importer of the whole model."""

    graph: Graph

    def materialize(self, tensor: Tensor, origin: str) -> Value:
        """The graph value of ``tensor``, made from its contents if need be."""
        ...

    def check_size(self, type_: TensorType) -> None:
        """Raise LimitExceededError if a tensor of this type is too large."""
        ...


class NodeContext:
    """One ONNX node for its importer.

    Attributes:
        op: ONNX operator type.
        opset: version of the standard operator set of the model.
        label: name of the node, for messages and provenance.
    """

    def __init__(
        self,
        builder: Builder,
        op: str,
        opset: int,
        label: str,
        attributes: Mapping[str, Attribute],
        inputs: Sequence[Tensor | None],
        outputs: Sequence[str],
    ) -> None:
        self._builder = builder
        self.op = op
        self.opset = opset
        self.label = label
        self._attributes = attributes
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)

    # attributes; those of standard operators have been checked against the schema

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self._attributes

    def attr_int(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self._attributes.get(name, default)
        if not isinstance(value, int):
            self.invalid(f"attribute '{name}' must be an integer")
        return value

    def attr_bool(self, name: str, default: bool = False) -> bool:
        """An integer attribute that means a truth value; anything but 0 and 1 is invalid."""
        value = self.attr_int(name, int(default))
        if value not in (0, 1):
            self.invalid(f"attribute '{name}' is {value}, but must be 0 or 1")
        return bool(value)

    def attr_float(self, name: str, default: float) -> float:
        """A float attribute."""
        value = self._attributes.get(name, default)
        if not isinstance(value, (int, float)):
            self.invalid(f"attribute '{name}' must be a number")
        return float(value)

    def attr_str(self, name: str, default: str) -> str:
        """A string attribute."""
        value = self._attributes.get(name, default)
        if not isinstance(value, str):
            self.invalid(f"attribute '{name}' must be a string")
        return value

    def attr_ints(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """A list-of-integers attribute; required if there is no default."""
        value = self._attributes.get(name)
        if value is None:
            if default is None:
                self.invalid(f"attribute '{name}' is missing")
            return tuple(default)
        if not isinstance(value, tuple) or not all(isinstance(v, int) for v in value):
            self.invalid(f"attribute '{name}' must be a list of integers")
        return tuple(int(v) for v in value)

    def attr_floats(self, name: str) -> tuple[float, ...]:
        """A list-of-floats attribute, which must be given."""
        value = self._attributes.get(name)
        if not isinstance(value, tuple) or not all(isinstance(v, (int, float)) for v in value):
            self.invalid(f"attribute '{name}' must be a list of numbers")
        return tuple(float(v) for v in value)

    def attr_strings(self, name: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        """A list-of-strings attribute."""
        value = self._attributes.get(name, tuple(default))
        assert isinstance(value, tuple)
        return tuple(str(v) for v in value)

    def attr_tensor(self, name: str) -> np.ndarray | None:
        """A tensor attribute, or None."""
        value = self._attributes.get(name)
        assert value is None or isinstance(value, np.ndarray)
        return value

    # inputs

    @property
    def input_count(self) -> int:
        """Number of inputs, absent ones between others included."""
        return len(self._inputs)

    def present(self, index: int) -> bool:
        """Whether input ``index`` is given."""
        return index < len(self._inputs) and self._inputs[index] is not None

    def tensor(self, index: int) -> Tensor:
        """Input ``index``, which must be given."""
        tensor = self._inputs[index] if index < len(self._inputs) else None
        if tensor is None:
            self.invalid(f"input {index} is missing")
        return tensor

    def type(self, index: int) -> TensorType:
        """Type of input ``index``, which must be given."""
        return self.tensor(index).type

    def value(self, index: int) -> Value:
        """Graph value of input ``index``, which must be given."""
        return self._builder.materialize(self.tensor(index), self.label)

    def optional(self, index: int) -> Value | None:
        """Graph value of input ``index``, or None."""
        return self.value(index) if self.present(index) else None

    def values(self) -> tuple[Value, ...]:
        """Graph values of all inputs of a variadic operator."""
        return tuple(self.value(i) for i in range(self.input_count))

    def known(self, index: int) -> np.ndarray | None:
        """The numbers of input ``index`` if they are known and do not depend on the batch size, else None."""
        tensor = self._inputs[index] if index < len(self._inputs) else None
        if tensor is None or tensor.content is None or tensor.content.symbolic:
            return None
        return tensor.content.array

    def content(self, index: int, what: str) -> np.ndarray:
        """The numbers of input ``index`` (object dtype where the batch size is among them).

        Raises:
            UnsupportedError: they are computed at run time.
            SymbolicBatchError: they are computed from shapes in a way that needs a number for the batch size.
        """
        tensor = self.tensor(index)
        if tensor.content is not None:
            return tensor.content.array
        self.require_contents([index], what)
        raise SymbolicBatchError(f"{what} depends on the batch size in a way that needs its number")

    def require_contents(self, indices: Sequence[int], what: str) -> None:
        """Refuse, naming all graph inputs concerned, if the numbers of any of these inputs are computed at run time."""
        tensors = [t for i in indices if i < len(self._inputs) and (t := self._inputs[i]) is not None]
        unknown = [t for t in tensors if t.content is None and not t.from_shape]
        if unknown:
            depends = frozenset[str]().union(*(t.depends for t in unknown))
            raise ContentUnknown(f"{what} must be known when the model is compiled, but is computed at run time", depends)

    def dims(self, index: int, what: str) -> tuple[Dim, ...]:
        """The numbers of a 1-D (or 0-D) integer input as a tuple, entries with the batch size included."""
        array = self.content(index, what)
        if array.ndim > 1:
            self.invalid(f"{what} has shape {list(array.shape)}, but must be one-dimensional")
        return tuple(v if isinstance(v, Sym) else int(v) for v in array.reshape(-1).tolist())

    def ints(self, index: int, what: str) -> tuple[int, ...]:
        """Like :meth:`dims`, but the batch size must not be among the numbers."""
        values = self.dims(index, what)
        if any(isinstance(v, Sym) for v in values):
            raise SymbolicBatchError(f"{what} depends on the batch size")
        return tuple(int(v) for v in values if not isinstance(v, Sym))

    def scalar(self, index: int, what: str) -> np.ndarray:
        """The only number of input ``index``, as a 0-D array."""
        array = self.content(index, what)
        if array.size != 1:
            self.invalid(f"{what} has shape {list(array.shape)}, but must be a single number")
        return array.reshape(())

    # outputs

    @property
    def output_count(self) -> int:
        """Number of outputs that the node declares."""
        return len(self._outputs)

    def wants(self, index: int) -> bool:
        """Whether output ``index`` is named, so that something may read it."""
        return index < len(self._outputs) and bool(self._outputs[index])

    def emit_all(self, op: Op, *inputs: Value | None) -> tuple[Value, ...]:
        """Add a node to the graph; its types are inferred and its sizes checked."""
        for type_ in op.infer(*(None if v is None else v.type for v in inputs)):
            self._builder.check_size(type_)
        return self._builder.graph.add(op, inputs, origin=(self.label,))

    def emit(self, op: Op, *inputs: Value | None) -> Value:
        """Add a node to the graph and return its first output."""
        return self.emit_all(op, *inputs)[0]

    def check_size(self, type_: TensorType) -> None:
        """Raise LimitExceededError if a tensor of this type is too large; for constants, before they are computed."""
        self._builder.check_size(type_)

    def constant(self, array: np.ndarray) -> Value:
        """A constant of the graph."""
        return self._builder.graph.constant(array)

    # refusals; the importer of the model adds node and op

    def unsupported(self, reason: str) -> NoReturn:
        """Refuse something that is valid ONNX."""
        raise UnsupportedError(reason)

    def invalid(self, reason: str) -> NoReturn:
        """Refuse something that no ONNX runtime could run."""
        raise InvalidModelError(reason)
