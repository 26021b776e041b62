"""Transpose, Slice, Expand and constant Pad of plain tensors, as copies between strided tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, Layout, SymbolicBatchError, numel, per_image, strides_of
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
from cnngraph_cpu.templates.copy_nest import (
    LOOPS,
    ONCE,
    REPEATED,
    STRIDED,
    TRANSPOSED,
    Axis,
    Nest,
    has_whole_blocks,
    is_read_blocked,
    nest_of,
    strided_copy,
)
from cnngraph_cpu.templates.strides import merge_axes

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
    for t in range(0, whole_rows, W):
        for j in range(first, whole, W):
            transpose_tile(x, at + t + j * x_inner, x_inner, y, to + t * y_across + j, y_across)
        for k in range(t, t + W):
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


def place_of_rows() -> None:
    """Where a task's rows lie in x and y, which of them it copies (``begin`` to ``end``), and their elements ``first`` to ``stop``."""
    begin = task // chunks % slabs * rows
    end = min(begin + rows, mid)
    first = task % chunks * chunk
    stop = min(first + chunk, inner)
    row = task // (chunks * slabs)
    i4 = row % d4
    i3 = row // d4 % d3
    i2 = row // (d4 * d3) % d2
    i1 = row // (d4 * d3 * d2) % d1
    i0 = row // (d4 * d3 * d2 * d1)
    x_task = i0 * x0 + i1 * x1 + i2 * x2 + i3 * x3 + i4 * x4
    y_task = i0 * y0 + i1 * y1 + i2 * y2 + i3 * y3 + i4 * y4


def copy_strided(
    x: F32Pointer, y: F32Pointer, d0: int, d1: int, d2: int, d3: int, d4: int, mid: int, across: int, inner: int, rows: int, chunk: int,
    x0: int, x1: int, x2: int, x3: int, x4: int, x_mid: int, x_inner: int, y0: int, y1: int, y2: int, y3: int, y4: int, y_mid: int,
    y_across: int, y_inner: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[i0 y0 + .. + i4 y4 + i y_mid + j y_inner] = x[i0 x0 + .. + i4 x4 + i x_mid + j x_inner]``.

    Transposed: plus k y_across, and plus k, for k < across. ``y_inner`` is 1 in all modes but the strided one, ``x_inner`` 1 in the
    contiguous and 0 in the repeated mode.
    """
    chunks = (inner + chunk - 1) // chunk
    slabs = (mid + rows - 1) // rows
    tasks = d0 * d1 * d2 * d3 * d4 * slabs * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        place_of_rows()
        for i in range(begin, end):
            at = x_task + i * x_mid
            to = y_task + i * y_mid
            if MODE == TRANSPOSED:
                copy_transposed()
            elif MODE == STRIDED:
                for j in range(first, stop):
                    put(y, to + j * y_inner, get(x, at + j * x_inner))
            else:
                copy_row()


def _stays_blocked(node: Node, width: int) -> bool:
    """Whether a Slice of whole images, from a block of channels on, in steps forwards, so that it can stay blocked."""
    op, shape = node.op, node.input(0).type.shape
    if not isinstance(op, Slice) or len(shape) < 3 or not all(isinstance(d, int) and d > 0 for d in shape[1:]):
        return False
    whole = op.shape[0] == shape[0] and op.starts[0] == 0 and op.steps[0] == 1
    return whole and op.steps[1] == 1 and op.starts[1] % width == 0 and min(op.steps) > 0


class CopyStrided:
    """Transpose, Slice and Expand."""

    name = "copy_strided"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(
        copy_strided, {f.__name__: f for f in (place_of_rows, copy_row, copy_transposed)}, "Copy between tensors with different strides."
    )

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than seven loops after merging."""
        if not isinstance(node.op, (Transpose, Slice, Expand)):
            return "not a transposition, slice or expansion"
        return only_floats(node) or self.refuse_shape(node)

    def refuse_shape(self, node: Node) -> str | None:
        """A refusal for reasons of the shapes."""
        x, y = (value.type.with_layout(PLAIN) for value in (node.input(0), node.output))
        if 0 in x.shape or 0 in y.shape:
            return "an empty tensor"
        try:
            copy = strided_copy(node.op, x, y)
        except SymbolicBatchError:
            return "a stride mixes the batch"
        return f"{len(copy.axes)} separate axes" if len(copy.axes) > LOOPS else None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain; a slice may stay blocked if it begins with a block of channels.

        A transpose reads and writes blocks where there are only whole ones; its result is blocked first where only convolutions and the
        like read it.
        """
        layout = blocked(target)
        plain = LayoutRequest((PLAIN,), (PLAIN,))
        if not isinstance(node.op, Transpose):
            return [plain, LayoutRequest((layout,), (layout,))] if _stays_blocked(node, target.width) else [plain]
        x, y = node.input(0), node.output
        sources = [PLAIN, layout] if has_whole_blocks(x.type, target.width) else [PLAIN]
        results = [PLAIN]
        if has_whole_blocks(y.type, target.width):
            results = [layout, PLAIN] if is_read_blocked(y, target.width) else [PLAIN, layout]
        return [LayoutRequest((a,), (b,)) for b in results for a in sources if _loops_suffice(node, a, b)]

    def cost(self, node: Node, target: Target) -> float:
        """Elements copied."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Loops by :func:`nest_of`; those of a slice of blocks for each image."""
        x, y = node.input(0), node.output
        if isinstance(node.op, Slice) and not y.type.layout.plain:
            return self._plan_blocked(node.op, x, y, target)
        copy = strided_copy(node.op, x.type, y.type)
        return self._call(x, y, copy.offset, nest_of(copy.axes, target.width), target)

    def _plan_blocked(self, op: Slice, x: Value, y: Value, target: Target) -> KernelCall:
        (_, plane, *steps_x), (_, *steps_y) = (strides_of(value.type.physical_shape) for value in (x, y))
        source = [plane, *(stride * step for stride, step in zip(steps_x, op.steps[2:], strict=False)), 1]
        extents, (xs, ys) = merge_axes(y.type.physical_shape[1:], [source, steps_y])
        starts = (op.starts[1] // target.width, *op.starts[2:])
        offset = sum(start * per_image(stride) for start, stride in zip(starts, (plane, *steps_x), strict=False))
        nest = nest_of([Axis(*numbers) for numbers in zip(extents, xs, ys, strict=True)], target.width)
        call = self._call(x, y, offset, replace(nest, outer=(Axis(x.type.shape[0], 0, 0), *nest.outer)), target)
        images = LOOPS - 3 - len(nest.outer)
        return KernelCall(call.spec, {**call.arguments, f"x{images}": BatchStride(x), f"y{images}": BatchStride(y)}, call.notes)

    def _call(self, x: Value, y: Value, offset: int, nest: Nest, target: Target) -> KernelCall:
        outer = (*(ONCE,) * (LOOPS - 2 - len(nest.outer)), *nest.outer)
        length, across = (per_image(axis.extent) for axis in (nest.inner, nest.across))
        chunk = _CHUNK_TRANSPOSED if nest.mode == TRANSPOSED else _CHUNK
        numbers: dict[str, Dim] = {f"d{i}": axis.extent for i, axis in enumerate(outer)}
        numbers |= {"mid": nest.mid.extent, "across": nest.across.extent, "inner": nest.inner.extent}
        numbers |= {"rows": max(1, _CHUNK // (min(length, chunk) * across)), "chunk": chunk}
        numbers |= {f"x{i}": axis.x for i, axis in enumerate(outer)}
        numbers |= {"x_mid": nest.mid.x, "x_inner": nest.inner.x}
        numbers |= {f"y{i}": axis.y for i, axis in enumerate(outer)}
        numbers |= {"y_mid": nest.mid.y, "y_across": nest.across.y, "y_inner": nest.inner.y}
        arguments: dict[str, Argument] = {"x": Pointer(x, offset), "y": Pointer(y)}
        arguments |= {name: Extent(value) for name, value in numbers.items()}
        return KernelCall(KernelSpec(self.name, target.isa, (("MODE", nest.mode),)), arguments)


def _loops_suffice(node: Node, source: Layout, result: Layout) -> bool:
    x, y = node.input(0).type.with_layout(source), node.output.type.with_layout(result)
    return len(strided_copy(node.op, x, y).axes) <= LOOPS


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
