"""Dot products of pairs of bfloat16 (AVX512-BF16) in the kernel language.

A pair is 32 bits: two neighbouring channels of a pixel, or of a row of weights. ``dot2(acc, x, w)`` adds both products to each lane of
``acc``. The instruction adds in float32 without an intermediate rounding of the products, which are exact, and takes numbers below the
smallest normal one for zero. ``store_joined(y, at, red, green, blue)`` stores pixels of three channels as bfloat16, channels innermost.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from cnngraph_cpu.simd import VectorType, splat_value
from cnngraph_cpu.simd_half import BF16, BrainFloat, narrowed
from cnngraph_cpu.simd_int import IntVectorType
from cnngraph_cpu.target import ISAS

_INT32, _FLOAT = ir.IntType(32), ir.FloatType()


def pair_primitives(isa: str, p: dict[str, Any]) -> dict[str, Any]:
    """The functions for pairs that generated source may name; none for an instruction set without such dot products.

    ``p`` holds the primitives for float32. ``sigmoid_half`` is for results that are stored as bfloat16.
    """
    target = ISAS[isa].target
    if not target.dot2:
        return {}
    lanes = target.width
    pair_type, float_type = IntVectorType(lanes), VectorType(lanes)
    words, floats, halves = ir.VectorType(_INT32, lanes), ir.VectorType(_FLOAT, lanes), ir.VectorType(BrainFloat(), 2 * lanes)

    def address(builder: Any, values: Any, type_: Any) -> Any:
        return builder.bitcast(builder.gep(values[0], [values[1]]), type_.as_pointer())

    @intrinsic
    def load_pairs(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(address(builder, values, words))
            loaded.align = 2
            return loaded

        return pair_type(BF16, types.intp), codegen

    @intrinsic
    def broadcast_pair(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            loaded = builder.load(address(builder, values, _INT32))
            loaded.align = 2
            return splat_value(builder, loaded, words)

        return pair_type(BF16, types.intp), codegen

    @intrinsic
    def store_joined(typingctx: Any, pointer: Any, offset: Any, red: Any, green: Any, blue: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            channels = [narrowed(builder, value, converts=True) for value in values[2:]]
            half = channels[0].type
            wide = ir.Constant(ir.VectorType(_INT32, 2 * lanes), list(range(2 * lanes)))
            two = builder.shuffle_vector(channels[0], channels[1], wide)
            third = builder.shuffle_vector(channels[2], ir.Constant(half, ir.Undefined), wide)
            for part in range(3):
                places = [divmod(place, 3) for place in range(part * lanes, (part + 1) * lanes)]  # pixel, channel
                order = ir.Constant(ir.VectorType(_INT32, lanes), [channel * lanes + pixel for pixel, channel in places])
                at = builder.add(values[1], ir.Constant(values[1].type, part * lanes))
                joined = builder.shuffle_vector(two, third, order)
                builder.store(joined, address(builder, (values[0], at), half)).align = 2
            return context.get_dummy_value()

        return types.void(BF16, types.intp, float_type, float_type, float_type), codegen

    @intrinsic
    def dot2(typingctx: Any, acc: Any, x: Any, w: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fnty = ir.FunctionType(floats, [floats, halves, halves])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}")
            acc, x, w = values
            # the pair last: a broadcast from memory is part of the instruction there
            return builder.call(function, [acc, builder.bitcast(w, halves), builder.bitcast(x, halves)])

        return float_type(float_type, pair_type, pair_type), codegen

    @intrinsic
    def reciprocal_near(typingctx: Any, a: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            every = ir.IntType(lanes)
            fnty = ir.FunctionType(floats, [floats, floats, every])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.x86.avx512.rcp14.ps.{32 * lanes}")
            return builder.call(function, [values[0], values[0], ir.Constant(every, -1)])

        return float_type(float_type), codegen

    add, sub, fma, splat, minimum, maximum, add_exponent = (
        p[name] for name in ("add", "sub", "fma", "splat", "minimum", "maximum", "add_exponent")
    )

    @njit(forceinline=True, error_model="numpy", boundscheck=False)
    def sigmoid_half(x: Any) -> Any:
        # As sigmoid, e^-r by a cubic with a relative error below 2^-13, the quotient by an estimate with 2^-14
        clamped = minimum(maximum(x, splat(-87.33)), splat(87.0))
        shifted = fma(clamped, splat(-1.44269504088896341), splat(12582912.0))
        r = fma(sub(shifted, splat(12582912.0)), splat(0.69314718055994531), clamped)
        q = fma(splat(-1.656684225e-1), r, splat(5.049632862e-1))
        q = fma(q, r, splat(-1.000164187))
        q = fma(q, r, splat(9.999280729e-1))
        return reciprocal_near(add(splat(1.0), add_exponent(q, shifted)))

    return {
        "load_pairs": load_pairs, "broadcast_pair": broadcast_pair, "store_joined": store_joined, "dot2": dot2,
        "reciprocal_near": reciprocal_near, "sigmoid_half": sigmoid_half,
    }  # fmt: skip
