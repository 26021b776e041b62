"""The largest or smallest elements along an axis and where they stand: ArgMax, ArgMin and TopK. One block has one row.

Numbers become integers of the same order, and no number the first or last of them. Of the elements that come after the one
found before, each round finds the best; of equal ones the one with the lower rank, which is its position, or counts from the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops.indexing import ArgReduce, TopK
from cnngraph_cuda.language import (
    DataPointer,
    I32Pointer,
    add,
    as_bits,
    as_float,
    block_x,
    lds1,
    load_one,
    select,
    shared_base,
    shuffle_xor,
    store_int,
    store_one,
    sts1,
    sync,
    thread,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import cuda, kernel_call, launch

THREADS = SMALLEST = NAN_FIRST = LAST = VALUES = 0
_MOST_ROUNDS = 4096


def combine() -> None:
    """The better of two candidates."""
    wins = select(other > best, 1, select(other == best, select(other_rank < rank, 1, 0), 0))
    best = select(wins == 1, other, best)
    rank = select(wins == 1, other_rank, rank)


def search(x: DataPointer, y: DataPointer, positions: I32Pointer, length: int, inner: int, count: int) -> None:
    """``count`` rounds over elements ``inner`` apart; positions are int64, two words each."""
    tid = thread()
    task = block_x()
    first = task // inner * (length * inner) + task % inner
    to = task // inner * (count * inner) + task % inner
    base = shared_base()
    limit = 2147483647
    limit_rank = 0 - 1
    for j in range(count):
        best = 0 - 2147483647 - 1
        rank = 2147483647
        for i in range(tid, length, THREADS):
            bits = as_bits(add(load_one(x, first + i * inner), 0.0))
            other = bits ^ ((bits >> 31) & 2147483647)
            if SMALLEST:
                other = 0 - 1 - other
            if NAN_FIRST:
                other = select((bits & 2147483647) > 2139095040, 2147483647, other)
            else:
                other = select((bits & 2147483647) > 2139095040, 0 - 2147483647 - 1, other)
            if LAST:
                other_rank = length - 1 - i
            else:
                other_rank = i
            after = select(other < limit, 1, select(other == limit, select(other_rank > limit_rank, 1, 0), 0))
            if after == 1:
                combine()
        for k in unroll(5):
            other = as_bits(shuffle_xor(as_float(best), 16 >> k))
            other_rank = as_bits(shuffle_xor(as_float(rank), 16 >> k))
            combine()
        if tid % 32 == 0:
            sts1(base + (tid >> 5) * 8, as_float(best))
            sts1(base + (tid >> 5) * 8 + 4, as_float(rank))
        sync()
        best = as_bits(lds1(base))
        rank = as_bits(lds1(base + 4))
        for k in unroll(1, THREADS // 32):
            other = as_bits(lds1(base + 8 * k))
            other_rank = as_bits(lds1(base + 8 * k + 4))
            combine()
        sync()
        limit = best
        limit_rank = rank
        if tid == 0:
            if LAST:
                rank = length - 1 - rank
            store_int(positions, (to + j * inner) * 2, rank)
            store_int(positions, (to + j * inner) * 2 + 1, 0)
            if VALUES:
                store_one(y, to + j * inner, load_one(x, first + rank * inner))


class Search:
    """ArgReduce and TopK over any axis of a row-major tensor."""

    name = "search"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(search, {"combine": combine}, "The best elements along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types than the precision's, and very many rounds."""
        op = node.op
        if not isinstance(op, (ArgReduce, TopK)):
            return "not a search"
        x = node.input(0).type
        if x.dtype is not cuda(target).dtype:
            return f"{x.dtype.value} tensors have no kernel in precision {cuda(target).precision}"
        if any(isinstance(d, int) and d == 0 for v in (node.input(0), *node.outputs) for d in v.type.shape):
            return "an empty tensor"
        if isinstance(op, TopK) and op.k > _MOST_ROUNDS:
            return f"more than {_MOST_ROUNDS} elements are wanted"
        assert node.outputs[-1].type.dtype is DType.I64
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN,), (PLAIN,) * len(node.outputs))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block a row."""
        op, x = node.op, node.input(0)
        assert isinstance(op, (ArgReduce, TopK))
        length, inner = x.type.shape[op.axis], numel(x.type.shape[op.axis + 1 :])
        outer, threads = numel((*x.type.shape[: op.axis], inner)), 256
        top = isinstance(op, TopK)
        smallest = not op.largest if isinstance(op, TopK) else op.kind == "min"
        values = node.outputs[0] if top else x
        arguments: dict[str, Argument] = {
            **launch(outer, 1, threads, shared=threads // 4, values=(x, *node.outputs)), "x": Pointer(x), "y": Pointer(values),
            "positions": Pointer(node.outputs[-1]), "length": Extent(length), "inner": Extent(inner),
            "count": Extent(op.k if isinstance(op, TopK) else 1),
        }  # fmt: skip
        constants = (
            ("SMALLEST", int(smallest)), ("NAN_FIRST", int(not (top and smallest))),
            ("LAST", int(isinstance(op, ArgReduce) and op.last)), ("VALUES", int(top)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, values, threads, constants)
