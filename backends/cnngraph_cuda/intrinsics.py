"""Numba intrinsics of every primitive, and the scalar functions of expressions on them. Needs numba-cuda, no driver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

from cnngraph_cuda.primitives import Primitive, primitives_of
from cnngraph_cuda.scalar import SCALARS, Arithmetic, Number

_LLVM = {"f": ir.FloatType(), "r": ir.IntType(32), "l": ir.IntType(64), "p": ir.IntType(64)}
_NUMBA = {"f": types.float32, "r": types.int32, "l": types.int64}
_CONSTRAINT = {"f": "f", "r": "r", "l": "l", "p": "l"}
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _as_i32(builder: Any, value: Any) -> Any:
    if value.type.width > 32:
        return builder.trunc(value, _I32)
    return builder.sext(value, _I32) if value.type.width < 32 else value


def _lower(context: Any, builder: Any, kind: str, given: Any, value: Any) -> Any:
    if kind == "f":
        return context.cast(builder, value, given, types.float32)
    if kind == "l":
        return builder.sext(value, _I64) if value.type.width < 64 else value
    return _as_i32(builder, value)


def _make(name: str, primitive: Primitive) -> Any:
    """The intrinsic of a primitive."""
    letters = primitive.tied + primitive.outs
    plain = ["=" + _CONSTRAINT[c] for c in letters] + [_CONSTRAINT[c] for c in primitive.ins]
    constraints = ",".join(plain + [str(i) for i in range(len(primitive.tied))] + (["~{memory}"] if primitive.memory else []))
    if not letters:
        result, llvm_result = types.void, ir.VoidType()
    elif len(letters) == 1:
        result, llvm_result = _NUMBA[letters], _LLVM[letters]
    else:
        result = types.UniTuple(_NUMBA[letters[0]], len(letters))
        llvm_result = ir.LiteralStructType([_LLVM[c] for c in letters])
    function = ir.FunctionType(llvm_result, [_LLVM[c] for c in primitive.ins + primitive.tied])

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        rest, kinds, at = [], signature.args, 1 if primitive.packed else len(primitive.tied)
        if primitive.packed:
            tied = [builder.extract_value(values[0], i) for i in range(len(primitive.tied))]
        else:
            tied = [context.cast(builder, v, t, types.float32) for v, t in zip(values[:at], kinds[:at], strict=True)]
        for letter in primitive.ins:
            if letter == "p":
                index = values[at + 1]
                index = builder.sext(index, _I64) if index.type.width < 64 else index
                rest.append(builder.ptrtoint(builder.gep(values[at], [index]), _I64))
                at += 2
            else:
                rest.append(_lower(context, builder, letter, kinds[at], values[at]))
                at += 1
        asm = ir.InlineAsm(function, primitive.text, constraints, side_effect=primitive.volatile)
        out = builder.call(asm, rest + tied, attrs=("convergent", "nounwind") if primitive.warp else ("nounwind",))
        if not letters:
            return context.get_dummy_value()
        if len(letters) == 1:
            return out
        return context.make_tuple(builder, result, [builder.extract_value(out, i) for i in range(len(letters))])

    def typer(*arguments: Any) -> Any:
        return result(*arguments), codegen

    names = ", ".join(f"a{i}" for i in range(primitive.operands))
    scope: dict[str, Any] = {"typer": typer}
    exec(f"def {name}(typingctx{', ' if names else ''}{names}):\n    return typer({names})\n", scope)
    return intrinsic(scope[name])


@intrinsic
def i32(typingctx: Any, x: Any) -> Any:
    """A number as int32; integers wrap around."""
    if isinstance(x, types.Float):
        return types.int32(x), lambda context, builder, signature, values: context.cast(builder, values[0], x, types.int32)
    return types.int32(x), lambda context, builder, signature, values: _as_i32(builder, values[0])


def _unsigned(operation: str) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return getattr(builder, operation)(_as_i32(builder, values[0]), _as_i32(builder, values[1]))

    return codegen


@intrinsic
def udiv(typingctx: Any, a: Any, b: Any) -> Any:
    """Quotient of numbers that are not negative."""
    return types.int32(a, b), _unsigned("udiv")


@intrinsic
def umod(typingctx: Any, a: Any, b: Any) -> Any:
    """Remainder of numbers that are not negative."""
    return types.int32(a, b), _unsigned("urem")


@intrinsic
def below(typingctx: Any, a: Any, b: Any) -> Any:
    """``0 <= a < b``."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.icmp_unsigned("<", _as_i32(builder, values[0]), _as_i32(builder, values[1]))

    return types.boolean(a, b), codegen


@intrinsic
def both(typingctx: Any, a: Any, b: Any) -> Any:
    """``a and b``, both computed."""
    return types.boolean(a, b), lambda context, builder, signature, values: builder.and_(values[0], values[1])


@intrinsic
def select(typingctx: Any, condition: Any, a: Any, b: Any) -> Any:
    """``a if condition else b`` without a branch; integers are int32, floats float32."""
    kind = types.float32 if isinstance(a, types.Float) or isinstance(b, types.Float) else types.int32

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if kind is types.float32:
            chosen = [context.cast(builder, values[i], signature.args[i], types.float32) for i in (1, 2)]
        else:
            chosen = [_as_i32(builder, values[1]), _as_i32(builder, values[2])]
        return builder.select(values[0], *chosen)

    return kind(condition, a, b), codegen


@intrinsic
def to_float(typingctx: Any, x: Any) -> Any:
    """A number as float32."""
    return types.float32(x), lambda context, builder, signature, values: context.cast(builder, values[0], x, types.float32)


@intrinsic
def as_float(typingctx: Any, x: Any) -> Any:
    """The float32 with these 32 bits."""
    return types.float32(x), lambda context, builder, signature, values: builder.bitcast(_as_i32(builder, values[0]), ir.FloatType())


@intrinsic
def as_bits(typingctx: Any, x: Any) -> Any:
    """The 32 bits of a float32."""
    return types.int32(x), lambda context, builder, signature, values: builder.bitcast(values[0], _I32)


@intrinsic
def shared_address(typingctx: Any, array: Any) -> Any:
    """Byte address of an array in shared memory."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        data = builder.addrspacecast(data, data.type.pointee.as_pointer(3))
        return builder.trunc(builder.ptrtoint(data, _I64), _I32)

    return types.int32(array), codegen


def scalar_intrinsics(table: Mapping[str, Primitive]) -> dict[str, Any]:
    """The functions of expressions on float32, by the names that expressions are rendered with."""
    return {name: _scalar(name, function, table) for name, function in SCALARS.items()}


def _scalar(name: str, function: Any, table: Mapping[str, Primitive]) -> Any:
    count = function.__code__.co_argcount - 1

    def typer(*arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            floats = [context.cast(builder, v, t, types.float32) for v, t in zip(values, signature.args, strict=True)]
            return function(Arithmetic(builder, table), *(Number(builder, v) for v in floats)).value

        return types.float32(*arguments), codegen

    names = ", ".join(f"a{i}" for i in range(count))
    scope: dict[str, Any] = {"typer": typer}
    exec(f"def {name}(typingctx, {names}):\n    return typer({names})\n", scope)
    return intrinsic(scope[name])


def primitives(arch: str = "") -> dict[str, Any]:
    """Everything a generated kernel for an architecture may name."""
    known = primitives_of(arch)
    table: dict[str, Any] = {name: _make(name, primitive) for name, primitive in known.items()}
    table.update(scalar_intrinsics(known))
    table.update(
        i32=i32, udiv=udiv, umod=umod, below=below, both=both, select=select, to_float=to_float, as_float=as_float, as_bits=as_bits,
        shared_address=shared_address, cuda=cuda, f32=types.float32, words=types.int32,
    )  # fmt: skip
    return table
