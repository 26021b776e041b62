"""Collects, during import, the nodes that only run time can compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from cnngraph.eager.tail import Tail, TailStep
from cnngraph.frontend.context import Tensor
from cnngraph.frontend.ordering import RawNode
from cnngraph.frontend.scope import Late, Scope
from cnngraph.ir.graph import Graph, Value

HEAVY = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "LSTM", "GRU"}
)
"""Operators whose evaluation by definition is slow enough to be worth a warning."""


class TailBuilder:
    """The tail of one import."""

    def __init__(self, functions: Sequence[onnx.FunctionProto]) -> None:
        self._functions = tuple(functions)
        self._steps: list[TailStep] = []
        self._direct: dict[str, str] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._values: dict[Value, str] = {}
        self._count = 0

    def _key(self) -> str:
        self._count += 1
        return f"t{self._count}"

    def constant(self, array: np.ndarray) -> Late:
        """A value that the compiled part cannot hold, such as strings."""
        key = self._key()
        self._constants[key] = array
        return Late(key)

    def direct(self, name: str) -> Late:
        """A graph input that only the tail reads."""
        key = self._key()
        self._direct[key] = name
        return Late(key, frozenset((name,)))

    def key_of(self, known: Tensor | Late) -> str:
        """The key under which the tail finds a value; a tensor must be materialised."""
        if isinstance(known, Late):
            return known.key
        value = known.value
        assert value is not None
        if value not in self._values:
            self._values[value] = self._key()
        return self._values[value]

    def add(self, node: RawNode, scope: Scope, operands: Mapping[str, Tensor | Late]) -> list[Late]:
        """Append a node; returns its results."""
        depends = frozenset[str]().union(*(o.depends for o in operands.values()))
        results = [Late(self._key(), depends) if name else Late("") for name in node.outputs]
        keys = tuple((name, self.key_of(known)) for name, known in operands.items())
        self._steps.append(
            TailStep(node.proto, scope.path + node.label, tuple(sorted(scope.opsets.items())), keys, tuple(r.key for r in results))
        )
        return results

    def finish(
        self,
        graph: Graph,
        results: Mapping[str, Tensor | Late],
        types: Mapping[str, tuple[str, tuple[int | str, ...]]],
        inputs: Sequence[str],
    ) -> Tail | None:
        """Add the graph outputs to ``graph``: those that it computes itself, then what the tail needs.

        Returns the tail with the steps that the outputs need, or None if it computes none of them.
        """
        outputs = {name: known.key for name, known in results.items() if isinstance(known, Late)}
        for name, known in results.items():
            if isinstance(known, Tensor):
                assert known.value is not None
                graph.add_output(name, known.value)
        if not outputs:
            return None
        needed = set(outputs.values())
        steps = []
        for step in reversed(self._steps):
            if needed.intersection(filter(None, step.results)):
                needed.update(key for _, key in step.operands)
                steps.append(step)
        feeds: dict[str, str] = {}
        constants = {key: array for key, array in self._constants.items() if key in needed}
        for value, key in self._values.items():
            if key not in needed:
                continue
            if value.data is not None:
                constants[key] = value.data
                continue
            feeds[key] = f"tail {key}"
            while feeds[key] in results:
                feeds[key] += "'"
            graph.add_output(feeds[key], value)
        direct = {key: name for key, name in self._direct.items() if key in needed}
        functions = self._functions if steps else ()
        return Tail(tuple(reversed(steps)), feeds, direct, constants, outputs, tuple(results), dict(types), functions, tuple(inputs))

    def heavy(self) -> list[str]:
        """Labels of the nodes that would deserve compiled code."""
        return [step.label for step in self._steps if step.node.op_type in HEAVY]
