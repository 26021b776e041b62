"""From an ONNX model to a :class:`~cnngraph.ir.graph.Graph`: everything is checked, every refusal names the node."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import onnx

from cnngraph.errors import InvalidModelError, LimitExceededError, Problem, UnsupportedError, UsageError, printable
from cnngraph.frontend.bodies import Bodies, standard_domain
from cnngraph.frontend.context import Tensor
from cnngraph.frontend.errors import BatchNotSymbolicError, ContentsNeededError, DeclaredShape
from cnngraph.frontend.nodes import NodeImporter
from cnngraph.frontend.ordering import order_nodes, raw_nodes
from cnngraph.frontend.reader import Source, read_model
from cnngraph.frontend.registry import NEWEST_OPSET, OLDEST_OPSET
from cnngraph.frontend.scope import Late, Parts, Scope
from cnngraph.frontend.signature import RequestedShape, declared_type, is_direct, resolve_inputs
from cnngraph.frontend.tensors import TensorReader, stored_name, text
from cnngraph.frontend.upgrade import upgraded
from cnngraph.ir.graph import Graph
from cnngraph.ir.types import DType, TensorType, product
from cnngraph.options import Limits

logger = logging.getLogger(__name__)

SHAPE_LIKE = 64
"""Elements of an integer graph input up to which a program is compiled for the input's contents, if shapes depend on them."""


def import_model(
    source: Source,
    *,
    shapes: Mapping[str, RequestedShape] | None = None,
    batch: int | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    limits: Limits | None = None,
) -> Graph:
    """Import an ONNX model of any operator set; those before 7 are converted first.

    The leading dimension of every graph input that the model leaves free becomes the batch size N, which stays symbolic.
    Nodes whose results only run time can know are left to the graph's tail (:mod:`cnngraph.eager.tail`).

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
    model = upgraded(model)
    return _Importer(model, base, limits, overridden=bool(shapes) or batch is not None).run(shapes, batch, constants or {})


class _Importer:
    """One import: graph inputs, initializers, all nodes, graph outputs."""

    def __init__(self, model: onnx.ModelProto, base: str | None, limits: Limits, overridden: bool) -> None:
        self._proto = model.graph
        self._limits = limits
        self._overridden = overridden
        self._scope = Scope(_opsets(model))
        self._nodes = NodeImporter(TensorReader(base, limits), limits, Bodies(model.functions))
        self.graph = self._nodes.graph
        self.graph.name = text(model.graph.name, "graph name")

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
        nodes = order_nodes(raw_nodes(self._proto.node), {*self._scope.tensors, *declared}, outputs)
        unknown = [Problem(n.label, n.op, r) for n in nodes if (r := self._nodes.unknown_reason(n, self._scope.opset))]
        if unknown and not _all_static(declared, shapes):
            raise UnsupportedError(_summary(len(unknown)), [*self._nodes.problems, *unknown])
        self._add_inputs(declared, shapes, batch, constants)
        for node in nodes:
            self._nodes.node(node, self._scope)
        self._raise_problems()
        self._add_outputs(outputs)
        return self.graph

    def _read_initializers(self) -> None:
        for proto in (*self._proto.initializer, *self._proto.sparse_initializer):
            name = text(stored_name(proto), "initializer name")
            if not name or name in self._scope:
                raise InvalidModelError(f"the initializer name '{printable(name)}' is empty or used twice")
            self._scope[name] = self._nodes.initializer(proto)

    def _declared_inputs(self) -> dict[str, tuple[DType, DeclaredShape]]:
        """Graph inputs that must be fed and are tensors of numbers; those with an initializer are constants, others the tail's."""
        out: dict[str, tuple[DType, DeclaredShape]] = {}
        seen: set[str] = set()
        for info in self._proto.input:
            name = text(info.name, "input name")
            if not name or name in seen:
                raise InvalidModelError(f"the graph input name '{printable(name)}' is empty or used twice")
            seen.add(name)
            if name in self._scope:
                continue
            if is_direct(info):
                self._scope[name] = self._nodes.tail.direct(name)
                continue
            try:
                out[name] = declared_type(info)
            except UnsupportedError as error:
                self._nodes.refuse(name, "graph input", str(error))
                self._scope[name] = None
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
            self._scope[name] = self._nodes.constant(array.copy(), name)
        remaining = {name: d for name, d in declared.items() if name not in constants}
        wanted = {name: s for name, s in (shapes or {}).items() if name not in constants}
        for name, type_ in resolve_inputs(remaining, wanted, batch).items():
            if type_.rank > self._limits.max_rank:
                raise LimitExceededError(
                    f"graph input '{printable(name)}' has {type_.rank} axes; the limit is {self._limits.max_rank}"
                )  # fmt: skip
            self._nodes.check_size(type_)
            if _is_shape_like(type_):
                self._nodes.shape_like.add(name)
            self._scope[name] = Tensor(type_, self.graph.add_input(name, type_), depends=frozenset((name,)))

    # outputs

    def _output_names(self) -> list[str]:
        names = [text(info.name, "output name") for info in self._proto.output]
        twice = [n for i, n in enumerate(names) if n in names[:i] or not n]
        if twice:
            raise InvalidModelError(f"the graph output name '{printable(twice[0])}' is empty or used twice")
        return names

    def _add_outputs(self, names: list[str]) -> None:
        results: dict[str, Tensor | Late] = {}
        types: dict[str, tuple[str, tuple[int | str, ...]]] = {}
        for info, name in zip(self._proto.output, names, strict=True):
            known = self._scope[name]
            assert known is not None
            if isinstance(known, Parts):
                known = self._nodes.late(known, self._scope)
            results[name] = known
            declared: tuple[DType, DeclaredShape] | None = None
            if info.type.WhichOneof("value") is not None and not (isinstance(known, Late) and is_direct(info)):
                try:
                    declared = declared_type(info)
                except (InvalidModelError, UnsupportedError) as error:
                    raise type(error)(f"graph output '{printable(name)}': {error}") from error
            if isinstance(known, Tensor):
                value = self._nodes.materialize(known, name)
                if declared is not None:
                    self._compare(name, value.type, *declared)
            else:
                dims = (declared[1] or ()) if declared else ()
                types[name] = (declared[0].value if declared else "", tuple(d if isinstance(d, int) else "?" for d in dims))
        self.graph.tail = self._nodes.tail.finish(self.graph, results, types, [text(info.name, "input name") for info in self._proto.input])
        heavy = self._nodes.tail.heavy()
        if heavy:
            shown = ", ".join(map(printable, heavy[:5])) + (", ..." if len(heavy) > 5 else "")
            logger.warning("%d nodes come after a shape that depends on data and run uncompiled: %s", len(heavy), shown)

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

    def _raise_problems(self) -> None:
        problems, needed = self._nodes.problems, self._nodes.needed
        if problems and self._nodes.only_contents and needed:
            raise ContentsNeededError(
                f"shapes depend on the contents of the graph inputs {', '.join(map(printable, needed))}", problems, tuple(needed)
            )
        if problems:
            raise UnsupportedError(_summary(len(problems)), problems)
        if self._nodes.batch_problem is not None:
            label, message = self._nodes.batch_problem
            raise BatchNotSymbolicError(f"the batch size cannot stay free: {message}", node=label)


def _is_shape_like(type_: TensorType) -> bool:
    if type_.dtype.is_float and type_.rank > 1:
        return False
    return all(isinstance(dim, int) for dim in type_.shape) and product(d for d in type_.shape if isinstance(d, int)) <= SHAPE_LIKE


def _summary(count: int) -> str:
    return f"the model needs {'one thing' if count == 1 else f'{count} things'} that cnngraph does not support:"


def _all_static(declared: Mapping[str, tuple[DType, DeclaredShape]], shapes: Mapping[str, RequestedShape] | None) -> bool:
    """Whether no dimension but a leading one may be free."""
    for name, (_, dims) in declared.items():
        given = (shapes or {}).get(name, dims)
        if given is None or any(not isinstance(d, int) for d in list(given)[1:]):
            return False
    return True


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = standard_domain(text(entry.domain, "domain"))
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InvalidModelError(f"the model declares two versions of the operator set '{printable(domain)}'")
    if "" not in versions:
        if any(not standard_domain(node.domain) for node in model.graph.node):
            raise UnsupportedError("the model does not declare a version of the standard operator set ai.onnx")
        versions[""] = NEWEST_OPSET
    version = versions[""]
    if version < 1:
        raise InvalidModelError(f"operator set {version} does not exist")
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise UnsupportedError(f"the model uses operator set {version}; supported are 1 to {NEWEST_OPSET}")
    return versions
