"""Transpose, Slice, Expand and constant Pad of plain tensors, as copies between strided tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, SymbolicBatchError, numel, per_image, strides_of
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Expand, Pad, Slice, Transpose
from cnngraph_cpu.language import (
    F32Pointer,
    broadcast,
    get,
    load,
    load_partial,
    put,
    store,
    store_partial,
    transpose_tile,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats
from cnngraph_cpu.templates.strides import OUTER, broadcast_strides, merge_axes, outer_axes

CONTIGUOUS, REPEATED, STRIDED, TRANSPOSED = range(4)
W = MODE = 0
_CHUNK = 4096
_CHUNK_TRANSPOSED = 256


def copy_row() -> None:
    """Elements ``first .. stop - 1`` of a row that is contiguous in both, or one element repeated."""
    whole = first + (stop - first) // W * W
    for j in range(first, whole, W):
        if MODE == REPEATED:
            store(y, to + j, broadcast(x, at))
        else:
            store(y, to + j, load(x, at + j))
    if whole < stop:
        if MODE == REPEATED:
            store_partial(y, to + whole, broadcast(x, at), stop - whole)
        else:
            store_partial(y, to + whole, load_partial(x, at + whole, stop - whole), stop - whole)


def copy_transposed() -> None:
    """Columns ``first .. stop - 1`` of a matrix with ``across`` rows, contiguous along its rows in y and columns in x."""
    whole_rows = across // W * W
    whole = first + (stop - first) // W * W
    for i in range(0, whole_rows, W):
        for j in range(first, whole, W):
            transpose_tile(x, at + i + j * x_inner, x_inner, y, to + i * y_across + j, y_across)
        for k in range(i, i + W):
            for j in range(whole, stop):
                put(y, to + k * y_across + j, get(x, at + k + j * x_inner))
    for k in range(whole_rows, across):
        for j in range(first, stop):
            put(y, to + k * y_across + j, get(x, at + k + j * x_inner))


def place_of_row() -> None:
    """The place of a task's row along the four outer axes, and its elements ``first`` to ``stop`` along the inner one."""
    row = task // chunks
    first = task % chunks * chunk
    stop = min(first + chunk, inner)
    i3 = row % d3
    i2 = row // d3 % d2
    i1 = row // (d3 * d2) % d1
    i0 = row // (d3 * d2 * d1)


def copy_strided(
    x: F32Pointer, y: F32Pointer, d0: int, d1: int, d2: int, d3: int, across: int, inner: int, chunk: int, x0: int, x1: int, x2: int,
    x3: int, x_inner: int, y0: int, y1: int, y2: int, y3: int, y_across: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[i0 y0 + .. + i3 y3 + j] = x[i0 x0 + .. + i3 x3 + j x_inner]``; transposed: plus k y_across, and k, for k < across."""
    chunks = (inner + chunk - 1) // chunk
    tasks = d0 * d1 * d2 * d3 * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        place_of_row()
        at = i0 * x0 + i1 * x1 + i2 * x2 + i3 * x3
        to = i0 * y0 + i1 * y1 + i2 * y2 + i3 * y3
        if MODE == TRANSPOSED:
            copy_transposed()
        elif MODE == STRIDED:
            for j in range(first, stop):
                put(y, to + j, get(x, at + j * x_inner))
        else:
            copy_row()


@dataclass(frozen=True)
class _Loops:
    """Extents of the result's axes after merging, strides of x and y along them, offset of the first element in x."""

    extents: list[Dim]
    x: list[Dim]
    y: list[Dim]
    offset: int


def _loops(node: Node) -> _Loops:
    op, shape, out = node.op, node.input(0).type.shape, node.output.type.shape
    natural, offset = strides_of(shape), 0
    if isinstance(op, Transpose):
        source: list[Dim] = [natural[p] for p in op.perm]
    elif isinstance(op, Expand):
        source = broadcast_strides(shape, out)
    else:
        assert isinstance(op, Slice)
        source = []
        for start, step, stride in zip(op.starts, op.steps, natural, strict=True):
            if start or step != 1:
                if not isinstance(stride, int):
                    raise SymbolicBatchError("a slice inside the batch axis")
                offset += start * stride
                source.append(stride * step)
            else:
                source.append(stride)
    extents, (x, y) = merge_axes(out, [source, list(strides_of(out))])
    return _Loops(extents, x, y, offset)


def _takes_whole_blocks(node: Node, width: int) -> bool:
    """Whether a Slice takes channels only, from a block's first on, so that it can stay blocked."""
    op, shape = node.op, node.input(0).type.shape
    if not isinstance(op, Slice) or len(shape) < 3 or not all(isinstance(d, int) and d > 0 for d in shape[1:]):
        return False
    whole = all(op.shape[i] == d and op.starts[i] == 0 and op.steps[i] == 1 for i, d in enumerate(shape) if i != 1)
    return whole and op.steps[1] == 1 and op.starts[1] % width == 0


class CopyStrided:
    """Transpose, Slice and Expand."""

    name = "copy_strided"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(
        copy_strided, {f.__name__: f for f in (place_of_row, copy_row, copy_transposed)}, "Copy between tensors with different strides."
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than five loops after merging."""
        if not isinstance(node.op, (Transpose, Slice, Expand)):
            return "not a transposition, slice or expansion"
        return only_floats(node) or self.refuse_shape(node)

    def refuse_shape(self, node: Node) -> str | None:
        """A refusal for reasons of the shapes."""
        if any(d == 0 for v in (node.input(0), node.output) for d in v.type.shape):
            return "an empty tensor"
        try:
            loops = _loops(node)
        except SymbolicBatchError:
            return "a stride mixes the batch"
        return f"{len(loops.extents)} separate axes" if len(loops.extents) > OUTER + 1 else None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain; a slice of whole channel blocks may stay blocked."""
        plain, layout = LayoutRequest((PLAIN,), (PLAIN,)), blocked(target)
        return [plain, LayoutRequest((layout,), (layout,))] if _takes_whole_blocks(node, target.width) else [plain]

    def cost(self, node: Node, target: Target) -> float:
        """Elements copied."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Merge axes; where x is not contiguous along y's last axis but along another, go by tiles of the two."""
        x, y = node.input(0), node.output
        if not y.type.layout.plain:
            return self._plan_blocked(node, target)
        loops = _loops(node)
        extents, xs, ys = list(loops.extents), list(loops.x), list(loops.y)
        inner, x_inner = extents.pop(), xs.pop()
        ys.pop()
        across: Dim = 1
        y_across: Dim = 0
        mode = CONTIGUOUS if x_inner == 1 or inner == 1 else REPEATED if x_inner == 0 else STRIDED
        if mode == STRIDED and 1 in xs:
            mode, i = TRANSPOSED, xs.index(1)
            across, y_across = extents.pop(i), ys.pop(i)
            xs.pop(i)
        return self._call(x, y, loops.offset, mode, target, extents, xs, ys, inner, x_inner, across, y_across)

    def _plan_blocked(self, node: Node, target: Target) -> KernelCall:
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Slice)
        offset = op.starts[1] * per_image(numel(x.type.shape[2:]))
        size = numel(y.type.physical_shape[1:])
        call = self._call(x, y, offset, CONTIGUOUS, target, [x.type.shape[0]], [0], [0], size, 1, 1, 0)
        arguments = {**call.arguments, "x3": BatchStride(x), "y3": BatchStride(y)}
        return KernelCall(call.spec, arguments, call.notes)

    def _call(
        self, x: object, y: object, offset: int, mode: int, target: Target, extents: list[Dim], xs: list[Dim], ys: list[Dim],
        inner: Dim, x_inner: Dim, across: Dim, y_across: Dim,
    ) -> KernelCall:  # fmt: skip
        arguments: dict[str, Argument] = {"x": Pointer(x, offset), "y": Pointer(y)}  # type: ignore[arg-type]
        numbers: dict[str, Dim] = {f"d{i}": d for i, d in enumerate(outer_axes(extents, 1))}
        numbers |= {"across": across, "inner": inner, "chunk": _CHUNK_TRANSPOSED if mode == TRANSPOSED else _CHUNK}
        numbers |= {f"x{i}": s for i, s in enumerate(outer_axes(xs, 0))}
        numbers |= {"x_inner": x_inner}
        numbers |= {f"y{i}": s for i, s in enumerate(outer_axes(ys, 0))}
        numbers |= {"y_across": y_across}
        arguments |= {name: Extent(value) for name, value in numbers.items()}
        return KernelCall(KernelSpec(self.name, target.isa, (("MODE", mode),)), arguments)


def fill_row(begin: int, end: int) -> None:
    """Elements ``begin .. end - 1`` of the row get the padding value."""
    for j in range(begin, end, W):
        store_partial(y, to + j, fill, min(W, end - j))


def pad_constant(
    x: F32Pointer, y: F32Pointer, value: F32Pointer, d0: int, d1: int, d2: int, inner: int, b0: int, b1: int, b2: int, b_inner: int,
    s0: int, s1: int, s2: int, s_inner: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[d0, d1, d2, inner]``, index i of y being index i - b of x, whose extents are s; a negative b crops."""
    fill = broadcast(value, 0)
    tasks = d0 * d1 * d2
    left = min(inner, max(0, b_inner))
    right = max(left, min(inner, s_inner + b_inner))
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        i2 = task % d2 - b2
        i1 = task // d2 % d1 - b1
        i0 = task // (d2 * d1) - b0
        to = task * inner
        if i0 < 0 or i0 >= s0 or i1 < 0 or i1 >= s1 or i2 < 0 or i2 >= s2:
            fill_row(0, inner)
        else:
            at = ((i0 * s1 + i1) * s2 + i2) * s_inner - b_inner
            fill_row(0, left)
            for j in range(left, right, W):
                store_partial(y, to + j, load_partial(x, at + j, min(W, right - j)), min(W, right - j))
            fill_row(right, inner)


def _pad_loops(node: Node) -> list[tuple[Dim, Dim, int]]:
    """(result extent, source extent, begin) of each axis; neighbours merge into an inner axis that is taken whole.

    An axis that is padded takes the whole axes within it along, its numbers multiplied.
    """
    op = node.op
    assert isinstance(op, Pad)
    shape, out = node.input(0).type.shape, node.output.type.shape
    axes: list[tuple[Dim, Dim, int]] = []
    for i, (size, extent) in enumerate(zip(shape, out, strict=True)):
        begin = op.pads[i]
        whole = begin == 0 and op.pads[i + len(shape)] == 0
        if axes and whole:
            a, b, c = axes[-1]
            axes[-1] = (numel((a, extent)), numel((b, size)), c * per_image(extent) if c else 0)
            if c and not isinstance(extent, int):
                raise SymbolicBatchError("a padded axis outside the batch")
        else:
            axes.append((extent, size, begin))
    return axes or [(1, 1, 0)]


class PadConstant:
    """Pad in constant mode, crops included."""

    name = "pad"
    reorders_arithmetic = False
    code = Code(pad_constant, {"fill_row": fill_row}, "Constant padding of a plain tensor.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other modes and more than four padded axes."""
        if not isinstance(node.op, Pad):
            return "not padding"
        if node.op.mode != "constant":
            return f"padding mode {node.op.mode}"
        refusal = only_floats(node)
        if refusal:
            return refusal
        if any(d == 0 for v in (node.input(0), node.output) for d in v.type.shape):
            return "an empty tensor"
        try:
            loops = _pad_loops(node)
        except SymbolicBatchError:
            return "a stride mixes the batch"
        return f"{len(loops)} separate axes" if len(loops) > 4 else None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements written."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row of the result."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Pad)
        loops = _pad_loops(node)
        loops = [(1, 1, 0)] * (4 - len(loops)) + loops
        names = ("0", "1", "2", "_inner")
        with np.errstate(over="ignore"):
            value = np.array([op.value], np.float64).astype(np.float32)
        arguments: dict[str, Argument] = {"x": Pointer(x), "y": Pointer(y), "value": Packed(value)}
        arguments |= {"inner" if n == "_inner" else f"d{n}": Extent(a) for n, (a, _, _) in zip(names, loops, strict=True)}
        arguments |= {f"b{n}": Extent(c) for n, (_, _, c) in zip(names, loops, strict=True)}
        arguments |= {f"s{n}": Extent(b) for n, (_, b, _) in zip(names, loops, strict=True)}
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)
