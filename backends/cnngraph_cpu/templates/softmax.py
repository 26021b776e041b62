"""Softmax and log-softmax along one axis of a plain tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Softmax
from cnngraph_cpu.language import (
    F32Pointer,
    I32Pointer,
    add,
    div,
    exp,
    get,
    load,
    load_partial,
    load_words,
    log,
    maximum,
    mul,
    permute,
    put,
    reduce_add,
    reduce_max,
    registers,
    scalar_log,
    splat,
    store,
    store_partial,
    sub,
    to_float,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import only_f32

W = LOG = ACROSS = STEPS = 0
_CHUNK = 1024


def along(row: int) -> None:
    """The axis is innermost: one row of it."""
    at = row * columns
    whole = columns // W * W
    left = columns - whole
    best = splat(-1e400)
    for j in range(0, whole, W):
        best = maximum(best, load(x, at + j))
    for j in range(whole, columns):
        best = maximum(best, splat(get(x, at + j)))
    top = splat(reduce_max(best))
    total = splat(0.0)
    for j in range(0, whole, W):
        e = exp(sub(load(x, at + j), top))
        total = add(total, e)
        store(y, at + j, e)
    tail = to_float(0)
    if left > 0:
        store_partial(y, at + whole, exp(sub(load_partial(x, at + whole, left), top)), left)
        for j in range(whole, columns):
            tail = tail + get(y, at + j)
    sum_ = reduce_add(total) + tail
    if LOG:
        shift_ = splat(scalar_log(sum_))
        for j in range(0, whole, W):
            store(y, at + j, sub(sub(load(x, at + j), top), shift_))
        if left > 0:
            store_partial(y, at + whole, sub(sub(load_partial(x, at + whole, left), top), shift_), left)
    else:
        inverse = to_float(1) / sum_
        factor = splat(inverse)
        for j in range(0, whole, W):
            store(y, at + j, mul(load(y, at + j), factor))
        for j in range(whole, columns):
            put(y, at + j, get(y, at + j) * inverse)


def across(row: int, first: int, count: int) -> None:
    """The axis has ``inner`` elements between neighbours: ``count`` lanes of them from ``first`` on."""
    at = row * columns * inner + first
    best = splat(-1e400)
    for j in range(columns):
        best = maximum(best, load_partial(x, at + j * inner, count))
    total = splat(0.0)
    for j in range(columns):
        e = exp(sub(load_partial(x, at + j * inner, count), best))
        total = add(total, e)
        if not LOG:
            store_partial(y, at + j * inner, e, count)
    if LOG:
        total = log(total)
        for j in range(columns):
            store_partial(y, at + j * inner, sub(sub(load_partial(x, at + j * inner, count), best), total), count)
    else:
        total = div(splat(1.0), total)
        for j in range(columns):
            store_partial(y, at + j * inner, mul(load_partial(y, at + j * inner, count), total), count)


def together(first: int, stop: int) -> None:
    """Elements ``first`` to ``stop`` of whole rows, a power of two long, of which a vector holds several."""
    for i in range(first, stop, W):
        count = min(W, stop - i)
        value = load_partial(x, i, count)
        best = value
        for s in unroll(STEPS):
            best = maximum(best, permute(best, order[s]))
        value = sub(value, best)
        e = exp(value)
        total = e
        for s in unroll(STEPS):
            total = add(total, permute(total, order[s]))
        if LOG:
            store_partial(y, i, sub(value, log(total)), count)
        else:
            store_partial(y, i, mul(e, div(splat(1.0), total)), count)


def softmax(
    x: F32Pointer, y: F32Pointer, orders: I32Pointer, rows: int, columns: int, inner: int, chunk: int, tid: int, threads: int
) -> None:
    """exp(x - max) / sum, or x - max - log(sum), over [rows, columns, inner] along ``columns``.

    With STEPS > 0 ``orders`` are STEPS vectors of lanes: lane i of the s-th is i with bit s flipped.
    """
    if STEPS:
        order = registers(STEPS)
        for s in unroll(STEPS):
            order[s] = load_words(orders, s * W)
        chunks = (rows * columns + chunk - 1) // chunk
        for task in range(chunks * tid // threads, chunks * (tid + 1) // threads):
            together(task * chunk, min(task * chunk + chunk, rows * columns))
    elif ACROSS:
        groups = (inner + W - 1) // W
        tasks = rows * groups
        for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
            first = task % groups * W
            across(task // groups, first, min(W, inner - first))
    else:
        for row in range(rows * tid // threads, rows * (tid + 1) // threads):
            along(row)


class SoftmaxPlain:
    """Softmax along any axis."""

    name = "softmax"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(softmax, {"along": along, "across": across, "together": together}, "Softmax or log-softmax along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses an axis that is empty."""
        if not isinstance(node.op, Softmax):
            return "not softmax"
        refusal = only_f32(node)
        if refusal:
            return refusal
        shape = node.input(0).type.shape
        if not isinstance(shape[node.op.axis], int) or any(d == 0 for d in shape):
            return "the axis is empty or depends on the batch"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Exponentials."""
        return 2.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row, or a vector of columns, or some vectors of short rows."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Softmax)
        shape = x.type.shape
        inner, columns = numel(shape[op.axis + 1 :]), shape[op.axis]
        assert isinstance(columns, int)
        short = inner == 1 and 2 <= columns <= target.width and columns & (columns - 1) == 0
        steps = columns.bit_length() - 1 if short else 0
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "orders": Packed(_orders(target.width, steps)), "rows": Extent(numel(shape[: op.axis])),
            "columns": Extent(columns), "inner": Extent(inner), "chunk": Extent(_CHUNK),
        }  # fmt: skip
        constants = (("LOG", int(op.log)), ("ACROSS", int(inner != 1)), ("STEPS", steps))
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)


def _orders(width: int, steps: int) -> np.ndarray:
    """The lanes that ``together`` exchanges, int32 [steps, width]; one vector where it is not used."""
    return np.arange(width, dtype=np.int32) ^ (1 << np.arange(max(1, steps), dtype=np.int32))[:, None]
