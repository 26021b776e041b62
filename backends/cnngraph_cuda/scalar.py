"""The scalar functions of expressions as LLVM code for one float32; exp, log and the like are libdevice's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir

from cnngraph_cuda.primitives import Primitive

_F32 = ir.FloatType()


class Number:
    """A float32 under construction; ``a + b`` adds an instruction. Python floats become constants."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _of(self, other: Any) -> Any:
        return other.value if isinstance(other, Number) else ir.Constant(_F32, float(other))

    def _do(self, operation: str, left: Any, right: Any) -> Number:
        return Number(self.builder, getattr(self.builder, operation)(left, right))

    def __add__(self, other: Any) -> Number:
        return self._do("fadd", self.value, self._of(other))

    def __sub__(self, other: Any) -> Number:
        return self._do("fsub", self.value, self._of(other))

    def __rsub__(self, other: Any) -> Number:
        return self._do("fsub", self._of(other), self.value)

    def __mul__(self, other: Any) -> Number:
        return self._do("fmul", self.value, self._of(other))

    def __truediv__(self, other: Any) -> Number:
        return self._do("fdiv", self.value, self._of(other))

    def __rtruediv__(self, other: Any) -> Number:
        return self._do("fdiv", self._of(other), self.value)

    def __neg__(self) -> Number:
        return self._do("fsub", self._of(-0.0), self.value)  # NVVM's dialect for older architectures has no fneg

    def _compare(self, operation: str, other: Any) -> Any:
        return self.builder.fcmp_ordered(operation, self.value, self._of(other))

    def __lt__(self, other: Any) -> Any:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare(">", other)

    def equals(self, other: Any) -> Any:
        """Whether two numbers are equal; NaN equals nothing."""
        return self._compare("==", other)


class Arithmetic:
    """Functions of numbers, with the primitives of an architecture."""

    def __init__(self, builder: Any, primitives: Mapping[str, Primitive]) -> None:
        self.builder, self._primitives = builder, primitives

    def _value(self, x: Any) -> Any:
        return x.value if isinstance(x, Number) else ir.Constant(_F32, float(x))

    def device(self, name: str, *arguments: Any) -> Number:
        """A function of libdevice: ``__nv_<name>f``."""
        module, symbol = self.builder.module, f"__nv_{name}f"
        kind = ir.FunctionType(_F32, [_F32] * len(arguments))
        function = module.globals.get(symbol) or ir.Function(module, kind, symbol)
        return Number(self.builder, self.builder.call(function, [self._value(a) for a in arguments]))

    def asm(self, text: str, *arguments: Any) -> Number:
        """One PTX instruction with a float32 result."""
        kind = ir.FunctionType(_F32, [_F32] * len(arguments))
        constraints = ",".join(["=f"] + ["f"] * len(arguments))
        call = ir.InlineAsm(kind, text, constraints, side_effect=False)
        return Number(self.builder, self.builder.call(call, [self._value(a) for a in arguments]))

    def max(self, a: Any, b: Any) -> Number:
        """The larger; NaN if either is."""
        return self.asm(self._primitives["maximum"].text, a, b)

    def min(self, a: Any, b: Any) -> Number:
        """The smaller; NaN if either is."""
        return self.asm(self._primitives["minimum"].text, a, b)

    def fma(self, a: Any, b: Any, c: Any) -> Number:
        """``a * b + c``, rounded once."""
        return self.asm("fma.rn.f32 $0, $1, $2, $3;", a, b, c)

    def select(self, condition: Any, a: Any, b: Any) -> Number:
        """``a if condition else b``."""
        return Number(self.builder, self.builder.select(condition, self._value(a), self._value(b)))


def _device(name: str) -> Callable[..., Number]:
    return lambda e, x: e.device(name, x)


SCALARS: dict[str, Callable[..., Number]] = {
    "add": lambda e, a, b: a + b,
    "sub": lambda e, a, b: a - b,
    "mul": lambda e, a, b: a * b,
    "div": lambda e, a, b: a / b,
    "power": lambda e, a, b: e.device("pow", a, b),
    "prelu": lambda e, x, slope: e.select(x < 0.0, x * slope, x),
    "scale": lambda e, x, factor: x * factor,
    "shift": lambda e, x, offset: x + offset,
    "relu": lambda e, x: e.max(x, 0.0),
    "leaky_relu": lambda e, x, alpha: e.select(x < 0.0, x * alpha, x),
    "elu": lambda e, x, alpha: e.select(x < 0.0, alpha * e.device("expm1", x), x),
    "selu": lambda e, x, alpha, gamma: gamma * e.select(x > 0.0, x, alpha * e.device("expm1", x)),
    "sigmoid": lambda e, x: 1.0 / (e.device("exp", -x) + 1.0),
    "hard_sigmoid": lambda e, x, alpha, beta: e.min(e.max(e.fma(x, alpha, beta), 0.0), 1.0),
    "hard_swish": lambda e, x: x * e.min(e.max(e.fma(x, 1 / 6, 0.5), 0.0), 1.0),
    "softplus": lambda e, x: e.max(x, 0.0) + e.device("log1p", e.device("exp", -e.device("fabs", x))),
    "clip": lambda e, x, low, high: e.min(e.max(x, low), high),
    "sqrt": lambda e, x: e.asm("sqrt.rn.f32 $0, $1;", x),
    "absolute": _device("fabs"),
    "neg": lambda e, x: -x,
    "reciprocal": lambda e, x: 1.0 / x,
    "sign": lambda e, x: e.select(x > 0.0, 1.0, e.select(x < 0.0, -1.0, x)),
    "celu": lambda e, x, alpha: e.select(x < 0.0, alpha * e.device("expm1", x / alpha), x),
    "thresholded_relu": lambda e, x, alpha: e.select(x > alpha, x, 0.0),
    "shrink": lambda e, x, lambd, bias: e.select(x < -lambd, x + bias, e.select(x > lambd, x - bias, 0.0)),
    "where_less": lambda e, a, b, x, y: e.select(a < b, x, y),
    "where_less_equal": lambda e, a, b, x, y: e.select(a <= b, x, y),
    "where_equal": lambda e, a, b, x, y: e.select(a.equals(b), x, y),
}
"""By the names that expressions are rendered with; the table is completed below."""

for _name in ("exp", "log", "tanh", "erf", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"):
    SCALARS[_name] = _device(_name)
