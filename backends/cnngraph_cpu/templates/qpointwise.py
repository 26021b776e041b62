"""Quantisation, its inverse, and element-wise operators of 8-bit tensors, on blocked or plain tensors alike.

Every operand has the shape and the layout of the result, so that one loop over the memory of an image does. Padding lanes of
blocked tensors are computed too: what they hold concerns nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnngraph.ir.graph import Node, Value
from cnngraph.ir.types import PLAIN, Dim, DType, numel, per_image
from cnngraph.kernels.template import Argument, BatchStride, Extent, KernelCall, KernelSpec, LayoutRequest, Packed, Pointer, Target
from cnngraph.ops import Cast
from cnngraph.ops.quantized import DequantizeLinear, QuantizeLinear
from cnngraph.ops.quantized_elementwise import QLinearBinary, QLinearUnary, QTable, add_parameters
from cnngraph_cpu.language import (
    BytePointer,
    F32Pointer,
    I32Pointer,
    add,
    add_int,
    div,
    fma_single,
    get,
    get_byte,
    get_signed_byte,
    load,
    load_bytes,
    load_bytes_partial,
    load_partial,
    load_signed_bytes,
    load_signed_bytes_partial,
    load_words,
    load_words_partial,
    mul,
    mul_int,
    put_byte,
    round_between,
    splat,
    splat_int,
    store,
    store_bytes,
    store_bytes_partial,
    store_partial,
    sub_int,
    to_float,
    to_floats,
    translate,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import blocked
from cnngraph_cpu.templates.quantized import EIGHT, UNUSED, number, only_one

W = SIGNED = WORDS = WITH_ZERO = WITH_SCALE = PRODUCT = 0
_CHUNK = 4096


def read_zero() -> None:
    """The zero point, 0 if there is none."""
    zero = 0
    if WITH_ZERO:
        if SIGNED:
            zero = get_signed_byte(zero_at, 0)
        else:
            zero = get_byte(zero_at, 0)


def bound_chunk() -> None:
    """The elements of the task: ``first`` to ``stop``, whole vectors up to ``whole``."""
    first = task % chunks * chunk
    stop = min(first + chunk, elements)
    whole = first + (stop - first) // W * W


def quantize(
    x: F32Pointer, scale: F32Pointer, zero_at: BytePointer, y: BytePointer, images: int, elements: int, x_batch: int, y_batch: int,
    chunk: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y = saturate(rint(x / scale) + zero)``."""
    read_zero()
    divisor = splat(get(scale, 0))
    if SIGNED:
        low = splat(to_float(-128 - zero))
        high = splat(to_float(127 - zero))
    else:
        low = splat(to_float(0 - zero))
        high = splat(to_float(255 - zero))
    zeros = splat_int(zero)
    chunks = (elements + chunk - 1) // chunk
    tasks = images * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        source = task // chunks * x_batch
        target = task // chunks * y_batch
        bound_chunk()
        for i in range(first, whole, W):
            store_bytes(y, target + i, add_int(round_between(div(load(x, source + i), divisor), low, high), zeros))
        if whole < stop:
            last = div(load_partial(x, source + whole, stop - whole), divisor)
            store_bytes_partial(y, target + whole, add_int(round_between(last, low, high), zeros), stop - whole)


def dequantize(
    x: BytePointer, x_words: I32Pointer, scale: F32Pointer, zero_at: BytePointer, y: F32Pointer, images: int, elements: int,
    x_batch: int, y_batch: int, chunk: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``y = float32(x - zero) * scale`` from bytes or (WORDS) int32, which have no zero point."""
    read_zero()
    zeros = splat_int(zero)
    factor = splat(1.0)
    if WITH_SCALE:
        factor = splat(get(scale, 0))
    chunks = (elements + chunk - 1) // chunk
    tasks = images * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        source = task // chunks * x_batch
        target = task // chunks * y_batch
        bound_chunk()
        for i in range(first, whole, W):
            if WORDS:
                value = load_words(x_words, source + i)
            elif SIGNED:
                value = sub_int(load_signed_bytes(x, source + i), zeros)
            else:
                value = sub_int(load_bytes(x, source + i), zeros)
            store(y, target + i, mul(to_floats(value), factor))
        if whole < stop:
            left = stop - whole
            if WORDS:
                value = load_words_partial(x_words, source + whole, left)
            elif SIGNED:
                value = sub_int(load_signed_bytes_partial(x, source + whole, left), zeros)
            else:
                value = sub_int(load_bytes_partial(x, source + whole, left), zeros)
            store_partial(y, target + whole, mul(to_floats(value), factor), left)


def binary_vector() -> None:
    """``out`` from the vectors ``left`` and ``right``."""
    if PRODUCT:
        both = mul_int(sub_int(left, splat_int(a_zero)), sub_int(right, splat_int(b_zero)))
        total = add(mul(to_floats(both), factor), constant)
    else:
        total = fma_single(to_floats(left), factor, fma_single(to_floats(right), other, constant))
    out = round_between(total, lowest, highest)


def qbinary(
    a: BytePointer, b: BytePointer, y: BytePointer, factors: F32Pointer, images: int, elements: int, a_batch: int, b_batch: int,
    y_batch: int, chunk: int, a_zero: int, b_zero: int, low: int, high: int, tid: int, threads: int,
) -> None:  # fmt: skip
    """``factors``: of a, of b, and the constant; for PRODUCT of the product, unused, and the zero point of y."""
    factor = splat(get(factors, 0))
    other = splat(get(factors, 1))
    constant = splat(get(factors, 2))
    lowest = splat(to_float(low))
    highest = splat(to_float(high))
    chunks = (elements + chunk - 1) // chunk
    tasks = images * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        at_a = task // chunks * a_batch
        at_b = task // chunks * b_batch
        to = task // chunks * y_batch
        bound_chunk()
        for i in range(first, whole, W):
            if SIGNED:
                left = load_signed_bytes(a, at_a + i)
                right = load_signed_bytes(b, at_b + i)
            else:
                left = load_bytes(a, at_a + i)
                right = load_bytes(b, at_b + i)
            binary_vector()
            store_bytes(y, to + i, out)
        if whole < stop:
            if SIGNED:
                left = load_signed_bytes_partial(a, at_a + whole, stop - whole)
                right = load_signed_bytes_partial(b, at_b + whole, stop - whole)
            else:
                left = load_bytes_partial(a, at_a + whole, stop - whole)
                right = load_bytes_partial(b, at_b + whole, stop - whole)
            binary_vector()
            store_bytes_partial(y, to + whole, out, stop - whole)


def lookup(
    x: BytePointer, table: BytePointer, y: BytePointer, images: int, elements: int, x_batch: int, y_batch: int, chunk: int,
    tid: int, threads: int,
) -> None:  # fmt: skip
    """``y = table[x]``, byte by byte."""
    chunks = (elements + chunk - 1) // chunk
    tasks = images * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        source = task // chunks * x_batch
        target = task // chunks * y_batch
        first = task % chunks * chunk
        stop = min(first + chunk, elements)
        whole = first
        if W == 16:
            whole = first + (stop - first) // 64 * 64
            for i in range(first, whole, 64):
                translate(table, x, source + i, y, target + i)
        for i in range(whole, stop):
            put_byte(y, target + i, get_byte(table, get_byte(x, source + i)))


class _Pointwise:
    """Layouts, cost and loop bounds of operators whose tensors are read and written side by side."""

    reorders_arithmetic = False
    name = ""
    any_batch_axis = True
    tensors: tuple[int, ...] = (0,)

    def _shape_refusal(self, node: Node) -> str | None:
        shape = node.output.type.shape
        if any(node.input(i).type.shape != shape for i in self.tensors):
            return "an operand is broadcast"
        if any(isinstance(d, int) and d == 0 for d in shape):
            return "an empty tensor"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Everything plain, or everything blocked."""
        offers = []
        shape = node.output.type.shape
        layouts = [PLAIN]
        if 3 <= len(shape) <= 5 and all(isinstance(d, int) for d in shape[1:]):
            layouts.append(blocked(target))
        for layout in layouts:
            inputs = tuple(layout if i in self.tensors else None for i in range(len(node.inputs)))
            offers.append(LayoutRequest(inputs, (layout,)))
        return offers

    def cost(self, node: Node, target: Target) -> float:
        """Vectors."""
        return 2.0 * per_image(node.output.type.physical_elements) / target.width

    def _loop(self, node: Node, names: dict[str, Value]) -> dict[str, Argument]:
        """``images``, ``elements`` and batch strides by name; tensors without an image axis are one image."""
        shape = node.output.type.physical_shape
        if len(shape) < 2:
            total: Dim = numel(shape)
            return {"images": Extent(1), "elements": Extent(total), **{n: Extent(0) for n in names}, "chunk": Extent(_CHUNK)}
        strides: dict[str, Argument] = {n: BatchStride(v) for n, v in names.items()}
        if any(not isinstance(d, int) for d in shape[1:]):
            return {"images": Extent(1), "elements": Extent(numel(shape)), **{n: Extent(0) for n in names}, "chunk": Extent(_CHUNK)}
        return {"images": Extent(shape[0]), "elements": Extent(numel(shape[1:])), **strides, "chunk": Extent(_CHUNK)}


def _parameters(node: Node) -> str | None:
    if not only_one(node.inputs[1]) or not only_one(node.inputs[2]):
        return "a scale for each channel"
    return None if node.input(1).type.dtype is DType.F32 else "the scale is not float32"


class Quantize(_Pointwise):
    """QuantizeLinear to 8 bits with one scale, which may be computed at run time."""

    name = "quantize"
    code = Code(quantize, {"read_zero": read_zero, "bound_chunk": bound_chunk}, "float32 to 8-bit integers.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types than float32, int8 and uint8, and a scale for each channel."""
        op = node.op
        if not isinstance(op, QuantizeLinear):
            return "not a quantisation"
        if op.to not in EIGHT or node.input(0).type.dtype is not DType.F32 or op.precision is not DType.F32:
            return "not from float32 to 8 bits"
        return _parameters(node) or self._shape_refusal(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Chunks of images."""
        op, x, zero, y = node.op, node.input(0), node.inputs[2], node.output
        assert isinstance(op, QuantizeLinear)
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "scale": Pointer(node.input(1)), "zero_at": UNUSED if zero is None else Pointer(zero), "y": Pointer(y),
            **self._loop(node, {"x_batch": x, "y_batch": y}),
        }  # fmt: skip
        constants = (("SIGNED", int(op.to is DType.I8)), ("WITH_ZERO", int(zero is not None)))
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)


class Dequantize(_Pointwise):
    """DequantizeLinear with one scale, and the cast of bytes or int32 to float32."""

    name = "dequantize"
    code = Code(dequantize, {"read_zero": read_zero, "bound_chunk": bound_chunk}, "8-bit or 32-bit integers to float32.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types, and a scale for each channel."""
        op, x = node.op, node.input(0) if node.inputs else None
        if isinstance(op, Cast):
            if x is None or x.type.dtype not in (*EIGHT, DType.I32) or op.to is not DType.F32:
                return "not a cast of bytes or int32 to float32"
            return self._shape_refusal(node)
        if not isinstance(op, DequantizeLinear):
            return "not a dequantisation"
        assert x is not None
        if op.to is not DType.F32 or x.type.dtype not in (*EIGHT, DType.I32):
            return "not from 8 or 32 bits to float32"
        if x.type.dtype is DType.I32 and node.inputs[2] is not None and (node.input(2).data is None or number(node.inputs[2])):
            return "a zero point of int32"
        return _parameters(node) or self._shape_refusal(node)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Chunks of images."""
        x, y, cast = node.input(0), node.output, isinstance(node.op, Cast)
        zero = None if cast or x.type.dtype is DType.I32 else node.inputs[2]
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "x_words": Pointer(x), "scale": UNUSED if cast else Pointer(node.input(1)),
            "zero_at": UNUSED if zero is None else Pointer(zero), "y": Pointer(y), **self._loop(node, {"x_batch": x, "y_batch": y}),
        }  # fmt: skip
        constants = (
            ("SIGNED", int(x.type.dtype is DType.I8)), ("WORDS", int(x.type.dtype is DType.I32)), ("WITH_ZERO", int(zero is not None)),
            ("WITH_SCALE", int(not cast)),
        )  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments)


class QBinary(_Pointwise):
    """QLinearAdd and QLinearMul of tensors of one shape."""

    name = "qbinary"
    code = Code(qbinary, {"binary_vector": binary_vector, "bound_chunk": bound_chunk}, "Sum or product of 8-bit tensors, requantised.")
    tensors = (0, 3)

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses broadcasting and parameters computed at run time."""
        if not isinstance(node.op, QLinearBinary):
            return "not an 8-bit sum or product"
        if any(node.inputs[i] is not None and node.input(i).data is None for i in (1, 2, 4, 5, 6, 7)):
            return "a scale is computed at run time"
        return self._shape_refusal(node) or (None if np.isfinite(binary_factors(node)).all() else "a factor that is not finite")

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Chunks of images; the result may be written over an operand."""
        op, a, b, y = node.op, node.input(0), node.input(3), node.output
        assert isinstance(op, QLinearBinary)
        low, high = op.bounds(a.type.dtype)
        arguments: dict[str, Argument] = {
            "a": Pointer(a), "b": Pointer(b), "y": Pointer(y), "factors": Packed(binary_factors(node)),
            **self._loop(node, {"a_batch": a, "b_batch": b, "y_batch": y}), "a_zero": Extent(number(node.inputs[2])),
            "b_zero": Extent(number(node.inputs[5])), "low": Extent(low), "high": Extent(high),
        }  # fmt: skip
        constants = (("SIGNED", int(a.type.dtype is DType.I8)), ("PRODUCT", int(op.kind == "mul")))
        overwrites = tuple(v for v in (a, b) if not v.is_constant and v.type == y.type)
        return KernelCall(KernelSpec(self.name, target.isa, constants), arguments, (), overwrites)


def binary_factors(node: Node) -> np.ndarray:
    """The three numbers that the kernel takes, as the reference computes them."""
    op = node.op
    assert isinstance(op, QLinearBinary)
    p = op.parameters([None if v is None else v.data for v in node.inputs])
    with np.errstate(all="ignore"):
        if op.kind == "add":
            return np.array(add_parameters(p), np.float32)
        return np.array([np.float32(p["a_scale"] * p["b_scale"]) / p["y_scale"], 0, p["y_zero"]], np.float32)


def single_table(value: Value) -> np.ndarray:
    """The 256 entries of a constant table."""
    assert value.data is not None
    return value.data


class Lookup(_Pointwise):
    """Functions of each number by a table of 256 results."""

    name = "lookup"
    code = Code(lookup, {}, "A function of each byte by a table.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses parameters computed at run time."""
        if not isinstance(node.op, (QLinearUnary, QTable)):
            return "not a function of 8-bit numbers"
        if any(v is not None and v.data is None for v in node.inputs[1:]):
            return "a scale is computed at run time"
        return self._shape_refusal(node)

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0 * per_image(node.output.type.physical_elements)

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Chunks of images; the result may be written over the input."""
        op, x, y = node.op, node.input(0), node.output
        if isinstance(op, QLinearUnary):
            with np.errstate(all="ignore"):
                table = op.table(x.type.dtype, tuple(None if v is None else v.data for v in node.inputs[1:]))
        else:
            table = single_table(node.input(1))
        arguments: dict[str, Argument] = {
            "x": Pointer(x), "table": Packed(table), "y": Pointer(y), **self._loop(node, {"x_batch": x, "y_batch": y}),
        }  # fmt: skip
        return KernelCall(KernelSpec(self.name, target.isa, ()), arguments, (), (x,) if x.type == y.type and not x.is_constant else ())


__all__ = ["Dequantize", "Lookup", "QBinary", "Quantize"]
