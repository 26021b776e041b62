"""Vectors of int16 in the kernel language: two to a lane of the vectors of int32, which :mod:`cnngraph_cpu.simd_int` loads and stores.

The plain meaning of each function stands in :mod:`cnngraph.kernels.emulate_int`, under the same name. Everything wraps around. Behind
them, what block floating point asks for: the largest magnitude, and floats as int16 by a factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnngraph_cpu.simd import VectorType, splat_value
from cnngraph_cpu.simd_int import U8, IntVectorType
from cnngraph_cpu.target import ISAS

_BYTE, _INT16, _INT32 = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_TO_UNITS = 1.5 * 2.0**23
"""Added to a float32 of magnitude below 2**22, it leaves the nearest integer in the last bits, in two's complement."""


def _load(lanes: int, signed: bool) -> Any:
    vector_type, vector = IntVectorType(lanes), ir.VectorType(_INT32, lanes)
    small, wide = ir.VectorType(_BYTE, lanes), ir.VectorType(_INT16, 2 * lanes)

    @intrinsic
    def load(typingctx: Any, pointer: Any, first: Any, second: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            parts = []
            for offset in values[1:]:
                part = builder.load(builder.bitcast(builder.gep(values[0], [offset]), small.as_pointer()))
                part.align = 1
                parts.append(part)
            order = ir.Constant(ir.VectorType(_INT32, 2 * lanes), list(range(2 * lanes)))
            both = builder.shuffle_vector(*parts, order)
            return builder.bitcast(builder.sext(both, wide) if signed else builder.zext(both, wide), vector)

        return vector_type(U8, types.intp, types.intp), codegen

    return load


def _dot(isa: str, lanes: int) -> Callable[[Any, Any, Any, Any], Any]:
    """Acc + the sum of two products of int16 in every lane: one instruction with VNNI, a multiplication and an addition elsewhere."""
    vector, halves = ir.VectorType(_INT32, lanes), ir.VectorType(_INT16, 2 * lanes)

    def call(builder: Any, name: str, kinds: list[Any], *values: Any) -> Any:
        return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, kinds), name), values)

    def vnni(builder: Any, acc: Any, a: Any, b: Any) -> Any:
        return call(builder, f"llvm.x86.avx512.vpdpwssd.{32 * lanes}", [vector] * 3, acc, a, b)

    def pairs(builder: Any, acc: Any, a: Any, b: Any) -> Any:
        name = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}[lanes]
        return builder.add(acc, call(builder, name, [halves] * 2, builder.bitcast(a, halves), builder.bitcast(b, halves)))

    def plain(builder: Any, acc: Any, a: Any, b: Any) -> Any:
        sixteen = ir.Constant(vector, [16] * lanes)
        low = builder.mul(*(builder.ashr(builder.shl(v, sixteen), sixteen) for v in (a, b)))
        return builder.add(acc, builder.add(low, builder.mul(builder.ashr(a, sixteen), builder.ashr(b, sixteen))))

    if ISAS[isa].target.dot:
        return vnni
    return plain if isa == "neon" else pairs


def _block_floats(lanes: int, has_fma: bool) -> dict[str, Any]:
    """Between vectors of float32 and of int16 that share a scale."""
    vector_type, float_type = IntVectorType(lanes), VectorType(lanes)
    vector, floats = ir.VectorType(_INT32, lanes), ir.VectorType(ir.FloatType(), lanes)

    def every(number: int) -> ir.Constant:
        return ir.Constant(vector, [number] * lanes)

    def in_units(builder: Any, value: Any, factor: Any) -> Any:
        shift = ir.Constant(floats, [_TO_UNITS] * lanes)
        if not has_fma:
            return builder.bitcast(builder.fadd(builder.fmul(value, factor), shift), vector)
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fma.v{lanes}f32")
        return builder.bitcast(builder.call(fma, [value, factor, shift]), vector)

    @intrinsic
    def largest_magnitude(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            # bits of magnitudes are in the order of the numbers, those of NaN above all
            most, bits = (builder.bitcast(value, vector) for value in values)
            bits = builder.and_(bits, every(0x7FFFFFFF))
            return builder.bitcast(builder.select(builder.icmp_signed(">", bits, most), bits, most), floats)

        return float_type(float_type, float_type), codegen

    @intrinsic
    def to_shorts(typingctx: Any, low: Any, high: Any, factor: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            low, high = (in_units(builder, value, values[2]) for value in values[:2])
            return builder.or_(builder.and_(low, every(0xFFFF)), builder.shl(high, every(16)))

        return vector_type(float_type, float_type, float_type), codegen

    @intrinsic
    def words_as_floats(typingctx: Any, value: Any) -> Any:
        return float_type(vector_type), lambda context, builder, signature, values: builder.bitcast(values[0], floats)

    return {"largest_magnitude": largest_magnitude, "to_shorts": to_shorts, "words_as_floats": words_as_floats}


def short_primitives(isa: str) -> dict[str, Any]:
    """The functions of vectors of int16 that generated source may name, for one instruction set, shifts of int32, and block floats."""
    lanes = ISAS[isa].target.width
    vector_type, vector = IntVectorType(lanes), ir.VectorType(_INT32, lanes)
    halves, product = ir.VectorType(_INT16, 2 * lanes), _dot(isa, lanes)

    def binary(body: Callable[[Any, Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, b: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                return builder.bitcast(body(builder, *(builder.bitcast(v, halves) for v in values)), vector)

            return vector_type(vector_type, vector_type), codegen

        return call

    def shift(whole: Any, body: Callable[[Any, Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, bits: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                count = context.cast(builder, values[1], signature.args[1], types.int64)
                amount = splat_value(builder, builder.trunc(count, whole.element), whole)
                return builder.bitcast(body(builder, builder.bitcast(values[0], whole), amount), vector)

            return vector_type(vector_type, bits), codegen

        return call

    @intrinsic
    def dot_shorts(typingctx: Any, acc: Any, a: Any, b: Any) -> Any:
        return vector_type(*[vector_type] * 3), lambda context, builder, signature, values: product(builder, *values)

    return {
        **_block_floats(lanes, ISAS[isa].target.has_fma),
        "load_shorts": _load(lanes, False), "load_signed_shorts": _load(lanes, True), "dot_shorts": dot_shorts,
        "add_shorts": binary(lambda b, x, y: b.add(x, y)), "sub_shorts": binary(lambda b, x, y: b.sub(x, y)),
        "shift_shorts": shift(halves, lambda b, x, n: b.shl(x, n)),
        "shift_left": shift(vector, lambda b, x, n: b.shl(x, n)), "shift_right": shift(vector, lambda b, x, n: b.ashr(x, n)),
    }  # fmt: skip
