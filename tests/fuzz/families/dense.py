"""Matrix products, Einsum, determinants, reductions."""

from __future__ import annotations

import numpy as np

from cnngraph.ir.types import DType
from tests.fuzz.case import Array, Case, Draw, strategy
from tests.fuzz.families.movement import vector


def factor(d: Draw, shape: tuple[int, ...], dtype: DType) -> Array:
    """Numbers whose products and sums stay in the range of the type."""
    return d.array(shape, dtype, -3 if dtype.range[0] < 0 else 0, 3) if not dtype.is_float else d.floats(shape, dtype)


@strategy("Gemm")
def gemm(d: Draw) -> Case:
    return general_product(d, d.dtype())


def general_product(d: Draw, dtype: DType, **attributes: object) -> Case:
    """``alpha * A' @ B' + beta * C``."""
    m, k, n = d.int(1, 5), d.int(1, 9), d.int(1, 9)
    if d.compiled and d.flag(0.3):
        k, n = d.pick(16, 33, 64), d.pick(16, 40, 64)
    flip_a, flip_b = d.flag(0.3), d.flag(0.5)
    a, b = factor(d, (k, m) if flip_a else (m, k), dtype), factor(d, (n, k) if flip_b else (k, n), dtype)
    c = factor(d, d.broadcast((m, n)), dtype) if d.flag(0.7) or d.opset < 11 else None
    given = d.some(alpha=lambda: d.number(-1, 2), beta=lambda: d.number(-1, 2)) if dtype.is_float else {}
    if flip_a or d.flag(0.2):
        given["transA"] = int(flip_a)
    if flip_b or d.flag(0.2):
        given["transB"] = int(flip_b)
    return d.case([a, b, c], constants=(1,) if d.flag(0.7) else (), fixed=(1, 2), scaled=True, **given, **attributes)


def operands(d: Draw, first: DType, second: DType) -> tuple[Array, Array]:
    """Operands of numpy.matmul."""
    m, k, n = d.int(1, 5), d.int(1, 9), d.int(1, 9)
    lead = d.shape(0, 2, 1, 3)
    a, b = (*d.broadcast(lead), m, k), (*d.broadcast(lead), k, n)
    if d.flag(0.3):
        b = (k, n)
    if d.flag(0.1):
        a = (k,)
    elif d.flag(0.1):
        b = (k,)
    return factor(d, a, first), factor(d, b, second)


@strategy("MatMul")
def matmul(d: Draw) -> Case:
    a, b = operands(d, d.dtype(), d.dtype())
    return d.case([a, b], fixed=(1,), scaled=True)


EQUATIONS = (
    "ij,jk->ik", "bij,bjk->bik", "ij->ji", "ij->", "ii->i", "ii", "ij,ij->ij", "i,j->ij", "bhwc,hkc->bhwk", "bij,bkj->bik", "abc,cd->abd",
    "...ij,...jk->...ik", "i...->...", "ij,jk,kl->il", "bqhd,bkhd->bhqk", "ij,kj", "a,a->", "ab,b->a", "...,...", "iij->ij", "ij,i->j",
)  # fmt: skip


@strategy("Einsum")
def einsum(d: Draw) -> Case:
    equation = d.pick(*EQUATIONS)
    dtype = d.dtype(0, [t for t in d.dtypes(0) if t is not DType.BOOL])
    sizes: dict[str, int] = {}
    hidden = d.shape(0, 2, 1, 3)
    arrays = []
    for term in equation.partition("->")[0].split(","):
        shape: list[int] = []
        for letter in term.replace("...", "."):
            if letter == ".":
                shape += hidden
            else:
                shape.append(sizes.setdefault(letter, d.int(1, 4)))
        arrays.append(factor(d, tuple(shape), dtype))
    text = equation.replace(",", ", ").replace("->", " -> ") if d.flag(0.2) else equation
    return d.case(arrays, fixed=range(len(arrays)), scaled=True, tolerance=2e-5, equation=text)


@strategy("Det")
def det(d: Draw) -> Case:
    n = d.int(1, 4)
    return d.case([d.floats((*d.shape(0, 2, 1, 3), n, n), d.dtype(0, (DType.F32, DType.F64, DType.F16)))], scaled=True, tolerance=1e-4)


_AXES_INPUT = {"ReduceSum": 13}


@strategy(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
)  # fmt: skip
def reduce(d: Draw) -> Case:
    shape = d.shape(0, 4, 0)
    dtype = d.dtype()
    since = _AXES_INPUT.get(d.op, 18)
    axes = d.axes(len(shape)) if d.flag(0.8) else None
    if axes is not None and d.opset < 11:
        axes = sorted(a % len(shape) for a in axes)
    if d.op == "ReduceLogSum":
        x = d.array(shape, dtype, 0.25 if dtype.is_float else 1, 3)
    elif d.op in ("ReduceMax", "ReduceMin"):
        x = d.array(shape, dtype)
    elif d.op == "ReduceProd":
        x = d.array(shape, dtype, -2, 2)
    elif d.op == "ReduceLogSumExp":
        x = d.array(shape, dtype, 0 if dtype.range[0] == 0 and not dtype.is_float else -9, 9)
    else:
        x = d.array(shape, dtype, None if dtype.is_float else -9, None if dtype.is_float else 9, special=False)
    given = d.some(keepdims=lambda: d.int(0, 1))
    tolerance = 3e-5
    if d.opset < since:
        return d.case([x], scaled=True, tolerance=tolerance, axes=axes or None, **given)
    if d.flag(0.2):
        given["noop_with_empty_axes"] = d.int(0, 1)
    second = None if axes is None else vector(axes, np.int64)
    return d.case([x, second], constants=(1,), fixed=(1,), scaled=True, tolerance=tolerance, **given)
