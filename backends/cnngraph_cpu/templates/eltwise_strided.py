"""Element-wise expressions on plain tensors that broadcast in any way NumPy allows."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.errors import CnngraphError
from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, Dim, SymbolicBatchError, per_image
from cnngraph.kernels.template import Argument, Extent, KernelCall, KernelSpec, LayoutRequest, Pointer, Target
from cnngraph.ops import Elementwise
from cnngraph_cpu.language import (
    F32Pointer,
    broadcast,
    expression,
    int_argument,
    load,
    load_partial,
    pointer_argument,
    registers,
    store,
    store_partial,
    unroll,
)
from cnngraph_cpu.source import Code
from cnngraph_cpu.templates.common import only_floats, overwritable
from cnngraph_cpu.templates.copy_strided import place_of_row
from cnngraph_cpu.templates.strides import OUTER, broadcast_strides, merge_axes, outer_axes

W = K = VARIES = 0
_CHUNK = 4096
_MOST_OPERANDS = 32


def eltwise_strided(
    y: F32Pointer, d0: int, d1: int, d2: int, d3: int, inner: int, chunk: int, args: F32Pointer, tid: int, threads: int
) -> None:
    """``y = f(operands)`` over [d0, d1, d2, d3, inner].

    Operand k stands at argument 7+5k: its pointer and its strides along d0..d3. Along the inner axis bit k of VARIES says
    whether it advances with the output or stays.
    """
    value = registers(K)
    at = registers(K)
    pointer = registers(K)
    for k in unroll(K):
        pointer[k] = pointer_argument(args, 7 + 5 * k)
    chunks = (inner + chunk - 1) // chunk
    tasks = d0 * d1 * d2 * d3 * chunks
    for task in range(tasks * tid // threads, tasks * (tid + 1) // threads):
        place_of_row()
        for k in unroll(K):
            at[k] = i0 * int_argument(args, 8 + 5 * k) + i1 * int_argument(args, 9 + 5 * k)
            at[k] = at[k] + i2 * int_argument(args, 10 + 5 * k) + i3 * int_argument(args, 11 + 5 * k)
            if not VARIES >> k & 1:
                value[k] = broadcast(pointer[k], at[k])
        whole = first + (stop - first) // W * W
        to = row * inner
        for j in range(first, whole, W):
            for k in unroll(K):
                if VARIES >> k & 1:
                    value[k] = load(pointer[k], at[k] + j)
            out = expression(value)
            store(y, to + j, out)
        if whole < stop:
            left = stop - whole
            for k in unroll(K):
                if VARIES >> k & 1:
                    value[k] = load_partial(pointer[k], at[k] + whole, left)
            out = expression(value)
            store_partial(y, to + whole, out, left)


def _loops(node: Node) -> tuple[list[Dim], list[list[Dim]]]:
    """Merged extents of the output, and the strides of each operand along them."""
    shape = node.output.type.shape
    operands = [v.type.shape for v in node.inputs if v is not None]
    return merge_axes(shape, [broadcast_strides(s, shape) for s in operands])


class EltwiseStrided:
    """Element-wise with general broadcasting."""

    name = "eltwise_strided"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(eltwise_strided, {"place_of_row": place_of_row}, "Element-wise expression over plain tensors with general broadcasting.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses more than five loops after merging."""
        if not isinstance(node.op, Elementwise):
            return "not element-wise"
        refusal = only_floats(node)
        if refusal:
            return refusal
        if any(d == 0 for d in node.output.type.shape):
            return "an empty tensor"
        if len(node.inputs) > _MOST_OPERANDS:
            return f"more than {_MOST_OPERANDS} operands"
        try:
            extents, _ = _loops(node)
        except SymbolicBatchError as error:
            return f"a stride mixes the batch: {CnngraphError.__str__(error)}"
        if len(extents) > OUTER + 1:
            return f"it broadcasts along {len(extents)} separate axes"
        return None

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Everything plain."""
        return [LayoutRequest(tuple(PLAIN for _ in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """More than the kernels for the usual broadcasts."""
        return per_image(node.output.type.physical_elements) * 4.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One task a row of the innermost loop, or part of a long one."""
        op, y = node.op, node.output
        assert isinstance(op, Elementwise)
        extents, strides = _loops(node)
        outer = outer_axes(extents[:-1], 1)
        arguments: dict[str, Argument] = {"y": Pointer(y), **{f"d{i}": Extent(d) for i, d in enumerate(outer)}}
        arguments |= {"inner": Extent(extents[-1]), "chunk": Extent(_CHUNK)}
        varies = 0
        for k, (value, steps) in enumerate(zip(node.inputs, strides, strict=True)):
            assert value is not None
            arguments[f"x{k}"] = Pointer(value)
            arguments |= {f"x{k}_{i}": Extent(s) for i, s in enumerate(outer_axes(steps[:-1], 0))}
            varies |= (steps[-1] != 0) << k
        spec = KernelSpec(self.name, target.isa, (("K", len(node.inputs)), ("VARIES", varies)), op.expression)
        return KernelCall(spec, arguments, (), overwritable(node.inputs, y))
