"""Attributes of ONNX nodes, decoded and checked against the operator's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto
from onnx.defs import OpSchema

from cnngraph.errors import InvalidModelError, UnsupportedError, printable
from cnngraph.frontend.tensors import TensorReader, schema_name, text
from cnngraph.ir.types import TensorType

Attribute = int | float | str | np.ndarray | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

_UNSUPPORTED_KINDS = {
    AttributeProto.GRAPH: "a subgraph",
    AttributeProto.GRAPHS: "subgraphs",
    AttributeProto.TENSORS: "a list of tensors",
    AttributeProto.SPARSE_TENSORS: "sparse tensors",
    AttributeProto.TYPE_PROTO: "a type",
    AttributeProto.TYPE_PROTOS: "types",
}


_KIND_OF = {name: int(number) for name, number in AttributeProto.AttributeType.items()}


def schema_of(op: str, opset: int, domain: str = "") -> OpSchema | None:
    """The schema that is valid for ``op`` of ``domain`` (default: the standard one) in operator set ``opset``, or None."""
    try:
        return onnx.defs.get_schema(op, opset, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return None


def decode_attributes(node: onnx.NodeProto, schema: OpSchema | None, tensors: TensorReader) -> dict[str, Attribute]:
    """The attributes of ``node`` by name; without a schema (operators of other domains) their kinds are left to the importer.

    Raises:
        InvalidModelError: a name that the schema lacks, a wrong type, the same name twice, or a required one missing.
        UnsupportedError: subgraphs, sparse tensors and the like.
    """
    specs = {} if schema is None else schema.attributes
    known = {name: _KIND_OF[str(spec.type).rpartition(".")[2]] for name, spec in specs.items()}
    out: dict[str, Attribute] = {}
    for attribute in node.attribute:
        name = text(attribute.name, "attribute name")
        if name in out:
            raise InvalidModelError(f"attribute '{printable(name)}' is given twice")
        if schema is not None and name not in known:
            raise InvalidModelError(
                f"attribute '{printable(name)}' does not exist in {schema.name} since operator set {schema.since_version}"
            )
        if attribute.ref_attr_name:
            raise InvalidModelError(f"attribute '{name}' refers to a function's attribute outside a function")
        if schema is not None and attribute.type != known[name]:
            names = AttributeProto.AttributeType
            given = names.Name(attribute.type) if attribute.type in names.values() else attribute.type
            raise InvalidModelError(f"attribute '{name}' has type {given}, but must be {names.Name(known[name])}")
        out[name] = _decode(attribute, name, tensors)
    missing = [name for name, spec in specs.items() if spec.required and name not in out]
    if missing:
        raise InvalidModelError(f"attribute '{missing[0]}' is missing")
    return out


def _decode(attribute: onnx.AttributeProto, name: str, tensors: TensorReader) -> Attribute:
    kind = attribute.type
    what = f"attribute '{name}'"
    if kind in _UNSUPPORTED_KINDS:
        raise UnsupportedError(f"{what} holds {_UNSUPPORTED_KINDS[kind]}, which is not supported")
    if kind == AttributeProto.INT:
        return int(attribute.i)
    if kind == AttributeProto.FLOAT:
        return float(attribute.f)
    if kind == AttributeProto.STRING:
        return text(attribute.s, what)
    if kind == AttributeProto.INTS:
        return tuple(int(i) for i in attribute.ints)
    if kind == AttributeProto.FLOATS:
        return tuple(float(f) for f in attribute.floats)
    if kind == AttributeProto.STRINGS:
        return tuple(text(s, what) for s in attribute.strings)
    if kind == AttributeProto.SPARSE_TENSOR:
        return tensors.decode_sparse(attribute.sparse_tensor)
    return tensors.decode(attribute.t)


def check_arity(node: onnx.NodeProto, schema: OpSchema) -> None:
    """Refuse too few or too many inputs and outputs, and missing inputs that the schema requires."""
    if not schema.min_input <= len(node.input) <= schema.max_input:
        raise InvalidModelError(f"{len(node.input)} inputs; {schema.name} takes {_range(schema.min_input, schema.max_input)}")
    if not schema.min_output <= len(node.output) <= schema.max_output:
        raise InvalidModelError(f"{len(node.output)} outputs; {schema.name} has {_range(schema.min_output, schema.max_output)}")
    for index, name in enumerate(node.input):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        if not name and formal.option != OpSchema.FormalParameterOption.Optional:
            raise InvalidModelError(f"input {index} ('{formal.name}') of {schema.name} is missing")


def _range(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low} to {high}" if high < 1 << 30 else f"at least {low}"


def check_input_types(schema: OpSchema, types: Sequence[TensorType | None]) -> None:
    """Refuse element types that the operator's schema does not allow, and unequal types where it wants equal ones."""
    allowed: dict[str, Any] = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    bound: dict[str, TensorType] = {}
    for index, type_ in enumerate(types):
        if type_ is None:
            continue
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        variable = formal.type_str
        if schema_name(type_.dtype) not in allowed.get(variable, (variable,)):
            raise InvalidModelError(
                f"input {index} ('{formal.name}') has type {type_.dtype.value}, "
                f"which {schema.name} does not take since operator set {schema.since_version}"
            )
        if variable in allowed and formal.is_homogeneous and bound.setdefault(variable, type_).dtype is not type_.dtype:
            raise InvalidModelError(
                f"input {index} ('{formal.name}') has type {type_.dtype.value}, another has {bound[variable].dtype.value}"
            )
