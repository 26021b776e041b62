"""Gather, GatherElements, GatherND and ScatterElements by indices computed at run time, on row-major tensors of any type.

An index outside its axis sets the call's flag, which the executor reads after the run, and counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, numel, strides_of
from cnngraph.kernels.template import Argument, Extent, Flag, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Gather
from cnngraph.ops.common import show
from cnngraph.ops.indexing import GatherElements, GatherND, ScatterElements
from cnngraph_cuda.language import (
    DataPointer,
    FlagPointer,
    Operand0,
    add,
    block_x,
    load_one,
    load_operand,
    long_add,
    long_max,
    long_min,
    long_mul,
    maximum,
    minimum,
    mul,
    select,
    store_int,
    store_one,
    thread,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, INTEGERS, data_type, kernel_call, launch, refuse_empty
from cnngraph_cuda.templates.strided import AXES, split_axes

THREADS = DEPTH = FLOATS = REDUCTION = 0
_REDUCTIONS = {"none": 0, "add": 1, "mul": 2, "max": 3, "min": 4}


def check_index(limit: int) -> None:
    """``place`` is ``index``, counted from the end if it is negative."""
    bad = select(index < 0 - limit, 1, select(index < limit, 0, 1))
    place = select(index < 0, index + limit, index)
    if bad == 1:
        store_int(flag, 1, index)
        store_int(flag, 0, 1)
        place = 0


def gather_computed(
    x: DataPointer, y: DataPointer, indices: Operand0, flag: FlagPointer, elements: int, count: int, inner: int, extent: int
) -> None:
    """``y[outer, j, inner] = x[outer, indices[j], inner]``."""
    at = block_x() * THREADS + thread()
    if at < elements:
        line = at // inner
        outer = line // count
        index = load_operand(0, indices, line - outer * count)
        check_index(extent)
        store_one(y, at, load_one(x, (outer * extent + place) * inner + at - line * inner))


def gather_elements(
    x: DataPointer, y: DataPointer, indices: Operand0, flag: FlagPointer, elements: int, extent: int, step: int, d1: int, d2: int,
    d3: int, d4: int, d5: int, s0: int, s1: int, s2: int, s3: int, s4: int, s5: int,
) -> None:  # fmt: skip
    """``s`` are the strides of ``x``, 0 along the axis of the indices, where it is ``step``."""
    at = block_x() * THREADS + thread()
    if at < elements:
        split_axes()
        index = load_operand(0, indices, at)
        check_index(extent)
        store_one(y, at, load_one(x, place * step + i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4 + i5 * s5))


def follow(NUMBER: int, limit: int, step: int) -> None:
    """One axis of an address."""
    if NUMBER < DEPTH:
        index = load_operand(0, indices, line * DEPTH + NUMBER)
        check_index(limit)
        source = source + place * step


def gather_nd(
    x: DataPointer, y: DataPointer, indices: Operand0, flag: FlagPointer, elements: int, inner: int, rows: int, size: int, n0: int, n1: int,
    n2: int, n3: int, n4: int, n5: int, s0: int, s1: int, s2: int, s3: int, s4: int, s5: int,
) -> None:  # fmt: skip
    """Each of ``rows`` rows of DEPTH indices in a batch addresses ``inner`` elements of ``size`` elements of ``x``."""
    at = block_x() * THREADS + thread()
    if at < elements:
        line = at // inner
        source = line // rows * size + at - line * inner
        follow(0, n0, s0)
        follow(1, n1, s1)
        follow(2, n2, s2)
        follow(3, n3, s3)
        follow(4, n4, s4)
        follow(5, n5, s5)
        store_one(y, at, load_one(x, source))


def scatter_elements(
    x: DataPointer, y: DataPointer, updates: DataPointer, indices: Operand0, flag: FlagPointer, lines: int, extent: int, count: int,
    step: int, update_step: int, d1: int, d2: int, d3: int, d4: int, d5: int, s0: int, s1: int, s2: int, s3: int, s4: int, s5: int,
    t0: int, t1: int, t2: int, t3: int, t4: int, t5: int, m0: int, m1: int, m2: int, m3: int, m4: int, m5: int,
) -> None:  # fmt: skip
    """One thread has one line along the axis: it copies it and makes the updates one after the other, where there are any (``m``)."""
    at = block_x() * THREADS + thread()
    if at < lines:
        split_axes()
        first = i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4 + i5 * s5
        for j in range(extent):
            store_one(y, first + j * step, load_one(x, first + j * step))
        source = i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3 + i4 * t4 + i5 * t5
        inside = select(i0 < m0, select(i1 < m1, select(i2 < m2, select(i3 < m3, select(i4 < m4, select(i5 < m5, 1, 0), 0), 0), 0), 0), 0)
        if inside == 1:
            for j in range(count):
                index = load_operand(0, indices, source + j * update_step)
                check_index(extent)
                update = load_one(updates, source + j * update_step)
                if bad == 0:
                    if REDUCTION > 0:
                        old = load_one(y, first + place * step)
                        if FLOATS:
                            if REDUCTION == 1:
                                update = add(old, update)
                            elif REDUCTION == 2:
                                update = mul(old, update)
                            elif REDUCTION == 3:
                                update = maximum(old, update)
                            else:
                                update = minimum(old, update)
                        elif REDUCTION == 1:
                            update = long_add(old, update)
                        elif REDUCTION == 2:
                            update = long_mul(old, update)
                        elif REDUCTION == 3:
                            update = long_max(old, update)
                        else:
                            update = long_min(old, update)
                    store_one(y, first + place * step, update)


class _Computed:
    reorders_arithmetic = False
    any_batch_axis = True

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Above that of constant indices."""
        return 2.0


def _flag(node: Node, axis: int) -> Flag:
    """What the operators' definitions say of such an index."""
    shape = node.input(0).type.shape
    if isinstance(node.op, Gather):
        return Flag(f"Gather index {{}} is outside axis {axis} of {show(shape)}")
    return Flag(f"{node.op.name} index {{}} is outside an axis of {show(shape)}")


def _six(letter: str, values: Sequence[Dim], empty: Dim, first: int = 0) -> dict[str, Argument]:
    """Numbers of the last axes, filled up to six."""
    padded = [*[empty] * (AXES - len(values)), *values]
    return {f"{letter}{i}": Extent(padded[i]) for i in range(first, AXES)}


class GatherComputed(_Computed):
    """Gather."""

    name = "gather_computed"
    code = Code(gather_computed, {"check_index": check_index}, "Elements picked along one axis by computed indices.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses empty tensors."""
        return refuse_empty(node) if isinstance(node.op, Gather) else "not a gather"

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, indices, y = node.op, node.input(0), node.input(1), node.output
        assert isinstance(op, Gather)
        units, threads = numel(y.type.shape), 256
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, indices, y)), "x": Pointer(x), "y": Pointer(y), "indices": Pointer(indices),
            "flag": _flag(node, op.axis), "elements": Extent(units), "count": Extent(numel(indices.type.shape)),
            "inner": Extent(numel(x.type.shape[op.axis + 1 :])), "extent": Extent(x.type.shape[op.axis]),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("T0", data_type(indices.type.dtype)),))


class GatherElementsComputed(_Computed):
    """GatherElements."""

    name = "gather_elements"
    code = Code(gather_elements, {"split_axes": split_axes, "check_index": check_index}, "One element for each index, along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than six axes and empty tensors."""
        if not isinstance(node.op, GatherElements):
            return "not GatherElements"
        return f"more than {AXES} axes" if node.output.type.rank > AXES else refuse_empty(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, indices, y = node.op, node.input(0), node.input(1), node.output
        assert isinstance(op, GatherElements)
        steps: list[Dim] = list(strides_of(x.type.shape))
        step, steps[op.axis] = steps[op.axis], 0
        units, threads = numel(y.type.shape), 256
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, indices, y)), "x": Pointer(x), "y": Pointer(y), "indices": Pointer(indices),
            "flag": _flag(node, op.axis), "elements": Extent(units), "extent": Extent(x.type.shape[op.axis]), "step": Extent(step),
            **_six("d", y.type.shape, 1, 1), **_six("s", steps, 0),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("T0", data_type(indices.type.dtype)),))


class GatherNDComputed(_Computed):
    """GatherND."""

    name = "gather_nd"
    code = Code(gather_nd, {"check_index": check_index, "follow": follow}, "Parts of a tensor at the addresses that rows of indices give.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses addresses of no or more than six axes, and empty tensors."""
        op = node.op
        if not isinstance(op, GatherND):
            return "not GatherND"
        depth = node.input(1).type.shape[-1]
        assert isinstance(depth, int)
        return f"addresses of {depth} axes" if not 0 < depth <= AXES else refuse_empty(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, x, indices, y = node.op, node.input(0), node.input(1), node.output
        assert isinstance(op, GatherND)
        lead, depth = op.batch_dims, indices.type.shape[-1]
        assert isinstance(depth, int)
        limits, steps = x.type.shape[lead : lead + depth], strides_of(x.type.shape)[lead : lead + depth]
        units, threads = numel(y.type.shape), 256
        numbers: dict[str, Dim] = {
            "elements": units, "inner": numel(x.type.shape[lead + depth :]), "rows": numel(indices.type.shape[lead:-1]),
            "size": numel(x.type.shape[lead:]),
        }  # fmt: skip
        for i in range(AXES):
            numbers |= {f"n{i}": limits[i] if i < depth else 1, f"s{i}": steps[i] if i < depth else 0}
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(x, indices, y)), "x": Pointer(x), "y": Pointer(y), "indices": Pointer(indices),
            "flag": _flag(node, lead), **{name: Extent(value) for name, value in numbers.items()},
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("DEPTH", depth), ("T0", data_type(indices.type.dtype))))


class ScatterElementsLines(_Computed):
    """ScatterElements."""

    name = "scatter_elements"
    code = Code(
        scatter_elements, {"split_axes": split_axes, "check_index": check_index}, "Updates of single elements along one axis, in order."
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses sums of other types than the kernels', more than six axes, and empty tensors."""
        op, y = node.op, node.output.type
        if not isinstance(op, ScatterElements):
            return "not ScatterElements"
        if y.rank > AXES:
            return f"more than {AXES} axes"
        if op.reduction != "none" and y.dtype not in DATA_TYPES and (y.dtype not in INTEGERS or y.dtype.value in ("bool", "uint64")):
            return f"{op.reduction} of {y.dtype.value}"
        if op.reduction != "none" and y.dtype.is_float and y.dtype.itemsize < 4:
            return f"{op.reduction} of {y.dtype.value}, which would be rounded at each update"
        return refuse_empty(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a line."""
        op, x, indices, updates, y = node.op, node.input(0), node.input(1), node.input(2), node.output
        assert isinstance(op, ScatterElements)
        axis, shape, given = op.axis, list(y.type.shape), list(indices.type.shape)
        steps: list[Dim] = list(strides_of(y.type.shape))
        sources: list[Dim] = list(strides_of(indices.type.shape))
        numbers: dict[str, Dim] = {"extent": shape[axis], "count": given[axis], "step": steps[axis], "update_step": sources[axis]}
        shape[axis] = given[axis] = 1
        steps[axis] = sources[axis] = 0
        numbers["lines"], threads = numel(shape), 256
        arguments: dict[str, Argument] = {
            **launch(numbers["lines"], threads, threads, values=(x, updates, indices, y)), "x": Pointer(x), "y": Pointer(y),
            "updates": Pointer(updates), "indices": Pointer(indices), "flag": _flag(node, axis),
            **{name: Extent(value) for name, value in numbers.items()}, **_six("d", shape, 1, 1), **_six("s", steps, 0),
            **_six("t", sources, 0), **_six("m", given, 1),
        }  # fmt: skip
        constants = (
            ("REDUCTION", _REDUCTIONS[op.reduction]), ("FLOATS", int(y.type.dtype in DATA_TYPES)), ("T0", data_type(indices.type.dtype)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants)
