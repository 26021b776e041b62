"""Between float32 and bfloat16 or float16, in the same pass between plain and blocked where a neighbour asks for that."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, DType, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Cast
from cnngraph_cpu.language import F32Pointer, load, load_partial, store, store_partial
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked
from cnngraph_cpu.templates.copy import ReorderKernel

W = 0
_CHUNK = 4096
_FLOATS = ({DType.F32, DType.BF16}, {DType.F32, DType.F16})


def cast(x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, count: int, chunk: int, tid: int, threads: int) -> None:
    """Copy ``count`` elements an image between pointers of different types."""
    chunks = (count + chunk - 1) // chunk
    tasks = images * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // chunks
        first = task % chunks * chunk
        stop = min(first + chunk, count)
        whole = first + (stop - first) // W * W
        for i in range(first, whole, W):
            store(y, image * y_batch + i, load(x, image * x_batch + i))
        if whole < stop:
            store_partial(y, image * y_batch + whole, load_partial(x, image * x_batch + whole, stop - whole), stop - whole)


class CastFloats:
    """Cast from float32 to bfloat16 or float16, or back."""

    name = "cast"
    reorders_arithmetic = False
    code = Code(cast, {}, "Between float32 and 16-bit floats.")
    _reorder = ReorderKernel()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, scalars and empty tensors."""
        if not isinstance(node.op, Cast):
            return "not a cast"
        if {node.input(0).type.dtype, node.op.to} not in _FLOATS:
            return "not between float32 and bfloat16 or float16"
        shape = node.input(0).type.shape
        if not shape or any(d == 0 for d in shape):
            return "a scalar or an empty tensor"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """The input's layout first; feature maps become blocked on the way, and results of the graph plain."""
        layout, shape = blocked(target), node.input(0).type.shape
        same = [LayoutRequest((PLAIN,), (PLAIN,))]
        if len(shape) < 3 or not all(isinstance(d, int) for d in shape[1:]):
            return same
        to_blocked, to_plain = LayoutRequest((PLAIN,), (layout,)), LayoutRequest((layout,), (PLAIN,))
        channels = shape[1]
        assert isinstance(channels, int)
        from_plain = [to_blocked, *same] if channels >= target.width and node.output.users else [*same, to_blocked]
        from_blocked = [LayoutRequest((layout,), (layout,)), to_plain] if node.output.users else [to_plain]
        return [*from_plain, *from_blocked] if node.input(0).type.layout.plain else [*from_blocked, *from_plain]

    def cost(self, node: Node, target: Target) -> float:
        """Elements moved."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """A copy by chunks, or the reorder's."""
        x, y = node.input(0), node.output
        if x.type.layout != y.type.layout:
            return self._reorder.between(x, y, target)
        batched = x.type.rank > 1
        count = numel(x.type.physical_shape[1:]) if batched else x.type.shape[0]
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "images": Extent(x.type.shape[0] if batched else 1),
            "x_batch": BatchStride(x) if batched else Extent(0), "y_batch": BatchStride(y) if batched else Extent(0),
            "count": Extent(count), "chunk": Extent(_CHUNK),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments)
