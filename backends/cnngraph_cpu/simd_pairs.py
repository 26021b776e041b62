"""Dot products of pairs of bfloat16 (AVX512-BF16) in the kernel language.

A pair is 32 bits: two neighbouring channels of a pixel, or of a row of weights. ``dot2(acc, x, w)`` adds both products to each lane of
``acc``. The instruction adds in float32 without an intermediate rounding of the products, which are exact, and takes numbers below the
smallest normal one for zero.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnngraph_cpu.simd import VectorType, splat_value
from cnngraph_cpu.simd_half import BF16, BrainFloat
from cnngraph_cpu.simd_int import IntVectorType
from cnngraph_cpu.target import ISAS

_INT32, _FLOAT = ir.IntType(32), ir.FloatType()


def pair_primitives(isa: str) -> dict[str, Any]:
    """The functions for pairs that generated source may name; none for an instruction set without such dot products."""
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
    def dot2(typingctx: Any, acc: Any, x: Any, w: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fnty = ir.FunctionType(floats, [floats, halves, halves])
            function = cgutils.get_or_insert_function(builder.module, fnty, f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}")
            acc, x, w = values
            return builder.call(function, [acc, builder.bitcast(x, halves), builder.bitcast(w, halves)])

        return float_type(float_type, pair_type, pair_type), codegen

    return {"load_pairs": load_pairs, "broadcast_pair": broadcast_pair, "dot2": dot2}
