"""Element-wise expressions whose operands broadcast in any way, and those of integers."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import DType
from cnngraph.kernels.template import KernelCall, LayoutRequest, Target
from cnngraph.ops import Elementwise
from cnngraph_cuda.language import expression, long_expression
from cnngraph_cuda.templates.common import INTEGERS, refuse_types
from cnngraph_cuda.templates.strided import plain_layouts, refuse_shapes, strided_call, strided_code

_RING = frozenset({"add", "sub", "mul", "neg"})
_ORDER = frozenset({"min", "max", "relu"})
_FUNCTIONS = _RING | _ORDER | {"div", "abs"}


def compute() -> None:
    """The expression of floats."""
    out = expression(value)


def compute_long() -> None:
    """The expression of integers."""
    out = long_expression(value)


class EltwiseStrided:
    """Element-wise with any broadcast."""

    name = "eltwise_strided"
    reorders_arithmetic = False
    any_batch_axis = True
    code = strided_code(compute, "Element-wise expression over operands that broadcast in any way.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than six operands or axes."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        return refuse_types(node, target) or refuse_shapes(node)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return plain_layouts(node)

    def cost(self, node: Node, target: Target) -> float:
        """Above those of the other element-wise kernels."""
        return 100.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        assert isinstance(node.op, Elementwise)
        values = [v for v in node.inputs if v is not None]
        return strided_call(self, target, values, node.output, expression=node.op.expression)


class EltwiseIntegers(EltwiseStrided):
    """Element-wise on integers of 8 to 64 bits. Between instructions numbers have 64 bits, so few chains of them are computed."""

    name = "eltwise_integers"
    code = strided_code(compute_long, "Element-wise expression over integers.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses floats, other functions, and chains whose intermediate results would have to wrap around."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        dtype = node.output.type.dtype
        if dtype not in INTEGERS or dtype is DType.BOOL:
            return "not of integers"
        functions = {i.fn for i in node.op.expression.instrs}
        if not functions or not functions <= _FUNCTIONS:
            return f"no {', '.join(sorted(functions - _FUNCTIONS)) or 'function'} of integers"
        wide = dtype in (DType.I64, DType.U64)
        if not (wide or len(node.op.expression.instrs) == 1 or functions <= _RING or functions <= _ORDER):
            return f"intermediate results of {dtype.value} that would have to wrap around"
        return refuse_shapes(node)
