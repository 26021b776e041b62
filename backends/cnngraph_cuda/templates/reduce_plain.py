"""Reductions over neighbouring axes of row-major tensors: one warp has one result."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, Sym, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Reduce
from cnngraph_cuda.language import (
    DataPointer,
    absolute,
    add,
    as_float,
    block_x,
    div,
    fma,
    load_one,
    log,
    maximum,
    minimum,
    mul,
    shuffle_xor,
    sqrt,
    store_one,
    thread,
    to_float,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, refuse_types

KIND = THREADS = 0
SUM, MEAN, MAX, MIN, PROD, L1, L2, LOG_SUM, SQUARES = range(9)
_KINDS = {
    "sum": SUM, "mean": MEAN, "max": MAX, "min": MIN, "prod": PROD, "l1": L1, "l2": L2, "log_sum": LOG_SUM, "sum_square": SQUARES,
}  # fmt: skip


def reduce_plain(x: DataPointer, y: DataPointer, results: int, length: int, inner: int) -> None:
    """``y[o, i]`` is the reduction of ``x[o, :, i]`` over ``length`` elements ``inner`` apart."""
    tid = thread()
    lane = tid & 31
    result = block_x() * (THREADS // 32) + (tid >> 5)
    if result < results:
        outer = result // inner
        first = outer * (length * inner) + result - outer * inner
        if KIND == MAX:
            total = as_float(-8388608)
        elif KIND == MIN:
            total = as_float(2139095040)
        elif KIND == PROD:
            total = 1.0
        else:
            total = 0.0
        for i in range(lane, length, 32):
            value = load_one(x, first + i * inner)
            if KIND == MAX:
                total = maximum(total, value)
            elif KIND == MIN:
                total = minimum(total, value)
            elif KIND == PROD:
                total = mul(total, value)
            elif KIND == L1:
                total = add(total, absolute(value))
            elif KIND == L2 or KIND == SQUARES:  # noqa: SIM109
                total = fma(value, value, total)
            else:
                total = add(total, value)
        for k in unroll(5):
            other = shuffle_xor(total, 16 >> k)
            if KIND == MAX:
                total = maximum(total, other)
            elif KIND == MIN:
                total = minimum(total, other)
            elif KIND == PROD:
                total = mul(total, other)
            else:
                total = add(total, other)
        if KIND == MEAN:
            total = div(total, to_float(length))
        if KIND == L2:
            total = sqrt(total)
        if KIND == LOG_SUM:
            total = log(total)
        if lane == 0:
            store_one(y, result, total)


class ReducePlain:
    """Reduce over axes that follow each other."""

    name = "reduce_plain"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(reduce_plain, {}, "Reduction over neighbouring axes, row-major.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses axes with others between them, and the logarithm of a sum of exponentials."""
        op = node.op
        if not isinstance(op, Reduce):
            return "not a reduction"
        if op.kind not in _KINDS:
            return f"reduction {op.kind}"
        shape = node.input(0).type.shape
        long = [a for a in op.axes if shape[a] != 1]
        if any(shape[a] != 1 for a in range(min(long, default=0), max(long, default=0)) if a not in op.axes):
            return f"axes {op.axes} do not follow each other"
        return refuse_types(node, target)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Above that of the reduction over pixels."""
        return 2.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One warp a result."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Reduce)
        shape = x.type.shape
        long = [a for a in op.axes if shape[a] != 1]
        length: Dim = numel(shape[a] for a in long)
        assert not isinstance(length, Sym)
        inner = numel(shape[max(long) + 1 :]) if long else 1
        results, threads = numel(y.type.shape), 256
        arguments: dict[str, Argument] = {
            **launch(results, threads // 32, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "results": Extent(results),
            "length": Extent(length), "inner": Extent(inner),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("KIND", _KINDS[op.kind]),))
