"""NegativeLogLikelihoodLoss: one thread a target, or one block for the sum or mean of all."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel
from cnngraph.kernels.template import Argument, Extent, Flag, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops.losses import NLLLoss
from cnngraph_cuda.language import (
    DataPointer,
    FlagPointer,
    Operand0,
    add,
    block_x,
    div,
    load_one,
    load_operand,
    mul,
    select,
    shared_base,
    store_int,
    store_one,
    sub,
    thread,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import DATA_TYPES, data_type, kernel_call, launch, refuse_empty
from cnngraph_cuda.templates.group_norm import sum_block

THREADS = REDUCTION = WEIGHTED = IGNORES = IGNORED = 0
_REDUCTIONS = ("none", "sum", "mean")


def lose() -> None:
    """``loss`` of target ``at``, and the ``factor`` it counts with."""
    image = at // plane
    index = load_operand(0, targets, at)
    counts = 1
    if IGNORES:
        if index == IGNORED:
            counts = 0
    place = select(index < 0, 0 - 1, select(index < classes, index, 0 - 1))
    if place < 0:
        if counts == 1:
            store_int(flag, 1, index)
            store_int(flag, 0, 1)
        counts = 0
    loss = 0.0
    factor = 0.0
    if counts == 1:
        factor = 1.0
        if WEIGHTED:
            factor = load_one(weights, place)
        loss = sub(0.0, mul(load_one(x, (image * classes + place) * plane + at - image * plane), factor))


def nll_loss(
    x: DataPointer, y: DataPointer, weights: DataPointer, targets: Operand0, flag: FlagPointer, count: int, classes: int, plane: int
) -> None:
    """``x[images, classes, plane]``."""
    tid = thread()
    if REDUCTION == 0:
        at = block_x() * THREADS + tid
        if at < count:
            lose()
            store_one(y, at, loss)
    else:
        base = shared_base()
        total = 0.0
        weight = 0.0
        for at in range(tid, count, THREADS):
            lose()
            total = add(total, loss)
            weight = add(weight, factor)
        sum_block(0)
        whole = total
        total = weight
        sum_block(128)
        if REDUCTION == 2:
            whole = div(whole, total)
        if tid == 0:
            store_one(y, 0, whole)


class NLLLossPlain:
    """NLLLoss."""

    name = "nll_loss"
    reorders_arithmetic = False
    code = Code(nll_loss, {"lose": lose, "sum_block": sum_block}, "Loss of a classification.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Refuses other types and empty tensors."""
        if not isinstance(node.op, NLLLoss):
            return "not a loss"
        dtype = node.output.type.dtype
        if node.op.ignore_index is not None and abs(node.op.ignore_index) >= 1 << 31:
            return "an ignored index of more than 32 bits"
        return refuse_empty(node) if dtype in DATA_TYPES else f"{dtype.value} tensors have no kernel"

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest(tuple(None if v is None else PLAIN for v in node.inputs), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One thread a target, or one block."""
        op, x, targets, weights, y, threads = node.op, node.input(0), node.input(1), node.inputs[2], node.output, 256
        assert isinstance(op, NLLLoss)
        count, classes = numel(targets.type.shape), x.type.shape[1]
        assert isinstance(classes, int)
        reduction = _REDUCTIONS.index(op.reduction)
        units = 1 if reduction else count
        arguments: dict[str, Argument] = {
            **launch(units, 1 if reduction else threads, threads, shared=256, values=(x, targets)), "x": Pointer(x), "y": Pointer(y),
            "weights": Pointer(x if weights is None else weights), "targets": Pointer(targets),
            "flag": Flag(f"loss target {{}} is not one of {classes} classes"), "count": Extent(count), "classes": Extent(classes),
            "plane": Extent(numel(x.type.shape[2:])),
        }  # fmt: skip
        constants = (
            ("REDUCTION", reduction), ("WEIGHTED", int(weights is not None)), ("IGNORES", int(op.ignore_index is not None)),
            ("IGNORED", op.ignore_index or 0), ("T0", data_type(targets.type.dtype)),
        )  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, constants)
