"""Depthwise convolution of 8-bit blocked tensors, exact in float32.

The sum of one filter's products is an integer far below 2**24, so every partial sum is a float32 exactly, in any order and with or
without fused multiply-adds. Inputs are widened, less their zero point, as they are loaded: padding is then 0, and taps are
clipped at the borders. See :mod:`cnngraph_cpu.templates.depthwise`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node
from cnngraph.ir.types import EXACT_F32, ceil_div, product
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops.quantized import greatest_distance, greatest_sum
from cnngraph.ops.quantized_conv import ConvInteger, QLinearConv
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    add_int,
    dot4,
    epilogue,
    fma,
    get_byte,
    get_signed_byte,
    load,
    load_bytes,
    load_interleaved,
    load_signed_bytes,
    load_words,
    mul,
    mul_int,
    registers,
    round_between,
    splat,
    splat_int,
    store,
    store_bytes,
    store_four_rounded,
    store_words,
    sub_int,
    to_float,
    to_floats,
    unroll,
    xor_int,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked, epilogue_arguments, operand_layouts
from cnngraph_cpu.templates.conv_geometry import geometry
from cnngraph_cpu.templates.depthwise import MOST_UNROLLED_TAPS, extents, next_row, packed_filters, start_row
from cnngraph_cpu.templates.pool import inner_columns
from cnngraph_cpu.templates.qconv_plan import QConv
from cnngraph_cpu.templates.quantized import UNUSED, Layer, layer_of, packs, padded, refuse_layer, signed_weights

TO_BYTES, TO_FLOATS, TO_WORDS = 0, 1, 2
FOUR_FLIPS = 0x80808080
W = SX = KX = OUT = SIGNED = ZERO_GIVEN = DX = DY = COLS = DOTS = PACK4 = 0


def store_sum() -> None:
    """Requantisation or epilogue of ``whole``, and the store at ``inner``."""
    if OUT == TO_BYTES:
        result = add_int(round_between(mul(to_floats(whole), factor), splat(low), splat(high)), splat_int(y_zero))
        store_bytes(y, image * y_batch + inner, result)
    elif OUT == TO_FLOATS:
        y_value = to_floats(whole)
        out = epilogue(y_value, image, inner, cb * W)
        store(y_floats, image * y_batch + inner, out)
    else:
        store_words(y_words, image * y_batch + inner, whole)


def finish() -> None:
    """Bias of ``total``, requantisation or epilogue, and the store at ``inner``."""
    whole = add_int(round_between(total, splat(-16777216.0), splat(16777216.0)), bias)
    store_sum()


def border(start: int, stop: int) -> None:
    """Output columns whose window leaves the row: one by one, taps clipped."""
    for ox in range(start, stop):
        x0 = ox * SX - pad_x
        first_x = max(0, (DX - 1 - x0) // DX)
        last_x = min(kernel_x, (width - x0 + DX - 1) // DX)
        total = splat(0.0)
        for ky in range(first_y, last_y):
            line = image * x_batch + ((cb * height + y0 + ky * DY) * width + x0) * W
            for kx in range(first_x, last_x):
                if SIGNED:
                    number = load_signed_bytes(x, line + kx * DX * W)
                else:
                    number = load_bytes(x, line + kx * DX * W)
                total = fma(load(w, ((cb * kernel_y + ky) * kernel_x + kx) * W), to_floats(sub_int(number, zeros)), total)
        inner = ((cb * out_y + oy) * out_x + ox) * W
        finish()


def columns_within(COLS: int, ox: int) -> None:
    """COLS output columns whose windows lie within the row."""
    for c in unroll(COLS):
        acc[c] = splat(0.0)
    for ky in range(first_y, last_y):
        line = image * x_batch + ((cb * height + y0 + ky * DY) * width + ox * SX - pad_x) * W
        at = (cb * kernel_y + ky) * kernel_x * W
        if KX:
            for kx in unroll(KX):
                weights[kx] = load(w, at + kx * W)
            for place in unroll((COLS - 1) * SX + KX):
                if SIGNED:
                    value = to_floats(sub_int(load_signed_bytes(x, line + place * W), zeros))
                else:
                    value = to_floats(sub_int(load_bytes(x, line + place * W), zeros))
                for kx in unroll(KX):
                    for c in unroll(COLS):
                        if c * SX + kx == place:
                            acc[c] = fma(weights[kx], value, acc[c])
        else:
            for kx in range(kernel_x):
                weight = load(w, at + kx * W)
                for c in unroll(COLS):
                    if SIGNED:
                        number = load_signed_bytes(x, line + (kx * DX + c * SX) * W)
                    else:
                        number = load_bytes(x, line + (kx * DX + c * SX) * W)
                    acc[c] = fma(weight, to_floats(sub_int(number, zeros)), acc[c])
    if PACK4 and COLS == 8:
        for c in unroll(8):
            sums[c] = add_int(round_between(acc[c], splat(-16777216.0), splat(16777216.0)), bias)
        finish_eight()
    else:
        for c in unroll(COLS):
            inner = ((cb * out_y + oy) * out_x + ox + c) * W
            total = acc[c]
            finish()


def start_sum() -> None:
    """The sum that every pixel of the row begins with: the bias less the zero point times the weights of the rows that exist."""
    first = bias
    if SIGNED:
        unsigned = splat_int(zero + 128)
    else:
        unsigned = zeros
    for ky in range(first_y, last_y):
        first = sub_int(first, mul_int(load_words(row_sums, (cb * kernel_y + ky) * W), unsigned))


def finish_dots(COLS: int) -> None:
    """As :func:`finish` for the sums of COLS pixels."""
    for c in unroll(COLS):
        whole = sums[c]
        inner = ((cb * out_y + oy) * out_x + ox + c) * W
        store_sum()


def finish_eight() -> None:
    """As :func:`finish_dots` for the sums of eight pixels whose results are uint8."""
    for four in unroll(2):
        store_four_rounded(
            y, image * y_batch + ((cb * out_y + oy) * out_x + ox + four * 4) * W, mul(to_floats(sums[four * 4]), factor),
            mul(to_floats(sums[four * 4 + 1]), factor), mul(to_floats(sums[four * 4 + 2]), factor),
            mul(to_floats(sums[four * 4 + 3]), factor), y_zero, low_byte, high_byte,
        )  # fmt: skip


def columns_by_dots(COLS: int, ox: int) -> None:
    """COLS output columns within the row, three taps a dot product: four pixels in each lane serve two columns at stride 1."""
    for c in unroll(COLS):
        sums[c] = first
    for ky in range(first_y, last_y):
        line = image * x_batch + ((cb * height + y0 + ky * DY) * width + ox * SX - pad_x) * W
        at = (cb * kernel_y + ky) * 2 * W
        early = load_words(fours, at)
        late = load_words(fours, at + W)
        if SX == 1:
            for pair in unroll(COLS // 2):
                pixels = load_interleaved(x, line + pair * 2 * W)
                if SIGNED:
                    pixels = xor_int(pixels, splat_int(FOUR_FLIPS))
                sums[pair * 2] = dot4(sums[pair * 2], pixels, early)
                sums[pair * 2 + 1] = dot4(sums[pair * 2 + 1], pixels, late)
        else:
            for c in unroll(COLS):
                pixels = load_interleaved(x, line + c * SX * W)
                if SIGNED:
                    pixels = xor_int(pixels, splat_int(FOUR_FLIPS))
                sums[c] = dot4(sums[c], pixels, early)
    if PACK4 and COLS == 8:
        finish_eight()
    else:
        finish_dots(COLS)


def qdepthwise(
    x: BytePointer, w: F32Pointer, fours: I32Pointer, row_sums: I32Pointer, b: I32Pointer, factors: F32Pointer, zero_at: BytePointer,
    y: BytePointer, y_floats: F32Pointer, y_words: I32Pointer, images: int, x_batch: int, y_batch: int, blocks: int, height: int,
    width: int, out_y: int, out_x: int, kernel_y: int, kernel_x: int, stride_y: int, DY: int, DX: int, pad_y: int, pad_x: int,
    first_inner: int, last_inner: int, x_zero: int, y_zero: int, low_int: int, high_int: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``[first_inner, last_inner)`` are the output columns whose window lies within the row."""
    acc = registers(8)
    sums = registers(8)
    weights = registers(KX)
    low = to_float(low_int)
    high = to_float(high_int)
    low_byte = low_int + y_zero
    high_byte = high_int + y_zero
    zero = x_zero
    if ZERO_GIVEN:
        if SIGNED:
            zero = get_signed_byte(zero_at, 0)
        else:
            zero = get_byte(zero_at, 0)
    zeros = splat_int(zero)
    tasks = images * blocks * out_y
    first_task = tasks * tid // threads
    image = first_task // (blocks * out_y)
    cb = first_task // out_y % blocks
    oy = first_task % out_y
    for task in range(first_task, tasks * (tid + 1) // threads):
        start_row()
        bias = load_words(b, cb * W)
        if OUT == TO_BYTES:
            factor = load(factors, cb * W)
        border(0, first_inner)
        eights = first_inner + (last_inner - first_inner) // 8 * 8
        twos = eights + (last_inner - eights) // 2 * 2
        if DOTS:
            start_sum()
            for ox in range(first_inner, eights, 8):
                columns_by_dots(8, ox)
            for ox in range(eights, twos, 2):
                columns_by_dots(2, ox)
        else:
            for ox in range(first_inner, eights, 8):
                columns_within(8, ox)
            for ox in range(eights, twos, 2):
                columns_within(2, ox)
        border(twos, out_x)
        next_row()


_HELPERS = (start_row, next_row, store_sum, finish, border, columns_within, start_sum, finish_dots, finish_eight, columns_by_dots)


class QDepthwise:
    """8-bit convolutions with as many groups as input and output channels."""

    name = "qdepthwise"
    reorders_arithmetic = False
    code = Code(
        qdepthwise,
        {f.__name__: f for f in _HELPERS},
        "Depthwise convolution of an 8-bit blocked tensor.",
    )
    _general = QConv()

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses what the general one does for other reasons than the weights' zero point; other groups; sums beyond 2**24."""
        op = node.op
        if not isinstance(op, (QLinearConv, ConvInteger)):
            return "not an integer convolution"
        refusal = refuse_layer(node, op)
        if refusal:
            return refusal
        g = geometry(node)
        if g.group != g.channels or g.group != g.out_channels:
            return "not one filter a channel"
        layer = layer_of(node)
        if greatest_sum(layer.weights, greatest_distance(node.input(0).type.dtype, None)) >= EXACT_F32:
            return "sums that are not exact in float32"
        return self._general.refuse_shape(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Blocked in and out."""
        layout = blocked(target)
        rest = operand_layouts(layer_of(node).operands, node.output.type, layout)
        return [LayoutRequest((layout, *[None] * (len(node.inputs) - 1 - len(rest)), *rest), (layout,))]

    def cost(self, node: Node, target: Target) -> float:
        """Taps."""
        g = geometry(node)
        return product(g.out) * product(g.kernel) * ceil_div(g.channels, target.width) * 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task an output row of a channel block."""
        op, layer = node.op, layer_of(node)
        assert isinstance(op, (QLinearConv, ConvInteger))
        g, width, x, y = geometry(node), target.width, layer.x, node.output
        blocks = ceil_div(g.channels, width)
        first, last = inner_columns(g.size[2], g.out[2], g.kernel[2], g.stride[2], g.dilation[2], g.pad[2])
        near = g.dilation[1:] == (1, 1)
        dots = target.dot and near and g.kernel[2] == 3 and g.stride[2] in (1, 2) and signed_weights(layer.weights)[1] is None
        if dots and g.stride[2] == 2:  # four pixels are read for three taps
            first, last = inner_columns(g.size[2], g.out[2], 4, 2, 1, g.pad[2])
        taps = g.kernel[2] if near and g.kernel[2] <= MOST_UNROLLED_TAPS else 0
        epilogue_of = op.epilogue if isinstance(op, ConvInteger) else None
        kinds, operands = epilogue_arguments(epilogue_of, layer.operands, y.type, width)
        numbers = {
            "x_zero": layer.x_zero if isinstance(layer.x_zero, int) else 0, "y_zero": layer.y_zero,
            "low_int": layer.low - layer.y_zero, "high_int": layer.high - layer.y_zero,
        }  # fmt: skip
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "w": packed_filters(layer.weights, width), **_dots(layer.weights if dots else None, blocks, width),
            **_channels(layer, blocks * width), "y": Pointer(y), "y_floats": Pointer(y),
            "y_words": Pointer(y), "images": Extent(g.images), "x_batch": BatchStride(x), "y_batch": BatchStride(y),
            **extents(g, width, first, last), **{name: Extent(value) for name, value in numbers.items()}, **operands,
        }  # fmt: skip
        constants = (
            ("SX", g.stride[2]), ("KX", taps), *((("DY", 1), ("DX", 1)) if near else ()), ("OUT", layer.output),
            ("SIGNED", int(layer.signed)), ("ZERO_GIVEN", int(not isinstance(layer.x_zero, int))), ("DOTS", int(dots)),
            ("PACK4", int(packs(layer, y.type.dtype))), *kinds,
        )  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants, epilogue_of), arguments)


def _dots(weights: np.ndarray | None, blocks: int, width: int) -> dict[str, Argument]:
    """``fours``: the three weights of each row before a zero, and after one; ``row_sums``: their sums."""
    if weights is None:
        return {"fours": UNUSED, "row_sums": UNUSED}
    rows = weights.reshape(weights.shape[0], -1, 3)
    fours = np.zeros((blocks * width, rows.shape[1], 2, 4), np.int8)
    fours[: rows.shape[0], :, 0, :3] = rows
    fours[: rows.shape[0], :, 1, 1:] = rows
    packed = fours.reshape(blocks, width, -1, 2, 4).transpose(0, 2, 3, 1, 4)
    sums = fours[:, :, 0].astype(np.int32).sum(axis=-1, dtype=np.int32).reshape(blocks, width, -1).transpose(0, 2, 1)
    return {"fours": Packed(np.ascontiguousarray(packed).reshape(-1).view(np.int32)), "row_sums": Packed(np.ascontiguousarray(sums))}


def _channels(layer: Layer, size: int) -> dict[str, Argument]:
    return {
        "b": padded(layer.bias, size, np.int32),
        "factors": UNUSED if layer.factors is None else padded(layer.factors, size, np.float32),
        "zero_at": UNUSED if isinstance(layer.x_zero, int) else Pointer(layer.x_zero),
    }
