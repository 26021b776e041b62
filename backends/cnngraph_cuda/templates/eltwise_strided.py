"""Element-wise expressions whose operands broadcast in any way: up to four operands of up to six axes, by strides."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, numel, strides_of
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Elementwise
from cnngraph_cuda.language import DataPointer, block_x, expression, load_one, registers, store_one, thread
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, refuse_types

OPERANDS = THREADS = 0
AXES, MOST = 6, 4


def fetch(NUMBER: int, pointer: int, s0: int, s1: int, s2: int, s3: int, s4: int, s5: int) -> None:
    """One operand's element."""
    if NUMBER < OPERANDS:
        value[NUMBER] = load_one(pointer, i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3 + i4 * s4 + i5 * s5)


def eltwise_strided(
    x0: DataPointer, x1: DataPointer, x2: DataPointer, x3: DataPointer, y: DataPointer, elements: int, d1: int, d2: int, d3: int, d4: int,
    d5: int, a0: int, a1: int, a2: int, a3: int, a4: int, a5: int, b0: int, b1: int, b2: int, b3: int, b4: int, b5: int, c0: int, c1: int,
    c2: int, c3: int, c4: int, c5: int, g0: int, g1: int, g2: int, g3: int, g4: int, g5: int,
) -> None:  # fmt: skip
    """``y = f(x0, ..)``; the letters a, b, c, g are the strides of the operands, 0 along axes they do not have."""
    value = registers(OPERANDS)
    at = block_x() * THREADS + thread()
    if at < elements:
        i4 = at // d5
        i5 = at - i4 * d5
        i3 = i4 // d4
        i4 = i4 - i3 * d4
        i2 = i3 // d3
        i3 = i3 - i2 * d3
        i1 = i2 // d2
        i2 = i2 - i1 * d2
        i0 = i1 // d1
        i1 = i1 - i0 * d1
        fetch(0, x0, a0, a1, a2, a3, a4, a5)
        fetch(1, x1, b0, b1, b2, b3, b4, b5)
        fetch(2, x2, c0, c1, c2, c3, c4, c5)
        fetch(3, x3, g0, g1, g2, g3, g4, g5)
        out = expression(value)
        store_one(y, at, out)


class EltwiseStrided:
    """Element-wise with any broadcast."""

    name = "eltwise_strided"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(eltwise_strided, {"fetch": fetch}, "Element-wise expression over operands that broadcast in any way.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than four operands or six axes."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        refusal = refuse_types(node, target)
        if refusal:
            return refusal
        if len(node.inputs) > MOST or node.output.type.rank > AXES:
            return f"more than {MOST} operands or {AXES} axes"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest(tuple(None if v is None else PLAIN for v in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Above those of the other element-wise kernels."""
        return 100.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread an element."""
        op, y = node.op, node.output
        assert isinstance(op, Elementwise)
        values = [v for v in node.inputs if v is not None]
        shape = y.type.shape
        lead = AXES - len(shape)
        dims: list[Dim] = [*[1] * lead, *shape]
        units, threads = numel(shape), 256
        filled = [values[min(i, len(values) - 1)] for i in range(MOST)]
        arguments: dict[str, Argument] = {
            **launch(units, threads, threads, values=(y, *values)), **{f"x{i}": Pointer(v) for i, v in enumerate(filled)},
            "y": Pointer(y), "elements": Extent(units), **{f"d{i}": Extent(dims[i]) for i in range(1, AXES)},
        }  # fmt: skip
        for letter, value in zip("abcg", filled, strict=True):
            own = value.type.shape
            padded: list[Dim] = [*[1] * (AXES - len(own)), *own]
            steps: list[Dim] = [*[0] * (AXES - len(own)), *strides_of(own)]
            for axis in range(AXES):
                arguments[f"{letter}{axis}"] = Extent(0 if padded[axis] == 1 else steps[axis])
        return kernel_call(self, target, arguments, y, threads, (("OPERANDS", len(values)),), expression=op.expression)
