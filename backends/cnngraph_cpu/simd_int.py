"""Integers in the kernel language: vectors of int32, bytes in memory, and dot products of four bytes.

``integer_primitives(isa)`` extends :func:`cnngraph_cpu.simd.primitives`. The plain meaning of each function stands in
:mod:`cnngraph.kernels.emulate_int`, under the same name. Sums wrap around as int32 does, on every instruction set alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from cnngraph_cpu.simd import VectorType, first_lanes, splat_value, unknown_to_llvm
from cnngraph_cpu.target import ISAS

U8 = types.CPointer(types.uint8)
I32 = types.CPointer(types.int32)
_BYTE, _INT32, _INT64, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


class IntVectorType(types.Type):
    """Numba type of ``lanes`` int32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"i32x{lanes}")


@register_model(IntVectorType)
class _IntVectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: IntVectorType) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_INT32, fe_type.lanes))


def _pointer_argument(element: Any, pointer: Any) -> Any:
    @intrinsic
    def argument(typingctx: Any, args: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            word = builder.load(builder.gep(values[0], [values[1]]))
            return builder.inttoptr(word, ir.PointerType(element))

        return pointer(args, types.intp), codegen

    return argument


def _get(pointer: Any, signed: bool) -> Any:
    @intrinsic
    def get(typingctx: Any, p: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(builder.gep(values[0], [values[1]]))
            return builder.sext(loaded, _INT64) if signed else builder.zext(loaded, _INT64)

        return types.int64(pointer, types.intp), codegen

    return get


def _put(element: Any, pointer: Any) -> Any:
    @intrinsic
    def put(typingctx: Any, p: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.store(builder.trunc(values[2], element), builder.gep(values[0], [values[1]]))
            return context.get_dummy_value()

        return types.void(pointer, types.intp, types.int64), codegen

    return put


def _memory(lanes: int) -> dict[str, Any]:
    """Loads and stores of ``lanes`` bytes or int32, bytes widened to int32 lanes; no alignment is needed."""
    vector_type, vector, small = IntVectorType(lanes), ir.VectorType(_INT32, lanes), ir.VectorType(_BYTE, lanes)

    def address(builder: Any, values: Any, type_: Any) -> Any:
        return builder.bitcast(builder.gep(values[0], [values[1]]), type_.as_pointer())

    def mask(builder: Any, count: Any) -> Any:
        return first_lanes(builder, count, lanes)

    def widen(builder: Any, value: Any, signed: bool) -> Any:
        return builder.sext(value, vector) if signed else builder.zext(value, vector)

    def load_bytes(signed: bool) -> Any:
        @intrinsic
        def load(typingctx: Any, pointer: Any, offset: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                loaded = builder.load(address(builder, values, small))
                loaded.align = 1
                return widen(builder, loaded, signed)

            return vector_type(U8, types.intp), codegen

        return load

    def load_bytes_partial(signed: bool) -> Any:
        @intrinsic
        def load(typingctx: Any, pointer: Any, offset: Any, count: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                fnty = ir.FunctionType(small, [small.as_pointer(), _INT32, ir.VectorType(ir.IntType(1), lanes), small])
                function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.masked.load.v{lanes}i8.p0")
                zero = ir.Constant(small, [0] * lanes)
                where = address(builder, values, small)
                return widen(builder, builder.call(function, [where, ir.Constant(_INT32, 1), mask(builder, values[2]), zero]), signed)

            return vector_type(U8, types.intp, types.intp), codegen

        return load

    @intrinsic
    def store_bytes(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.store(builder.trunc(values[2], small), address(builder, values, small)).align = 1
            return context.get_dummy_value()

        return types.void(U8, types.intp, vector_type), codegen

    @intrinsic
    def store_bytes_partial(typingctx: Any, pointer: Any, offset: Any, value: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fnty = ir.FunctionType(ir.VoidType(), [small, small.as_pointer(), _INT32, ir.VectorType(ir.IntType(1), lanes)])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.masked.store.v{lanes}i8.p0")
            where = address(builder, values, small)
            some = mask(builder, unknown_to_llvm(builder, values[3]))
            builder.call(function, [builder.trunc(values[2], small), where, ir.Constant(_INT32, 1), some])
            return context.get_dummy_value()

        return types.void(U8, types.intp, vector_type, types.intp), codegen

    @intrinsic
    def load_words(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(address(builder, values, vector))
            loaded.align = 4
            return loaded

        return vector_type(I32, types.intp), codegen

    @intrinsic
    def store_words(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            builder.store(values[2], address(builder, values, vector)).align = 4
            return context.get_dummy_value()

        return types.void(I32, types.intp, vector_type), codegen

    @intrinsic
    def load_words_partial(typingctx: Any, pointer: Any, offset: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fnty = ir.FunctionType(vector, [vector.as_pointer(), _INT32, ir.VectorType(ir.IntType(1), lanes), vector])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.masked.load.v{lanes}i32.p0")
            zero, where = ir.Constant(vector, [0] * lanes), address(builder, values, vector)
            return builder.call(function, [where, ir.Constant(_INT32, 4), mask(builder, values[2]), zero])

        return vector_type(I32, types.intp, types.intp), codegen

    @intrinsic
    def store_words_partial(typingctx: Any, pointer: Any, offset: Any, value: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fnty = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), _INT32, ir.VectorType(ir.IntType(1), lanes)])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.masked.store.v{lanes}i32.p0")
            builder.call(function, [values[2], address(builder, values, vector), ir.Constant(_INT32, 4), mask(builder, values[3])])
            return context.get_dummy_value()

        return types.void(I32, types.intp, vector_type, types.intp), codegen

    @intrinsic
    def broadcast_word(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(address(builder, values, _INT32))
            loaded.align = 1
            return splat_value(builder, loaded, vector)

        return vector_type(U8, types.intp), codegen

    @intrinsic
    def load_interleaved(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            whole = ir.VectorType(_BYTE, 4 * lanes)
            loaded = builder.load(address(builder, values, vector))
            loaded.align = 1
            # groups of four lanes first, across the register; then bytes within each 16
            order = [place * (lanes // 4) + group for group in range(lanes // 4) for place in range(4)]
            near = builder.shuffle_vector(loaded, loaded, ir.Constant(vector, order))
            within = [16 * group + 4 * place + lane for group in range(lanes // 4) for lane in range(4) for place in range(4)]
            narrow = builder.bitcast(near, whole)
            mixed = builder.shuffle_vector(narrow, narrow, ir.Constant(ir.VectorType(_INT32, 4 * lanes), within))
            return builder.bitcast(mixed, vector)

        return vector_type(U8, types.intp), codegen

    @intrinsic
    def store_four_bytes(typingctx: Any, pointer: Any, offset: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            word = values[2]
            for byte in (1, 2, 3):
                word = builder.or_(word, builder.shl(values[2 + byte], ir.Constant(vector, [8 * byte] * lanes)))
            builder.store(word, address(builder, values, vector)).align = 1
            return context.get_dummy_value()

        return types.void(U8, types.intp, vector_type, vector_type, vector_type, vector_type), codegen

    @intrinsic
    def splat_int(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            number = context.cast(builder, values[0], signature.args[0], types.int64)
            return splat_value(builder, builder.trunc(number, _INT32), vector)

        return vector_type(value), codegen

    return {
        "load_bytes": load_bytes(False), "load_signed_bytes": load_bytes(True), "load_bytes_partial": load_bytes_partial(False),
        "load_signed_bytes_partial": load_bytes_partial(True), "store_bytes": store_bytes, "store_bytes_partial": store_bytes_partial,
        "load_words": load_words, "store_words": store_words, "load_words_partial": load_words_partial,
        "store_words_partial": store_words_partial, "broadcast_word": broadcast_word, "splat_int": splat_int,
        "load_interleaved": load_interleaved, "store_four_bytes": store_four_bytes,
    }  # fmt: skip


def _call(builder: Any, name: str, result: Any, *values: Any) -> Any:
    fnty = ir.FunctionType(result, [v.type for v in values])
    return builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), values)


def _dot_product(isa: str, lanes: int) -> Callable[[Any, Any, Any, Any], Any]:
    """Acc + the sum of the products of four bytes, unsigned times signed, in every lane; exact on every instruction set.

    With VNNI one instruction. Elsewhere on x86 the even and the odd bytes are widened to 16 bits and multiplied and added in pairs
    by pmaddwd (pmaddubsw would saturate).
    """
    vector = ir.VectorType(_INT32, lanes)
    halves = ir.VectorType(ir.IntType(16), 2 * lanes)

    def vnni(builder: Any, acc: Any, x: Any, w: Any) -> Any:
        fnty = ir.FunctionType(vector, [vector, vector, vector])
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        return builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), [acc, x, w])

    def pairs(builder: Any, acc: Any, x: Any, w: Any) -> Any:
        eight = ir.Constant(halves, [8] * (2 * lanes))
        name = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}[lanes]
        wide_w, wide_x = builder.bitcast(w, halves), builder.bitcast(x, halves)
        even = builder.and_(wide_x, ir.Constant(halves, [255] * (2 * lanes)))
        odd = builder.lshr(wide_x, eight)
        even_w, odd_w = builder.ashr(builder.shl(wide_w, eight), eight), builder.ashr(wide_w, eight)
        total = builder.add(_call(builder, name, vector, even, even_w), _call(builder, name, vector, odd, odd_w))
        return builder.add(acc, total)

    def plain(builder: Any, acc: Any, x: Any, w: Any) -> Any:
        for byte in range(4):
            low = builder.and_(builder.lshr(x, ir.Constant(vector, [8 * byte] * lanes)), ir.Constant(vector, [255] * lanes))
            high = builder.shl(w, ir.Constant(vector, [24 - 8 * byte] * lanes))
            acc = builder.add(acc, builder.mul(low, builder.ashr(high, ir.Constant(vector, [24] * lanes))))
        return acc

    if ISAS[isa].target.dot:
        return vnni
    return plain if isa == "neon" else pairs


def _to_nearest(isa: str, lanes: int) -> Callable[[Any, Any], Any]:
    """float32 within the range of int32 to the nearest, ties to even: one instruction on x86."""
    vector, floats = ir.VectorType(_INT32, lanes), ir.VectorType(_FLOAT, lanes)

    def convert(builder: Any, value: Any) -> Any:
        if isa == "neon":
            return builder.fptosi(_call(builder, f"llvm.rint.v{lanes}f32", floats, value), vector)
        if lanes == 16:
            every, current = ir.Constant(ir.IntType(16), -1), ir.Constant(_INT32, 4)
            none = ir.Constant(vector, [0] * lanes)
            return _call(builder, "llvm.x86.avx512.mask.cvtps2dq.512", vector, value, none, every, current)
        return _call(builder, {8: "llvm.x86.avx.cvt.ps2dq.256", 4: "llvm.x86.sse2.cvtps2dq"}[lanes], vector, value)

    return convert


def _pack_four(isa: str, lanes: int) -> Callable[..., Any]:
    """Four vectors of int32 as bytes: the zero point is added and the bounds, which are bytes, are applied after saturation.

    Packs of x86 take pieces of 128 bits in turn, so that words of four bytes have to be put in order at last.
    """
    halves, whole, vector = ir.VectorType(ir.IntType(16), 2 * lanes), ir.VectorType(_BYTE, 4 * lanes), ir.VectorType(_INT32, lanes)
    names = {
        16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"), 8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
        4: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
    }  # fmt: skip

    def saturated(builder: Any, value: Any, low: int, high: int) -> Any:
        least, most = (ir.Constant(value.type, [bound] * value.type.count) for bound in (low, high))
        value = builder.select(builder.icmp_signed("<", value, least), least, value)
        return builder.select(builder.icmp_signed(">", value, most), most, value)

    def joined(builder: Any, a: Any, b: Any) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, 2 * a.type.count), list(range(2 * a.type.count))))

    def pack(builder: Any, numbers: list[Any], zero: Any, low: Any, high: Any) -> Any:
        zeros = splat_value(builder, builder.trunc(zero, ir.IntType(16)), halves)
        if isa == "neon":
            parts = [builder.trunc(saturated(builder, n, -(2**15), 2**15 - 1), ir.VectorType(ir.IntType(16), lanes)) for n in numbers]
            pairs = [joined(builder, parts[0], parts[1]), joined(builder, parts[2], parts[3])]
        else:
            pairs = [_call(builder, names[lanes][0], halves, numbers[i], numbers[i + 1]) for i in (0, 2)]
        shifted = [_call(builder, f"llvm.sadd.sat.v{2 * lanes}i16", halves, pair, zeros) for pair in pairs]
        if isa == "neon":
            narrow = [builder.trunc(saturated(builder, s, 0, 255), ir.VectorType(_BYTE, 2 * lanes)) for s in shifted]
            packed = joined(builder, narrow[0], narrow[1])
        else:
            packed = _call(builder, names[lanes][1], whole, *shifted)
        least, most = (splat_value(builder, builder.trunc(bound, _BYTE), whole) for bound in (low, high))
        packed = builder.select(builder.icmp_unsigned(">", packed, least), packed, least)
        packed = builder.select(builder.icmp_unsigned("<", packed, most), packed, most)
        if isa == "neon" or lanes == 4:
            return packed
        words, pieces = builder.bitcast(packed, vector), lanes // 4
        order = [4 * (place % pieces) + place // pieces for place in range(lanes)]
        return builder.shuffle_vector(words, words, ir.Constant(vector, order))

    return pack


def _arithmetic(isa: str, lanes: int) -> dict[str, Any]:
    vector_type, float_type = IntVectorType(lanes), VectorType(lanes)
    floats = ir.VectorType(_FLOAT, lanes)
    product, nearest, pack = _dot_product(isa, lanes), _to_nearest(isa, lanes), _pack_four(isa, lanes)

    def binary(body: Callable[[Any, Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, b: Any) -> Any:
            return vector_type(vector_type, vector_type), lambda context, builder, signature, values: body(builder, *values)

        return call

    @intrinsic
    def dot4(typingctx: Any, acc: Any, x: Any, w: Any) -> Any:
        return (
            vector_type(vector_type, vector_type, vector_type),
            lambda context, builder, signature, values: product(builder, *values),
        )

    @intrinsic
    def to_floats(typingctx: Any, value: Any) -> Any:
        return float_type(vector_type), lambda context, builder, signature, values: builder.sitofp(values[0], floats)

    @intrinsic
    def round_between(typingctx: Any, value: Any, low: Any, high: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value, low, high = values
            value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
            value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
            return nearest(builder, value)

        return vector_type(float_type, float_type, float_type), codegen

    @intrinsic
    def store_four_rounded(
        typingctx: Any, pointer: Any, offset: Any, a: Any, b: Any, c: Any, d: Any, zero: Any, low: Any, high: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            numbers = [nearest(builder, value) for value in values[2:6]]
            packed = pack(builder, numbers, *(builder.trunc(value, _INT32) for value in values[6:]))
            where = builder.bitcast(builder.gep(values[0], [values[1]]), packed.type.as_pointer())
            builder.store(packed, where).align = 1
            return context.get_dummy_value()

        return types.void(U8, types.intp, *[float_type] * 4, types.int64, types.int64, types.int64), codegen

    @intrinsic
    def fma_single(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            if ISAS[isa].target.has_fma:
                return _call(builder, f"llvm.fma.v{lanes}f32", floats, *values)
            wide = ir.VectorType(ir.DoubleType(), lanes)
            a, b, c = (builder.fpext(v, wide) for v in values)
            return builder.fptrunc(builder.fadd(builder.fmul(a, b), c), floats)

        return float_type(float_type, float_type, float_type), codegen

    return {
        "dot4": dot4, "fma_single": fma_single, "store_four_rounded": store_four_rounded,
        "to_floats": to_floats, "round_between": round_between,
        "add_int": binary(lambda b, x, y: b.add(x, y)), "sub_int": binary(lambda b, x, y: b.sub(x, y)),
        "mul_int": binary(lambda b, x, y: b.mul(x, y)), "xor_int": binary(lambda b, x, y: b.xor(x, y)),
        "max_int": binary(lambda b, x, y: b.select(b.icmp_signed(">", x, y), x, y)),
    }  # fmt: skip


def integer_primitives(isa: str) -> dict[str, Any]:
    """The integer functions that generated source may name, for one instruction set."""
    lanes = ISAS[isa].target.width
    return {
        **_memory(lanes),
        **_arithmetic(isa, lanes),
        "byte_pointer_argument": _pointer_argument(_BYTE, U8),
        "word_pointer_argument": _pointer_argument(_INT32, I32),
        "get_byte": _get(U8, False),
        "get_signed_byte": _get(U8, True),
        "put_byte": _put(_BYTE, U8),
        "get_word": _get(I32, True),
    }
