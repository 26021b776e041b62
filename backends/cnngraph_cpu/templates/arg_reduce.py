"""The position of the greatest or least element along an axis: the last layer of a segmentation network."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import EXACT_F32, PLAIN, DType, numel, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Scratch, Target
from cnngraph.ops import ArgReduce
from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    get,
    load,
    load_partial,
    put_int,
    registers,
    splat,
    store,
    to_float,
    unroll,
    where_equal,
    where_less_equal,
)
from cnngraph_cpu.source import Code

W = MAX = LAST = PARTIAL = 0  # fixed by the plan
VECTORS = 4
_CHUNK = 1024


def keep_better(v: int) -> None:
    """The candidate takes the place of the best if it is better or the first that is no number."""
    if MAX:
        chosen = where_less_equal(candidate[v], best[v], place[v], here)
        extreme = where_less_equal(candidate[v], best[v], best[v], candidate[v])
    else:
        chosen = where_less_equal(best[v], candidate[v], place[v], here)
        extreme = where_less_equal(best[v], candidate[v], best[v], candidate[v])
    place[v] = where_equal(best[v], best[v], chosen, place[v])
    best[v] = where_equal(best[v], best[v], extreme, best[v])


def search(COUNT: int, PARTIAL: int, column: int, left: int) -> None:
    """The positions for COUNT vectors of columns, of which the only one may be ``left`` wide."""
    for v in unroll(COUNT):
        place[v] = splat(to_float(start))
        if PARTIAL:
            best[v] = load_partial(x, base + start * inner + column, left)
        else:
            best[v] = load(x, base + start * inner + column + v * W)
    for k in range(1, extent):
        position = extent - 1 - k if LAST else k
        here = splat(to_float(position))
        for v in unroll(COUNT):
            if PARTIAL:
                candidate[v] = load_partial(x, base + position * inner + column, left)
            else:
                candidate[v] = load(x, base + position * inner + column + v * W)
            keep_better(v)
    for v in unroll(COUNT):
        store(found, v * W, place[v])
    for i in range(left if PARTIAL else COUNT * W):
        put_int(y, row * inner + column + i, int(get(found, i)))


def arg_reduce(
    x: F32Pointer, y: I64Pointer, found: F32Pointer, outer: int, extent: int, inner: int, chunk: int, tid: int, threads: int
) -> None:
    """``y[o, j]`` is the k that makes ``x[o, k, j]`` extreme; ``chunk`` columns a task. Positions are counted in float32."""
    best = registers(VECTORS)
    place = registers(VECTORS)
    candidate = registers(VECTORS)
    chunks = (inner + chunk - 1) // chunk
    tasks = outer * chunks
    start = extent - 1 if LAST else 0
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        row = task // chunks
        first = task % chunks * chunk
        stop = min(first + chunk, inner)
        base = row * extent * inner
        many = first + (stop - first) // (VECTORS * W) * (VECTORS * W)
        whole = first + (stop - first) // W * W
        for j in range(first, many, VECTORS * W):
            search(VECTORS, 0, j, 0)
        for j in range(many, whole, W):
            search(1, 0, j, 0)
        if whole < stop:
            search(1, 1, whole, stop - whole)


class ArgReducePlain:
    """ArgMax and ArgMin along an axis that is not the innermost."""

    name = "arg_reduce"
    reorders_arithmetic = False
    code = Code(arg_reduce, {"search": search, "keep_better": keep_better}, "Position of the extreme element along an axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses rows shorter than a vector: NumPy searches contiguous numbers as fast."""
        op = node.op
        if not isinstance(op, ArgReduce):
            return "not ArgMax or ArgMin"
        x = node.input(0).type
        if x.dtype is not DType.F32:
            return f"{x.dtype.value} tensors run by the reference; kernels are float32"
        if any(d == 0 for d in x.shape):
            return "an empty tensor"
        if not all(isinstance(d, int) for d in x.shape[op.axis :]):
            return "the batch is not outside the axis"
        if per_image(x.shape[op.axis]) > EXACT_F32:
            return "positions beyond those that float32 counts"
        if per_image(numel(x.shape[op.axis + 1 :])) < target.width:
            return "fewer neighbours than the lanes of a vector"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements compared."""
        return 1.0 * per_image(node.input(0).type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task some columns of one outer index."""
        op, x = node.op, node.input(0)
        assert isinstance(op, ArgReduce)
        shape = x.type.shape
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(node.output), "found": Scratch(VECTORS * target.width * 4),
            "outer": Extent(numel(shape[: op.axis])), "extent": Extent(shape[op.axis]), "inner": Extent(numel(shape[op.axis + 1 :])),
            "chunk": Extent(_CHUNK),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, (("MAX", int(op.kind == "max")), ("LAST", int(op.last)))), arguments)
