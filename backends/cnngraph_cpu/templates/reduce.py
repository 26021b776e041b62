"""Sum, mean, maximum and minimum over all spatial axes of a blocked tensor (global pooling)."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Conv, Reduce
from cnngraph_cpu.language import F32Pointer, add, div, load, maximum, minimum, registers, splat, store, store_partial, to_float, unroll
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_floats

SUM, MEAN, MAX, MIN = 0, 1, 2, 3
W = KIND = TO_PLAIN = 0


def reduce_spatial(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, channels: int, pixels: int, tid: int, threads: int
) -> None:
    """Four partial results, then their combination, in an order that depends on ``pixels`` alone."""
    acc = registers(4)
    tasks = images * blocks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // blocks
        cb = task % blocks
        at = image * x_batch + cb * pixels * W
        for k in unroll(4):
            if KIND == MAX:
                acc[k] = splat(-1e400)
            elif KIND == MIN:
                acc[k] = splat(1e400)
            else:
                acc[k] = splat(0.0)
        whole = pixels // 4 * 4
        for p in range(0, whole, 4):
            for k in unroll(4):
                if KIND == MAX:
                    acc[k] = maximum(acc[k], load(x, at + (p + k) * W))
                elif KIND == MIN:
                    acc[k] = minimum(acc[k], load(x, at + (p + k) * W))
                else:
                    acc[k] = add(acc[k], load(x, at + (p + k) * W))
        for p in range(whole, pixels):
            if KIND == MAX:
                acc[0] = maximum(acc[0], load(x, at + p * W))
            elif KIND == MIN:
                acc[0] = minimum(acc[0], load(x, at + p * W))
            else:
                acc[0] = add(acc[0], load(x, at + p * W))
        if KIND == MAX:
            out = maximum(maximum(acc[0], acc[1]), maximum(acc[2], acc[3]))
        elif KIND == MIN:
            out = minimum(minimum(acc[0], acc[1]), minimum(acc[2], acc[3]))
        else:
            out = add(add(acc[0], acc[1]), add(acc[2], acc[3]))
        if KIND == MEAN:
            out = div(out, splat(to_float(pixels)))
        if TO_PLAIN:
            store_partial(y, image * y_batch + cb * W, out, channels - cb * W)
        else:
            store(y, image * y_batch + cb * W, out)


_KINDS = {"sum": SUM, "mean": MEAN, "max": MAX, "min": MIN}


class ReduceSpatial:
    """Global pooling."""

    name = "reduce_spatial"
    reorders_arithmetic = False
    code = Code(reduce_spatial, {}, "Reduction over all spatial axes of a blocked tensor.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other axes than all spatial ones, and other reductions."""
        if not isinstance(node.op, Reduce):
            return "not a reduction"
        refusal = only_floats(node)
        if refusal:
            return refusal
        rank = node.input(0).type.rank
        if node.op.kind not in _KINDS:
            return f"reduction {node.op.kind}"
        if rank < 3 or tuple(node.op.axes) != tuple(range(2, rank)):
            return "it does not reduce exactly the spatial axes"
        if not all(isinstance(d, int) and d > 0 for d in node.input(0).type.shape[1:]):
            return "an extent is zero or depends on the batch"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in; the result plain, or blocked if its axes are kept, which a convolution prefers."""
        assert isinstance(node.op, Reduce)
        layout = blocked(target)
        offers = [LayoutRequest((layout,), (PLAIN,))]
        if node.op.keepdims:
            convolved = any(isinstance(user.op, Conv) for user in node.output.users)
            offers.insert(0 if convolved else 1, LayoutRequest((layout,), (layout,)))
        return offers

    def cost(self, node: Node, target: Target) -> float:
        """Vectors read, and the reorder of a plain tensor."""
        elements = per_image(node.input(0).type.physical_elements)
        return elements / target.width + (elements if node.input(0).type.layout.plain else 0)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an image and channel block."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Reduce)
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x),
            "y_batch": BatchStride(y), "blocks": Extent(-(-channels // target.width)), "channels": Extent(channels),
            "pixels": Extent(numel(x.type.shape[2:])),
        }  # fmt: skip
        constants = (("KIND", _KINDS[op.kind]), ("TO_PLAIN", int(y.type.layout.plain)))
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)
