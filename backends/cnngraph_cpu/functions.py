"""Transcendental and activation functions on vectors, composed of the primitives.

Polynomials after S. L. Moshier's Cephes (expf, logf); erf after N. Juffa's faithfully rounded erff, two minimax polynomials, the outer
one inside an exponential. The errors are about one unit in the last place of float32.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from cnngraph_cpu.trigonometric import circular, hyperbolic


def derived(p: dict[str, Any], exact_products: bool) -> dict[str, Any]:
    """The functions of :data:`cnngraph.ops.scalar.FUNCTIONS` that the primitives ``p`` lack. ``exact_products``: ``fma`` rounds once."""
    add, sub, mul, div, fma, splat = p["add"], p["sub"], p["mul"], p["div"], p["fma"], p["splat"]
    minimum, maximum, floor, vabs, neg = p["minimum"], p["maximum"], p["floor"], p["absolute"], p["neg"]
    select_negative, power_of_two = p["select_negative"], p["power_of_two"]
    exponent_of, mantissa_of, select_nan = p["exponent_of"], p["mantissa_of"], p["select_nan"]
    where_less, add_exponent = p["where_less"], p["add_exponent"]
    inline = njit(forceinline=True, error_model="numpy", boundscheck=False)

    @inline
    def expm1_reduced(r: Any) -> Any:
        # e^r - 1 - r for |r| <= ln(2)/2, divided by nothing: r^2 * P(r)
        q = splat(1.9875691500e-4)
        q = fma(q, r, splat(1.3981999507e-3))
        q = fma(q, r, splat(8.3334519073e-3))
        q = fma(q, r, splat(4.1665795894e-2))
        q = fma(q, r, splat(1.6666665459e-1))
        q = fma(q, r, splat(5.0000001201e-1))
        return mul(q, mul(r, r))

    @inline
    def exp(x: Any) -> Any:
        clamped = minimum(maximum(x, splat(-104.0)), splat(89.0))
        n = floor(fma(clamped, splat(1.44269504088896341), splat(0.5)))
        r = fma(n, splat(-0.693359375), clamped)
        r = fma(n, splat(2.12194440e-4), r)
        y = add(add(expm1_reduced(r), r), splat(1.0))
        # two factors, so that results near overflow and subnormal ones keep a representable scale
        half = floor(mul(n, splat(0.5)))
        return mul(mul(y, power_of_two(half)), power_of_two(sub(n, half)))

    @inline
    def half_exp(x: Any) -> Any:
        # e^x / 2 for x >= 0, finite wherever the result is
        clamped = minimum(x, splat(90.0))
        n = floor(fma(clamped, splat(1.44269504088896341), splat(0.5)))
        r = fma(n, splat(-0.693359375), clamped)
        r = fma(n, splat(2.12194440e-4), r)
        y = add(add(expm1_reduced(r), r), splat(1.0))
        half = floor(mul(n, splat(0.5)))
        return mul(mul(y, power_of_two(half)), power_of_two(sub(sub(n, half), splat(1.0))))

    @inline
    def expm1(x: Any) -> Any:
        clamped = minimum(maximum(x, splat(-40.0)), splat(89.0))
        n = floor(fma(clamped, splat(1.44269504088896341), splat(0.5)))
        r = fma(n, splat(-0.693359375), clamped)
        r = fma(n, splat(2.12194440e-4), r)
        m = add(expm1_reduced(r), r)
        half = floor(mul(n, splat(0.5)))
        first, second = power_of_two(half), power_of_two(sub(n, half))
        scaled = mul(mul(m, first), second)
        return add(scaled, sub(mul(first, second), splat(1.0)))

    @inline
    def log_positive(x: Any) -> Any:
        # x is positive and normal
        e = exponent_of(x)
        m = mantissa_of(x)
        small = sub(m, splat(0.70710678118654752440))
        e = select_negative(small, sub(e, splat(1.0)), e)
        m = sub(select_negative(small, add(m, m), m), splat(1.0))
        z = mul(m, m)
        q = splat(7.0376836292e-2)
        q = fma(q, m, splat(-1.1514610310e-1))
        q = fma(q, m, splat(1.1676998740e-1))
        q = fma(q, m, splat(-1.2420140846e-1))
        q = fma(q, m, splat(1.4249322787e-1))
        q = fma(q, m, splat(-1.6668057665e-1))
        q = fma(q, m, splat(2.0000714765e-1))
        q = fma(q, m, splat(-2.4999993993e-1))
        q = fma(q, m, splat(3.3333331174e-1))
        y = mul(mul(q, m), z)
        y = fma(e, splat(-2.12194440e-4), y)
        y = fma(z, splat(-0.5), y)
        return fma(e, splat(0.693359375), add(m, y))

    @inline
    def log(x: Any) -> Any:
        tiny = sub(x, splat(1.17549435e-38))
        scaled = select_negative(tiny, mul(x, splat(8388608.0)), x)
        y = log_positive(scaled)
        y = select_negative(tiny, sub(y, splat(15.9423851528787)), y)
        # x == inf -> inf, 0 -> -inf, negative and NaN -> NaN
        infinite = sub(splat(3.4028234e38), x)
        y = select_negative(infinite, x, y)
        zero = sub(vabs(x), splat(1e-45))
        y = select_negative(zero, splat(-float("inf")), y)
        y = select_negative(x, splat(float("nan")), y)
        return select_nan(x, y)

    @inline
    def sigmoid(x: Any) -> Any:
        # 1/(1 + e^-x). Adding 1.5*2^23 rounds -x/ln(2) to an integer n in the low bits of the sum, from where it goes into the exponent
        # without a conversion. e^-r for |r| <= ln(2)/2 by a minimax polynomial, relative error 1e-7.
        # The least result is the least normal number: subnormal ones are slow.
        clamped = minimum(maximum(x, splat(-87.33)), splat(87.0))
        shifted = fma(clamped, splat(-1.44269504088896341), splat(12582912.0))
        n = sub(shifted, splat(12582912.0))
        if exact_products:
            r = fma(n, splat(0.69314718055994531), clamped)
        else:
            r = fma(n, splat(-2.12194440e-4), fma(n, splat(0.693359375), clamped))
        q = splat(-8.290315047e-3)
        q = fma(q, r, splat(4.189793020e-2))
        q = fma(q, r, splat(-1.666763574e-1))
        q = fma(q, r, splat(4.999915063e-1))
        q = fma(q, r, splat(-9.999997020e-1))
        q = fma(q, r, splat(1.0))
        return div(splat(1.0), add(splat(1.0), add_exponent(q, shifted)))

    @inline
    def tanh(x: Any) -> Any:
        # An odd rational approximation up to 7.9, where it reaches 1 (the coefficients of Eigen's ptanh divided by the denominator's
        # first: its product with z is an addition); the quotient first, lest a subnormal product loses digits. Relative error 3e-7.
        a = minimum(maximum(x, splat(-7.892765522003174)), splat(7.892765522003174))
        z = mul(a, a)
        p = splat(-2.3039842256267207e-10)
        p = fma(p, z, splat(1.669245932589547e-07))
        p = fma(p, z, splat(-7.180982356658205e-05))
        p = fma(p, z, splat(0.042747851461172104))
        p = fma(p, z, splat(12.399015426635742))
        p = fma(p, z, splat(531.823486328125))
        p = fma(p, z, splat(4083.8642578125))
        q = add(z, splat(98.92249298095703))
        q = fma(q, z, splat(1893.10986328125))
        q = fma(q, z, splat(4083.86474609375))
        return mul(a, div(p, q))

    @inline
    def softplus(x: Any) -> Any:
        # max(x, 0) + log1p(e^-|x|); log1p(u) = log(1+u) * u / ((1+u) - 1)
        u = exp(neg(vabs(x)))
        w = add(splat(1.0), u)
        d = sub(w, splat(1.0))
        exact = sub(splat(1e-30), d)
        tail = select_negative(exact, mul(log_positive(w), div(u, maximum(d, splat(1e-30)))), u)
        return select_nan(x, add(maximum(x, splat(0.0)), tail))

    @inline
    def clip(x: Any, lo: float, hi: float) -> Any:
        return minimum(maximum(x, splat(lo)), splat(hi))

    @inline
    def scale(x: Any, factor: float) -> Any:
        return mul(x, splat(factor))

    @inline
    def shift(x: Any, offset: float) -> Any:
        return add(x, splat(offset))

    @inline
    def leaky_relu(x: Any, alpha: float) -> Any:
        return select_negative(x, mul(x, splat(alpha)), x)

    @inline
    def prelu(x: Any, slope: Any) -> Any:
        return select_negative(x, mul(x, slope), x)

    @inline
    def elu(x: Any, alpha: float) -> Any:
        return select_negative(x, mul(splat(alpha), expm1(x)), x)

    @inline
    def selu(x: Any, alpha: float, gamma: float) -> Any:
        return mul(splat(gamma), select_negative(x, mul(splat(alpha), expm1(x)), x))

    @inline
    def hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
        return minimum(maximum(fma(x, splat(alpha), splat(beta)), splat(0.0)), splat(1.0))

    @inline
    def hard_swish(x: Any) -> Any:
        return mul(x, minimum(maximum(fma(x, splat(1.0 / 6.0), splat(0.5)), splat(0.0)), splat(1.0)))

    @inline
    def erf(x: Any) -> Any:
        # An odd rational approximation on [-4, 4] (the coefficients of Eigen's erf), which overshoots 1 by a last bit or two. Relative
        # error 4e-7.
        a = minimum(maximum(x, splat(-4.0)), splat(4.0))
        z = mul(a, a)
        p = splat(-2.72614225801306e-10)
        p = fma(p, z, splat(2.77068142495902e-08))
        p = fma(p, z, splat(-2.10102402082508e-06))
        p = fma(p, z, splat(-5.69250639462346e-05))
        p = fma(p, z, splat(-7.34990630326855e-04))
        p = fma(p, z, splat(-2.95459980854025e-03))
        p = fma(p, z, splat(-1.60960333262415e-02))
        q = splat(-1.45660718464996e-05)
        q = fma(q, z, splat(-2.13374055278905e-04))
        q = fma(q, z, splat(-1.68282697438203e-03))
        q = fma(q, z, splat(-7.37332916720468e-03))
        q = fma(q, z, splat(-1.42647390514189e-02))
        return minimum(maximum(mul(a, div(p, q)), splat(-1.0)), splat(1.0))

    @inline
    def reciprocal(x: Any) -> Any:
        return div(splat(1.0), x)

    @inline
    def sign(x: Any) -> Any:
        return where_less(splat(0.0), x, splat(1.0), select_negative(x, splat(-1.0), x))

    @inline
    def celu(x: Any, alpha: float) -> Any:
        return select_negative(x, mul(splat(alpha), expm1(div(x, splat(alpha)))), x)

    @inline
    def thresholded_relu(x: Any, alpha: float) -> Any:
        return where_less(splat(alpha), x, x, splat(0.0))

    @inline
    def shrink(x: Any, lambd: float, bias: float) -> Any:
        inner = where_less(splat(lambd), x, sub(x, splat(bias)), splat(0.0))
        return where_less(x, splat(-lambd), add(x, splat(bias)), inner)

    names = (
        exp, log, sigmoid, tanh, softplus, clip, scale, shift, leaky_relu, prelu, elu, selu, hard_sigmoid, hard_swish,
        half_exp, erf, reciprocal, sign, celu, thresholded_relu, shrink,
    )  # fmt: skip
    table = {function.__name__: function for function in names}
    return {**table, **circular(p), **hyperbolic({**p, **table})}
