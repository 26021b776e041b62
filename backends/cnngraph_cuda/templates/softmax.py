"""Softmax and its logarithm along one axis of a row-major tensor: one block a row."""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.ir.graph import Node
from cnngraph.ir.types import PLAIN, numel
from cnngraph.kernels.template import Argument, Extent, KernelCall, LayoutRequest, Pointer, Target
from cnngraph.ops import Softmax
from cnngraph_cuda.language import (
    DataPointer,
    add,
    as_float,
    block_x,
    div,
    exp,
    lds1,
    load_one,
    log,
    maximum,
    shared_base,
    shuffle_xor,
    store_one,
    sts1,
    sub,
    sync,
    thread,
    unroll,
)
from cnngraph_cuda.source import Code
from cnngraph_cuda.templates.common import kernel_call, launch, refuse_types

LOG = THREADS = 0


def softmax(x: DataPointer, y: DataPointer, length: int, inner: int) -> None:
    """``y = exp(x - max) / sum`` along elements ``inner`` apart."""
    tid = thread()
    task = block_x()
    first = task // inner * (length * inner) + task % inner
    base = shared_base()
    top = as_float(-8388608)
    for i in range(tid, length, THREADS):
        top = maximum(top, load_one(x, first + i * inner))
    for k in unroll(5):
        top = maximum(top, shuffle_xor(top, 16 >> k))
    if tid % 32 == 0:
        sts1(base + (tid >> 5) * 4, top)
    sync()
    top = lds1(base)
    for k in unroll(1, THREADS // 32):
        top = maximum(top, lds1(base + 4 * k))
    total = 0.0
    for i in range(tid, length, THREADS):
        total = add(total, exp(sub(load_one(x, first + i * inner), top)))
    for k in unroll(5):
        total = add(total, shuffle_xor(total, 16 >> k))
    if tid % 32 == 0:
        sts1(base + 128 + (tid >> 5) * 4, total)
    sync()
    total = lds1(base + 128)
    for k in unroll(1, THREADS // 32):
        total = add(total, lds1(base + 128 + 4 * k))
    if LOG:
        total = log(total)
    for i in range(tid, length, THREADS):
        shifted = sub(load_one(x, first + i * inner), top)
        if LOG:
            store_one(y, first + i * inner, sub(shifted, total))
        else:
            store_one(y, first + i * inner, div(exp(shifted), total))


class SoftmaxPlain:
    """Softmax over any axis of a row-major tensor."""

    name = "softmax"
    reorders_arithmetic = False
    any_batch_axis = True
    code = Code(softmax, {}, "Softmax along one axis.")

    def accepts(self, node: Node, target: Target) -> str | None:
        """Takes any axis."""
        if not isinstance(node.op, Softmax):
            return "not a softmax"
        return refuse_types(node, target)

    def layouts(self, node: Node, target: Target) -> Sequence[LayoutRequest]:
        """Row-major."""
        return [LayoutRequest((PLAIN,), (PLAIN,))]

    def cost(self, node: Node, target: Target) -> float:
        """Elements."""
        return 1.0

    def plan(self, node: Node, target: Target) -> KernelCall:
        """One block a row."""
        op, x, y = node.op, node.input(0), node.output
        assert isinstance(op, Softmax)
        length, inner = x.type.shape[op.axis], numel(x.type.shape[op.axis + 1 :])
        outer = numel((*x.type.shape[: op.axis], inner))
        threads = 256
        arguments: dict[str, Argument] = {
            **launch(outer, 1, threads, shared=256, values=(x, y)), "x": Pointer(x), "y": Pointer(y), "length": Extent(length),
            "inner": Extent(inner),
        }  # fmt: skip
        return kernel_call(self, target, arguments, y, threads, (("LOG", int(op.log)),))
