"""Importer of the transposed convolution: pads, output_padding, output_shape and auto_pad become one result size."""

from __future__ import annotations

from cnngraph.frontend.context import NodeContext
from cnngraph.frontend.registry import importer
from cnngraph.ir.graph import Value
from cnngraph.ir.types import static
from cnngraph.ops.conv_transpose import ConvTranspose


@importer("ConvTranspose")
def conv_transpose(ctx: NodeContext) -> Value:
    """1-D to 3-D transposed convolution.

    Along each axis the natural size is ``stride*(extent-1) + output_padding + dilation*(kernel-1) + 1``. Without output_shape
    and auto_pad, the pads are cut off it. An output_shape instead says what remains, as SAME_UPPER and SAME_LOWER do with
    ``extent*stride``, where the natural size is not smaller (pads are never negative, as in ONNX's shape inference). Of an
    odd excess, SAME_UPPER cuts the larger half at the end, everything else at the beginning.
    """
    x, w = ctx.value(0), ctx.value(1)
    rank = x.type.rank
    if rank < 3:
        ctx.invalid(f"the input {x.type} has no spatial axes")
    if w.type.rank != rank:
        ctx.invalid(f"the weights {w.type} do not suit the input {x.type}")
    if rank > 5:
        ctx.unsupported(f"{rank - 2} spatial axes are not supported, only 1 to 3")
    spatial = rank - 2
    kernel, extents = static(w.type.shape[2:]), static(x.type.shape[2:])
    if ctx.attr_ints("kernel_shape", kernel) != kernel:
        ctx.invalid(f"kernel_shape {list(ctx.attr_ints('kernel_shape'))} contradicts the weights {w.type}")
    strides = _numbers(ctx, "strides", spatial, 1)
    dilations = _numbers(ctx, "dilations", spatial, 1)
    extra = _numbers(ctx, "output_padding", spatial, 0)
    pads = _numbers(ctx, "pads", 2 * spatial, 0)
    mode = ctx.attr_str("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        ctx.invalid(f"auto_pad is '{mode[:40]}', not NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    natural = tuple(s * (e - 1) + p + d * (k - 1) + 1 for s, e, p, d, k in zip(strides, extents, extra, dilations, kernel, strict=True))
    wanted: tuple[int, ...] | None = None
    if ctx.has("output_shape"):
        wanted = ctx.attr_ints("output_shape")
        if len(wanted) not in (spatial, rank):
            ctx.invalid(f"output_shape {list(wanted)} does not suit {spatial} spatial axes")
        wanted = wanted[-spatial:]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(min(n, e * s) for n, e, s in zip(natural, extents, strides, strict=True))
    if wanted is not None:
        excess = [max(n - o, 0) for n, o in zip(natural, wanted, strict=True)]
        begins = tuple(t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in excess)
        out = wanted
    else:
        if mode == "VALID" and any(pads):
            ctx.invalid(f"auto_pad VALID means no pads, but pads are {list(pads)}")
        begins = pads[:spatial]
        out = tuple(n - a - b for n, a, b in zip(natural, pads[:spatial], pads[spatial:], strict=True))
    if min(out) < 1 or min(extents) < 1:
        ctx.invalid(f"the result would have the spatial extents {list(out)}")
    op = ConvTranspose(kernel, strides, begins, dilations, out, ctx.attr_int("group", 1))
    return ctx.emit(op, x, w, ctx.optional(2))


def _numbers(ctx: NodeContext, name: str, count: int, least: int) -> tuple[int, ...]:
    """A list attribute with ``count`` entries of at least ``least``, which is also the default."""
    values = ctx.attr_ints(name, (least,) * count)
    if len(values) != count:
        ctx.invalid(f"{name} {list(values)} has {len(values)} entries, not {count}")
    if min(values) < least:
        ctx.invalid(f"{name} {list(values)} must be at least {least}")
    return values
