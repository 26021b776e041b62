"""Max and average pooling on blocked tensors, windows clipped to the valid range."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Pool
from cnngraph_cpu.language import F32Pointer, add, div, load, maximum, splat, store, to_float
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, only_f32

W = AVERAGE = COUNT_PAD = 0


def pool(
    x: F32Pointer, y: F32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, depth: int, height: int, width: int,
    out_d: int, out_y: int, out_x: int, kernel_d: int, kernel_y: int, kernel_x: int, stride_d: int, stride_y: int, stride_x: int,
    dilation_d: int, dilation_y: int, dilation_x: int, pad_d: int, pad_y: int, pad_x: int, limit_d: int, limit_y: int, limit_x: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """``limit_*`` is the padded extent: taps beyond it (ceil_mode) never count."""
    rows = out_d * out_y
    tasks = images * blocks * rows
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        image = task // (blocks * rows)
        cb = task // rows % blocks
        row = task % rows
        z0 = (row // out_y) * stride_d - pad_d
        y0 = (row % out_y) * stride_y - pad_y
        first_d = max(0, (dilation_d - 1 - z0) // dilation_d)
        last_d = min(kernel_d, (depth - z0 + dilation_d - 1) // dilation_d)
        first_y = max(0, (dilation_y - 1 - y0) // dilation_y)
        last_y = min(kernel_y, (height - y0 + dilation_y - 1) // dilation_y)
        for ox in range(out_x):
            x0 = ox * stride_x - pad_x
            first_x = max(0, (dilation_x - 1 - x0) // dilation_x)
            last_x = min(kernel_x, (width - x0 + dilation_x - 1) // dilation_x)
            if AVERAGE:
                acc = splat(0.0)
            else:
                acc = splat(-1e39)
            for kz in range(first_d, last_d):
                for ky in range(first_y, last_y):
                    line = ((cb * depth + z0 + kz * dilation_d) * height + y0 + ky * dilation_y) * width + x0
                    for kx in range(first_x, last_x):
                        value = load(x, image * x_batch + (line + kx * dilation_x) * W)
                        if AVERAGE:
                            acc = add(acc, value)
                        else:
                            acc = maximum(acc, value)
            if AVERAGE:
                if COUNT_PAD:
                    counted_d = min(kernel_d, (limit_d - pad_d - z0 + dilation_d - 1) // dilation_d)
                    counted_y = min(kernel_y, (limit_y - pad_y - y0 + dilation_y - 1) // dilation_y)
                    counted_x = min(kernel_x, (limit_x - pad_x - x0 + dilation_x - 1) // dilation_x)
                    count = counted_d * counted_y * counted_x
                else:
                    count = (last_d - first_d) * (last_y - first_y) * (last_x - first_x)
                acc = div(acc, splat(to_float(count)))
            store(y, image * y_batch + ((cb * rows + row) * out_x + ox) * W, acc)


class PoolBlocked:
    """Pooling over 1 to 3 spatial axes."""

    name = "pool"
    reorders_arithmetic = False
    code = Code(pool, {}, "Max or average pooling over a blocked tensor.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses pooling that also returns indices."""
        if not isinstance(node.op, Pool):
            return "not pooling"
        refusal = only_f32(node)
        if refusal:
            return refusal
        if len(node.outputs) != 1 or node.op.indices:
            return "the indices of the maxima are wanted"
        if not all(isinstance(d, int) and d > 0 for d in (*node.input(0).type.shape[1:], *node.output.type.shape[1:])):
            return "an extent is zero or depends on the batch"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        return [LayoutRequest((blocked(target),), (blocked(target),))]

    def cost(self, node: Node, target: Target) -> float:
        """Taps read."""
        assert isinstance(node.op, Pool)
        taps = 1
        for k in node.op.kernel:
            taps *= k
        return per_image(node.output.type.physical_elements) * taps / target.width

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an output row of a channel block."""
        op = node.op
        assert isinstance(op, Pool)
        x, y = node.input(0), node.output
        n = len(op.kernel)
        lift = 3 - n

        def three(values: Sequence[object], fill: int) -> list[int]:
            return [fill] * lift + [int(v) for v in values]  # type: ignore[call-overload]

        channels = x.type.shape[1]
        assert isinstance(channels, int)
        size, out, begins, ends = three(x.type.shape[2:], 1), three(y.type.shape[2:], 1), three(op.pads[:n], 0), three(op.pads[n:], 0)
        groups = {
            "": size, "out_": out, "kernel_": three(op.kernel, 1), "stride_": three(op.strides, 1),
            "dilation_": three(op.dilations, 1), "pad_": begins, "limit_": [s + a + b for s, a, b in zip(size, begins, ends, strict=True)],
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "y": Pointer(y), "images": Extent(x.type.shape[0]), "x_batch": BatchStride(x),
            "y_batch": BatchStride(y), "blocks": Extent(-(-channels // target.width)),
        }  # fmt: skip
        for prefix, values in groups.items():
            names = ("depth", "height", "width") if not prefix else tuple(prefix + axis for axis in "dyx")
            arguments.update({name: Extent(v) for name, v in zip(names, values, strict=True)})
        constants = (("AVERAGE", int(op.kind == "average")), ("COUNT_PAD", int(op.kind == "average" and op.count_include_pad)))
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)
