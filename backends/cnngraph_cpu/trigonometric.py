"""Circular and hyperbolic functions and their inverses on vectors.

Polynomials after S. L. Moshier's Cephes (sinf, cosf, asinf, atanf, sinhf, asinhf, acoshf, atanhf). Arguments of sin, cos and tan are
reduced in float64 as FreeBSD's s_sinf.c does up to 2^28 quarter turns; beyond, the lanes concerned are left to the C library.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

_TWO_OVER_PI = 6.36619772367581382433e-01
_HALF_PI_HIGH = 1.57079631090164184570e00  # 25 bits, so that up to 2^28 times it is exact
_HALF_PI_LOW = 1.58932547735281966916e-08
_FARTHEST = float(1 << 28)


def half_pi_reduction(lanes: int) -> dict[str, Any]:
    """The range reduction of sin, cos and tan for vectors of ``lanes``.

    ``reduce_half_pi(x)`` is x minus the nearest multiple n of pi/2 and ``quarter_turns(x)`` n modulo 4; ``far_sin(x, y)`` and
    ``far_cos(x, y)`` are y, or the C library's function of x where x is too large to reduce.
    """
    from cnngraph_cpu.simd import VectorType

    vector_type = VectorType(lanes)
    single, double = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.DoubleType(), lanes)

    def call(builder: Any, name: str, kind: Any, *values: Any) -> Any:
        suffix = "f32" if kind is single else "f64"
        fnty = ir.FunctionType(kind, [kind] * len(values))
        return builder.call(cgutils.get_or_insert_function(builder.module, fnty, f"llvm.{name}.v{lanes}{suffix}"), values)

    def constant(number: float, kind: Any = double) -> Any:
        return ir.Constant(kind, [number] * lanes)

    def nearest(builder: Any, x: Any) -> tuple[Any, Any]:
        wide = builder.fpext(x, double)
        return wide, call(builder, "rint", double, builder.fmul(wide, constant(_TWO_OVER_PI)))

    @intrinsic
    def reduce_half_pi(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            wide, turns = nearest(builder, values[0])
            high = builder.fsub(wide, builder.fmul(turns, constant(_HALF_PI_HIGH)))
            rest = builder.fptrunc(builder.fsub(high, builder.fmul(turns, constant(_HALF_PI_LOW))), single)
            near = builder.fcmp_ordered("==", turns, constant(0.0))
            return builder.select(near, values[0], rest)  # keeps -0

        return vector_type(vector_type), codegen

    @intrinsic
    def quarter_turns(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _, turns = nearest(builder, values[0])
            whole = call(builder, "floor", double, builder.fmul(turns, constant(0.25)))
            return builder.fptrunc(builder.fsub(turns, builder.fmul(whole, constant(4.0))), single)

        return vector_type(vector_type), codegen

    def far(name: str) -> Any:
        @intrinsic
        def replace(typingctx: Any, x: Any, y: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                x, y = values
                is_far = builder.fcmp_ordered(">", call(builder, "fabs", single, x), constant(_FARTHEST, single))
                some = builder.icmp_unsigned("!=", builder.bitcast(is_far, ir.IntType(lanes)), ir.Constant(ir.IntType(lanes), 0))
                before = builder.block
                with builder.if_then(some, likely=False):
                    scalar = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
                    function = cgutils.get_or_insert_function(builder.module, scalar, name)
                    exact: Any = ir.Constant(single, ir.Undefined)
                    for lane in range(lanes):
                        index = ir.Constant(ir.IntType(32), lane)
                        exact = builder.insert_element(exact, builder.call(function, [builder.extract_element(x, index)]), index)
                    chosen = builder.select(is_far, exact, y)
                    inside = builder.block
                out = builder.phi(single)
                out.add_incoming(y, before)
                out.add_incoming(chosen, inside)
                return out

            return vector_type(vector_type, vector_type), codegen

        return replace

    return {"reduce_half_pi": reduce_half_pi, "quarter_turns": quarter_turns, "far_sin": far("sinf"), "far_cos": far("cosf")}


def circular(p: dict[str, Any]) -> dict[str, Any]:
    """sin, cos, tan, asin, acos and atan from the primitives ``p``."""
    add, sub, mul, div, fma, splat, sqrt = p["add"], p["sub"], p["mul"], p["div"], p["fma"], p["splat"], p["sqrt"]
    floor, vabs, neg = p["floor"], p["absolute"], p["neg"]
    copy_sign, where_less, select_nan = p["copy_sign"], p["where_less"], p["select_nan"]
    reduce_half_pi, quarter_turns = p["reduce_half_pi"], p["quarter_turns"]
    far_sin, far_cos = p["far_sin"], p["far_cos"]
    inline = njit(forceinline=True, error_model="numpy", boundscheck=False)

    @inline
    def sin_reduced(r: Any) -> Any:
        z = mul(r, r)
        q = splat(-1.9515295891e-4)
        q = fma(q, z, splat(8.3321608736e-3))
        q = fma(q, z, splat(-1.6666654611e-1))
        return fma(mul(q, z), r, r)

    @inline
    def cos_reduced(r: Any) -> Any:
        z = mul(r, r)
        q = splat(2.443315711809948e-5)
        q = fma(q, z, splat(-1.388731625493765e-3))
        q = fma(q, z, splat(4.166664568298827e-2))
        return fma(mul(q, z), z, fma(z, splat(-0.5), splat(1.0)))

    @inline
    def turned(r: Any, turns: Any) -> Any:
        # sin(r + turns*pi/2) for turns in {0, 1, 2, 3, 4}
        odd = fma(floor(mul(turns, splat(0.5))), splat(-2.0), turns)
        y = where_less(odd, splat(0.5), sin_reduced(r), cos_reduced(r))
        past = where_less(turns, splat(3.5), turns, splat(0.0))
        return where_less(past, splat(1.5), y, neg(y))

    @inline
    def sin(x: Any) -> Any:
        return far_sin(x, turned(reduce_half_pi(x), quarter_turns(x)))

    @inline
    def cos(x: Any) -> Any:
        return far_cos(x, turned(reduce_half_pi(x), add(quarter_turns(x), splat(1.0))))

    @inline
    def tan(x: Any) -> Any:
        r, turns = reduce_half_pi(x), quarter_turns(x)
        odd = fma(floor(mul(turns, splat(0.5))), splat(-2.0), turns)
        s, c = sin_reduced(r), cos_reduced(r)
        over = where_less(odd, splat(0.5), s, neg(c))
        under = where_less(odd, splat(0.5), c, s)
        return div(far_sin(x, over), far_cos(x, under))

    @inline
    def asin_small(x: Any) -> Any:
        # |x| <= 1/2
        z = mul(x, x)
        q = splat(4.2163199048e-2)
        q = fma(q, z, splat(2.4181311049e-2))
        q = fma(q, z, splat(4.5470025998e-2))
        q = fma(q, z, splat(7.4953002686e-2))
        q = fma(q, z, splat(1.6666752422e-1))
        return fma(mul(q, z), x, x)

    @inline
    def asin(x: Any) -> Any:
        a = vabs(x)
        root = sqrt(mul(splat(0.5), sub(splat(1.0), a)))
        inner = asin_small(where_less(splat(0.5), a, root, a))
        y = where_less(splat(0.5), a, fma(inner, splat(-2.0), splat(1.57079632679489662)), inner)
        return select_nan(y, copy_sign(y, x))

    @inline
    def acos(x: Any) -> Any:
        a = vabs(x)
        root = sqrt(mul(splat(0.5), sub(splat(1.0), a)))
        inner = asin_small(where_less(splat(0.5), a, root, x))
        outer = add(inner, inner)
        outer = where_less(x, splat(0.0), sub(splat(3.14159265358979324), outer), outer)
        return where_less(splat(0.5), a, outer, add(sub(splat(1.57079637050628662), inner), splat(-4.37113900018624283e-8)))

    @inline
    def atan(x: Any) -> Any:
        # above tan(3 pi/8) by the reciprocal, above tan(pi/8) by (a-1)/(a+1)
        a = vabs(x)
        middle, high = splat(0.4142135623730950), splat(2.414213562373095)
        over = where_less(high, a, splat(-1.0), where_less(middle, a, sub(a, splat(1.0)), a))
        under = where_less(high, a, a, where_less(middle, a, add(a, splat(1.0)), splat(1.0)))
        base = where_less(high, a, splat(1.57079632679489662), where_less(middle, a, splat(0.785398163397448310), splat(0.0)))
        r = div(over, under)
        z = mul(r, r)
        q = splat(8.05374449538e-2)
        q = fma(q, z, splat(-1.38776856032e-1))
        q = fma(q, z, splat(1.99777106478e-1))
        q = fma(q, z, splat(-3.33329491539e-1))
        return select_nan(x, copy_sign(add(base, fma(mul(q, z), r, r)), x))

    return {f.__name__: f for f in (sin, cos, tan, asin, acos, atan)}


def hyperbolic(p: dict[str, Any]) -> dict[str, Any]:
    """sinh, cosh, asinh, acosh and atanh from the primitives and functions ``p``."""
    add, sub, mul, div, fma, splat, sqrt = p["add"], p["sub"], p["mul"], p["div"], p["fma"], p["splat"], p["sqrt"]
    vabs, copy_sign, where_less, select_nan = p["absolute"], p["copy_sign"], p["where_less"], p["select_nan"]
    half_exp, log = p["half_exp"], p["log"]
    inline = njit(forceinline=True, error_model="numpy", boundscheck=False)

    @inline
    def sinh(x: Any) -> Any:
        a = vabs(x)
        h = half_exp(a)
        z = mul(a, a)
        q = splat(2.03721912945e-4)
        q = fma(q, z, splat(8.33028376239e-3))
        q = fma(q, z, splat(1.66667160211e-1))
        y = where_less(splat(1.0), a, sub(h, div(splat(0.25), h)), fma(mul(q, z), a, a))
        return select_nan(x, copy_sign(y, x))

    @inline
    def cosh(x: Any) -> Any:
        h = half_exp(vabs(x))
        return select_nan(x, add(h, div(splat(0.25), h)))

    @inline
    def asinh(x: Any) -> Any:
        a = vabs(x)
        z = mul(a, a)
        q = splat(2.0122003309e-2)
        q = fma(q, z, splat(-4.2699340972e-2))
        q = fma(q, z, splat(7.4847586088e-2))
        q = fma(q, z, splat(-1.6666288134e-1))
        far = where_less(splat(1500.0), a, splat(0.69314718055994531), splat(0.0))
        inside = where_less(splat(1500.0), a, a, add(a, sqrt(add(z, splat(1.0)))))
        y = where_less(a, splat(0.5), fma(mul(q, z), a, a), add(log(inside), far))
        return select_nan(x, copy_sign(y, x))

    @inline
    def acosh(x: Any) -> Any:
        z = sub(x, splat(1.0))
        q = splat(1.7596881071e-3)
        q = fma(q, z, splat(-7.5272886713e-3))
        q = fma(q, z, splat(2.6454905019e-2))
        q = fma(q, z, splat(-1.1784741703e-1))
        q = fma(q, z, splat(1.4142135263e0))
        far = where_less(splat(1500.0), x, splat(0.69314718055994531), splat(0.0))
        inside = where_less(splat(1500.0), x, x, add(x, sqrt(mul(z, add(x, splat(1.0))))))
        y = where_less(z, splat(0.5), mul(q, sqrt(z)), add(log(inside), far))
        return select_nan(x, y)

    @inline
    def atanh(x: Any) -> Any:
        a = vabs(x)
        z = mul(a, a)
        q = splat(1.81740078349e-1)
        q = fma(q, z, splat(8.24370301058e-2))
        q = fma(q, z, splat(1.46691431730e-1))
        q = fma(q, z, splat(1.99782164500e-1))
        q = fma(q, z, splat(3.33337300303e-1))
        outer = mul(splat(0.5), log(div(add(splat(1.0), a), sub(splat(1.0), a))))
        y = where_less(a, splat(0.5), fma(mul(q, z), a, a), outer)
        return select_nan(y, copy_sign(y, x))

    return {f.__name__: f for f in (sinh, cosh, asinh, acosh, atanh)}
