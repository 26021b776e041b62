"""Data movement: between plain and blocked layouts, and concatenation along axis 1."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Concat, Reorder
from cnngraph_cpu.language import F32Pointer, get, int_argument, load, load_partial, pointer_argument, put, store, store_partial
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_f32

W = TO_BLOCKED = 0


def reorder(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, channels: int, pixels: int, tid: int, threads: int
) -> None:
    """[N, C, pixels] to or from [N, C/W, pixels, W]; padding lanes become zero."""
    tasks = images * blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // blocks
        cb = task % blocks
        count = min(W, channels - cb * W)
        if TO_BLOCKED:
            source = image * x_batch + cb * W * pixels
            to = image * y_batch + cb * W * pixels
            for p in range(pixels):
                for c in range(count):
                    put(y, to + p * W + c, get(x, source + c * pixels + p))
                for c in range(count, W):
                    put(y, to + p * W + c, 0.0)
        else:
            source = image * x_batch + cb * W * pixels
            to = image * y_batch + cb * W * pixels
            if pixels == 1:
                store_partial(y, to, load(x, source), count)
            else:
                for c in range(count):
                    for p in range(pixels):
                        put(y, to + c * pixels + p, get(x, source + p * W + c))


class ReorderKernel:
    """Between plain and blocked."""

    name = "reorder"
    reorders_arithmetic = False
    code = Code(reorder, {}, "Reorder between the plain and the blocked layout.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and other blocks than the target's."""
        if not isinstance(node.op, Reorder):
            return "not a reorder"
        layouts = {node.input(0).type.layout, node.op.layout}
        if layouts != {PLAIN, blocked(target)}:
            return "not between plain and this target's blocks"
        if not all(isinstance(d, int) and d > 0 for d in node.input(0).type.shape[1:]):
            return "an extent is zero or depends on the batch"
        return only_f32(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """As the node says."""
        assert isinstance(node.op, Reorder)
        return [LayoutRequest((node.input(0).type.layout,), (node.op.layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements moved."""
        return 2.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an image and channel block."""
        x, y = node.input(0), node.output
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x),
            "y_batch": BatchStride(y), "blocks": Extent(-(-channels // target.width)), "channels": Extent(channels),
            "pixels": Extent(numel(x.type.shape[2:])),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, (("TO_BLOCKED", int(not y.type.layout.plain)),)), arguments)


def concat(y: F32Pointer, images: int, y_batch: int, parts: int, args: F32Pointer, tid: int, threads: int) -> None:
    """Copy every part's images one after another. Part p stands at arguments 4+3p: pointer, batch stride, elements an image."""
    for image in range(images * tid // threads, images * (tid + 1) // threads):
        at = image * y_batch
        for p in range(parts):
            x = pointer_argument(args, 4 + 3 * p)
            source = image * int_argument(args, 5 + 3 * p)
            count = int_argument(args, 6 + 3 * p)
            whole = count // W * W
            for i in range(0, whole, W):
                store(y, at + i, load(x, source + i))
            if whole < count:
                store_partial(y, at + whole, load_partial(x, source + whole, count - whole), count - whole)
            at = at + count


class ConcatChannels:
    """Concatenation along axis 1 whose parts could not be written in place."""

    name = "concat"
    reorders_arithmetic = False
    code = Code(concat, {}, "Concatenation along axis 1 by copying.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other axes."""
        if not isinstance(node.op, Concat):
            return "not a concatenation"
        if node.op.axis != 1:
            return "not along axis 1"
        if any(not isinstance(d, int) or d == 0 for d in node.output.type.shape[1:]):
            return "an extent is zero or depends on the batch"
        return only_f32(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked where every part but the last fills its blocks, else plain."""
        plain = LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))
        widths = [v.type.shape[1] for v in node.inputs[:-1] if v is not None]
        if node.output.type.rank >= 3 and all(isinstance(c, int) and c % target.width == 0 for c in widths):
            layout = blocked(target)
            return [LayoutRequest(tuple(layout for _ in node.inputs), (layout,)), plain]
        return [plain]

    def cost(self, node: Node, target: Target) -> float:
        """Elements copied."""
        return per_image(node.output.type.physical_elements) / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an image."""
        y = node.output
        arguments: dict[str, Argument] = {
            "y": Pointer(y), "images": Extent(y.type.shape[0]), "y_batch": BatchStride(y), "parts": Extent(len(node.inputs)),
        }  # fmt: skip
        for i, value in enumerate(node.inputs):
            assert value is not None
            arguments[f"x{i}"] = Pointer(value)
            arguments[f"x{i}_batch"] = BatchStride(value)
            arguments[f"x{i}_size"] = Extent(numel(value.type.physical_shape[1:]))
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)
