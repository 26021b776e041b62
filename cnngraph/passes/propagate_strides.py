"""Move strides towards the input: pixels that no reader looks at are not computed.

``conv(conv(x), 1x1, stride 2) => conv(conv(x, stride 2), 1x1)``. A 1x1 convolution, a 1x1 pooling or a slice of stride s along an axis
reads every s-th pixel from the first on. Where all readers of a value agree in that, its producer computes only these: a convolution
or pooling by a larger stride, an element-wise operator on sampled operands. In ResNets whose stride is in the first 1x1
convolution of a stage (He et al. 2015) this reaches the last block of the stage before: its last 1x1 and its 3x3 convolution do a
quarter of the work.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import ceil_div, static
from cnngraph.ops import Conv, ConvInteger, Elementwise, Pool, QLinearBinary, QLinearConv, QLinearUnary, QTable, Slice
from cnngraph.passes.base import Pass, PassContext
from cnngraph.passes.rewrite import replace

Steps = tuple[int, ...]
"""Distance of the pixels read along each spatial axis."""


_CONVOLUTIONS = (Conv, ConvInteger, QLinearConv)
_WINDOWS = (*_CONVOLUTIONS, Pool)


@dataclass(frozen=True)
class PropagateStrides(Pass):
    """Strides of 1x1 readers into the producers of what they read, from the outputs to the inputs."""

    name: ClassVar[str] = "propagate_strides"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Visit producers after their readers, so that strides travel as far as they can."""
        changes = 0
        for node in reversed(graph.nodes):
            if len(node.outputs) == 1 and (pixelwise := _pixelwise(node)) is not None:
                steps = _common_steps(graph, node.output)
                if steps is not None and all(_can_sample(node.inputs[i], node.output) for i in pixelwise):
                    _sample_producer(graph, node, pixelwise, steps)
                    changes += 1
        return changes


def _common_steps(graph: Graph, value: Value) -> Steps | None:
    """The steps that all readers of ``value`` share, if any is above 1 and none needs more."""
    if graph.is_output(value) or value.type.rank < 3 or not all(isinstance(d, int) for d in value.type.shape[2:]):
        return None
    found = {_steps(user, value) for user in value.users}
    steps = next(iter(found)) if len(found) == 1 else None
    return steps if steps is not None and any(s > 1 for s in steps) else None


def _steps(user: Node, value: Value) -> Steps | None:
    """The steps by which ``user`` reads ``value``; None if it reads it in another way."""
    op, rank = user.op, value.type.rank - 2
    if sum(v is value for v in user.inputs) != 1 or user.inputs[0] is not value:
        return None
    if isinstance(op, _CONVOLUTIONS) or (isinstance(op, Pool) and not op.ceil_mode and not op.indices):
        single = [k == 1 and not op.pads[a] and not op.pads[a + rank] for a, k in enumerate(op.kernel)]
        return tuple(s if alone else 1 for s, alone in zip(op.strides, single, strict=True))
    if isinstance(op, Slice) and not any(op.starts) and op.shape[:2] == value.type.shape[:2] and op.steps[:2] == (1, 1):
        steps = op.steps[2:]
        sampled = _sampled(value, steps) if all(s >= 1 for s in steps) else None
        return steps if op.shape[2:] == sampled else None
    return None


def _sampled(value: Value, steps: Steps) -> tuple[int, ...]:
    return tuple(ceil_div(d, s) for d, s in zip(static(value.type.shape[2:]), steps, strict=True))


def _pixelwise(node: Node) -> tuple[int, ...] | None:
    """The inputs of which a pixel of the result reads the same pixel; None for an operator whose pixels cannot be left out."""
    op, every = node.op, range(len(node.inputs))
    if isinstance(op, Pool) and (op.ceil_mode or op.indices):
        return None
    if isinstance(op, Conv):
        return tuple(every[3:])
    if isinstance(op, ConvInteger):
        return tuple(every[4:])
    if isinstance(op, (Pool, QLinearConv)):
        return ()
    if isinstance(op, Elementwise):
        return tuple(every)
    if isinstance(op, QLinearBinary):
        return (0, 3)
    return (0,) if isinstance(op, (QLinearUnary, QTable)) else None


def _can_sample(operand: Value | None, like: Value) -> bool:
    """Whether the operand has the axes of the result or is equal for all its pixels."""
    pixels = like.type.rank - 2
    return operand is None or operand.type.rank == like.type.rank or all(d == 1 for d in operand.type.shape[-pixels:])


def _sample_producer(graph: Graph, node: Node, pixelwise: tuple[int, ...], steps: Steps) -> None:
    op, value = node.op, node.output
    readers = list(dict.fromkeys(value.users))
    inputs = [_sample(graph, v, value, steps, node) if i in pixelwise else v for i, v in enumerate(node.inputs)]
    if isinstance(op, _WINDOWS):
        op = dataclasses.replace(op, strides=tuple(a * b for a, b in zip(op.strides, steps, strict=True)))
    producer = replace(graph, node, op, inputs)
    for reader in readers:
        _read_all(graph, reader, producer.output, steps)


def _sample(graph: Graph, operand: Value | None, like: Value, steps: Steps, before: Node) -> Value | None:
    """Every s-th pixel of an operand, along the axes in which it is not broadcast."""
    if operand is None or operand.type.rank != like.type.rank:
        return operand
    own = tuple(1 if d == 1 else s for d, s in zip(operand.type.shape[2:], steps, strict=True))
    if all(s == 1 for s in own):
        return operand
    rank = operand.type.rank
    shape = (*operand.type.shape[:2], *_sampled(operand, own))
    (sampled,) = graph.add(Slice((0,) * rank, (1, 1, *own), shape), [operand], origin=before.origin, before=before)
    return sampled


def _read_all(graph: Graph, reader: Node, value: Value, steps: Steps) -> None:
    """Make a reader that looked at every s-th pixel look at each pixel of the sampled ``value``."""
    op = reader.op
    if isinstance(op, Slice) or (isinstance(op, Pool) and all(k == 1 for k in op.kernel) and op.strides == steps):
        graph.replace_uses(reader.output, value)
        graph.erase(reader)
        return
    assert isinstance(op, _WINDOWS)
    strides = tuple(1 if s > 1 else own for own, s in zip(op.strides, steps, strict=True))
    replace(graph, reader, dataclasses.replace(op, strides=strides), reader.inputs)
