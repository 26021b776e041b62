"""What the importer made of one node, kept for the next run with inputs of the same types.

An importer may look at the numbers of some inputs (a shape, axes). Those are noted, and the plan is used again only while they
are the same; the other inputs are fed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from cnngraph.errors import InvalidInputError
from cnngraph.frontend.contents import Content
from cnngraph.frontend.context import Tensor
from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.interpret import interpret_values
from cnngraph.ir.types import TensorType, static
from cnngraph.options import Limits

MOST_PLANS = 4096
"""Plans that an evaluator keeps; the one unused for longest goes first."""


class WatchedTensor(Tensor):
    """An input whose numbers are known, and which remembers whether anybody asked for them."""

    def __init__(self, type_: TensorType, value: Value, array: np.ndarray) -> None:
        self.seen = False
        self._content = Content(array, type_.dtype)
        super().__init__(type_, value)

    @property
    def content(self) -> Content:
        """The numbers; reading them makes the plan depend on them."""
        self.seen = True
        return self._content

    @content.setter
    def content(self, given: Content | None) -> None:
        """Tensor's own initialiser sets None here."""


class Bench:
    """The builder of a single node: its inputs, then the operators that an importer makes of it."""

    def __init__(self, limits: Limits) -> None:
        self.graph = Graph("node")
        self._limits = limits

    def tensor(self, index: int, array: np.ndarray, type_: TensorType) -> WatchedTensor:
        """Input ``index``."""
        return WatchedTensor(type_, self.graph.add_input(str(index), type_), array)

    def materialize(self, tensor: Tensor, origin: str) -> Value:
        """The graph value of an input."""
        assert tensor.value is not None
        return tensor.value

    def check_size(self, type_: TensorType) -> None:
        """Raise InvalidInputError if a tensor of this type is too large."""
        nbytes = int(np.prod(static(type_.shape), dtype=object)) * type_.dtype.itemsize
        if nbytes > self._limits.max_tensor_bytes:
            raise InvalidInputError(f"a tensor {type_} has {nbytes} bytes; the limit is {self._limits.max_tensor_bytes}")


@dataclass(frozen=True)
class Plan:
    """The operators of one node for inputs of certain types.

    Attributes:
        node: kept alive, because plans are found by its identity.
        graph: inputs are called by their index.
        values: what stands for every output, None where absent.
        seen: copies of the inputs whose numbers the plan depends on, by index.
    """

    node: onnx.NodeProto
    graph: Graph
    values: tuple[Value | None, ...]
    seen: dict[int, np.ndarray]

    def fits(self, inputs: Sequence[Any]) -> bool:
        """Whether the numbers that the plan depends on are these."""
        return all(np.array_equal(np.asarray(inputs[index]), array) for index, array in self.seen.items())

    def run(self, inputs: Sequence[Any]) -> list[np.ndarray | None]:
        """The outputs."""
        feeds = {name: np.asarray(inputs[int(name)]) for name, _ in self.graph.inputs}
        present = [v for v in self.values if v is not None]
        arrays = dict(zip(present, interpret_values(self.graph, feeds, present), strict=True))
        return [None if v is None else np.asarray(arrays[v]).astype(v.type.dtype.numpy, copy=False) for v in self.values]


class Plans:
    """Plans by node, operator set and input types."""

    def __init__(self) -> None:
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()

    def find(self, node: onnx.NodeProto, opset: int, types: Sequence[TensorType | None], inputs: Sequence[Any]) -> Plan | None:
        """A plan for these inputs, or None."""
        key = (id(node), opset, *types)
        plan = self._plans.get(key)
        if plan is None or plan.node is not node or not plan.fits(inputs):
            return None
        self._plans.move_to_end(key)
        return plan

    def keep(self, plan: Plan, opset: int, types: Sequence[TensorType | None]) -> None:
        """Remember ``plan``."""
        self._plans[id(plan.node), opset, *types] = plan
        while len(self._plans) > MOST_PLANS:
            self._plans.popitem(last=False)
