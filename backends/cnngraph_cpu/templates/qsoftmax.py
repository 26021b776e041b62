"""QLinearSoftmax: exponentials from a table of 256 numbers, as the operator defines them, so that results are the reference's bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, DType, numel, per_image, round_up
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Scratch, Target
from cnngraph.ops.quantized_conv import QLinearSoftmax
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    add_int,
    div,
    get,
    get_byte,
    get_signed_byte,
    load,
    load_partial,
    mul,
    put,
    put_byte,
    round_between,
    splat,
    splat_int,
    store,
    store_bytes,
    store_bytes_partial,
    to_float,
    to_floats,
    truncated,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.quantized import EIGHT, constants_missing, number

W = SIGNED = ACROSS = 0


def exponentials() -> None:
    """``row`` of the table's numbers and their sum ``total``, in order."""
    top = -128
    for j in range(columns):
        if SIGNED:
            top = max(top, get_signed_byte(x, at + j * inner))
        else:
            top = max(top, get_byte(x, at + j * inner))
    total = to_float(0)
    for j in range(columns):
        if SIGNED:
            e = get(table, 255 - top + get_signed_byte(x, at + j * inner))
        else:
            e = get(table, 255 - top + get_byte(x, at + j * inner))
        put(row, j, e)
        total = total + e


def qsoftmax(
    x: BytePointer, table: F32Pointer, numbers: F32Pointer, y: BytePointer, row: F32Pointer, rows: int, columns: int, inner: int, zero: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """``saturate(rint(e * steps / total) + zero)`` over [rows, columns, inner] along ``columns``; ``numbers``: steps, low and high."""
    steps = splat(get(numbers, 0))
    low = splat(get(numbers, 1))
    high = splat(get(numbers, 2))
    zeros = splat_int(zero)
    whole = columns // W * W
    tasks = rows * inner
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        at = task // inner * columns * inner + task % inner
        exponentials()
        divisor = splat(total)
        if ACROSS:
            for j in range(0, columns, W):  # what lies behind the row in scratch is computed too
                store(row, j, to_floats(round_between(div(mul(load(row, j), steps), divisor), low, high)))
            for j in range(columns):
                put_byte(y, at + j * inner, truncated(get(row, j)) + zero)
        else:
            for j in range(0, whole, W):
                part = div(mul(load(row, j), steps), divisor)
                store_bytes(y, at + j, add_int(round_between(part, low, high), zeros))
            if whole < columns:
                part = div(mul(load_partial(row, whole, columns - whole), steps), divisor)
                store_bytes_partial(y, at + whole, add_int(round_between(part, low, high), zeros), columns - whole)


def _scale(value: Value) -> np.float32:
    assert value.data is not None
    return np.float32(value.data.reshape(-1)[0])


class QSoftmax:
    """QLinearSoftmax with constant scales and zero points, along any axis of a plain tensor."""

    name = "qsoftmax"
    reorders_arithmetic = False
    code = Code(qsoftmax, {"exponentials": exponentials}, "Softmax of 8-bit integers along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters computed at run time, an empty axis, and steps of the result so small that float32 overflows."""
        op = node.op
        if not isinstance(op, QLinearSoftmax):
            return "not a softmax of 8-bit integers"
        shape = node.input(0).type.shape
        if node.input(0).type.dtype not in EIGHT:
            return "not 8-bit integers"
        columns = shape[op.axis]
        if not isinstance(columns, int) or any(d == 0 for d in shape):
            return "the axis is empty or depends on the batch"
        refusal = constants_missing(node, range(1, 5))
        if refusal:
            return refusal
        with np.errstate(over="ignore"):
            largest = op.exponentials(columns, _scale(node.input(1))).max() * op.steps(_scale(node.input(3)))
        return None if np.isfinite(largest) else "a product of an exponential and 1 / scale overflows"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN, *(None for _ in node.inputs[1:])), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Two reads of an element by itself, one of the table."""
        return 4.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, QLinearSoftmax)
        shape, zero = x.type.shape, number(node.inputs[4])
        columns = shape[op.axis]
        assert isinstance(columns, int)
        inner = numel(shape[op.axis + 1 :])
        low, high = y.type.dtype.range
        numbers = np.array([op.steps(_scale(node.input(3))), low - zero, high - zero], np.float32)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "table": Packed(op.exponentials(columns, _scale(node.input(1)))), "numbers": Packed(numbers),
            "y": Pointer(y), "row": Scratch(4 * round_up(columns, target.width)), "rows": Extent(numel(shape[: op.axis])),
            "columns": Extent(columns), "inner": Extent(inner), "zero": Extent(zero),
        }  # fmt: skip
        constants = (("SIGNED", int(x.type.dtype is DType.I8)), ("ACROSS", int(inner != 1)))
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)
