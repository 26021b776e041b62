"""Every reduction along neighbouring axes of a plain tensor."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Reduce
from cnngraph_cpu.language import (
    F32Pointer,
    absolute,
    add,
    broadcast,
    div,
    exp,
    fma,
    load,
    load_partial,
    log,
    maximum,
    minimum,
    mul,
    reduce_add,
    reduce_max,
    reduce_min,
    reduce_mul,
    registers,
    select_negative,
    splat,
    sqrt,
    store_partial,
    sub,
    to_float,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import only_floats

SUM, MEAN, MAX, MIN, PROD, L1, L2, LOG_SUM, LOG_SUM_EXP, SUM_SQUARE = range(10)
KINDS = {
    "sum": SUM, "mean": MEAN, "max": MAX, "min": MIN, "prod": PROD, "l1": L1, "l2": L2, "log_sum": LOG_SUM,
    "log_sum_exp": LOG_SUM_EXP, "sum_square": SUM_SQUARE,
}  # fmt: skip
W = KIND = ACROSS = 0
_LANES_SUMMED = 16
"""Cycles from the partial results of the lanes to one result, and of the loop around."""


def start(k: int) -> None:
    """The neutral element."""
    if KIND == MAX:
        acc[k] = splat(-1e400)
    elif KIND == MIN:
        acc[k] = splat(1e400)
    elif KIND == PROD:
        acc[k] = splat(1.0)
    else:
        acc[k] = splat(0.0)


def take(k: int) -> None:
    """Combine ``value`` into accumulator ``k``."""
    if KIND == MAX:
        acc[k] = maximum(acc[k], value)
    elif KIND == MIN:
        acc[k] = minimum(acc[k], value)
    elif KIND == PROD:
        acc[k] = mul(acc[k], value)
    elif KIND == L1:
        acc[k] = add(acc[k], absolute(value))
    elif KIND == L2 or KIND == SUM_SQUARE:  # noqa: SIM109 - the specialiser folds equalities
        acc[k] = fma(value, value, acc[k])
    elif KIND == LOG_SUM_EXP:
        acc[k] = add(acc[k], exp(sub(value, top)))
    else:
        acc[k] = add(acc[k], value)


def finish() -> None:
    """From the total to the result."""
    if KIND == MEAN:
        outcome = div(total, splat(to_float(reduced)))
    elif KIND == L2:
        outcome = sqrt(total)
    elif KIND == LOG_SUM:
        outcome = log(total)
    elif KIND == LOG_SUM_EXP:
        outcome = add(log(total), top)
    else:
        outcome = total


def finite_or_zero() -> None:
    """What to subtract: the greatest element, unless that is infinite or NaN."""
    top = select_negative(sub(sub(greatest, greatest), splat(1.0)), greatest, splat(0.0))


def across(at: int, to: int, count: int) -> None:
    """``count`` neighbouring results; each sums in the order of the axis."""
    if KIND == LOG_SUM_EXP:
        greatest = splat(-1e400)
        for j in range(reduced):
            greatest = maximum(greatest, load_partial(x, at + j * inner, count))
        finite_or_zero()
    start(0)
    for j in range(reduced):
        value = load_partial(x, at + j * inner, count)
        take(0)
    total = acc[0]
    finish()
    store_partial(y, to, outcome, count)


def along(at: int, to: int) -> None:
    """One result from ``reduced`` neighbours, in four vectors of partial results."""
    if KIND == LOG_SUM_EXP:
        greatest = splat(-1e400)
        for j in range(0, whole, W):
            greatest = maximum(greatest, load(x, at + j))
        for j in range(whole, reduced):
            greatest = maximum(greatest, broadcast(x, at + j))
        greatest = splat(reduce_max(greatest))
        finite_or_zero()
    for k in unroll(4):
        start(k)
    for j in range(0, fours, 4 * W):
        for k in unroll(4):
            value = load(x, at + j + k * W)
            take(k)
    for j in range(fours, whole, W):
        value = load(x, at + j)
        take(0)
    if KIND == MAX:
        total = splat(reduce_max(maximum(maximum(acc[0], acc[1]), maximum(acc[2], acc[3]))))
    elif KIND == MIN:
        total = splat(reduce_min(minimum(minimum(acc[0], acc[1]), minimum(acc[2], acc[3]))))
    elif KIND == PROD:
        total = splat(reduce_mul(mul(mul(acc[0], acc[1]), mul(acc[2], acc[3]))))
    else:
        total = splat(reduce_add(add(add(acc[0], acc[1]), add(acc[2], acc[3]))))
    acc[0] = total
    for j in range(whole, reduced):
        value = broadcast(x, at + j)
        take(0)
    total = acc[0]
    finish()
    store_partial(y, to, outcome, 1)


def reduce(x: F32Pointer, y: F32Pointer, outer: int, reduced: int, inner: int, tid: int, threads: int) -> None:
    """[outer, reduced, inner] to [outer, inner]."""
    acc = registers(4)
    if ACROSS:
        groups = (inner + W - 1) // W
        tasks = outer * groups
        for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
            row = task // groups
            first = task % groups * W
            across(row * reduced * inner + first, row * inner + first, min(W, inner - first))
    else:
        whole = reduced // W * W
        fours = reduced // (4 * W) * (4 * W)
        for row in range(outer * tid // threads, outer * (tid + 1) // threads):
            along(row * reduced, row)


def _split(node: Node) -> tuple[int, int] | None:
    """The range of axes reduced, axes of extent 1 aside; None if they are not neighbours. (0, 0) reduces nothing."""
    assert isinstance(node.op, Reduce)
    shape = node.input(0).type.shape
    axes = [a for a in node.op.axes if shape[a] != 1]
    if not axes:
        return 0, 0
    between = [a for a in range(axes[0], axes[-1] + 1) if a not in axes and shape[a] != 1]
    return None if between else (axes[0], axes[-1] + 1)


class ReducePlain:
    """Reductions whose axes are neighbours."""

    name = "reduce"
    reorders_arithmetic = False
    code = Code(
        reduce,
        {f.__name__: f for f in (start, take, finish, finite_or_zero, across, along)},
        "Reduction along neighbouring axes of a plain tensor.",
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses axes that are apart, and empty tensors."""
        if not isinstance(node.op, Reduce):
            return "not a reduction"
        refusal = only_floats(node)
        if refusal:
            return refusal
        if node.op.kind not in KINDS:
            return f"reduction {node.op.kind}"
        if any(d == 0 for d in node.input(0).type.shape):
            return "an empty tensor"
        return "the reduced axes are not neighbours" if _split(node) is None else None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Vectors read, and the sum of the lanes of each result; above the kernel for blocked tensors where the tensor is blocked."""
        read, results = (per_image(value.type.physical_elements) for value in (node.input(0), node.output))
        return read / target.width + _LANES_SUMMED * results

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a result, or a vector of neighbouring results."""
        op, x, y = node.op, node.input(0), node.output
        split = _split(node)
        assert isinstance(op, Reduce)
        assert split is not None
        shape, (first, stop) = x.type.shape, split
        inner = numel(shape[stop:])
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "outer": Extent(numel(shape[:first])), "reduced": Extent(numel(shape[first:stop])),
            "inner": Extent(inner),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, (("KIND", KINDS[op.kind]), ("ACROSS", int(inner != 1)))), arguments)
