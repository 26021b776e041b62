"""Lanes of a vector in an order that is known only at run time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from cnngraph_cpu.simd import VectorType
from cnngraph_cpu.simd_int import IntVectorType

_X86 = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}


def permutations(lanes: int) -> dict[str, Any]:
    """``permute(v, order)``: lane i of the result is lane ``order[i]`` of ``v``; every order[i] is a lane.

    Vectors of 8 and of 16 lanes exist on x86 only, where this is one instruction; those of 4 lanes go lane by lane.
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

    return {"permute": permute}
