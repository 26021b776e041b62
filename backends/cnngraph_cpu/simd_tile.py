"""The tile unit (Intel AMX) in the kernel language: eight tiles of 16 rows of 64 bytes, and products of tiles.

Tiles are named by numbers that are constants of the code. ``tile_load`` and ``tile_store`` take an offset in elements of the pointer and
a pitch of rows in bytes; rows start at multiples of 64 bytes, for misaligned ones halve the rate. The plain meaning of each function
stands in :mod:`cnngraph.kernels.emulate_tile`, under the same name.

A target without the unit whose ``tiles`` are on keeps them in the kernel's stack frame and multiplies by vector instructions: the same
kernels so run, slowly, on machines that lack the unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnngraph_cpu.simd import VectorType, splat_value
from cnngraph_cpu.simd_half import BF16, F32, BrainFloat
from cnngraph_cpu.simd_int import U8
from cnngraph_cpu.target import ISAS

_BYTE, _WORD, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_ADDRESS = _BYTE.as_pointer()
_TILES, _ROWS, _ROW_BYTES = 8, 16, 64
_TILE_BYTES = _ROWS * _ROW_BYTES
_LANES = 16
_FRAME = "tiles.frame"

Emit = Callable[..., None]


def _call(builder: Any, name: str, *values: Any) -> None:
    fnty = ir.FunctionType(ir.VoidType(), [v.type for v in values])
    builder.call(cgutils.get_or_insert_function(builder.module, fnty, name), values)


def _tile_number(number: int) -> ir.Constant:
    return ir.Constant(_BYTE, number)


def _in_unit() -> dict[str, Emit]:
    """The unit's own instructions."""
    return {
        "configure": lambda builder, where: _call(builder, "llvm.x86.ldtilecfg", where),
        "release": lambda builder: _call(builder, "llvm.x86.tilerelease"),
        "zero": lambda builder, t: _call(builder, "llvm.x86.tilezero", _tile_number(t)),
        "load_tile": lambda builder, t, where, pitch: _call(builder, "llvm.x86.tileloadd64", _tile_number(t), where, pitch),
        "store_tile": lambda builder, t, where, pitch: _call(builder, "llvm.x86.tilestored64", _tile_number(t), where, pitch),
        "dot_bf16": lambda builder, *tiles: _call(builder, "llvm.x86.tdpbf16ps", *map(_tile_number, tiles)),
        "dot_bytes": lambda builder, *tiles: _call(builder, "llvm.x86.tdpbusd", *map(_tile_number, tiles)),
    }  # fmt: skip


def _frame(builder: Any) -> Any:
    """The address of the function's tiles in memory, which the first use reserves."""
    for instruction in builder.function.entry_basic_block.instructions:
        if instruction.name == _FRAME:
            return builder.bitcast(instruction, _ADDRESS)
    with builder.goto_entry_block():
        frame = builder.alloca(ir.ArrayType(_BYTE, _TILES * _TILE_BYTES), name=_FRAME)
    frame.align = _ROW_BYTES
    return builder.bitcast(frame, _ADDRESS)


def _in_frame() -> dict[str, Emit]:
    """The same with tiles in memory, always of full size. Numbers below the smallest normal one are kept, as vectors do."""
    words, floats = ir.VectorType(_WORD, _LANES), ir.VectorType(_FLOAT, _LANES)

    def tile(builder: Any, number: int) -> Any:
        return builder.gep(_frame(builder), [ir.Constant(_LONG, number * _TILE_BYTES)])

    def line(builder: Any, base: Any, offset: Any, kind: Any) -> Any:
        return builder.bitcast(builder.gep(base, [offset]), kind.as_pointer())

    def scaled(builder: Any, index: Any, by: int) -> Any:
        return builder.mul(index, ir.Constant(index.type, by))

    def rows(builder: Any) -> Any:
        return cgutils.for_range(builder, ir.Constant(_LONG, _ROWS))

    def zero(builder: Any, number: int) -> None:
        with rows(builder) as row:
            place = line(builder, tile(builder, number), scaled(builder, row.index, _ROW_BYTES), words)
            builder.store(ir.Constant(words, [0] * _LANES), place).align = _ROW_BYTES

    def copy(builder: Any, number: int, where: Any, pitch: Any, to_memory: bool) -> None:
        with rows(builder) as row:
            here = line(builder, tile(builder, number), scaled(builder, row.index, _ROW_BYTES), words)
            there = line(builder, where, builder.mul(row.index, pitch), words)
            loaded = builder.load(here if to_memory else there)
            loaded.align = _ROW_BYTES
            builder.store(loaded, there if to_memory else here).align = _ROW_BYTES

    def product(builder: Any, c: int, a: int, b: int, start: Callable[..., Any], step: Callable[..., Any], end: Callable[..., Any]) -> None:
        """A row of ``c`` at a time: ``step`` takes the four bytes of ``a`` in every lane and a row of ``b``."""
        with rows(builder) as row:
            at = scaled(builder, row.index, _ROW_BYTES)
            result = line(builder, tile(builder, c), at, words)
            sums = start(builder, result)
            with rows(builder) as k:
                place = builder.add(at, scaled(builder, k.index, 4))
                four = splat_value(builder, builder.load(line(builder, tile(builder, a), place, _WORD)), words)
                weights = builder.load(line(builder, tile(builder, b), scaled(builder, k.index, _ROW_BYTES), words))
                step(builder, sums, four, weights)
            end(builder, sums, result)

    def dot_bf16(builder: Any, c: int, a: int, b: int) -> None:
        function = ir.FunctionType(floats, [floats] * 3)

        def start(builder: Any, result: Any) -> list[Any]:
            chains = [cgutils.alloca_once(builder, floats), cgutils.alloca_once(builder, floats)]
            for chain in chains:
                builder.store(ir.Constant(floats, [0.0] * _LANES), chain)
            return chains

        def step(builder: Any, chains: list[Any], four: Any, weights: Any) -> None:
            fma = cgutils.get_or_insert_function(builder.module, function, f"llvm.fma.v{_LANES}f32")
            for odd, chain in enumerate(chains):
                wide = [_half_of(builder, v, bool(odd), words, floats) for v in (four, weights)]
                builder.store(builder.call(fma, [*wide, builder.load(chain)]), chain)

        def end(builder: Any, chains: list[Any], result: Any) -> None:
            place = builder.bitcast(result, floats.as_pointer())
            total = builder.fadd(*(builder.load(chain) for chain in chains))
            builder.store(builder.fadd(builder.load(place), total), place)

        product(builder, c, a, b, start, step, end)

    def dot_bytes(builder: Any, c: int, a: int, b: int) -> None:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * _LANES}"

        def step(builder: Any, result: Any, four: Any, weights: Any) -> None:
            dot = cgutils.get_or_insert_function(builder.module, ir.FunctionType(words, [words] * 3), name)
            builder.store(builder.call(dot, [builder.load(result), four, weights]), result)

        product(builder, c, a, b, lambda builder, result: result, step, lambda *_: None)

    return {
        "configure": lambda builder, where: None, "release": lambda builder: None, "zero": zero,
        "load_tile": lambda builder, number, where, pitch: copy(builder, number, where, pitch, False),
        "store_tile": lambda builder, number, where, pitch: copy(builder, number, where, pitch, True),
        "dot_bf16": dot_bf16, "dot_bytes": dot_bytes,
    }  # fmt: skip


def _half_of(builder: Any, pairs: Any, odd: bool, words: Any, floats: Any) -> Any:
    """One bfloat16 of each pair, as float32."""
    if odd:
        bits = builder.and_(pairs, ir.Constant(words, [0xFFFF0000] * _LANES))
    else:
        bits = builder.shl(pairs, ir.Constant(words, [16] * _LANES))
    return builder.bitcast(bits, floats)


def _unit(emit: dict[str, Emit]) -> dict[str, Any]:
    """The functions of the kernel language on top of what emits the code of each."""

    def address(builder: Any, pointer: Any, offset: Any) -> Any:
        return builder.bitcast(builder.gep(pointer, [offset]), _ADDRESS)

    @intrinsic
    def tile_configure(typingctx: Any, pointer: Any, offset: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit["configure"](builder, address(builder, *values))
            return context.get_dummy_value()

        return types.void(U8, types.intp), codegen

    @intrinsic
    def tile_release(typingctx: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit["release"](builder)
            return context.get_dummy_value()

        return types.void(), codegen

    @intrinsic(prefer_literal=True)
    def tile_zero(typingctx: Any, tile: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emit["zero"](builder, tile.literal_value)
            return context.get_dummy_value()

        return types.void(tile), codegen

    def moved(name: str) -> Any:
        @intrinsic(prefer_literal=True)
        def move(typingctx: Any, tile: Any, pointer: Any, offset: Any, pitch: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                emit[name](builder, tile.literal_value, address(builder, values[1], values[2]), values[3])
                return context.get_dummy_value()

            return types.void(tile, pointer, types.intp, types.int64), codegen

        return move

    def multiplied(name: str) -> Any:
        @intrinsic(prefer_literal=True)
        def multiply(typingctx: Any, c: Any, a: Any, b: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                emit[name](builder, c.literal_value, a.literal_value, b.literal_value)
                return context.get_dummy_value()

            return types.void(c, a, b), codegen

        return multiply

    return {
        "tile_configure": tile_configure, "tile_release": tile_release, "tile_zero": tile_zero, "tile_load": moved("load_tile"),
        "tile_store": moved("store_tile"), "tile_dot_bf16": multiplied("dot_bf16"), "tile_dot_bytes": multiplied("dot_bytes"),
    }  # fmt: skip


def _packing() -> dict[str, Any]:
    """What puts rows of tiles together: 64 bytes at a multiple of 64."""
    vector_type, floats = VectorType(_LANES), ir.VectorType(_FLOAT, _LANES)
    halves, words = ir.VectorType(BrainFloat(), 2 * _LANES), ir.VectorType(_WORD, _LANES)
    row, block = ir.VectorType(_BYTE, _ROW_BYTES), ir.VectorType(_BYTE, _LANES)
    half_row = ir.VectorType(ir.IntType(16), _LANES)

    def put(builder: Any, pointer: Any, offset: Any, value: Any, align: int = 1) -> None:
        builder.store(value, builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())).align = align

    def narrow(builder: Any, a: Any, b: Any) -> Any:
        """Both vectors as bfloat16, ``a`` first; the instruction takes the upper half first."""
        function = ir.FunctionType(halves, [floats, floats])
        name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [b, a])

    def joined(builder: Any, a: Any, b: Any) -> Any:
        count = 2 * a.type.count
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_WORD, count), list(range(count))))

    @intrinsic
    def fill_row(typingctx: Any, pointer: Any, offset: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            put(builder, values[0], values[1], splat_value(builder, builder.trunc(values[2], _BYTE), row))
            return context.get_dummy_value()

        return types.void(U8, types.intp, types.int64), codegen

    @intrinsic
    def store_halves(typingctx: Any, pointer: Any, offset: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            put(builder, values[0], values[1], narrow(builder, values[2], values[3]))
            return context.get_dummy_value()

        return types.void(U8, types.intp, vector_type, vector_type), codegen

    @intrinsic
    def store_half_blocks(typingctx: Any, pointer: Any, offset: Any, x: Any, first: Any, second: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer, offset, x, *places = values
            parts = []
            for place in places:
                parts.append(builder.load(builder.bitcast(builder.gep(x, [place]), half_row.as_pointer())))
                parts[-1].align = 2
            put(builder, pointer, offset, joined(builder, *parts))
            return context.get_dummy_value()

        return types.void(U8, types.intp, BF16, types.intp, types.intp), codegen

    @intrinsic
    def prefetch_row(typingctx: Any, pointer: Any, offset: Any) -> Any:
        """Into the private cache; no access, so that the place may lie behind the end."""

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            function = ir.FunctionType(ir.VoidType(), [_ADDRESS, _WORD, _WORD, _WORD])
            numbers = [ir.Constant(_WORD, number) for number in (0, 2, 1)]  # to read, second level, data
            prefetch = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
            builder.call(prefetch, [builder.gep(values[0], [values[1]]), *numbers])
            return context.get_dummy_value()

        return types.void(U8, types.intp), codegen

    @intrinsic
    def store_split(typingctx: Any, pointer: Any, offset: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer, offset, *given = values
            high = narrow(builder, *given)
            bits = builder.bitcast(high, ir.VectorType(ir.IntType(16), 2 * _LANES))
            rests = []
            for part, value in enumerate(given):
                lanes = ir.Constant(words, list(range(part * _LANES, (part + 1) * _LANES)))
                half = builder.zext(builder.shuffle_vector(bits, bits, lanes), words)
                wide = builder.bitcast(builder.shl(half, ir.Constant(words, [16] * _LANES)), floats)
                rests.append(builder.fsub(value, wide))
            put(builder, pointer, offset, high)
            put(builder, pointer, builder.add(offset, ir.Constant(offset.type, _ROW_BYTES)), narrow(builder, *rests))
            return context.get_dummy_value()

        return types.void(U8, types.intp, vector_type, vector_type), codegen

    @intrinsic
    def store_byte_blocks(typingctx: Any, pointer: Any, offset: Any, x: Any, at0: Any, at1: Any, at2: Any, at3: Any, flips: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer, offset, x, *places, flips = values
            parts = []
            for place in places:
                parts.append(builder.load(builder.bitcast(builder.gep(x, [place]), block.as_pointer())))
                parts[-1].align = 1
            whole = joined(builder, joined(builder, parts[0], parts[1]), joined(builder, parts[2], parts[3]))
            put(builder, pointer, offset, builder.xor(whole, splat_value(builder, builder.trunc(flips, _BYTE), row)))
            return context.get_dummy_value()

        return types.void(U8, types.intp, U8, types.intp, types.intp, types.intp, types.intp, types.int64), codegen

    @intrinsic
    def store_four_lanes(typingctx: Any, pointer: Any, offset: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        """Four vectors, lane by lane."""

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer, offset, *vectors = values
            first, second = (joined(builder, *pair) for pair in (vectors[:2], vectors[2:]))
            for part in range(4):
                lanes = [v * _LANES + part * _LANES // 4 + lane for lane in range(_LANES // 4) for v in range(4)]
                order = ir.Constant(ir.VectorType(_WORD, _LANES), lanes)
                place = builder.add(offset, ir.Constant(offset.type, part * _LANES))
                put(builder, pointer, place, builder.shuffle_vector(first, second, order), 4)
            return context.get_dummy_value()

        return types.void(F32, types.intp, *[vector_type] * 4), codegen

    return {
        "fill_row": fill_row, "store_halves": store_halves, "store_half_blocks": store_half_blocks, "store_split": store_split,
        "store_byte_blocks": store_byte_blocks, "store_four_lanes": store_four_lanes, "prefetch_row": prefetch_row,
    }  # fmt: skip


def tile_primitives(isa: str) -> dict[str, Any]:
    """The functions for tiles that generated source may name; none for an instruction set without tiles."""
    info = ISAS[isa]
    if not info.target.tiles:
        return {}
    return {**_unit(_in_unit() if "+amx-tile" in info.features else _in_frame()), **_packing()}
