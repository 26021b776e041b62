"""Comparisons, truth values, bits, selection and conversions between types, with any broadcast."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import Cast
from cnngraph.ops.base import Op
from cnngraph.ops.cast import BitCast
from cnngraph.ops.logic import BINARY, PREDICATES, Bits, Predicate, Where
from cnngraph_cuda.language import (
    absolute,
    as_float,
    float_of_long,
    long_and,
    long_fmod,
    long_mod,
    long_not,
    long_or,
    long_shift_left,
    long_shift_right,
    long_xor,
    order_unsigned,
    truncate,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, INTEGERS
from cnngraph_cuda.templates.strided import plain_layouts, refuse_shapes, strided_call, strided_code

FUNCTION = UNSIGNED = FROM_FLOAT = TO_FLOAT = TO_BOOL = 0
_FUNCTIONS = tuple(PREDICATES)
EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, AND, OR, XOR, NOT, IS_NAN, IS_INF, IS_POSITIVE_INF, IS_NEGATIVE_INF, NEVER = range(14)
_BITS = tuple(BINARY)
BIT_AND, BIT_OR, BIT_XOR, BIT_NOT, SHIFT_LEFT, SHIFT_RIGHT, MOD, FMOD = range(8)
_KNOWN = {*INTEGERS, *DATA_TYPES}


def select_one() -> None:
    """The second operand where the first is true, else the third."""
    if value[0] != 0:
        out = value[1]
    else:
        out = value[2]


def decide() -> None:
    """1 or 0."""
    out = 0
    if UNSIGNED:
        value[0] = order_unsigned(value[0])
        value[1] = order_unsigned(value[1])
    if FUNCTION == EQUAL:
        if value[0] == value[1]:
            out = 1
    elif FUNCTION == LESS:
        if value[0] < value[1]:
            out = 1
    elif FUNCTION == LESS_EQUAL:
        if value[0] <= value[1]:
            out = 1
    elif FUNCTION == GREATER:
        if value[0] > value[1]:
            out = 1
    elif FUNCTION == GREATER_EQUAL:
        if value[0] >= value[1]:
            out = 1
    elif FUNCTION == AND:
        if value[0] != 0:
            if value[1] != 0:
                out = 1
    elif FUNCTION == OR:
        if value[0] != 0:
            out = 1
        if value[1] != 0:
            out = 1
    elif FUNCTION == XOR:
        if value[0] != value[1]:
            out = 1
    elif FUNCTION == NOT:
        if value[0] == 0:
            out = 1
    elif FUNCTION == IS_NAN:
        if value[0] != value[0]:
            out = 1
    elif FUNCTION == IS_INF:
        if absolute(value[0]) == as_float(2139095040):
            out = 1
    elif FUNCTION == IS_POSITIVE_INF:
        if value[0] == as_float(2139095040):
            out = 1
    elif FUNCTION == IS_NEGATIVE_INF:
        if value[0] == as_float(-8388608):
            out = 1


def combine_bits() -> None:
    """An operation on integers of 64 bits; the store drops the higher ones."""
    if FUNCTION == BIT_AND:
        out = long_and(value[0], value[1])
    elif FUNCTION == BIT_OR:
        out = long_or(value[0], value[1])
    elif FUNCTION == BIT_XOR:
        out = long_xor(value[0], value[1])
    elif FUNCTION == BIT_NOT:
        out = long_not(value[0])
    elif FUNCTION == SHIFT_LEFT:
        out = long_shift_left(value[0], value[1])
    elif FUNCTION == SHIFT_RIGHT:
        out = long_shift_right(value[0], value[1])
    elif FUNCTION == MOD:
        out = long_mod(value[0], value[1])
    else:
        out = long_fmod(value[0], value[1])


def convert() -> None:
    """The store rounds floats and drops the higher bits of integers."""
    if TO_BOOL:
        out = 0
        if value[0] != 0:
            out = 1
    elif FROM_FLOAT == TO_FLOAT:
        out = value[0]
    elif FROM_FLOAT:
        out = truncate(value[0])
    else:
        out = float_of_long(value[0])


class _Strided:
    reorders_arithmetic = False
    any_batch_axis = True
    name: str
    code: Code
    op: type[Op]

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other operators and types."""
        if not isinstance(node.op, self.op):
            return f"not {self.op.name}"
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.type.dtype not in _KNOWN:
                return f"{value.type.dtype.value} tensors have no kernel"
        return self._refuse(node) or refuse_shapes(node)

    def _refuse(self, node: Node) -> str | None:
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return plain_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Above those of kernels that do only this."""
        return 10.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        values = [v for v in node.inputs if v is not None]
        return strided_call(self, target, values, node.output, self._constants(node))

    def _constants(self, node: Node) -> tuple[tuple[str, int], ...]:
        return ()


class WhereStrided(_Strided):
    """Where."""

    name = "where"
    op = Where
    code = strided_code(select_one, "One of two tensors, element by element.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than six axes and empty tensors."""
        return refuse_shapes(node) if isinstance(node.op, Where) else "not Where"


class PredicateStrided(_Strided):
    """Comparisons and truth values."""

    name = "predicate"
    op = Predicate
    code = strided_code(decide, "A truth value for each element.")

    def _constants(self, node: Node) -> tuple[tuple[str, int], ...]:
        assert isinstance(node.op, Predicate)
        order = node.op.function in ("less", "less_equal", "greater", "greater_equal")
        unsigned = order and node.input(0).type.dtype is DType.U64
        return ("FUNCTION", _FUNCTIONS.index(node.op.function)), ("UNSIGNED", int(unsigned))


class BitsStrided(_Strided):
    """Bits, shifts and remainders of integers."""

    name = "bits"
    op = Bits
    code = strided_code(combine_bits, "Bits, shifts and remainders of integers.")

    def _refuse(self, node: Node) -> str | None:
        return f"remainders of {node.output.type.dtype.value}" if node.output.type.dtype.is_float else None

    def _constants(self, node: Node) -> tuple[tuple[str, int], ...]:
        assert isinstance(node.op, Bits)
        return (("FUNCTION", _BITS.index(node.op.function)),)


class CastStrided(_Strided):
    """Cast between integers, truth values and floats."""

    name = "convert"
    op = Cast
    code = strided_code(convert, "Elements as another type.")

    def _refuse(self, node: Node) -> str | None:
        """Integers of more bits than float32 keeps would be rounded twice on the way to bfloat16."""
        x, y = node.input(0).type.dtype, node.output.type.dtype
        if y is DType.BF16 and x in INTEGERS and x.itemsize > 2:
            return f"from {x.value} to bfloat16"
        return "from floats to uint64" if x.is_float and y is DType.U64 else None

    def _constants(self, node: Node) -> tuple[tuple[str, int], ...]:
        x, y = node.input(0).type.dtype, node.output.type.dtype
        return ("FROM_FLOAT", int(x.is_float)), ("TO_FLOAT", int(y.is_float)), ("TO_BOOL", int(y is DType.BOOL))


class BitCastStrided(_Strided):
    """BitCast: a copy, or whether a byte is not 0."""

    name = "bit_cast"
    op = BitCast
    code = strided_code(convert, "The bits of elements.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than six axes and empty tensors."""
        return refuse_shapes(node) if isinstance(node.op, BitCast) else "not BitCast"

    def plan(self, node: Node, target: Target) -> KernelCall:
        """Both sides are integers."""
        whole = {1: DType.U8, 2: DType.U16, 4: DType.U32, 8: DType.I64}[node.output.type.dtype.itemsize]
        constants = (("FROM_FLOAT", 0), ("TO_FLOAT", 0), ("TO_BOOL", int(node.output.type.dtype is DType.BOOL)))
        return strided_call(self, target, [node.input(0)], node.output, constants, types=[whole], data=whole)
