"""Operators that run by their NumPy reference inside a program: their form as data, and their execution."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from cnngraph.errors import ArtifactError
from cnngraph.ir.types import DType, Layout, Sym
from cnngraph.ops.base import REGISTRY, Op
from cnngraph.ops.expression import Expression, Instr

_CLASSES = {"Sym": Sym, "Layout": Layout, "Expression": Expression, "Instr": Instr}


def encode(op: Op) -> dict[str, Any]:
    """The operator as JSON-able data."""
    return {"op": op.name, "fields": {f.name: _encode(getattr(op, f.name)) for f in dataclasses.fields(op)}}


def decode(data: dict[str, Any]) -> Op:
    """The operator again; ArtifactError if the data describes none."""
    import cnngraph.ops  # noqa: F401  registers every operator

    try:
        return REGISTRY[data["op"]](**{name: _decode(value) for name, value in data["fields"].items()})
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the artifact holds an unknown operator: {error}") from error


def _encode(value: Any) -> Any:
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, enum.Enum):
        return {"dtype": value.value}
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return {"float": str(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__, "fields": {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}}
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_decode(v) for v in value["tuple"])
    if "dtype" in value:
        return DType(value["dtype"])
    if "float" in value:
        return float(value["float"])
    return _CLASSES[value["class"]](**{name: _decode(v) for name, v in value["fields"].items()})
