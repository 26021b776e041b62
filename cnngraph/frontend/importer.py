"""From an ONNX model to a :class:`~cnngraph.ir.graph.Graph`: everything is checked, every refusal names the node."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import onnx

import cnngraph.frontend.importers  # noqa: F401  registers every importer
from cnngraph.errors import (
    CnngraphError,
    InternalError,
    InvalidModelError,
    LimitExceededError,
    Problem,
    UnsupportedError,
    UsageError,
    printable,
)
from cnngraph.frontend.attributes import check_arity, check_input_types, decode_attributes, schema_of
from cnngraph.frontend.contents import Content, evaluate
from cnngraph.frontend.context import ContentUnknown, NodeContext, Tensor
from cnngraph.frontend.errors import BatchNotSymbolicError, ContentsNeededError, DeclaredShape
from cnngraph.frontend.importers.shape import shape_contents
from cnngraph.frontend.ordering import RawNode, order_nodes, raw_nodes
from cnngraph.frontend.reader import Source, read_model
from cnngraph.frontend.registry import NEWEST_OPSET, OLDEST_OPSET, find_importer, is_known
from cnngraph.frontend.signature import RequestedShape, declared_type, resolve_inputs
from cnngraph.frontend.tensors import TensorReader, text
from cnngraph.ir.graph import Graph, Value
from cnngraph.ir.types import DType, Sym, SymbolicBatchError, TensorType, numel, per_image
from cnngraph.ops.base import Op
from cnngraph.ops.elementwise import Elementwise
from cnngraph.ops.expression import Expression
from cnngraph.ops.movement import Cast, Reshape, Shape
from cnngraph.options import Limits

logger = logging.getLogger(__name__)


def import_model(
    source: Source,
    *,
    shapes: Mapping[str, RequestedShape] | None = None,
    batch: int | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    limits: Limits | None = None,
) -> Graph:
    """Import an ONNX model (operator set 7 or newer).

    The leading dimension of every graph input that the model leaves free becomes the batch size N, which stays symbolic.

    Args:
        source: path of a model file, its bytes, or a parsed model. Only a path can have external data.
        shapes: dimensions of inputs, by input name; None or a name leaves one as the model declares it, or free if it leads.
        batch: fixes N.
        constants: arrays for graph inputs that then stop being inputs; for models whose shapes depend on them.
        limits: sizes that are refused; default :class:`~cnngraph.options.Limits`.

    Raises:
        InvalidModelError: no ONNX model, or one that contradicts itself.
        UnsupportedError: valid, but it needs something that is lacking; lists every such place. Its subclasses
            FreeDimensionsError, BatchNotSymbolicError and ContentsNeededError say what to give to import again.
        LimitExceededError: a size passes ``limits``.
        UsageError: ``shapes``, ``batch`` or ``constants`` do not suit the model.
    """
    limits = limits or Limits()
    model, base = read_model(source, limits)
    return _Importer(model, base, limits, overridden=bool(shapes) or batch is not None).run(shapes, batch, constants or {})


class _Importer:
    """One import. ``_tensors`` maps ONNX names to tensors; a name that maps to None is the result of a refused node."""

    def __init__(self, model: onnx.ModelProto, base: str | None, limits: Limits, overridden: bool) -> None:
        self._proto = model.graph
        self._limits = limits
        self._overridden = overridden
        self._opset = _standard_opset(model)
        self._functions = {(text(f.domain, "domain"), text(f.name, "function name")) for f in model.functions}
        self._reader = TensorReader(base, limits)
        self._tensors: dict[str, Tensor | None] = {}
        self._problems: list[Problem] = []
        self._needed: dict[str, None] = {}
        self._only_contents = True
        self._batch_problem: tuple[str, str] | None = None
        self.graph = Graph(text(model.graph.name, "graph name"))

    def run(self, shapes: Mapping[str, RequestedShape] | None, batch: int | None, constants: Mapping[str, np.ndarray]) -> Graph:
        """Import everything."""
        if len(self._proto.node) > self._limits.max_nodes:
            raise LimitExceededError(f"the model has {len(self._proto.node)} nodes; the limit is {self._limits.max_nodes}")
        self._read_initializers()
        declared = self._declared_inputs()
        for name in constants:
            if name not in declared:
                raise UsageError(f"constants names '{printable(name)}'; the model's inputs are {', '.join(map(printable, declared))}")
        outputs = self._output_names()
        nodes = order_nodes(raw_nodes(self._proto), {*self._tensors, *declared}, outputs)
        unknown = [Problem(n.label, n.op, reason) for n in nodes if (reason := self._unknown_reason(n))]
        if unknown and not _all_static(declared, shapes):
            raise UnsupportedError(_summary(len(unknown)), [*self._problems, *unknown])
        self._add_inputs(declared, shapes, batch, constants)
        for node in nodes:
            self._import_node(node)
        self._raise_problems()
        for info, name in zip(self._proto.output, outputs, strict=True):
            self._add_output(info, name)
        return self.graph

    # inputs, weights, outputs

    def _read_initializers(self) -> None:
        for proto in self._proto.initializer:
            name = text(proto.name, "initializer name")
            if not name or name in self._tensors:
                raise InvalidModelError(f"the initializer name '{printable(name)}' is empty or used twice")
            try:
                self._tensors[name] = self._constant(self._reader.decode(proto), name)
            except UnsupportedError as error:
                self._refuse(name, "initializer", str(error))
                self._tensors[name] = None
            except (InvalidModelError, LimitExceededError) as error:
                raise type(error)(f"initializer '{printable(name)}': {error}") from error
        for sparse in self._proto.sparse_initializer:
            name = text(sparse.values.name, "initializer name")
            self._refuse(name, "initializer", "sparse tensors are not supported")
            self._tensors[name] = None

    def _constant(self, array: np.ndarray, name: str) -> Tensor:
        value = self.graph.constant(array, (name,))
        assert value.data is not None
        return Tensor(value.type, value, Content(value.data, value.type.dtype))

    def _declared_inputs(self) -> dict[str, tuple[DType, DeclaredShape]]:
        """Graph inputs that must be fed; those with an initializer are constants."""
        out: dict[str, tuple[DType, DeclaredShape]] = {}
        seen: set[str] = set()
        for info in self._proto.input:
            name = text(info.name, "input name")
            if not name or name in seen:
                raise InvalidModelError(f"the graph input name '{printable(name)}' is empty or used twice")
            seen.add(name)
            if name in self._tensors:
                continue
            try:
                out[name] = declared_type(info)
            except UnsupportedError as error:
                self._refuse(name, "graph input", str(error))
                self._tensors[name] = None
            except InvalidModelError as error:
                raise InvalidModelError(f"graph input '{printable(name)}': {error}") from error
        return out

    def _add_inputs(
        self,
        declared: Mapping[str, tuple[DType, DeclaredShape]],
        shapes: Mapping[str, RequestedShape] | None,
        batch: int | None,
        constants: Mapping[str, np.ndarray],
    ) -> None:
        for name, given in constants.items():
            array = np.asarray(given)
            dtype, dims = declared[name]
            fits = dims is None or (
                len(dims) == array.ndim and all(not isinstance(d, int) or d == s for d, s in zip(dims, array.shape, strict=True))
            )
            if array.dtype != dtype.numpy or not fits:
                raise UsageError(
                    f"the constant for '{printable(name)}' is {array.dtype}{list(array.shape)}, the model declares {dtype.value}{dims}"
                )
            self._tensors[name] = self._constant(array.copy(), name)
        remaining = {name: d for name, d in declared.items() if name not in constants}
        wanted = {name: s for name, s in (shapes or {}).items() if name not in constants}
        for name, type_ in resolve_inputs(remaining, wanted, batch).items():
            if type_.rank > self._limits.max_rank:
                raise LimitExceededError(f"graph input '{printable(name)}' has {type_.rank} axes; the limit is {self._limits.max_rank}")
            self.check_size(type_)
            self._tensors[name] = Tensor(type_, self.graph.add_input(name, type_), depends=frozenset((name,)))

    def _output_names(self) -> list[str]:
        names = [text(info.name, "output name") for info in self._proto.output]
        twice = [n for i, n in enumerate(names) if n in names[:i] or not n]
        if twice:
            raise InvalidModelError(f"the graph output name '{printable(twice[0])}' is empty or used twice")
        return names

    def _add_output(self, info: onnx.ValueInfoProto, name: str) -> None:
        tensor = self._tensors[name]
        assert tensor is not None
        value = self.materialize(tensor, name)
        if info.type.WhichOneof("value") is not None:
            try:
                dtype, dims = declared_type(info)
            except (InvalidModelError, UnsupportedError) as error:
                raise type(error)(f"graph output '{printable(name)}': {error}") from error
            self._compare(name, value.type, dtype, dims)
        self.graph.add_output(name, value)

    def _compare(self, name: str, type_: TensorType, dtype: DType, dims: DeclaredShape) -> None:
        what = f"graph output '{printable(name)}' is {type_}, but the model declares {dtype.value}"
        if dtype is not type_.dtype:
            raise InvalidModelError(what)
        if dims is None:
            return
        what += "[" + ", ".join("?" if d is None else printable(str(d)) for d in dims) + "]"
        if len(dims) != type_.rank and not self._overridden:
            raise InvalidModelError(what)
        if len(dims) != type_.rank or any(
            isinstance(d, int) and isinstance(t, int) and d != t for d, t in zip(dims, type_.shape, strict=True)
        ):
            logger.warning("%s", what)

    # nodes

    def _unknown_reason(self, node: RawNode) -> str | None:
        domain, _, name = node.op.rpartition("::")
        if (domain, name) in self._functions:
            return "functions that a model defines itself are not supported"
        if not node.standard:
            return None if is_known(node.op, self._opset) else "this operator is not supported"
        if schema_of(node.op, self._opset) is None:
            return f"does not exist in operator set {self._opset}"
        if not is_known(node.op, self._opset):
            return "this operator is not supported"
        return None

    def _import_node(self, node: RawNode) -> None:
        reason = self._unknown_reason(node)
        if reason is not None:
            self._refuse(node.label, node.op, reason)
            self._poison(node)
            return
        inputs = [self._tensors[name] if name else None for name in node.inputs]
        if any(t is None and name for t, name in zip(inputs, node.inputs, strict=True)):
            self._poison(node)
            return
        try:
            self._convert(node, inputs)
        except ContentUnknown as error:
            self._needed.update(dict.fromkeys(sorted(error.depends)))
            self._problems.append(Problem(node.label, node.op, str(error)))
            self._poison(node)
        except UnsupportedError as error:
            self._refuse(node.label, node.op, str(error))
            self._poison(node)
        except SymbolicBatchError as error:
            self._batch_problem = self._batch_problem or (node.label, f"{node.op}: {error}")
            self._poison(node)
        except CnngraphError as error:
            raise (error if error.node is not None else type(error)(f"{node.op}: {error}", node=node.label)) from error
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise InternalError(f"{node.op}: importing this node failed: {printable(str(error))}", node=node.label) from error

    def _convert(self, node: RawNode, inputs: list[Tensor | None]) -> None:
        schema = schema_of(node.op, self._opset) if node.standard else None
        attributes = decode_attributes(node.proto, schema, self._reader)
        if schema is not None:
            check_arity(node.proto, schema)
            check_input_types(schema, [None if t is None else t.type for t in inputs])
        ctx = NodeContext(self, node.op, self._opset, node.label, attributes, inputs, node.outputs)
        known = self._evaluate(ctx, inputs)
        if known is not None:
            self._bind(node, [self._known(content, node, i) for i, content in enumerate(known)])
            return
        function = find_importer(node.op, self._opset)
        present = [t for t in inputs if t is not None]
        if function is None:
            self._refuse_at_run_time(present)
        made = function(ctx)
        values = made if isinstance(made, tuple) else (made,)
        depends = frozenset[str]().union(*(t.depends for t in present))
        from_shape = bool(present) and all(t.content is not None or t.from_shape for t in present) and any(t.from_shape for t in present)
        tensors: list[Tensor | None] = []
        for name, value in zip(node.outputs, values, strict=False):
            if value is None:
                tensors.append(None)
                continue
            if name and name not in value.names:
                value.names = (*value.names, name)
            content = Content(value.data, value.type.dtype) if value.data is not None else None
            tensors.append(Tensor(value.type, value, content, from_shape, depends))
        self._bind(node, tensors)

    def _refuse_at_run_time(self, present: Sequence[Tensor]) -> NoReturn:
        if all(t.content is not None or t.from_shape for t in present):
            raise SymbolicBatchError("the result is not a multiple of the batch size")
        depends = frozenset[str]().union(*(t.depends for t in present if t.content is None))
        raise ContentUnknown("this operator is only supported where it computes shapes from known numbers", depends)

    def _evaluate(self, ctx: NodeContext, inputs: Sequence[Tensor | None]) -> list[Content] | None:
        """Contents of the outputs, if they are known; also for Shape, whose input need not be."""
        if ctx.op == "Shape":
            return shape_contents(ctx)
        contents = [None if t is None else t.content for t in inputs]
        if not inputs or any(t is not None and c is None for t, c in zip(inputs, contents, strict=True)):
            return None
        try:
            return evaluate(ctx, contents, self._limits.max_fold_bytes)
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

    def _bind(self, node: RawNode, tensors: Sequence[Tensor | None]) -> None:
        for index, name in enumerate(node.outputs):
            if not name:
                continue
            tensor = tensors[index] if index < len(tensors) else None
            if tensor is None:
                raise UnsupportedError(f"output {index} is not supported")
            self._tensors[name] = tensor

    def _poison(self, node: RawNode) -> None:
        for name in filter(None, node.outputs):
            self._tensors[name] = None

    # what node contexts use

    def check_size(self, type_: TensorType) -> None:
        """Refuse a tensor (for one image, if the batch is symbolic) that is too large."""
        nbytes = per_image(numel(type_.shape)) * type_.dtype.itemsize
        if nbytes > self._limits.max_tensor_bytes:
            raise LimitExceededError(f"a tensor {type_} has {nbytes} bytes; the limit is {self._limits.max_tensor_bytes}")
        if type_.rank > self._limits.max_rank:
            raise LimitExceededError(f"a tensor has {type_.rank} axes; the limit is {self._limits.max_rank}")

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

    # refusals

    def _refuse(self, node: str, op: str, reason: str) -> None:
        self._only_contents = False
        self._problems.append(Problem(node, op, reason))

    def _raise_problems(self) -> None:
        if self._problems and self._only_contents and self._needed:
            raise ContentsNeededError(
                f"shapes depend on the contents of the graph inputs {', '.join(map(printable, self._needed))}",
                self._problems,
                tuple(self._needed),
            )
        if self._problems:
            raise UnsupportedError(_summary(len(self._problems)), self._problems)
        if self._batch_problem is not None:
            label, message = self._batch_problem
            raise BatchNotSymbolicError(f"the batch size cannot stay free: {message}", node=label)


def _summary(count: int) -> str:
    return f"the model needs {'one thing' if count == 1 else f'{count} things'} that cnngraph does not support:"


def _all_static(declared: Mapping[str, tuple[DType, DeclaredShape]], shapes: Mapping[str, RequestedShape] | None) -> bool:
    """Whether no dimension but a leading one may be free."""
    for name, (_, dims) in declared.items():
        given = (shapes or {}).get(name, dims)
        if given is None or any(not isinstance(d, int) for d in list(given)[1:]):
            return False
    return True


def _standard_opset(model: onnx.ModelProto) -> int:
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = text(entry.domain, "domain")
        domain = "" if domain == "ai.onnx" else domain
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InvalidModelError(f"the model declares two versions of the operator set '{printable(domain)}'")
    if "" not in versions:
        raise UnsupportedError("the model does not declare a version of the standard operator set ai.onnx")
    version = versions[""]
    if version < 1:
        raise InvalidModelError(f"operator set {version} does not exist")
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise UnsupportedError(f"the model uses operator set {version}; supported are {OLDEST_OPSET} to {NEWEST_OPSET}")
    return int(version)
