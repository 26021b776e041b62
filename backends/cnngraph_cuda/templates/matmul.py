"""Products of computed matrices with broadcast leading axes: one thread has one element."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, Sym, numel, strides_of
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import MatMul
from cnngraph_cuda.language import DataPointer, block_x, fma, load_one, store_one, thread
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, refuse_types

THREADS = 0
LEADING = 4


def matmul(
    a: DataPointer, b: DataPointer, y: DataPointer, elements: int, rows: int, columns: int, depth: int, d1: int, d2: int, d3: int,
    a0: int, a1: int, a2: int, a3: int, b0: int, b1: int, b2: int, b3: int,
) -> None:  # fmt: skip
    """``y[i0, i1, i2, i3] = a[..] @ b[..]``; a0.. and b0.. are strides of the leading axes, 0 where broadcast."""
    at = block_x() * THREADS + thread()
    if at < elements:
        rest = at // columns
        column = at - rest * columns
        i3 = rest // rows
        row = rest - i3 * rows
        i2 = i3 // d3
        i3 = i3 - i2 * d3
        i1 = i2 // d2
        i2 = i2 - i1 * d2
        i0 = i1 // d1
        i1 = i1 - i0 * d1
        left = i0 * a0 + i1 * a1 + i2 * a2 + i3 * a3 + row * depth
        right = i0 * b0 + i1 * b1 + i2 * b2 + i3 * b3 + column
        total = 0.0
        for k in range(depth):
            total = fma(load_one(a, left + k), load_one(b, right + k * columns), total)
        store_one(y, at, total)


def leading_strides(left: Value, right: Value) -> dict[str, Argument]:
    """Arguments a0.. and b0..: elements from one matrix to the next along each leading axis, 0 where broadcast."""
    arguments: dict[str, Argument] = {}
    for letter, value in (("a", left), ("b", right)):
        own = value.type.shape[:-2]
        padded: list[Dim] = [*[1] * (LEADING - len(own)), *own]
        steps: list[Dim] = [*[0] * (LEADING - len(own)), *strides_of(value.type.shape)[:-2]]
        for axis in range(LEADING):
            arguments[f"{letter}{axis}"] = Extent(0 if padded[axis] == 1 else steps[axis])
    return arguments


class MatMulPlain:
    """MatMul of row-major tensors of at least two axes each."""

    name = "matmul"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(matmul, {}, "Matrix products with broadcast leading axes.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses vectors, more than four leading axes, matrices whose rows depend on the batch."""
        if not isinstance(node.op, MatMul):
            return "not a matrix product"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        left, right = node.input(0).type, node.input(1).type
        if min(left.rank, right.rank) < 2 or node.output.type.rank - 2 > LEADING:
            return f"vectors, or more than {LEADING} leading axes"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN, PLAIN), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        left, right, y = node.input(0), node.input(1), node.output
        shape = y.type.shape
        lead: list[Dim] = [*[1] * (LEADING - (len(shape) - 2)), *shape[:-2]]
        units, threads = numel(shape), 256
        depth = left.type.shape[-1]
        assert not isinstance(depth, Sym)
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(left, right, y)), "a": Pointer(left), "b": Pointer(right), "y": Pointer(y),
            "elements": Extent(units), "rows": Extent(shape[-2]), "columns": Extent(shape[-1]), "depth": Extent(depth),
            **{f"d{i}": Extent(lead[i]) for i in range(1, LEADING)},
        }  # fmt: skip
        arguments |= leading_strides(left, right)
        return kernel_call(self, target, arguments, y, threads)
