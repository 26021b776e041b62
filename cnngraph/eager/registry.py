"""Operators that exist at run time only: their results' shapes depend on data, or their values are no tensors of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import onnx

from cnngraph.errors import InvalidInputError

Datum = Any
"""A NumPy array (object dtype for strings), a list (a sequence), or None (an empty optional)."""


class Call(Protocol):
    """One node being evaluated.

    Attributes:
        op: operator type, with its domain outside the standard one.
        opset: version of the standard operator set.
        inputs: the values, None where absent.
        output_count: number of outputs that the node names.
    """

    op: str
    opset: int
    inputs: Sequence[Datum]
    output_count: int

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: int, float, str, array, tuple, or a GraphProto."""
        ...

    def run(self, graph: onnx.GraphProto, arguments: Sequence[Datum]) -> list[Datum]:
        """Evaluate a subgraph of the node."""
        ...

    def node(self, op: str, inputs: Sequence[Datum], **attributes: Any) -> list[Datum]:
        """Evaluate another operator of the standard domain on values."""
        ...

    def array(self, index: int) -> np.ndarray:
        """Input ``index``, which must be a tensor."""
        ...


Function = Callable[[Call], "Datum | tuple[Datum, ...]"]

EAGER: dict[str, Function] = {}


def eager(*ops: str) -> Callable[[Function], Function]:
    """Register the function that evaluates the ONNX operators ``ops``; several results are returned as a tuple."""

    def register(function: Function) -> Function:
        for op in ops:
            EAGER[op] = function
        return function

    return register


def scalar(value: Datum, what: str) -> Any:
    """The only element of a tensor; raises InvalidInputError if it has another number of elements."""
    array = np.asarray(value)
    if array.size != 1:
        raise InvalidInputError(f"{what} must be a single number, not a tensor of shape {list(array.shape)}")
    return array.reshape(())[()]


import cnngraph.eager.functions  # noqa: E402, F401  registers every function
