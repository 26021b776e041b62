"""Lanes of vectors in another order, tiles of bytes transposed, and bytes by a table."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnngraph_cpu.simd import VectorType
from cnngraph_cpu.simd_int import U8, IntVectorType

_INT16 = ir.IntType(16)
_TRANSLATED = 16
_X86 = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}


def permutations(lanes: int) -> dict[str, Any]:
    """``permute(v, order)``: lane i of the result is lane ``order[i]`` of ``v``; every order[i] is a lane known at run time.

    Vectors of 8 and of 16 lanes exist on x86 only, where this is one instruction; those of 4 lanes go lane by lane.
    ``even_lanes(a, b)`` and ``odd_lanes(a, b)``: every second lane of ``a`` and then of ``b``.
    """
    vector, orders = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.IntType(32), lanes)

    @intrinsic
    def permute(typingctx: Any, v: Any, order: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            if lanes in _X86:
                function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector, orders]), _X86[lanes])
                return builder.call(function, values)
            out = ir.Constant(vector, ir.Undefined)
            for lane in range(lanes):
                index = ir.Constant(ir.IntType(32), lane)
                chosen = builder.extract_element(values[0], builder.extract_element(values[1], index))
                out = builder.insert_element(out, chosen, index)
            return out

        return VectorType(lanes)(VectorType(lanes), IntVectorType(lanes)), codegen

    def every_second(first: int) -> Any:
        @intrinsic
        def call(typingctx: Any, a: Any, b: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                chosen = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(first, 2 * lanes, 2)))
                return builder.shuffle_vector(*values, chosen)

            return VectorType(lanes)(VectorType(lanes), VectorType(lanes)), codegen

        return call

    table = {"permute": permute, "even_lanes": every_second(0), "odd_lanes": every_second(1)}
    return {**table, "transpose_bytes": _transpose_bytes, **({"translate": _translate} if lanes == _TRANSLATED else {})}


_TILE = 16


@intrinsic
def _transpose_bytes(typingctx: Any, source: Any, at: Any, step: Any, target: Any, to: Any, pitch: Any) -> Any:
    """``transpose_bytes(x, at, step, y, to, pitch)``: 16 rows of 16 bytes, ``step`` apart in x, become columns, rows ``pitch`` apart in y.

    Rows are interleaved with those half the tile away, four times: the perfect shuffles of Stone (1971).
    """

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        row, order = ir.VectorType(ir.IntType(8), _TILE), ir.VectorType(ir.IntType(32), _TILE)

        def place(memory: Any, i: int) -> Any:
            base, first, distance = memory
            offset = builder.add(first, builder.mul(distance, ir.Constant(distance.type, i)))
            return builder.bitcast(builder.gep(base, [offset]), row.as_pointer())

        rows = [builder.load(place(values[:3], i)) for i in range(_TILE)]
        for loaded in rows:
            loaded.align = 1
        low = ir.Constant(order, [i // 2 + _TILE * (i % 2) for i in range(_TILE)])
        high = ir.Constant(order, [i // 2 + _TILE // 2 + _TILE * (i % 2) for i in range(_TILE)])
        for _ in range(4):
            pairs = [rows[i // 2 :: _TILE // 2][:2] for i in range(0, _TILE, 2)]
            rows = [builder.shuffle_vector(*pair, half) for pair in pairs for half in (low, high)]
        for i, value in enumerate(rows):
            builder.store(value, place(values[3:], i)).align = 1
        return context.get_dummy_value()

    return types.void(U8, types.intp, types.intp, U8, types.intp, types.intp), codegen


@intrinsic
def _translate(typingctx: Any, table: Any, x: Any, offset: Any, y: Any, to: Any) -> Any:
    """``translate(table, x, offset, y, to)``: 64 bytes of ``y`` are the entries of a table of 256 bytes that those of ``x`` number.

    Two bytes a lane of 16 bits: the table's pair of entries is found by a permutation of 128 lanes, one entry of it by a shift.
    """
    words, wide = ir.VectorType(_INT16, 32), ir.VectorType(_INT16, 32).as_pointer()

    def constant(number: int) -> Any:
        return ir.Constant(words, [number] * 32)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        fnty = ir.FunctionType(words, [words, words, words])
        permute = cgutils.get_or_insert_function(builder.module, fnty, "llvm.x86.avx512.vpermi2var.hi.512")

        def pointer(base: Any, at: Any) -> Any:
            return builder.bitcast(builder.gep(base, [at]), wide)

        def load(base: Any, at: Any) -> Any:
            loaded = builder.load(pointer(base, at))
            loaded.align = 1
            return loaded

        parts = [load(values[0], ir.Constant(ir.IntType(64), 64 * i)) for i in range(4)]

        def entries(numbers: Any) -> Any:
            pair = builder.lshr(numbers, constant(1))
            low, high = builder.call(permute, [parts[0], pair, parts[1]]), builder.call(permute, [parts[2], pair, parts[3]])
            both = builder.select(builder.icmp_unsigned(">", numbers, constant(127)), high, low)
            return builder.lshr(both, builder.shl(builder.and_(numbers, constant(1)), constant(3)))

        given = load(values[1], values[2])
        even = builder.and_(entries(builder.and_(given, constant(255))), constant(255))
        odd = builder.shl(entries(builder.lshr(given, constant(8))), constant(8))
        builder.store(builder.or_(even, odd), pointer(values[3], values[4])).align = 1
        return context.get_dummy_value()

    return types.void(U8, U8, types.intp, U8, types.intp), codegen
