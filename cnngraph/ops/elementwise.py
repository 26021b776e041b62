"""Element-wise operators: every activation, arithmetic and chain of them is one scalar expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cnngraph.ir.types import DType, TensorType, numel, per_image
from cnngraph.ops.base import Cost, Op, needed, require
from cnngraph.ops.common import broadcast, in_result, mixed_dtype, result, widened
from cnngraph.ops.expression import Expression
from cnngraph.ops.scalar import FUNCTIONS


def require_expression(expression: Expression) -> None:
    """Raise InvalidModelError unless every instruction names a known function and refers to earlier values."""
    for i, instr in enumerate(expression.instrs):
        function = FUNCTIONS.get(instr.fn)
        require(function is not None, f"unknown scalar function {instr.fn!r}")
        assert function is not None
        require(
            len(instr.args) == function.arity and len(instr.params) == function.params,
            f"{instr.fn} takes {function.arity} operands and {function.params} parameters, not {len(instr.args)} and {len(instr.params)}",
        )
        require(all(0 <= a < expression.inputs + i for a in instr.args), f"{instr.fn} refers to a value that is not yet defined")


@dataclass(frozen=True)
class Elementwise(Op):
    """``expression`` applied to broadcastable tensors of one dtype; the output has that dtype and the broadcast shape.

    16-bit floats are computed in float32 and rounded once at the end. With ``to``, the type of the result, float32 and 16-bit floats
    may mix among the inputs.
    """

    name: ClassVar[str] = "Elementwise"
    expression: Expression
    to: DType | None = None

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = [needed(t, str(i)) for i, t in enumerate(inputs)]
        dtype = mixed_dtype(types, self.to, "an element-wise operator")
        require_expression(self.expression)
        require(len(types) == self.expression.inputs, f"expected {self.expression.inputs} inputs, got {len(types)}")
        return (result(dtype, broadcast(*(t.shape for t in types))),)

    def reference(self, *inputs: np.ndarray | None) -> tuple[np.ndarray, ...]:
        arrays = [np.asarray(a) for a in inputs if a is not None]
        shape = np.broadcast_shapes(*(a.shape for a in arrays))
        y = in_result(np.asarray(self.expression.evaluate([widened(a) for a in arrays])), arrays[0], self.to)
        return (np.array(np.broadcast_to(y, shape)),)

    def cost(self, inputs: tuple[TensorType | None, ...], outputs: tuple[TensorType, ...]) -> Cost:
        return Cost(flops=per_image(numel(outputs[0].shape)) * len(self.expression.instrs))
