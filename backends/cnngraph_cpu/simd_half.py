"""16-bit floats in memory, float32 in registers: what loads and stores of the kernel language do with pointers to them.

A bfloat16 is the upper half of a float32. Loading shifts it up; storing rounds to nearest even and keeps NaN: one instruction
where the instruction set has it (which flushes numbers below the smallest normal one to zero), integer arithmetic elsewhere.

float16 has one instruction each way on all targets but SSE4, which takes integer arithmetic with the same results (after F. Giesen,
"half-to-float done quickly", 2012): subnormal numbers are kept, rounding is to nearest even, and a NaN becomes quiet.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

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


class Float16(types.Type):
    """Numba type of a float16 in memory; ``instruction``: whether one instruction converts it."""

    def __init__(self, instruction: bool) -> None:
        self.instruction = instruction
        super().__init__(name="float16" if instruction else "float16_bits")


@register_model(Float16)
class _Float16Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Float16) -> None:
        super().__init__(dmm, fe_type, _HALF)


def _is_half(pointer: Any) -> bool:
    """Whether a pointer type is to a 16-bit float."""
    return pointer == BF16 or isinstance(getattr(pointer, "dtype", None), Float16)


def float_pointer(pointer: Any) -> Any:
    """The pointer type that a load or store takes when it is given ``pointer``: to a 16-bit float or else to float32."""
    return pointer if _is_half(pointer) else F32


def memory_type(pointer: Any, lanes: int) -> ir.VectorType:
    """LLVM's type of ``lanes`` elements in memory."""
    return ir.VectorType(_HALF if _is_half(pointer) else _SINGLE, lanes)


def alignment(pointer: Any) -> int:
    """Bytes of an element, and all the alignment that is asked for."""
    return 2 if _is_half(pointer) else 4


def _filled(like: Any, number: int) -> ir.Constant:
    """An integer constant of the type ``like``, a vector or a scalar."""
    return ir.Constant(like, [number] * like.count if isinstance(like, ir.VectorType) else number)


def _types(halves: Any) -> tuple[Any, Any]:
    """(int32, float32) types of the shape of ``halves``."""
    if isinstance(halves, ir.VectorType):
        return ir.VectorType(_WORD, halves.count), ir.VectorType(_SINGLE, halves.count)
    return _WORD, _SINGLE


def widened(builder: Any, value: Any, pointer: Any) -> Any:
    """Elements that ``pointer`` points to, of 16-bit floats their bits (i16), as float32; other values as they are."""
    if not _is_half(pointer):
        return value
    words, floats = _types(value.type)
    if pointer == BF16:
        return builder.bitcast(builder.shl(builder.zext(value, words), _filled(words, 16)), floats)
    if pointer.dtype.instruction:
        return builder.fpext(builder.bitcast(value, _float16_like(value.type)), floats)
    return _widened_by_integers(builder, builder.zext(value, words), words, floats)


def _float16_like(halves: Any) -> Any:
    """The LLVM type of float16 of the shape of ``halves``."""
    return ir.VectorType(ir.HalfType(), halves.count) if isinstance(halves, ir.VectorType) else ir.HalfType()


def _widened_by_integers(builder: Any, bits: Any, words: Any, floats: Any) -> Any:
    """float16 bits in words as float32: the exponent moves by 112; a subnormal number is a sum with 2**-14 less that number."""

    def number(value: int) -> ir.Constant:
        return _filled(words, value)

    magnitude = builder.shl(builder.and_(bits, number(0x7FFF)), number(13))
    moved = builder.add(magnitude, number(112 << 23))
    normalised = builder.fsub(builder.bitcast(builder.add(moved, number(1 << 23)), floats), builder.bitcast(number(113 << 23), floats))
    special = builder.or_(magnitude, number(0x7F800000))
    quiet = builder.select(builder.icmp_unsigned(">", magnitude, number(0x7C00 << 13)), number(1 << 22), number(0))
    finite = builder.select(builder.icmp_unsigned("<", magnitude, number(0x0400 << 13)), builder.bitcast(normalised, words), moved)
    large = builder.icmp_unsigned(">=", magnitude, number(0x7C00 << 13))
    sign = builder.shl(builder.and_(bits, number(0x8000)), number(16))
    return builder.bitcast(builder.or_(builder.select(large, builder.or_(special, quiet), finite), sign), floats)


def _narrowed_to_float16(builder: Any, value: Any, instruction: bool) -> Any:
    """float32 as float16 bits (i16), nearest even."""
    vector = isinstance(value.type, ir.VectorType)
    halves = ir.VectorType(_HALF, value.type.count) if vector else _HALF
    if instruction:
        return builder.bitcast(builder.fptrunc(value, _float16_like(halves)), halves)
    words, floats = _types(halves)

    def number(amount: int) -> ir.Constant:
        return _filled(words, amount)

    bits = builder.bitcast(value, words)
    magnitude = builder.and_(bits, number(0x7FFFFFFF))
    sign = builder.and_(builder.lshr(bits, number(16)), number(0x8000))
    payload = builder.and_(builder.lshr(magnitude, number(13)), number(0x1FF))
    special = builder.select(
        builder.icmp_unsigned(">", magnitude, number(0x7F800000)), builder.or_(payload, number(0x7E00)), number(0x7C00)
    )
    half = number(126 << 23)  # adding 0.5 rounds at the place of the last bit of a subnormal float16
    summed = builder.fadd(builder.bitcast(magnitude, floats), builder.bitcast(half, floats))
    subnormal = builder.sub(builder.bitcast(summed, words), half)
    odd = builder.and_(builder.lshr(magnitude, number(13)), number(1))
    moved = builder.add(builder.sub(magnitude, number(112 << 23)), builder.add(odd, number(0xFFF)))
    finite = builder.select(builder.icmp_unsigned("<", magnitude, number(113 << 23)), subnormal, builder.lshr(moved, number(13)))
    large = builder.icmp_unsigned(">=", magnitude, number(143 << 23))
    return builder.trunc(builder.or_(builder.select(large, special, finite), sign), halves)


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
    if not _is_half(pointer):
        return value
    return narrowed(builder, value, converts) if pointer == BF16 else _narrowed_to_float16(builder, value, pointer.dtype.instruction)


@intrinsic
def half_pointer_argument(typingctx: Any, args: Any, index: Any) -> Any:
    """``args[index]`` as a pointer to bfloat16."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = builder.load(builder.gep(values[0], [values[1]]))
        return builder.inttoptr(word, ir.PointerType(_HALF))

    return BF16(args, types.intp), codegen


def float16_arguments(instruction: bool) -> Any:
    """The intrinsic by which kernels of a target take pointers to float16."""
    pointer = types.CPointer(Float16(instruction))

    @intrinsic
    def float16_pointer_argument(typingctx: Any, args: Any, index: Any) -> Any:
        """``args[index]`` as a pointer to float16."""

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            word = builder.load(builder.gep(values[0], [values[1]]))
            return builder.inttoptr(word, ir.PointerType(_HALF))

        return pointer(args, types.intp), codegen

    return float16_pointer_argument
