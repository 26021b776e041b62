"""A function of up to six operands that broadcast in any way, each of its own type, by strides: one thread has one element.

What is computed is a helper ``compute`` that sets ``out`` from ``value[0]``, ``value[1]``, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, DType, numel, strides_of
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops.expression import Expression
from cnngraph_cuda.language import (
    DataPointer,
    Operand0,
    Operand1,
    Operand2,
    Operand3,
    Operand4,
    Operand5,
    block_x,
    load_operand,
    registers,
    store_one,
    thread,
)
from cnngraph_cuda.source import F32, Code
from cnngraph_cuda.templates.common import Family, data_type, kernel_call, launch, refuse_empty

OPERANDS = THREADS = 0
AXES, MOST = 6, 6
_LETTERS = "abcghk"


def split_axes() -> None:
    """``i0`` .. ``i5``, the place of element ``at`` along six axes, of which the last five have extents ``d1`` .. ``d5``."""
    i4 = at // d5
    i5 = at - i4 * d5
    i3 = i4 // d4
    i4 = i4 - i3 * d4
    i2 = i3 // d3
    i3 = i3 - i2 * d3
    i1 = i2 // d2
    i2 = i2 - i1 * d2
    i0 = i1 // d1
    i1 = i1 - i0 * d1


def fetch(NUMBER: int, pointer: int, s0: int, s1: int, s2: int, s3: int, s4: int, s5: int) -> None:
    """One operand's element."""
    if NUMBER < OPERANDS:
        value[NUMBER] = load_operand(NUMBER, pointer, i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4 + i5 * s5)


def strided(
    x0: Operand0, x1: Operand1, x2: Operand2, x3: Operand3, x4: Operand4, x5: Operand5, y: DataPointer, elements: int, d1: int, d2: int,
    d3: int, d4: int, d5: int, a0: int, a1: int, a2: int, a3: int, a4: int, a5: int, b0: int, b1: int, b2: int, b3: int, b4: int, b5:
    int, c0: int, c1: int, c2: int, c3: int, c4: int, c5: int, g0: int, g1: int, g2: int, g3: int, g4: int, g5: int, h0: int, h1: int,
    h2: int, h3: int, h4: int, h5: int, k0: int, k1: int, k2: int, k3: int, k4: int, k5: int,
) -> None:  # fmt: skip
    """``y = f(x0, ..)``; the letters a, b, c, g, h, k are the strides of the operands, 0 along axes they do not have."""
    value = registers(OPERANDS)
    at = block_x() * THREADS + thread()
    if at < elements:
        split_axes()
        fetch(0, x0, a0, a1, a2, a3, a4, a5)
        fetch(1, x1, b0, b1, b2, b3, b4, b5)
        fetch(2, x2, c0, c1, c2, c3, c4, c5)
        fetch(3, x3, g0, g1, g2, g3, g4, g5)
        fetch(4, x4, h0, h1, h2, h3, h4, h5)
        fetch(5, x5, k0, k1, k2, k3, k4, k5)
        compute()
        store_one(y, at, out)


def strided_code(compute: Callable[[], None], summary: str, **helpers: Callable[..., None]) -> Code:
    """The kernel with ``compute`` in it."""
    return Code(strided, {"split_axes": split_axes, "fetch": fetch, "compute": compute, **helpers}, summary)


def refuse_shapes(node: Node) -> str | None:
    """A refusal of more than six operands or axes, and of empty tensors."""
    if sum(v is not None for v in node.inputs) > MOST:
        return f"more than {MOST} operands"
    return refuse_axes(node)


def refuse_axes(node: Node) -> str | None:
    """A refusal of more than six axes, and of empty tensors."""
    return f"more than {AXES} axes" if node.output.type.rank > AXES else refuse_empty(node)


def plain_layouts(node: Node) -> Sequence[LayoutRequest]:
    """Everything row-major."""
    return [LayoutRequest(tuple(None if v is None else PLAIN for v in node.inputs), tuple(PLAIN for _ in node.outputs))]


def broadcast_strides(shape: tuple[Dim, ...], rank: int) -> list[Dim]:
    """Elements between neighbours along each of ``rank`` axes, 0 along those that a row-major tensor of ``shape`` does not have."""
    lead = rank - len(shape)
    own: list[Dim] = [0 if d == 1 else s for d, s in zip(shape, strides_of(shape), strict=True)]
    return [*[0] * lead, *own]


def strided_call(
    family: Family, target: Target, values: Sequence[Value], y: Value, constants: Sequence[tuple[str, int]] = (),
    expression: Expression | None = None, strides: Sequence[Sequence[Dim]] | None = None, types: Sequence[DType] | None = None,
    data: DType | None = None, numbers: Sequence[float] = (),
) -> KernelCall:  # fmt: skip
    """The call for these operands; ``strides``, ``types`` and ``data`` replace what their shapes and types and that of ``y`` give.

    ``numbers`` are float32 operands behind the others, the same for all elements.
    """
    shape = y.type.shape
    units, threads = numel(shape), 256
    dims: list[Dim] = [*[1] * (AXES - len(shape)), *shape]
    count = len(values) + len(numbers)
    filled = [min(i, count - 1) for i in range(MOST)]
    steps = strides or [broadcast_strides(v.type.shape, len(shape)) for v in values]
    steps = [*steps, *([0] * len(shape) for _ in numbers)]
    kinds = [*(data_type(t) for t in types or [v.type.dtype for v in values]), *(F32 for _ in numbers)]
    pointers: list[Argument] = [*map(Pointer, values), *(Packed(np.array([n], np.float32)) for n in numbers)]
    arguments: dict[str, Argument] = {
        **launch(units, threads, threads, values=(y, *values)), **{f"x{i}": pointers[k] for i, k in enumerate(filled)},
        "y": Pointer(y), "elements": Extent(units), **{f"d{i}": Extent(dims[i]) for i in range(1, AXES)},
    }  # fmt: skip
    for letter, k in zip(_LETTERS, filled, strict=True):
        padded = [*[0] * (AXES - len(shape)), *steps[k]]
        arguments |= {f"{letter}{axis}": Extent(padded[axis]) for axis in range(AXES)}
    every = (*constants, ("OPERANDS", count), *((f"T{i}", kinds[k]) for i, k in enumerate(filled)))
    return kernel_call(family, target, arguments, y, threads, every, expression=expression, data=data)
