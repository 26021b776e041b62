"""Function bodies: those a model defines itself, and those by which ONNX defines many of its own operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto

from cnngraph.errors import InvalidModelError, printable
from cnngraph.frontend.attributes import schema_of
from cnngraph.frontend.tensors import onnx_code, text
from cnngraph.ir.types import TensorType


class Bodies:
    """Looks up the function that a node calls."""

    def __init__(self, functions: Sequence[FunctionProto]) -> None:
        self.functions = list(functions)
        self._local = {(standard_domain(text(f.domain, "domain")), text(f.name, "function name"), f.overload): f for f in functions}

    def local(self, node: NodeProto) -> FunctionProto | None:
        """The function of the model that ``node`` calls, or None."""
        return self._local.get((standard_domain(node.domain), node.op_type, node.overload))


def schema_body(node: NodeProto, opset: int, types: Sequence[TensorType | None]) -> FunctionProto | None:
    """The function by which ONNX defines the operator of ``node`` for inputs of these types, or None."""
    schema: Any = schema_of(node.op_type, opset, node.domain)  # its stubs lack what follows
    if schema is None:
        return None
    function = FunctionProto()
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(max(versions)) if versions else b""
        if data:
            function.ParseFromString(data)
            return function
    if schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        protos = [onnx.TypeProto() if t is None else type_proto(t) for t in types]
        arguments = node.SerializeToString(), [proto.SerializeToString() for proto in protos]
        data = schema.get_context_dependent_function_with_opset_version(max(versions), *arguments) if versions else b""
        if data:
            function.ParseFromString(data)
            return function
    return None


def has_schema_body(op: str, opset: int, domain: str = "") -> bool:
    """Whether ONNX defines the operator by a function, at least for some inputs."""
    schema: Any = schema_of(op, opset, domain)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


def type_proto(type_: TensorType) -> onnx.TypeProto:
    """ONNX's description of a tensor type; the batch size is called N."""
    dims = [dim if isinstance(dim, int) else str(dim) for dim in type_.shape]
    return onnx.helper.make_tensor_type_proto(onnx_code(type_.dtype), dims)


def function_opsets(function: FunctionProto, around: Mapping[str, int]) -> dict[str, int]:
    """The operator sets in which a body is written; what it does not say is as at the call."""
    return {**around, **{standard_domain(entry.domain): int(entry.version) for entry in function.opset_import}}


def standard_domain(domain: str) -> str:
    """The standard domain has two spellings."""
    return "" if domain == "ai.onnx" else domain


def call_attributes(node: NodeProto, function: FunctionProto) -> dict[str, AttributeProto]:
    """The attributes that the body of ``function`` can refer to: those of the call, then defaults.

    For ONNX's own operators the defaults of the schema are filled in too.
    """
    out = {a.name: a for a in function.attribute_proto}
    schema = schema_of(node.op_type, function_opsets(function, {"": 1 << 20}).get("", 1), node.domain)
    if schema is not None:
        out |= {name: spec.default_value for name, spec in schema.attributes.items() if spec.default_value.type}
    return out | {a.name: a for a in node.attribute}


def resolve_references(node: NodeProto, attributes: Mapping[str, AttributeProto]) -> NodeProto:
    """``node`` with every reference to an attribute of the function around it replaced by its value; absent ones vanish."""
    if not _refers(node):
        return node
    out = NodeProto()
    out.CopyFrom(node)
    del out.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            given = attributes.get(attribute.ref_attr_name)
            if given is None:
                continue
            if attribute.type and given.type != attribute.type:
                raise InvalidModelError(f"attribute '{printable(attribute.name)}' refers to one of another type")
            copy = out.attribute.add()
            copy.CopyFrom(given)
            copy.name = attribute.name
            continue
        copy = out.attribute.add()
        copy.CopyFrom(attribute)
        for graph in (copy.g, *copy.graphs) if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) else ():
            nodes = [resolve_references(inner, attributes) for inner in graph.node]
            del graph.node[:]
            graph.node.extend(nodes)
    return out


def _refers(node: NodeProto) -> bool:
    return any(
        a.ref_attr_name
        or (a.type == AttributeProto.GRAPH and any(map(_refers, a.g.node)))
        or (a.type == AttributeProto.GRAPHS and any(_refers(n) for g in a.graphs for n in g.node))
        for a in node.attribute
    )
