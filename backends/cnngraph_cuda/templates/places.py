"""Operators that look at where an element stands: Trilu and OneHot, by strides; CumSum and CumProd, one thread a line."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import Dim, DType, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops.indexing import OneHot, Trilu
from cnngraph.ops.math import Cumulative
from cnngraph_cuda.language import (
    DataPointer,
    add,
    block_x,
    load_one,
    load_operand,
    long_add,
    long_mul,
    mul,
    store_one,
    thread,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, INTEGERS, kernel_call, launch, refuse_empty
from cnngraph_cuda.templates.strided import AXES, broadcast_strides, plain_layouts, refuse_axes, strided_call, strided_code

FLOATS = UPPER = DIAGONAL = PLACE = CLASSES = PRODUCT = EXCLUSIVE = REVERSE = THREADS = 0


def cut() -> None:
    """Zero on the other side of the diagonal of the last two axes."""
    out = value[0]
    distance = i5 - i4
    if UPPER == 0:
        distance = 2 * DIAGONAL - distance
    if distance < DIAGONAL:
        if FLOATS:
            out = 0.0
        else:
            out = 0


def mark() -> None:
    """The second number of the values where the index is that of the class, counted from the end if it is negative."""
    if PLACE == 0:
        here = i0
    elif PLACE == 1:
        here = i1
    elif PLACE == 2:
        here = i2
    elif PLACE == 3:
        here = i3
    elif PLACE == 4:
        here = i4
    else:
        here = i5
    hot = 0
    if value[0] == here:
        hot = 1
    if value[0] == here - CLASSES:
        hot = 1
    out = load_operand(1, x1, hot)


def cumulative(x: DataPointer, y: DataPointer, lines: int, length: int, inner: int) -> None:
    """Running sums or products of ``length`` elements ``inner`` apart."""
    line = block_x() * THREADS + thread()
    if line < lines:
        outer = line // inner
        first = outer * (length * inner) + line - outer * inner
        if FLOATS:
            if PRODUCT:
                total = 1.0
            else:
                total = 0.0
        elif PRODUCT:
            total = long_mul(1, 1)
        else:
            total = long_add(0, 0)
        for j in range(length):
            if REVERSE:
                at = first + (length - 1 - j) * inner
            else:
                at = first + j * inner
            number = load_one(x, at)
            if EXCLUSIVE:
                store_one(y, at, total)
            if FLOATS:
                if PRODUCT:
                    total = mul(total, number)
                else:
                    total = add(total, number)
            elif PRODUCT:
                total = long_mul(total, number)
            else:
                total = long_add(total, number)
            if EXCLUSIVE == 0:
                store_one(y, at, total)


class _Placed:
    reorders_arithmetic = False
    any_batch_axis = True

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return plain_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0


class TriluStrided(_Placed):
    """Trilu."""

    name = "trilu"
    code = strided_code(cut, "Upper or lower triangles of matrices.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than six axes, empty tensors, and diagonals beyond any matrix."""
        op = node.op
        if not isinstance(op, Trilu):
            return "not Trilu"
        return refuse_axes(node) if abs(op.k) < 1 << 28 else f"diagonal {op.k}"

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, y = node.op, node.output
        assert isinstance(op, Trilu)
        constants = (("UPPER", int(op.upper)), ("DIAGONAL", op.k), ("FLOATS", int(y.type.dtype in DATA_TYPES)))
        return strided_call(self, target, [node.input(0)], y, constants)


class OneHotStrided(_Placed):
    """OneHot."""

    name = "one_hot"
    code = strided_code(mark, "A new axis of classes.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses indices of other types, more than six axes, and empty tensors."""
        if not isinstance(node.op, OneHot):
            return "not OneHot"
        dtype = node.input(0).type.dtype
        if dtype not in (*DATA_TYPES, *INTEGERS) or dtype in (DType.BOOL, DType.U64):
            return f"indices of {dtype.value}"
        return refuse_axes(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element; the indices do not vary along the new axis."""
        op, indices, y = node.op, node.input(0), node.output
        assert isinstance(op, OneHot)
        rank = y.type.rank
        steps = broadcast_strides(indices.type.shape, rank - 1)
        strides: list[list[Dim]] = [[*steps[: op.axis], 0, *steps[op.axis :]], [0] * rank]
        constants = (("PLACE", AXES - rank + op.axis), ("CLASSES", op.depth))
        return strided_call(self, target, [indices, node.input(1)], y, constants, strides=strides)


class CumulativeLines(_Placed):
    """CumSum and CumProd."""

    name = "cumulative"
    code = Code(cumulative, {}, "Running sums or products along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types and empty tensors."""
        if not isinstance(node.op, Cumulative):
            return "not a running sum or product"
        dtype = node.output.type.dtype
        known = dtype in DATA_TYPES or (dtype in INTEGERS and dtype is not DType.BOOL)
        return refuse_empty(node) if known else f"{dtype.value} tensors have no kernel"

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a line."""
        op, x, y, threads = node.op, node.input(0), node.output, 128
        assert isinstance(op, Cumulative)
        shape = x.type.shape
        lines = numel((*shape[: op.axis], *shape[op.axis + 1 :]))
        arguments: dict[str, Argument] = {
            **launch(lines, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "lines": Extent(lines),
            "length": Extent(shape[op.axis]), "inner": Extent(numel(shape[op.axis + 1 :])),
        }  # fmt: skip
        constants = (
            ("PRODUCT", int(op.kind == "prod")), ("EXCLUSIVE", int(op.exclusive)), ("REVERSE", int(op.reverse)),
            ("FLOATS", int(y.type.dtype in DATA_TYPES)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants)
