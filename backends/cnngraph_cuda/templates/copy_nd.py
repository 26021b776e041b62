"""Transpose, Slice, Expand and Pad: copies of elements of any type along up to six axes by strides."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, Sym, TensorType, numel, strides_of
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Expand, Pad, Slice, Transpose
from cnngraph_cuda.language import (
    DataPointer,
    below,
    block_x,
    both,
    load_one,
    select,
    store_one,
    thread,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, refuse_empty, writing
from cnngraph_cuda.templates.strided import AXES, split_axes

PAD = THREADS = 0
PAD_MODES = {"constant": 1, "reflect": 2, "edge": 3, "wrap": 4}


def copy_nd(
    x: DataPointer, y: DataPointer, fill: DataPointer, elements: int, offset: int, d1: int, d2: int, d3: int, d4: int, d5: int, s0: int,
    s1: int, s2: int, s3: int, s4: int, s5: int, t0: int, t1: int, t2: int, t3: int, t4: int, t5: int, b0: int, b1: int, b2: int,
    b3: int, b4: int, b5: int, n0: int, n1: int, n2: int, n3: int, n4: int, n5: int,
) -> None:  # fmt: skip
    """``y[sum i*t] = x[offset + sum (i - b)*s]``; where ``i - b`` is outside ``0..n`` (only with PAD), what the mode says."""
    at = block_x() * THREADS + thread()
    if at < elements:
        split_axes()
        to = i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3 + i4 * t4 + i5 * t5
        if PAD:
            i0 = i0 - b0
            i1 = i1 - b1
            i2 = i2 - b2
            i3 = i3 - b3
            i4 = i4 - b4
            i5 = i5 - b5
            value = load_one(fill, 0)
            if PAD == 4:
                i0 = select(i0 < 0, n0 - 1 - (0 - 1 - i0) % n0, i0 % n0)
                i1 = select(i1 < 0, n1 - 1 - (0 - 1 - i1) % n1, i1 % n1)
                i2 = select(i2 < 0, n2 - 1 - (0 - 1 - i2) % n2, i2 % n2)
                i3 = select(i3 < 0, n3 - 1 - (0 - 1 - i3) % n3, i3 % n3)
                i4 = select(i4 < 0, n4 - 1 - (0 - 1 - i4) % n4, i4 % n4)
                i5 = select(i5 < 0, n5 - 1 - (0 - 1 - i5) % n5, i5 % n5)
            elif PAD > 1:
                i0 = select(i0 < 0, select(PAD == 2, 0 - i0, 0), select(i0 < n0, i0, select(PAD == 2, 2 * n0 - 2 - i0, n0 - 1)))
                i1 = select(i1 < 0, select(PAD == 2, 0 - i1, 0), select(i1 < n1, i1, select(PAD == 2, 2 * n1 - 2 - i1, n1 - 1)))
                i2 = select(i2 < 0, select(PAD == 2, 0 - i2, 0), select(i2 < n2, i2, select(PAD == 2, 2 * n2 - 2 - i2, n2 - 1)))
                i3 = select(i3 < 0, select(PAD == 2, 0 - i3, 0), select(i3 < n3, i3, select(PAD == 2, 2 * n3 - 2 - i3, n3 - 1)))
                i4 = select(i4 < 0, select(PAD == 2, 0 - i4, 0), select(i4 < n4, i4, select(PAD == 2, 2 * n4 - 2 - i4, n4 - 1)))
                i5 = select(i5 < 0, select(PAD == 2, 0 - i5, 0), select(i5 < n5, i5, select(PAD == 2, 2 * n5 - 2 - i5, n5 - 1)))
            if both(both(both(below(i0, n0), below(i1, n1)), both(below(i2, n2), below(i3, n3))), both(below(i4, n4), below(i5, n5))):
                value = load_one(x, offset + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4 + i5 * s5)
            store_one(y, to, value)
        else:
            store_one(y, to, load_one(x, offset + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4 + i5 * s5))


def strides(type_: TensorType) -> list[Dim]:
    """Elements between neighbours along each logical axis, in the tensor's layout."""
    if type_.layout.plain:
        return list(strides_of(type_.shape))
    inner = type_.layout.block
    out: list[Dim] = [1] * type_.rank
    for axis in (*range(type_.rank - 1, 1, -1), 0):
        out[axis] = inner
        inner = numel((inner, type_.shape[axis])) if axis else inner  # type: ignore[assignment]
    return out


class CopyNd:
    """Transpose, Slice, Expand and Pad."""

    name = "copy_nd"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(copy_nd, {"split_axes": split_axes}, "Copy by strides along up to six axes.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than six axes and empty tensors."""
        op = node.op
        if not isinstance(op, (Transpose, Slice, Expand, Pad)):
            return "not a copy"
        refusal = refuse_empty(node)
        if refusal:
            return refusal
        if node.output.type.rank > AXES or node.input(0).type.rank > AXES:
            return f"more than {AXES} axes"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """The input as it lies; the output channels last if the input is and has as many axes, else row-major."""
        x, y = node.input(0).type, node.output.type
        last = not x.layout.plain and not isinstance(node.op, Transpose) and y.rank == x.rank and isinstance(y.shape[1], int)
        return [LayoutRequest((x.layout,), (writing(node.output) if last else PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Axes in the order of the output's memory."""
        op, x, y = node.op, node.input(0), node.output
        rank = y.type.rank
        source, to = strides(x.type), strides(y.type)
        begins: list[Dim] = [0] * rank
        extents: list[Dim] = list(y.type.shape)
        offset: Dim = 0
        if isinstance(op, Transpose):
            source = [source[p] for p in op.perm]
        elif isinstance(op, Slice):
            offset = sum_of([_times(s, start) for s, start in zip(source, op.starts, strict=True)])
            source = [_times(s, step) for s, step in zip(source, op.steps, strict=True)]
        elif isinstance(op, Expand):
            lead = rank - x.type.rank
            wide: list[Dim] = [*[0] * lead, *source]
            shape: list[Dim] = [*[1] * lead, *x.type.shape]
            source = [0 if d == 1 and e != 1 else s for d, e, s in zip(shape, y.type.shape, wide, strict=True)]
        elif isinstance(op, Pad):
            crops = [(max(-b, 0), max(-e, 0)) for b, e in zip(op.pads[:rank], op.pads[rank:], strict=True)]
            begins = [max(b, 0) for b in op.pads[:rank]]
            extents = [d if isinstance(d, Sym) else d - sum(crop) for d, crop in zip(x.type.shape, crops, strict=True)]
            offset = sum_of([_times(s, crop[0]) for s, crop in zip(source, crops, strict=True)])
        order = list(range(rank)) if y.type.layout.plain else [0, *range(2, rank), 1]
        lead = AXES - rank

        def six(values: Sequence[Dim], empty: Dim) -> list[Dim]:
            return [empty] * lead + [values[axis] for axis in order]

        units, threads = numel(y.type.shape), 256
        dims = six(y.type.shape, 1)
        fill = op.value if isinstance(op, Pad) else 0.0
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, y)), "x": Pointer(x), "y": Pointer(y),
            "fill": Packed(np.array([fill]).astype(y.type.dtype.numpy)), "elements": Extent(units), "offset": Extent(offset),
        }  # fmt: skip
        for letter, values in (
            ("d", dims), ("s", six(source, 0)), ("t", six(to, 0)), ("b", six(begins, 0)), ("n", six(extents, 1)),
        ):  # fmt: skip
            first = 1 if letter == "d" else 0
            arguments |= {f"{letter}{i}": Extent(values[i]) for i in range(first, AXES)}
        return kernel_call(self, target, arguments, y, threads, (("PAD", PAD_MODES[op.mode] if isinstance(op, Pad) else 0),))


def _times(stride: Dim, factor: int) -> Dim:
    if isinstance(stride, Sym):
        return Sym(stride.scale * factor) if factor else 0  # a negative multiple of the batch: an argument a*N + b all the same
    return stride * factor


def sum_of(terms: Sequence[Dim]) -> Dim:
    """Sum of terms that are all fixed, or all multiples of the batch but for zeros."""
    total: Dim = 0
    for term in terms:
        if term == 0:
            continue
        total = term if total == 0 else total + term
    return total
