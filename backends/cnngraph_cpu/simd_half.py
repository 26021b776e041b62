"""bfloat16 in memory, float32 in registers: what loads and stores of the kernel language do with a pointer to bfloat16.

A bfloat16 is the upper half of a float32. Loading shifts it up; storing rounds to nearest even and keeps NaN: one instruction
where the instruction set has it (which flushes numbers below the smallest normal one to zero), integer arithmetic elsewhere.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F32 = types.CPointer(types.float32)
BF16 = types.CPointer(types.uint16)
_HALF, _WORD, _SINGLE = ir.IntType(16), ir.IntType(32), ir.FloatType()


class BrainFloat(ir.types._BaseFloatType):
    """LLVM's type ``bfloat``, which llvmlite does not name."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"


BrainFloat._create_instance()


def float_pointer(pointer: Any) -> Any:
    """The pointer type that a load or store takes when it is given ``pointer``: to bfloat16 or else to float32."""
    return pointer if pointer == BF16 else F32


def memory_type(pointer: Any, lanes: int) -> ir.VectorType:
    """LLVM's type of ``lanes`` elements in memory."""
    return ir.VectorType(_HALF if pointer == BF16 else _SINGLE, lanes)


def alignment(pointer: Any) -> int:
    """Bytes of an element, and all the alignment that is asked for."""
    return 2 if pointer == BF16 else 4


def _filled(like: Any, number: int) -> ir.Constant:
    """An integer constant of the type ``like``, a vector or a scalar."""
    return ir.Constant(like, [number] * like.count if isinstance(like, ir.VectorType) else number)


def _types(halves: Any) -> tuple[Any, Any]:
    """(int32, float32) types of the shape of ``halves``."""
    if isinstance(halves, ir.VectorType):
        return ir.VectorType(_WORD, halves.count), ir.VectorType(_SINGLE, halves.count)
    return _WORD, _SINGLE


def widened(builder: Any, value: Any) -> Any:
    """bfloat16 bits (i16) as float32; other values as they are."""
    element = value.type.element if isinstance(value.type, ir.VectorType) else value.type
    if element != _HALF:
        return value
    words, floats = _types(value.type)
    return builder.bitcast(builder.shl(builder.zext(value, words), _filled(words, 16)), floats)


def narrowed(builder: Any, value: Any, converts: bool) -> Any:
    """float32 as bfloat16 bits (i16), nearest even; ``converts``: the instruction set has AVX512-BF16."""
    vector = isinstance(value.type, ir.VectorType)
    if converts and vector and value.type.count in (8, 16):
        lanes = value.type.count
        narrow = ir.VectorType(BrainFloat(), lanes)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(narrow, [value.type]), f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}"
        )
        return builder.bitcast(builder.call(function, [value]), ir.VectorType(_HALF, lanes))
    halves = ir.VectorType(_HALF, value.type.count) if vector else _HALF
    words, _ = _types(halves)
    bits = builder.bitcast(value, words)
    sixteen = _filled(words, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), _filled(words, 1))
    rounded = builder.add(bits, builder.add(odd, _filled(words, 0x7FFF)))
    quiet = builder.or_(bits, _filled(words, 0x00400000))
    kept = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(kept, sixteen), halves)


def stored(builder: Any, value: Any, pointer: Any, converts: bool) -> Any:
    """A float32 value as the elements that ``pointer`` points to."""
    return narrowed(builder, value, converts) if pointer == BF16 else value


@intrinsic
def half_pointer_argument(typingctx: Any, args: Any, index: Any) -> Any:
    """``args[index]`` as a pointer to bfloat16."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = builder.load(builder.gep(values[0], [values[1]]))
        return builder.inttoptr(word, ir.PointerType(_HALF))

    return BF16(args, types.intp), codegen
