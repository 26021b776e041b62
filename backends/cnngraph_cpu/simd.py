"""The kernel language as Numba intrinsics: vectors of float32 over LLVM vector types.

``primitives(isa)`` returns the functions that generated source imports. The plain meaning of each stands in
:mod:`cnngraph.kernels.emulate`, under the same name. Loads and stores need no alignment beyond that of an element, which is
float32, bfloat16 or float16, by the pointer's type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from cnngraph_cpu.simd_half import (
    F32,
    alignment,
    float16_arguments,
    float_pointer,
    half_pointer_argument,
    memory_type,
    stored,
    widened,
)
from cnngraph_cpu.target import ISAS

I64 = types.CPointer(types.int64)
_FLOAT, _INT32 = ir.FloatType(), ir.IntType(32)


class VectorType(types.Type):
    """Numba type of ``lanes`` float32 in one register."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"f32x{lanes}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_FLOAT, fe_type.lanes))


@intrinsic
def pointer_argument(typingctx: Any, args: Any, index: Any) -> Any:
    """``args[index]`` as a pointer to float32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = builder.load(builder.gep(values[0], [values[1]]))
        return builder.inttoptr(word, ir.PointerType(_FLOAT))

    return F32(args, types.intp), codegen


@intrinsic
def int_pointer_argument(typingctx: Any, args: Any, index: Any) -> Any:
    """``args[index]`` as a pointer to int64."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = builder.load(builder.gep(values[0], [values[1]]))
        return builder.inttoptr(word, ir.PointerType(ir.IntType(64)))

    return I64(args, types.intp), codegen


@intrinsic
def int_argument(typingctx: Any, args: Any, index: Any) -> Any:
    """``args[index]`` as an integer."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(values[0], [values[1]]))

    return types.int64(args, types.intp), codegen


@intrinsic
def get(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The scalar at ``pointer[offset]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return widened(builder, builder.load(builder.gep(values[0], [values[1]])), pointer)

    return types.float32(pointer, types.intp), codegen


@intrinsic
def get_int(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The integer at ``pointer[offset]``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(builder.gep(values[0], [values[1]]))

    return types.int64(pointer, types.intp), codegen


@intrinsic
def put(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Store a float32 scalar."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(stored(builder, values[2], pointer, False), builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.float32), codegen


@intrinsic
def put_int(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
    """Store an int64 scalar."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.int64), codegen


@intrinsic
def to_float(typingctx: Any, value: Any) -> Any:
    """An integer or double as float32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.cast(builder, values[0], signature.args[0], types.float32)

    return types.float32(value), codegen


@intrinsic
def prefetch(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """Ask for the cache line of an element before it is needed; no access, so that the place may lie behind the end."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bytes_, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        fnty = ir.FunctionType(ir.VoidType(), [bytes_, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, fnty, "llvm.prefetch.p0")
        read_soon_data = (ir.Constant(word, 0), ir.Constant(word, 2), ir.Constant(word, 1))
        builder.call(function, [builder.bitcast(builder.gep(values[0], [values[1]]), bytes_), *read_soon_data])
        return context.get_dummy_value()

    return types.void(pointer, types.intp), codegen


@intrinsic
def advance(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """``pointer + offset`` elements."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, types.intp), codegen


@intrinsic
def scalar_log(typingctx: Any, x: Any) -> Any:
    """Natural logarithm of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        fnty = ir.FunctionType(_FLOAT, [_FLOAT])
        return builder.call(cgutils.get_or_insert_function(builder.module, fnty, "llvm.log.f32"), [values[0]])

    return types.float32(types.float32), codegen


def splat_value(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """LLVM value with ``scalar`` in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, vector.count), [0] * vector.count))


def first_lanes(builder: Any, count: Any, lanes: int) -> Any:
    """The mask of the first ``count`` of ``lanes`` lanes."""
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, splat_value(builder, count, ir.VectorType(ir.IntType(64), lanes)))


def unknown_to_llvm(builder: Any, number: Any) -> Any:
    """An integer, as something of which LLVM knows nothing (an empty assembly instruction returns it).

    For the masks of stores that narrow: where LLVM 22 sees that only the first lane of a truncated vector is stored, it stores the
    whole word on AVX-512, over the neighbours of the byte or 16-bit float (X86ISelLowering.cpp, reduceMaskedStoreToScalarStore).
    """
    return builder.asm(ir.FunctionType(number.type, [number.type]), "", "=r,0", [number], side_effect=False)


def _memory(lanes: int, converts: bool) -> dict[str, Any]:
    """Loads, stores and broadcasts of ``lanes`` float32; ``converts``: one instruction makes bfloat16 of them."""
    vector_type, vector = VectorType(lanes), ir.VectorType(_FLOAT, lanes)

    def address(builder: Any, pointer: Any, values: Any) -> Any:
        return builder.bitcast(builder.gep(values[0], [values[1]]), memory_type(pointer, lanes).as_pointer())

    def suffix(pointer: Any) -> str:
        return f"v{lanes}{memory_type(pointer, lanes).element.intrinsic_name}.p0"

    @intrinsic
    def load(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(address(builder, pointer, values))
            loaded.align = alignment(pointer)
            return widened(builder, loaded, pointer)

        return vector_type(float_pointer(pointer), types.intp), codegen

    @intrinsic
    def store(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            elements = stored(builder, values[2], pointer, converts)
            builder.store(elements, address(builder, pointer, values)).align = alignment(pointer)
            return context.get_dummy_value()

        return types.void(float_pointer(pointer), types.intp, vector_type), codegen

    @intrinsic
    def load_partial(typingctx: Any, pointer: Any, offset: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            bits, elements = ir.VectorType(ir.IntType(1), lanes), memory_type(pointer, lanes)
            fnty = ir.FunctionType(elements, [elements.as_pointer(), _INT32, bits, elements])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.masked.load.{suffix(pointer)}")
            align, zero = ir.Constant(_INT32, alignment(pointer)), ir.Constant(elements, None)
            loaded = builder.call(function, [address(builder, pointer, values), align, first_lanes(builder, values[2], lanes), zero])
            return widened(builder, loaded, pointer)

        return vector_type(float_pointer(pointer), types.intp, types.intp), codegen

    @intrinsic
    def store_partial(typingctx: Any, pointer: Any, offset: Any, value: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            bits, elements = ir.VectorType(ir.IntType(1), lanes), memory_type(pointer, lanes)
            fnty = ir.FunctionType(ir.VoidType(), [elements, elements.as_pointer(), _INT32, bits])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.masked.store.{suffix(pointer)}")
            align, what = ir.Constant(_INT32, alignment(pointer)), stored(builder, values[2], pointer, converts)
            count = unknown_to_llvm(builder, values[3]) if memory_type(pointer, lanes) != vector else values[3]
            builder.call(function, [what, address(builder, pointer, values), align, first_lanes(builder, count, lanes)])
            return context.get_dummy_value()

        return types.void(float_pointer(pointer), types.intp, vector_type, types.intp), codegen

    @intrinsic
    def broadcast(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return splat_value(builder, widened(builder, builder.load(builder.gep(values[0], [values[1]])), pointer), vector)

        return vector_type(float_pointer(pointer), types.intp), codegen

    @intrinsic
    def transpose_tile(typingctx: Any, source: Any, at: Any, step: Any, target: Any, to: Any, pitch: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            memory, at, step, result, to, pitch = values
            rows = []
            for i in range(lanes):
                place = builder.add(at, builder.mul(step, ir.Constant(step.type, i)))
                loaded = builder.load(address(builder, source, (memory, place)))
                loaded.align = alignment(source)
                rows.append(widened(builder, loaded, source))
            distance = 1
            while distance < lanes:  # swap the off-diagonal blocks of every 2x2 square of blocks, ever larger
                upper = [j + lanes - distance if j & distance else j for j in range(lanes)]
                lower = [j + lanes if j & distance else j + distance for j in range(lanes)]
                for i in range(lanes):
                    if not i & distance:
                        a, b = rows[i], rows[i + distance]
                        rows[i] = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, lanes), upper))
                        rows[i + distance] = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT32, lanes), lower))
                distance *= 2
            for i in range(lanes):
                place = builder.add(to, builder.mul(pitch, ir.Constant(pitch.type, i)))
                elements = stored(builder, rows[i], target, converts)
                builder.store(elements, address(builder, target, (result, place))).align = alignment(target)
            return context.get_dummy_value()

        floats = (float_pointer(source), types.intp, types.intp, float_pointer(target), types.intp, types.intp)
        return types.void(*floats), codegen

    @intrinsic
    def splat(typingctx: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return splat_value(builder, context.cast(builder, values[0], signature.args[0], types.float32), vector)

        return vector_type(value), codegen

    return {
        "load": load, "store": store, "load_partial": load_partial, "store_partial": store_partial, "broadcast": broadcast, "splat": splat,
        "transpose_tile": transpose_tile,
    }  # fmt: skip


def _arithmetic(lanes: int, has_fma: bool, register: str) -> dict[str, Any]:
    """Lane-wise arithmetic."""
    vector_type, vector = VectorType(lanes), ir.VectorType(_FLOAT, lanes)
    integers = ir.VectorType(_INT32, lanes)

    def unary(body: Callable[[Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any) -> Any:
            return vector_type(vector_type), lambda context, builder, signature, values: body(builder, values[0])

        return call

    def binary(body: Callable[[Any, Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, b: Any) -> Any:
            return vector_type(vector_type, vector_type), lambda context, builder, signature, values: body(builder, values[0], values[1])

        return call

    def ternary(body: Callable[[Any, Any, Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
            return (
                vector_type(vector_type, vector_type, vector_type),
                lambda context, builder, signature, values: body(builder, values[0], values[1], values[2]),
            )

        return call

    def llvm(builder: Any, name: str, *values: Any) -> Any:
        fnty = ir.FunctionType(vector, [vector] * len(values))
        return builder.call(cgutils.get_or_insert_function(builder.module, fnty, f"llvm.{name}.v{lanes}f32"), values)

    def fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
        return llvm(builder, "fma", a, b, c) if has_fma else builder.fadd(builder.fmul(a, b), c)

    def nan_max(builder: Any, a: Any, b: Any) -> Any:
        # b if b > a else a, one instruction on x86, keeps a NaN of a; then a NaN of b wins
        return builder.select(builder.fcmp_unordered("uno", b, b), b, builder.select(builder.fcmp_ordered(">", b, a), b, a))

    def nan_min(builder: Any, a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_unordered("uno", b, b), b, builder.select(builder.fcmp_ordered("<", b, a), b, a))

    def relu(builder: Any, a: Any) -> Any:
        zero = ir.Constant(vector, [0.0] * lanes)
        return builder.select(builder.fcmp_ordered("<", a, zero), zero, a)

    def select_negative(builder: Any, x: Any, negative: Any, other: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", x, ir.Constant(vector, [0.0] * lanes)), negative, other)

    def where(compare: str) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                return builder.select(builder.fcmp_ordered(compare, values[0], values[1]), values[2], values[3])

            return vector_type(vector_type, vector_type, vector_type, vector_type), codegen

        return call

    def power_of_two(builder: Any, n: Any) -> Any:
        whole = builder.fptosi(n, integers)
        biased = builder.add(whole, ir.Constant(integers, [127] * lanes))
        return builder.bitcast(builder.shl(biased, ir.Constant(integers, [23] * lanes)), vector)

    def add_exponent(builder: Any, x: Any, shifted: Any) -> Any:
        exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [23] * lanes))
        return builder.bitcast(builder.add(builder.bitcast(x, integers), exponent), vector)

    def exponent_of(builder: Any, x: Any) -> Any:
        bits = builder.lshr(builder.bitcast(x, integers), ir.Constant(integers, [23] * lanes))
        return builder.sitofp(builder.sub(bits, ir.Constant(integers, [126] * lanes)), vector)

    def mantissa_of(builder: Any, x: Any) -> Any:
        bits = builder.and_(builder.bitcast(x, integers), ir.Constant(integers, [0x007FFFFF] * lanes))
        return builder.bitcast(builder.or_(bits, ir.Constant(integers, [0x3F000000] * lanes)), vector)

    def across(combine: Callable[[Any, Any, Any], Any]) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                part, count = values[0], lanes
                while count > 1:  # pairwise, in a fixed order
                    count //= 2
                    low = builder.shuffle_vector(part, part, ir.Constant(ir.VectorType(_INT32, count), list(range(count))))
                    high = builder.shuffle_vector(part, part, ir.Constant(ir.VectorType(_INT32, count), list(range(count, 2 * count))))
                    part = combine(builder, low, high)
                return builder.extract_element(part, ir.Constant(_INT32, 0))

            return types.float32(vector_type), codegen

        return call

    def in_order(builder: Any, a: Any) -> Any:
        # an empty instruction with side effects: the compiler computes its result only behind the stores before it
        return builder.asm(ir.FunctionType(vector, [vector]), "", f"={register},0", [a], True)

    def per_lane(builder: Any, name: str, *values: Any) -> Any:
        fnty = ir.FunctionType(_FLOAT, [_FLOAT] * len(values))
        function = cgutils.get_or_insert_function(builder.module, fnty, name)
        out = ir.Constant(vector, ir.Undefined)
        for lane in range(lanes):
            index = ir.Constant(_INT32, lane)
            out = builder.insert_element(out, builder.call(function, [builder.extract_element(v, index) for v in values]), index)
        return out

    return {
        "add": binary(lambda b, x, y: b.fadd(x, y)),
        "sub": binary(lambda b, x, y: b.fsub(x, y)),
        "mul": binary(lambda b, x, y: b.fmul(x, y)),
        "div": binary(lambda b, x, y: b.fdiv(x, y)),
        "maximum": binary(nan_max),
        "minimum": binary(nan_min),
        "fma": ternary(fma),
        "neg": unary(lambda b, x: b.fneg(x)),
        "absolute": unary(lambda b, x: llvm(b, "fabs", x)),
        "sqrt": unary(lambda b, x: llvm(b, "sqrt", x)),
        "relu": unary(relu),
        "in_order": unary(in_order),
        "floor": unary(lambda b, x: llvm(b, "floor", x)),
        "ceil": unary(lambda b, x: llvm(b, "ceil", x)),
        "round_even": unary(lambda b, x: llvm(b, "rint", x)),
        "copy_sign": binary(lambda b, x, y: llvm(b, "copysign", x, y)),
        "where_less": where("<"),
        "where_less_equal": where("<="),
        "where_equal": where("=="),
        "select_negative": ternary(select_negative),
        "select_nan": binary(lambda b, x, y: b.select(b.fcmp_unordered("uno", x, x), x, y)),
        "power_of_two": unary(power_of_two),
        "add_exponent": binary(add_exponent),
        "exponent_of": unary(exponent_of),
        "mantissa_of": unary(mantissa_of),
        "power": binary(lambda b, x, y: per_lane(b, "powf", x, y)),
        "reduce_add": across(lambda b, x, y: b.fadd(x, y)),
        "reduce_mul": across(lambda b, x, y: b.fmul(x, y)),
        "reduce_max": across(nan_max),
        "reduce_min": across(nan_min),
    }


def _register_class(isa: str) -> str:
    """LLVM's inline assembly constraint for a vector register of a target."""
    return "w" if isa == "neon" else "v" if ISAS[isa].target.width == 16 else "x"


@cache
def primitives(isa: str) -> dict[str, Any]:
    """Everything generated source may name, for one instruction set."""
    from cnngraph_cpu.functions import derived
    from cnngraph_cpu.simd_int import integer_primitives
    from cnngraph_cpu.simd_long import long_primitives
    from cnngraph_cpu.simd_pairs import pair_primitives
    from cnngraph_cpu.simd_permute import permutations
    from cnngraph_cpu.simd_short import short_primitives
    from cnngraph_cpu.simd_tile import tile_primitives
    from cnngraph_cpu.trigonometric import half_pi_reduction

    target = ISAS[isa].target
    table = {**_memory(target.width, target.dot2), **_arithmetic(target.width, target.has_fma, _register_class(isa))}
    table.update(half_pi_reduction(target.width))
    table.update(
        pointer_argument=pointer_argument, int_pointer_argument=int_pointer_argument, int_argument=int_argument,
        half_pointer_argument=half_pointer_argument, float16_pointer_argument=float16_arguments(target.float16), get=get, get_int=get_int,
        put=put, put_int=put_int, to_float=to_float, advance=advance, scalar_log=scalar_log, prefetch=prefetch,
    )  # fmt: skip
    table.update(derived(table, target.has_fma))
    table.update(integer_primitives(isa))
    table.update(short_primitives(isa))
    table.update(pair_primitives(isa, table))
    table.update(long_primitives())
    table.update(permutations(target.width))
    table.update(tile_primitives(isa))
    return table
