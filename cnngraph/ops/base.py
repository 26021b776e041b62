"""What an operator is: frozen attributes, type inference, a slow and obvious NumPy reference, and a cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from cnngraph.errors import InvalidModelError
from cnngraph.ir.types import Sym, TensorType

REGISTRY: dict[str, type[Op]] = {}


@dataclass(frozen=True)
class Cost:
    """Work of one node for one image (``per image`` when the batch is symbolic).

    Attributes:
        macs: multiply-adds of convolutions and dense layers, bias excluded.
        flops: all other arithmetic operations, roughly.
    """

    macs: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Op:
    """Base of all operators. A subclass is a frozen dataclass whose fields are the attributes, all resolved at import.

    Every subclass with a ``name`` registers itself, so that artifacts and tools can find it by that name.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            REGISTRY[cls.name] = cls

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        """Types of the outputs, logical shapes and PLAIN layout.

        Raises:
            InvalidModelError: attributes and input types contradict each other; the message gives the shapes.
        """
        raise TypeError(f"{type(self).__name__} defines no inference")

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Outputs by definition, on logical arrays. Never optimised; float inputs may be float64.

        Call on a bound op (:meth:`bind`): attributes hold no symbolic batch here.
        """
        raise TypeError(f"{type(self).__name__} defines no reference")

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        """Arithmetic per image. The default counts nothing."""
        return Cost()

    def bind(self, batch: int) -> Self:
        """This op with every symbolic dimension among its attributes replaced for batch size ``batch``."""
        changes = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            bound = _bind(value, batch)
            if bound is not value:
                changes[field.name] = bound
        return dataclasses.replace(self, **changes) if changes else self


def _bind(value: Any, batch: int) -> Any:
    if isinstance(value, Sym):
        return value.scale * batch
    if isinstance(value, tuple):
        bound = tuple(_bind(v, batch) for v in value)
        return bound if any(a is not b for a, b in zip(bound, value, strict=True)) else value
    return value


def require(condition: object, message: str) -> None:
    """Raise InvalidModelError with ``message`` unless ``condition`` holds; the importer adds the node's name."""
    if not condition:
        raise InvalidModelError(message)


def needed(type_: TensorType | None, what: str) -> TensorType:
    """``type_``, or InvalidModelError if the input ``what`` is missing."""
    if type_ is None:
        raise InvalidModelError(f"input {what} is missing")
    return type_


def normalize_axis(axis: int, rank: int) -> int:
    """``axis`` in [0, rank); raises InvalidModelError if it is outside [-rank, rank)."""
    require(-rank <= axis < rank, f"axis {axis} is outside a tensor of rank {rank}")
    return axis % rank
