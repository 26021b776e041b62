"""Data movement whose blocks are known: between plain and blocked layouts, concatenation, gathering of rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, DType, numel, per_image, product, static
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Concat, Gather, Reorder
from cnngraph_cpu.language import (
    F32Pointer,
    I64Pointer,
    get,
    get_int,
    int_argument,
    load,
    load_partial,
    pointer_argument,
    put,
    store,
    store_partial,
    transpose_tile,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats

W = TO_BLOCKED = RUN = 0
_PIXELS = 1024
_SLICES = 4
_RUN, _SHORT_RUN = 64, 16
"""Images a task of a concatenation of pieces of at most a vector and of short ones; axes in front of the axis count as images."""
_SHORT = 16
"""Vectors of a short piece."""
_GATHERED = 4096
"""Elements a task of a gather, about."""


def place_of_pixels() -> None:
    """The pixels ``first`` to ``stop`` of a task, its ``count`` channels from block ``cb`` on, and where they begin."""
    image = task // (blocks * chunks)
    cb = task // chunks % blocks
    first = task % chunks * chunk
    stop = min(first + chunk, pixels)
    count = min(W, channels - cb * W)
    source = image * x_batch + cb * W * pixels
    to = image * y_batch + cb * W * pixels


def slice_of_part() -> None:
    """Elements ``first`` to ``stop`` of the part of an image that a task copies, and up to where they fill vectors."""
    source = image * x_batch
    to = image * y_batch + at
    step = (count // slices + W) // W * W
    first = min(count, task % slices * step)
    stop = min(count, first + step)
    whole = first + (stop - first) // W * W


def reorder(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, channels: int, pixels: int, chunk: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """[N, C, pixels] to or from [N, C/W, pixels, W] by W x W tiles; padding lanes become zero. ``chunk`` is a multiple of W."""
    chunks = (pixels + chunk - 1) // chunk
    tasks = images * blocks * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        place_of_pixels()
        if pixels == 1:
            if TO_BLOCKED:
                store(y, to, load_partial(x, source, count))
            else:
                store_partial(y, to, load(x, source), count)
        else:
            whole = first
            if count == W and stop - first >= W:
                for tile in range(first, stop, W):
                    p = min(tile, stop - W)  # the last tile overlaps the one before
                    if TO_BLOCKED:
                        transpose_tile(x, source + p, pixels, y, to + p * W, W)
                    else:
                        transpose_tile(x, source + p * W, W, y, to + p, pixels)
                whole = stop
            if TO_BLOCKED:
                for p in range(whole, stop):
                    for c in range(count):
                        put(y, to + p * W + c, get(x, source + c * pixels + p))
                    for c in range(count, W):
                        put(y, to + p * W + c, 0.0)
            else:
                for c in range(count):
                    for p in range(whole, stop):
                        put(y, to + c * pixels + p, get(x, source + p * W + c))


class ReorderKernel:
    """Between plain and blocked."""

    name = "reorder"
    reorders_arithmetic = False
    code = Code(reorder, {"place_of_pixels": place_of_pixels}, "Reorder between the plain and the blocked layout.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and other blocks than the target's."""
        if not isinstance(node.op, Reorder):
            return "not a reorder"
        layouts = {node.input(0).type.layout, node.op.layout}
        if layouts != {PLAIN, blocked(target)}:
            return "not between plain and this target's blocks"
        if not all(isinstance(d, int) and d > 0 for d in node.input(0).type.shape[1:]):
            return "an extent is zero or depends on the batch"
        return self.refuse_type(node.input(0).type.dtype)

    def refuse_type(self, dtype: DType) -> str | None:
        """A refusal of elements that these loads and stores do not move."""
        return None if dtype in (DType.F32, DType.BF16, DType.F16, DType.I32) else f"{dtype.value} tensors are not reordered here"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """As the node says."""
        assert isinstance(node.op, Reorder)
        return [LayoutRequest((node.input(0).type.layout,), (node.op.layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements moved."""
        return 2.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task some pixels of a channel block of an image."""
        return self.between(node.input(0), node.output, target)

    def between(self, x: Value, y: Value, target: Target) -> KernelCall:
        """The call that copies ``x`` to ``y``, which lie in different layouts."""
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x),
            "y_batch": BatchStride(y), "blocks": Extent(-(-channels // target.width)), "channels": Extent(channels),
            "pixels": Extent(numel(x.type.shape[2:])), "chunk": Extent(_PIXELS),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, (("TO_BLOCKED", int(not y.type.layout.plain)),)), arguments)


def concat(y: F32Pointer, images: int, y_batch: int, parts: int, slices: int, args: F32Pointer, tid: int, threads: int) -> None:
    """Copy every part's images one after another, each in ``slices`` tasks.

    Part p stands at arguments 5+4p: pointer, batch stride, elements an image, place within an image of the result. With RUN > 1 all parts
    are short, and a task is RUN images.
    """
    tasks = (images + RUN - 1) // RUN * parts * slices
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (parts * slices)
        p = task // slices % parts
        x = pointer_argument(args, 5 + 4 * p)
        x_batch = int_argument(args, 6 + 4 * p)
        count = int_argument(args, 7 + 4 * p)
        at = int_argument(args, 8 + 4 * p)
        if RUN > 1:
            vectors = count // W * W
            for i in range(image * RUN, min(image * RUN + RUN, images)):
                for j in range(0, vectors, W):
                    store(y, i * y_batch + at + j, load(x, i * x_batch + j))
                if vectors < count:
                    tail = load_partial(x, i * x_batch + vectors, count - vectors)
                    store_partial(y, i * y_batch + at + vectors, tail, count - vectors)
        else:
            slice_of_part()
            for i in range(first, whole, W):
                store(y, to + i, load(x, source + i))
            if whole < stop:
                store_partial(y, to + whole, load_partial(x, source + whole, stop - whole), stop - whole)


class ConcatCopy:
    """Concatenation along any axis; along axis 1 it is left out where the parts can be written in place."""

    name = "concat"
    reorders_arithmetic = False
    code = Code(concat, {"slice_of_part": slice_of_part}, "Concatenation by copying.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses empty tensors and a batch that is not outside the axis."""
        if not isinstance(node.op, Concat):
            return "not a concatenation"
        if any(d == 0 for v in node.inputs if v is not None for d in v.type.shape):
            return "an empty part"
        if any(not isinstance(d, int) for d in node.output.type.shape[node.op.axis :]):
            return "the batch is not outside the axis"
        return self.refuse_types(node)

    def refuse_types(self, node: Node) -> str | None:
        """A refusal of elements that these loads and stores do not move."""
        return only_floats(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain; along axis 1 also blocked, and preferably, where every part but the last fills its blocks."""
        plain = LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))
        assert isinstance(node.op, Concat)
        widths = [v.type.shape[1] for v in node.inputs[:-1] if v is not None and v.type.rank > 1]
        if node.op.axis == 1 and node.output.type.rank >= 3 and all(isinstance(c, int) and c % target.width == 0 for c in widths):
            layout = blocked(target)
            return [LayoutRequest(tuple(layout for _ in node.inputs), (layout,)), plain]
        return [plain]

    def cost(self, node: Node, target: Target) -> float:
        """Elements copied."""
        return per_image(node.output.type.physical_elements) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """A task a slice of a part of an image."""
        op, y = node.op, node.output
        assert isinstance(op, Concat)
        axis = op.axis
        arguments: dict[str, Argument] = {
            "y": Pointer(y), "images": Extent(numel(y.type.shape[:axis])),
            "y_batch": BatchStride(y) if axis == 1 else Extent(numel(y.type.shape[axis:])), "parts": Extent(len(node.inputs)),
            "slices": Extent(_SLICES),
        }  # fmt: skip
        place, sizes = 0, [per_image(numel(v.type.physical_shape[axis:])) for v in node.inputs if v is not None]
        run = _RUN if max(sizes) <= target.width else _SHORT_RUN if max(sizes) <= _SHORT * target.width else 1
        if run > 1:
            arguments["slices"] = Extent(1)
        for i, (value, size) in enumerate(zip(node.inputs, sizes, strict=True)):
            assert value is not None
            arguments[f"x{i}"] = Pointer(value)
            arguments[f"x{i}_batch"] = BatchStride(value) if axis == 1 else Extent(size)
            arguments[f"x{i}_size"] = Extent(size)
            arguments[f"x{i}_at"] = Extent(place)
            place += size
        return KernelCall(KernelSpec(self.name, target.isa, (("RUN", run),)), arguments)


def gather(
    x: F32Pointer, y: F32Pointer, sources: I64Pointer, places: I64Pointer, lengths: I64Pointer, outer: int, x_outer: int, y_outer: int,
    runs: int, task_runs: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y[o, i, :] = x[o, indices[i], :]``, neighbouring rows at once: run r of a result is ``lengths[r]`` elements from ``sources[r]`` on.

    It stands from ``places[r]`` on. A task copies ``task_runs`` runs.
    """
    groups = (runs + task_runs - 1) // task_runs
    tasks = outer * groups
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        begin = task % groups * task_runs
        for r in range(begin, min(begin + task_runs, runs)):
            at = task // groups * x_outer + get_int(sources, r)
            to = task // groups * y_outer + get_int(places, r)
            length = get_int(lengths, r)
            if length == 1:
                put(y, to, get(x, at))
            elif length < W:
                store_partial(y, to, load_partial(x, at, length), length)
            else:
                for j in range(0, length - W, W):
                    store(y, to + j, load(x, at + j))
                store(y, to + length - W, load(x, at + length - W))


class GatherRows:
    """Gather with constant indices."""

    name = "gather"
    reorders_arithmetic = False
    code = Code(gather, {}, "Gather along one axis with constant indices.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses computed indices, and constant ones outside the axis: the reference reports those."""
        if not isinstance(node.op, Gather):
            return "not a gather"
        x, indices = node.input(0), node.input(1).data
        if x.type.dtype not in (DType.F32, DType.BF16):
            return f"{x.type.dtype.value} tensors run by the reference; kernels are float32"
        if indices is None:
            return "the indices are computed at run time"
        if any(d == 0 for d in (*x.type.shape, *node.output.type.shape)):
            return "an empty tensor"
        extent = x.type.shape[node.op.axis]
        if not isinstance(extent, int) or indices.min() < -extent or indices.max() >= extent:
            return "an index is outside the axis"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Plain."""
        return [LayoutRequest((PLAIN, None), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements copied."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """A task some runs of neighbouring indices."""
        op, x, y, indices = node.op, node.input(0), node.output, node.input(1).data
        assert isinstance(op, Gather)
        assert indices is not None
        extent = x.type.shape[op.axis]
        assert isinstance(extent, int)
        inner = product(static(x.type.shape[op.axis + 1 :]))
        table = indices.reshape(-1).astype(np.int64) % extent
        first = np.append(0, np.flatnonzero(np.diff(table) != 1) + 1)
        lengths = np.diff(np.append(first, table.size)) * inner
        numbers: dict[str, Dim] = {
            "outer": numel(x.type.shape[: op.axis]), "x_outer": extent * inner, "y_outer": table.size * inner, "runs": first.size,
            "task_runs": max(1, _GATHERED // max(1, int(lengths.mean()))),
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "sources": Packed(table[first] * inner), "places": Packed(first * inner),
            "lengths": Packed(lengths),
        }  # fmt: skip
        arguments |= {name: Extent(value) for name, value in numbers.items()}
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)
