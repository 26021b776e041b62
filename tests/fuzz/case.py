"""A drawn model with its inputs, and the means to draw one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cnngraph.frontend.registry import supported_ops
from cnngraph.ir.types import DType

T = TypeVar("T")
Array = np.ndarray
Domain = str

OLDEST = 7
"""The first operator set that is drawn; older ones spell many attributes otherwise."""
FLOATS = (DType.F32, DType.F64, DType.F16, DType.BF16)
SMALL_FLOATS = tuple(d for d in DType if d.is_float and d not in FLOATS)
PACKED = (DType.I4, DType.U4, DType.I2, DType.U2)
PLAIN = tuple(d for d in DType if d not in SMALL_FLOATS and d not in PACKED)
_BY_ONNX = {f"tensor({d.onnx})": d for d in DType}


@dataclass
class Case:
    """A model and what to feed it.

    Attributes:
        op: the operator it was drawn for, with its domain unless that is the standard one.
        model: mostly one node; its outputs declare no shapes.
        feeds: an array for each graph input.
        tolerance: relative error allowed of float32 and float64 results (16-bit ones have their own, if larger).
        scaled: errors are relative to the largest number of the output, because a sum may cancel.
        steps: difference allowed of integers made by rounding floats.
        absolute: error allowed of any float, for functions that onnxruntime or the kernels approximate.
        single: float64 is compared like float32, because the operator may compute in that.
        isa: instruction set to compile for.
    """

    op: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    tolerance: float = 1e-5
    scaled: bool = False
    steps: int = 0
    absolute: float = 1e-8
    single: bool = False
    isa: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Array | None, ...] = ()

    @property
    def opset(self) -> int:
        """The standard operator set of the model."""
        return next(int(entry.version) for entry in self.model.opset_import if not entry.domain)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute of the node, or ``default``."""
        return self.attributes.get(name, default)

    def input(self, index: int) -> Array | None:
        """What input ``index`` of the node holds, or None if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def dtype(self, index: int = 0) -> str:
        """Name of the element type of an input, or the empty string."""
        array = self.input(index)
        return "" if array is None else array.dtype.name

    def describe(self) -> str:
        """The node in one line."""

        def show(array: Array | None) -> str:
            return "-" if array is None else f"{array.dtype.name}{list(array.shape)}"

        shown = ", ".join(f"{k}={v!r}"[:60] for k, v in sorted(self.attributes.items()))
        return f"{self.op}-{self.opset}({', '.join(map(show, self.inputs))}){f' {shown}' if shown else ''}"


Strategy = Callable[["Draw"], Case]
STRATEGIES: dict[str, Strategy] = {}


def strategy(*ops: str) -> Callable[[Strategy], Strategy]:
    """Register the decorated function as what draws cases of ``ops``."""

    def register(function: Strategy) -> Strategy:
        for op in ops:
            if op in STRATEGIES:
                raise ValueError(f"two strategies of {op}")
            STRATEGIES[op] = function
        return function

    return register


@cache
def opsets(op: str) -> tuple[int, ...]:
    """The operator sets in which ``op`` is imported."""
    listed = {v for row in supported_ops() if row.op == op for v in range(row.since, row.until + 1)}
    return tuple(sorted(v for v in listed if v >= OLDEST and ("::" in op or not _schema(op, v).deprecated)))


@cache
def _schema(op: str, opset: int) -> Any:
    return onnx.defs.get_schema(op, opset)


class Draw:
    """Draws the parts of one case by hypothesis.

    Attributes:
        op: the operator, with its domain.
        opset: the standard operator set.
        free: whether leading dimensions of graph inputs are left free.
        compiled: the case is to be compiled: few shapes, float32 mostly.
    """

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], op: str, compiled: bool = False) -> None:
        self._draw = draw
        self.op = op
        self.compiled = compiled
        choices = opsets(op)
        self.opset = choices[-1 - self.int(0, len(choices) - 1)] if self.flag(0.7) else min(choices[-1], max(choices[0], 17))
        self.free = False
        self._types: dict[str, DType] = {}

    # single things

    def int(self, low: int, high: int) -> int:
        """An integer; small ones are the simpler ones."""
        return int(self._draw(st.integers(low, high))) if low < high else low

    def ints(self, count: int, low: int, high: int) -> list[int]:
        """``count`` integers."""
        return [self.int(low, high) for _ in range(count)]

    def flag(self, probability: float = 0.5) -> bool:
        """True with about this probability."""
        return self.int(0, 99) >= 100 - round(100 * probability)

    def pick(self, *options: T) -> T:
        """One of ``options``, the simplest first."""
        return options[self.int(0, len(options) - 1)]

    def number(self, low: float, high: float) -> float:
        """A multiple of 1/16 as a float, so that it is exact in every type but the smallest."""
        return self.int(int(low * 16), int(high * 16)) / 16

    def some(self, **attributes: Callable[[], Any]) -> dict[str, Any]:
        """Each attribute with a probability of a half, drawn by its function."""
        return {name: function() for name, function in attributes.items() if self.flag()}

    # shapes and types

    def shape(self, least: int = 0, most: int = 4, low: int = 1, high: int = 5) -> tuple[int, ...]:
        """Extents of ``least`` to ``most`` axes; ``low`` 0 makes some tensors empty, but not many."""
        rank = self.int(least, most)
        if low == 0:
            low = 0 if self.flag(0.15) else 1
        return tuple(self.int(low, high) for _ in range(rank))

    def broadcast(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to ``shape``."""
        return tuple(d if self.flag(0.7) else 1 for d in shape)[self.int(0, len(shape)) if self.flag(0.4) else 0 :]

    def axis(self, rank: int, extra: int = 0) -> int:
        """An axis of a tensor of ``rank``, also counted from behind."""
        return self.int(-rank, rank - 1 + extra)

    def axes(self, rank: int, least: int = 0) -> list[int]:
        """Different axes in any order, some counted from behind."""
        order = [int(v) for v in self._draw(st.permutations(range(rank)))] if rank else []
        chosen = order[: self.int(min(least, rank), rank)]
        return [a - rank if self.flag(0.3) else a for a in chosen]

    def permutation(self, count: int) -> list[int]:
        """The numbers below ``count`` in any order."""
        return [int(v) for v in self._draw(st.permutations(range(count)))]

    def dtypes(self, index: int) -> tuple[DType, ...]:
        """The element types that the operator allows for input ``index``."""
        schema = _schema(self.op, self.opset)
        formal = schema.inputs[min(index, len(schema.inputs) - 1)]
        return tuple(_BY_ONNX[t] for t in sorted(formal.types) if t in _BY_ONNX)

    def dtype(self, index: int = 0, among: Collection[DType] | None = None) -> DType:
        """An element type for input ``index``, the same for all inputs of one type parameter. Mostly float32 if it is allowed."""
        schema = _schema(self.op, self.opset)
        key = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
        if key not in self._types:
            allowed = [d for d in DType if d in self.dtypes(index) and (among is None or d in among)]
            self._types[key] = self.one_of(allowed)
        return self._types[key]

    def one_of(self, allowed: Sequence[DType]) -> DType:
        """One of the types, mostly the first."""
        if not allowed:
            raise ValueError(f"no element type of {self.op} is left")
        share = 0.3 if self.compiled else 0.6
        return allowed[self.int(0, len(allowed) - 1)] if self.flag(share) else allowed[0]

    # contents

    def array(self, shape: Sequence[int], dtype: DType, low: float | None = None, high: float | None = None, special: bool = True) -> Array:
        """Random numbers, within bounds if given, with NaN and infinities at times if ``special`` and unbounded."""
        seed = self.int(0, 999)
        kind = self.pick("normal", "small", "wide", "special") if low is None and high is None else "bounded"
        return numbers(np.random.default_rng(seed), tuple(shape), dtype, kind if special or kind != "special" else "normal", low, high)

    def floats(self, shape: Sequence[int], dtype: DType = DType.F32, low: float = -3, high: float = 3) -> Array:
        """Finite numbers of moderate size."""
        return self.array(shape, dtype, low, high)

    def indices(self, shape: Sequence[int], extent: int, dtype: DType = DType.I64, negative: bool = True) -> Array:
        """Numbers of elements of an axis of ``extent`` elements."""
        rng = np.random.default_rng(self.int(0, 999))
        low = -extent if negative and self.flag() else 0
        return np.asarray(rng.integers(low, max(extent, low + 1), tuple(shape))).astype(dtype.numpy)

    # the model

    def case(
        self,
        inputs: Sequence[Array | None],
        outputs: int | Sequence[int] = 1,
        constants: Collection[int] = (),
        fixed: Collection[int] = (),
        tolerance: float = 1e-5,
        scaled: bool = False,
        steps: int = 0,
        absolute: float = 1e-8,
        single: bool = False,
        **attributes: Any,
    ) -> Case:
        """A model of one node, and at times of a few that follow.

        Args:
            inputs: contents of the node's inputs, None for absent ones.
            outputs: how many there are, or the numbers of those that are named.
            constants: inputs that are stored in the model; of the others some are at random.
            fixed: inputs whose leading dimension is not a batch.
            tolerance: see Case, also for the next two.
            scaled: see Case.
            steps: see Case.
            absolute: see Case.
            single: see Case.
            attributes: of the node; None leaves one out.
        """
        trailing = len(inputs)
        while trailing and inputs[trailing - 1] is None:
            trailing -= 1
        inputs = [None if a is None else np.asarray(a) for a in inputs[:trailing]]
        present = [i for i, a in enumerate(inputs) if a is not None]
        stored = {i for i in present if i in constants or (i and self.flag(0.4))}
        if present and stored == set(present) and present[0] not in constants:
            stored.discard(present[0])
        if present and not self.compiled and self.flag(0.1):
            stored = set(present)  # the importer then computes the result itself
        self.free = self.flag(0.25)
        attributes = {k: v for k, v in attributes.items() if v is not None}
        model = build(self.op, self.opset, inputs, outputs, stored, self.free, attributes, set(fixed))
        feeds = {f"x{i}": a for i in present if i not in stored and (a := inputs[i]) is not None}
        made = Case(self.op, model, feeds, tolerance, scaled, steps, absolute, single, "", attributes, tuple(inputs))
        return self._followed(made) if self.compiled and not steps else made

    def _followed(self, case: Case) -> Case:
        """``case`` with up to three element-wise nodes behind its first output, so that something can be fused."""
        first = case.input(0)
        if first is None or first.dtype != np.float32 or len(case.model.graph.output) != 1 or not self.flag(0.5):
            return case
        if self.op in ("Shape", "Size", "ArgMax", "ArgMin", "Cast", "BitCast", "EyeLike", "QuantizeLinear") or "IsNaN" in self.op:
            return case
        graph, at = case.model.graph, "y0"
        made = case.model.graph.node[-1].output
        if list(made) != ["y0"] or not _float_result(case):
            return case
        for count in range(self.int(1, 3)):
            kind = self.pick("Relu", "Add", "Mul", "Sigmoid", "LeakyRelu")
            names = [at]
            if kind in ("Add", "Mul"):
                graph.initializer.append(numpy_helper.from_array(np.float32(self.number(-2, 2)), f"c{count}"))
                names.append(f"c{count}")
            graph.node.append(helper.make_node(kind, names, [f"z{count}"]))
            at = f"z{count}"
        graph.output[0].name = at
        return replace(case, tolerance=max(case.tolerance, 1e-5))


def _float_result(case: Case) -> bool:
    """Whether shape inference says that the result is float32."""
    inferred = onnx.shape_inference.infer_shapes(case.model)
    return inferred.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def build(
    op: str,
    opset: int,
    inputs: Sequence[Array | None],
    outputs: int | Sequence[int],
    stored: Collection[int],
    free: bool,
    attributes: dict[str, Any],
    fixed: Collection[int] = (),
) -> onnx.ModelProto:
    """A model of one node whose inputs are x0, x1 ... and outputs y0, y1 ..."""
    domain, _, name = op.rpartition("::")
    wanted = list(range(outputs)) if isinstance(outputs, int) else list(outputs)
    names = [f"y{i}" if i in wanted else "" for i in range(max(wanted) + 1)]
    infos, weights = [], []
    for i, array in enumerate(inputs):
        if array is None:
            continue
        if i in stored:
            weights.append(numpy_helper.from_array(array, f"x{i}"))
            continue
        dims: list[int | str] = list(array.shape)
        if free and dims and array.shape[0] and i not in fixed and (i == 0 or _beside(inputs[0], array)):
            dims[0] = "N"
        infos.append(helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(array.dtype), dims))
    node = helper.make_node(name, ["" if a is None else f"x{i}" for i, a in enumerate(inputs)], names, domain=domain, **attributes)
    results = [onnx.ValueInfoProto(name=f"y{i}") for i in wanted]
    graph = helper.make_graph([node], name, infos, results, weights)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 10 if opset < 25 else 13
    return model


def _beside(first: Array | None, array: Array) -> bool:
    """Whether the leading axis of ``array`` may be the batch of the first input."""
    return first is not None and first.ndim == array.ndim and first.shape[0] == array.shape[0]


def numbers(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, kind: str, low: float | None = None, high: float | None = None
) -> Array:
    """Random contents of one of the kinds that :meth:`Draw.array` draws."""
    if dtype is DType.BOOL:
        return np.asarray(rng.integers(0, 2, shape)).astype(bool)
    if not dtype.is_float:
        least, most = dtype.range
        bounds = (least, most) if kind in ("wide", "special") else (max(least, -9), min(most, 9))
        first = bounds[0] if low is None else max(int(low), least)
        last = bounds[1] if high is None else min(int(high), most)
        wide = np.uint64 if last > np.iinfo(np.int64).max else np.int64
        return np.asarray(rng.integers(first, last, shape, dtype=wide, endpoint=True)).astype(dtype.numpy)
    if low is not None or high is not None:
        first, last = -3.0 if low is None else float(low), 3.0 if high is None else float(high)
        return np.asarray(rng.uniform(first, last, shape)).astype(dtype.numpy)
    if kind == "small":
        return np.asarray(rng.integers(-4, 5, shape) / 2).astype(dtype.numpy)
    values = np.asarray(rng.standard_normal(shape) * (30 if kind == "wide" else 1))
    if kind == "special" and values.size:
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -1.5, 2.5, 1e-30, 200.0])
        values = np.where(rng.integers(0, 3, shape) == 0, rng.choice(odd, shape), values)
    with np.errstate(all="ignore"):
        return values.astype(dtype.numpy)
