"""Importing the nodes of one body - the model's graph, a subgraph, a function - into the graph, or deferring them to the tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

import cnngraph.frontend.importers  # noqa: F401  registers every importer
from cnngraph.eager.registry import EAGER
from cnngraph.errors import CnngraphError, InternalError, InvalidModelError, LimitExceededError, Problem, UnsupportedError, printable
from cnngraph.frontend.attributes import check_arity, check_input_types, decode_attributes, schema_of
from cnngraph.frontend.bodies import Bodies, call_attributes, function_opsets, has_schema_body, resolve_references, schema_body
from cnngraph.frontend.contents import SMALL, Content, evaluate
from cnngraph.frontend.context import ContentUnknown, NodeContext, Tensor
from cnngraph.frontend.control_flow import CONTROL_FLOW
from cnngraph.frontend.importers.shape import shape_contents
from cnngraph.frontend.ordering import RawNode, order_nodes, raw_nodes
from cnngraph.frontend.registry import NEWEST_OPSET, find_importer
from cnngraph.frontend.scope import Known, Late, Parts, Scope, captured
from cnngraph.frontend.sequences import SEQUENCES
from cnngraph.frontend.tail_builder import TailBuilder
from cnngraph.frontend.tensors import TensorReader, stored_name
from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.types import DType, Sym, SymbolicBatchError, TensorType, numel, per_image
from cnngraph.ops.base import Op
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.expression import Expression
from cnngraph.ops.movement import Cast, Reshape, Shape
from cnngraph.options import Limits

_IN_SHAPE_ARITHMETIC = frozenset({"NonZero"})
"""Operators of the tail by which exporters compute shapes: rather than that all behind them runs in the tail too, the model is
compiled for a batch size, or for the contents of a small graph input."""


class NodeImporter:
    """Imports nodes into ``graph``; what only run time can compute goes to ``tail``. Refusals are collected.

    Attributes:
        graph: receives the nodes.
        tail: receives what is deferred to run time.
        problems: places that need something which is lacking.
        needed: graph inputs whose contents would make all of ``problems`` go away, if ``only_contents``.
        batch_problem: the first node that needs a number for the batch size, and why.
        shape_like: graph inputs so small that a program may be compiled for their contents.
    """

    def __init__(self, reader: TensorReader, limits: Limits, bodies: Bodies) -> None:
        self.graph = Graph()
        self.reader = reader
        self.limits = limits
        self.bodies = bodies
        self.tail = TailBuilder(bodies.functions)
        self.problems: list[Problem] = []
        self.needed: dict[str, None] = {}
        self.only_contents = True
        self.batch_problem: tuple[str, str] | None = None
        self.shape_like: set[str] = set()
        self._count = 0

    # bodies

    def body(self, graph: onnx.GraphProto, scope: Scope) -> list[Known]:
        """Import the nodes of a subgraph whose inputs ``scope`` already holds; returns what its outputs are."""
        for proto in (*graph.initializer, *graph.sparse_initializer):
            if (name := stored_name(proto)) not in scope.tensors:
                scope[name] = self.initializer(proto, scope.path)
        outputs = [info.name for info in graph.output]
        self.nodes(raw_nodes(graph.node), scope, outputs)
        return [scope[name] for name in outputs]

    def nodes(self, nodes: Sequence[RawNode], scope: Scope, outputs: Sequence[str]) -> None:
        """Import ``nodes`` in topological order."""
        made = {name for node in nodes for name in node.outputs}
        wanted = {name for node in nodes for name in (*node.inputs, *captured(node.proto))} | set(outputs)
        given = {name for name in wanted if name in scope and (name in scope.tensors or name not in made)}
        for node in order_nodes(nodes, given | set(scope.tensors), outputs):
            self.node(node, scope)

    def call(self, node: RawNode, scope: Scope, function: onnx.FunctionProto, inputs: Sequence[Known]) -> list[Known]:
        """Import the body of ``function`` in place of ``node``."""
        label = scope.path + node.label
        if len(inputs) > len(function.input) or len(node.outputs) > len(function.output):
            raise InvalidModelError(f"the function {printable(function.name)} has fewer inputs or outputs than the node", node=label)
        inner = scope.function(label, function_opsets(function, scope.opsets))
        absent: set[str] = set()
        for index, name in enumerate(function.input):
            if index < len(inputs) and node.inputs[index]:
                inner[name] = inputs[index]
            else:
                absent.add(name)
        attributes = call_attributes(node.proto, function)
        raw = [_without(resolve_references(proto, attributes), absent) for proto in function.node]
        wanted = [name if outer else "" for name, outer in zip(function.output, node.outputs, strict=False)]
        self.nodes(raw_nodes(raw), inner, list(filter(None, wanted)))
        return [inner[name] if name else None for name in wanted]

    def initializer(self, proto: onnx.TensorProto | onnx.SparseTensorProto, path: str = "") -> Known:
        """A stored tensor, dense from here on; strings are known to the tail only."""
        name = stored_name(proto)
        try:
            if isinstance(proto, onnx.SparseTensorProto):
                return self.constant(self.reader.decode_sparse(proto), path + name)
            if proto.data_type == onnx.TensorProto.STRING:
                return self.tail.constant(self.reader.decode_strings(proto))
            return self.constant(self.reader.decode(proto), path + name)
        except UnsupportedError as error:
            self.refuse(path + name, "initializer", str(error))
            return None
        except (InvalidModelError, LimitExceededError) as error:
            raise type(error)(f"initializer '{printable(name)}': {error}") from error

    def constant(self, array: np.ndarray, name: str = "") -> Tensor:
        """A tensor of known numbers."""
        value = self.graph.constant(array, (name,) if name else ())
        assert value.data is not None
        return Tensor(value.type, value, Content(value.data, value.type.dtype))

    # one node

    def unknown_reason(self, node: RawNode, opset: int) -> str | None:
        """Why nodes like this cannot be imported at all, or None."""
        if self.bodies.local(node.proto) is not None:
            return None
        if node.standard and schema_of(node.op, opset) is None:
            return f"does not exist in operator set {opset}"
        known = find_importer(node.op, opset) is not None or node.op in EAGER or node.op in CONTROL_FLOW
        return None if known or has_schema_body(node.proto.op_type, opset, node.proto.domain) else "this operator is not supported"

    def node(self, node: RawNode, scope: Scope) -> None:
        """Import one node of ``scope``; its outputs become names of that scope."""
        label = scope.path + node.label
        self._count += 1
        if self._count > self.limits.max_nodes:
            raise LimitExceededError(
                f"with functions and loops unrolled, the model has more than {self.limits.max_nodes} nodes", node=label
            )
        reason = self.unknown_reason(node, scope.opsets.get(node.proto.domain if not node.standard else "", scope.opset))
        if reason is not None:
            self.refuse(label, node.op, reason)
            return self._poison(node, scope)
        inputs = [scope[name] if name else None for name in node.inputs]
        around = {name: scope[name] for name in captured(node.proto) if name in scope}
        if any(t is None and name for t, name in zip(inputs, node.inputs, strict=True)) or None in around.values():
            return self._poison(node, scope)
        try:
            self._bind(node, scope, self._import(node, scope, inputs, around))
        except ContentUnknown as error:
            if error.depends and error.depends <= self.shape_like:
                self.needed.update(dict.fromkeys(sorted(error.depends)))
                self.problems.append(Problem(label, node.op, str(error)))
                self._poison(node, scope)
            else:
                self._bind(node, scope, self.defer(node, scope))
        except UnsupportedError as error:
            self.refuse(label, node.op, str(error))
            self._poison(node, scope)
        except SymbolicBatchError as error:
            self.batch_problem = self.batch_problem or (label, f"{node.op}: {error}")
            self._poison(node, scope)
        except CnngraphError as error:
            raise (error if error.node is not None else type(error)(f"{node.op}: {error}", node=label)) from error
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise InternalError(f"{node.op}: importing this node failed: {printable(str(error))}", node=label) from error

    def _import(self, node: RawNode, scope: Scope, inputs: list[Known], around: Mapping[str, Known]) -> Sequence[Known]:
        function = self.bodies.local(node.proto)
        if function is not None:
            return self.call(node, scope, function, inputs)
        if node.op in CONTROL_FLOW:
            unrolled = CONTROL_FLOW[node.op](self, node, scope, inputs)
            return self.defer(node, scope) if unrolled is None else unrolled
        if node.op in SEQUENCES:
            followed = SEQUENCES[node.op](self, node, scope, inputs)
            return self.defer(node, scope) if followed is None else followed
        if node.op == "Identity" and isinstance(inputs[0], Parts):
            return inputs
        if any(isinstance(t, (Late, Parts)) for t in (*inputs, *around.values())):
            return self.defer(node, scope)
        tensors = [t if isinstance(t, Tensor) else None for t in inputs]
        opset = scope.opset if node.standard else scope.opsets.get(node.proto.domain, 1)
        if find_importer(node.op, scope.opset) is None:
            if node.op in EAGER:
                return self._run_time_only(node, scope, tensors)
            body = schema_body(node.proto, opset, [None if t is None else t.type for t in tensors])
            if body is None:
                raise UnsupportedError("this operator is not supported for these inputs")
            return self.call(node, scope, body, inputs)
        return self._convert(node, scope, tensors)

    def _convert(self, node: RawNode, scope: Scope, inputs: list[Tensor | None]) -> Sequence[Known]:
        schema = schema_of(node.op, scope.opset) if node.standard else None
        attributes = decode_attributes(node.proto, schema, self.reader)
        if schema is not None:
            check_arity(node.proto, schema)
            check_input_types(schema, [None if t is None else t.type for t in inputs])
        ctx = NodeContext(self, node.op, scope.opset, scope.path + node.label, attributes, inputs, node.outputs)
        known = self._evaluate(ctx, inputs)
        if known is not None:
            return [self._known(content, node, i) for i, content in enumerate(known)]
        function = find_importer(node.op, scope.opset)
        assert function is not None
        before = len(self.graph)
        made = function(ctx)
        values = made if isinstance(made, tuple) else (made,)
        quantized = node.op.rpartition("::")[2] == "DequantizeLinear"  # its integers are wanted by the pass fuse_qdq
        if not quantized and all(value is None or (value.data is None and _is_small(value.type)) for value in values):
            computed = self._now(node, scope, inputs)
            if computed is not None:
                for emitted in reversed(self.graph.nodes[before:]):
                    self.graph.erase(emitted)
                return computed
        present = [t for t in inputs if t is not None]
        depends = frozenset[str]().union(*(t.depends for t in present))
        from_shape = bool(present) and all(t.content is not None or t.from_shape for t in present) and any(t.from_shape for t in present)
        tensors: list[Tensor | None] = []
        for index, name in enumerate(node.outputs):
            value = values[index] if index < len(values) else None
            if value is None:
                if name:
                    raise UnsupportedError(f"output {index} is not supported")
                tensors.append(None)
                continue
            if name and not scope.depth and name not in value.names:
                value.names = (*value.names, name)
            content = Content(value.data, value.type.dtype) if value.data is not None else None
            if quantized and numel(value.type.shape) == 1:  # a padding value or a bound, which importers ask for
                computed = self._now(node, scope, inputs)
                number = computed[0] if computed else None
                content = number.content if isinstance(number, Tensor) else None
            tensors.append(Tensor(value.type, value, content, from_shape, depends))
        return tensors

    def _run_time_only(self, node: RawNode, scope: Scope, inputs: Sequence[Tensor | None]) -> Sequence[Known]:
        """The results of an operator that has no static form: at once if its inputs are known, else in the tail.

        Raises:
            SymbolicBatchError: shapes are computed from a NonZero that needs a number for the batch size.
            ContentUnknown: they are computed from a NonZero of what the tail would have to compute.
        """
        schema = schema_of(node.op, scope.opset)
        if schema is not None:
            check_arity(node.proto, schema)
        computed = self._now(node, scope, inputs)
        if computed is None and node.op in _IN_SHAPE_ARITHMETIC:
            present = [t for t in inputs if t is not None]
            if all(t.content is not None or t.from_shape for t in present):
                raise SymbolicBatchError("the result is not a multiple of the batch size")
            depends = frozenset[str]().union(*(t.depends for t in present if t.content is None))
            raise ContentUnknown("this operator's result has a shape that is only known at run time", depends)
        return self.defer(node, scope) if computed is None else computed

    def _evaluate(self, ctx: NodeContext, inputs: Sequence[Tensor | None]) -> list[Content] | None:
        """Contents of the outputs, if they are known; also for Shape, whose input need not be."""
        if ctx.op in ("Shape", "Size"):
            return shape_contents(ctx)
        contents = [None if t is None else t.content for t in inputs]
        if not inputs or any(t is not None and c is None for t, c in zip(inputs, contents, strict=True)):
            return None
        try:
            return evaluate(ctx, contents, self.limits.max_fold_bytes)
        except SymbolicBatchError:
            return None
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidModelError(f"the inputs contradict each other: {printable(str(error))}") from error

    def _known(self, content: Content, node: RawNode, index: int) -> Tensor:
        type_ = TensorType(content.dtype, content.array.shape)
        if content.symbolic:
            return Tensor(type_, None, content, from_shape=True)
        name = node.outputs[index] if index < len(node.outputs) else ""
        value = self.graph.constant(content.array, (name,) if name else ())
        assert value.data is not None
        return Tensor(type_, value, Content(value.data, content.dtype))

    def _now(self, node: RawNode, scope: Scope, inputs: Sequence[Tensor | None]) -> list[Known] | None:
        """The results of a node of the tail whose inputs are all known and small, or None."""
        from cnngraph.eager.evaluate import Evaluator, Frame

        contents = [None if t is None else t.content for t in inputs]
        present = [c for c in contents if c is not None]
        if not present or len(present) != sum(t is not None for t in inputs):
            return None
        if any(c.symbolic or c.array.size > SMALL for c in present) or captured(node.proto):
            return None
        frame = Frame(scope.opsets, {name: c.array for name, c in zip(node.inputs, contents, strict=True) if c is not None})
        results = Evaluator(self.bodies, self.limits).node(node.proto, frame, scope.path + node.label)
        if not all(isinstance(r, np.ndarray) and r.dtype != object for r in results):
            return None
        return [self.constant(r) for r in results]

    def defer(self, node: RawNode, scope: Scope) -> list[Late]:
        """Leave ``node`` to the tail, which computes it at run time."""
        names = {name for name in (*node.inputs, *captured(node.proto)) if name and name in scope}
        operands: dict[str, Tensor | Late] = {}
        for name in sorted(names):
            known = scope[name]
            if known is None:
                raise InternalError(f"'{printable(name)}' was refused", node=scope.path + node.label)
            if isinstance(known, Tensor):
                self.materialize(known, scope.path + node.label)
            operands[name] = self.late(known, scope) if isinstance(known, Parts) else known
        return self.tail.add(node, scope, operands)

    def late(self, sequence: Parts, scope: Scope) -> Late:
        """``sequence`` as the tail knows it."""
        if sequence.late is None:
            names = [f"x{i}" for i in range(len(sequence.tensors))]
            inner = scope.function(scope.path + "sequence", {"": NEWEST_OPSET})
            inner.tensors.update(zip(names, sequence.tensors, strict=True))
            (made,) = raw_nodes([helper.make_node("SequenceConstruct" if names else "SequenceEmpty", names, ["y"])])
            (sequence.late,) = self.defer(made, inner)
        return sequence.late

    def _bind(self, node: RawNode, scope: Scope, results: Sequence[Known]) -> None:
        for index, name in enumerate(node.outputs):
            if not name:
                continue
            if index >= len(results):
                raise UnsupportedError(f"output {index} is not supported")
            scope[name] = results[index]

    def _poison(self, node: RawNode, scope: Scope) -> None:
        for name in filter(None, node.outputs):
            scope[name] = None

    def refuse(self, node: str, op: str, reason: str) -> None:
        """Note something that is lacking; the import goes on, to list all of it."""
        self.only_contents = False
        self.problems.append(Problem(node, op, reason))

    # what node contexts use

    def check_size(self, type_: TensorType) -> None:
        """Refuse a tensor (for one image, if the batch is symbolic) that is too large."""
        nbytes = per_image(numel(type_.shape)) * type_.dtype.itemsize
        if nbytes > self.limits.max_tensor_bytes:
            raise LimitExceededError(f"a tensor {type_} has {nbytes} bytes; the limit is {self.limits.max_tensor_bytes}")
        if type_.rank > self.limits.max_rank:
            raise LimitExceededError(f"a tensor has {type_.rank} axes; the limit is {self.limits.max_rank}")

    def materialize(self, tensor: Tensor, origin: str) -> Value:
        """The value of ``tensor``; known numbers a + b*N are computed from the shape of a graph input."""
        if tensor.value is None:
            assert tensor.content is not None
            tensor.value = self._from_batch(tensor.content, origin)
        return tensor.value

    def _from_batch(self, content: Content, origin: str) -> Value:
        source = next(v for _, v in self.graph.inputs if v.type.rank and v.type.shape[0] == Sym(1))

        def add(op: Op, *inputs: Value) -> Value:
            return self.graph.add(op, inputs, origin=(origin,))[0]

        shape: tuple[int, ...] = content.array.shape
        scale = np.array([v.scale if isinstance(v, Sym) else 0 for v in content.array.flat], np.int64).reshape(shape)
        offset = np.array([0 if isinstance(v, Sym) else int(v) for v in content.array.flat], np.int64).reshape(shape)
        value = add(Shape(0, 1), source)
        if scale.shape != (1,) or scale[0] != 1:
            value = add(Elementwise(Expression.of("mul", 2)), value, self.graph.constant(scale))
        if offset.any():
            value = add(Elementwise(Expression.of("add", 2)), value, self.graph.constant(offset))
        if value.type.shape != shape:
            value = add(Reshape(shape), value)
        return value if content.dtype is DType.I64 else add(Cast(content.dtype), value)


def _is_small(type_: TensorType) -> bool:
    elements = numel(type_.shape)
    return isinstance(elements, int) and elements <= SMALL


def _without(node: onnx.NodeProto, absent: set[str]) -> onnx.NodeProto:
    """``node`` with the inputs called ``absent`` left out: formal inputs of a function that the call does not give."""
    if not absent.intersection(node.input):
        return node
    out = onnx.NodeProto()
    out.CopyFrom(node)
    out.input[:] = ["" if name in absent else name for name in node.input]
    while out.input and not out.input[-1]:
        out.input.pop()
    return out
