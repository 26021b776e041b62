"""Precision bf16 on the CPU: float32 tensors between the layers become bfloat16, sums and epilogues stay float32 in registers.

op(float32) => op(bfloat16), each result rounded once, when it is stored; weights of layers are rounded too. What stays float32:

* biases and other constant operands of an epilogue or an element-wise operator, which take no memory worth saving;
* everything before the first and after the last convolution or dense layer, the last layer's result included: images that are being
  normalised, coordinates that are being decoded, scores;
* operators whose meaning lies in small differences (Softmax), and those without a kernel for bfloat16;
* what computes the positions of samples, two layers deep: bfloat16 has steps of half a pixel at the edge of 256 pixels;
* nodes that the caller names.

Inputs and outputs of the graph keep their types. Casts stand where the types of neighbours differ; a value is cast once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from cnngraph.errors import UsageError, printable
from cnngraph.ir.graph import Graph, Node, Value
from cnngraph.ir.types import DType
from cnngraph.ops import (
    LRN,
    Cast,
    Concat,
    Conv,
    ConvTranspose,
    DeformConv,
    Dense,
    Elementwise,
    Expand,
    Gather,
    GridSample,
    Identity,
    MatMul,
    Op,
    Pad,
    Pool,
    RecurrentSteps,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Transpose,
)
from cnngraph.ops.channels import TakeChannels
from cnngraph.ops.group_norm import GroupNorm

LAYERS: tuple[type[Op], ...] = (Conv, ConvTranspose, Dense, RecurrentSteps)
MIXING: tuple[type[Op], ...] = (*LAYERS, Elementwise, GroupNorm)
"""Operators with an attribute ``to``."""
NARROW: tuple[type[Op], ...] = (*MIXING, LRN, MatMul, Pool, Reduce, Resize)
MOVEMENT: tuple[type[Op], ...] = (Concat, Expand, Gather, Identity, Pad, Reshape, Slice, TakeChannels, Transpose)
"""Operators that compute nothing: of the type of what they move."""
_IMAGE_CHANNELS = 8
_LAYERS_OF_POSITIONS = 2
"""A matrix, as a layer has made it, times a constant grid."""


@dataclass
class Narrowed:
    """What :func:`narrow_floats` did: how many nodes have results in bfloat16, and why the others have not."""

    nodes: int = 0
    casts: int = 0
    kept: list[tuple[Node, str]] = field(default_factory=list)

    def report(self) -> dict[str, object]:
        """As plain data, for :attr:`Program.report`."""
        kept = [{"node": printable(node.label, 400), "op": node.op.name, "reason": reason} for node, reason in self.kept]
        return {"precision": "bf16", "nodes": self.nodes, "casts": self.casts, "kept_f32": kept}


def narrow_floats(graph: Graph, keep: Sequence[str] = ()) -> Narrowed:
    """Give the optimised ``graph`` bfloat16 results where the policy above allows it.

    Args:
        graph: changed in place.
        keep: names of ONNX nodes, or patterns with ``*`` and ``?``, whose results stay float32.

    Raises:
        UsageError: no node has a name in ``keep``.
    """
    policy = _Policy(graph, keep)
    out = Narrowed()
    operands = _Operands(graph)
    for node in graph.nodes:
        if not any(v.type.dtype is DType.F32 for v in node.outputs):
            if any(v is not None and v.type.dtype is DType.BF16 and not v.is_constant for v in node.inputs):
                operands.widen(node)
            continue
        reason = policy.refusal(node)
        last = isinstance(node.op, LAYERS) and reason is None and node not in policy.before_a_layer
        if last:
            out.kept.append((node, "no layer follows: its result stays float32"))
        if reason is not None:
            out.kept.append((node, reason))
            operands.widen(node)
            continue
        op = node.op
        if isinstance(op, (Conv, ConvTranspose, Dense, Elementwise, GroupNorm, RecurrentSteps)):
            op = dataclasses.replace(op, to=DType.F32 if last else DType.BF16)
        results = graph.add(op, operands.narrow(node), origin=node.origin, before=node)
        for old, new in zip(node.outputs, results, strict=True):
            new.names = old.names
            graph.replace_uses(old, new)
        graph.erase(node)
        out.nodes += not last
    out.casts = operands.count
    for index, (name, value) in enumerate(graph.outputs):
        if value.type.dtype is DType.BF16 and policy.outputs[index] is DType.F32:
            origin = value.producer.origin if value.producer is not None else (name,)
            (wide,) = graph.add(Cast(DType.F32), [value], origin=origin)
            wide.names = value.names
            graph.outputs[index] = (name, wide)
            out.casts += 1
    return out


def _is_image(node: Node, value: Value) -> bool:
    """Whether a convolution reads ``value`` itself, rounding what it copies: images have few channels."""
    channels = value.type.shape[1] if value.type.rank > 2 else 0
    return isinstance(node.op, Conv) and node.op.group == 1 and isinstance(channels, int) and 0 < channels < _IMAGE_CHANNELS


class _Operands:
    """Values in the type that a node reads them in, each made once: casts, and constants in bfloat16."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._casts: dict[tuple[Value, DType], Value] = {}
        self._weights: dict[Value, Value] = {}

    @property
    def count(self) -> int:
        """Casts made."""
        return len(self._casts)

    def widen(self, node: Node) -> None:
        """Let ``node`` read float32 wherever its inputs have become bfloat16."""
        half = [v is not None and v.type.dtype is DType.BF16 and v.producer is not None for v in node.inputs]
        self.graph.rewire(
            node, [self._cast(v, DType.F32, node) if v is not None and h else v for v, h in zip(node.inputs, half, strict=True)]
        )

    def narrow(self, node: Node) -> list[Value | None]:
        """The inputs of the node that takes the place of ``node``: in bfloat16, but for constants and images that its kernel rounds."""
        inputs: list[Value | None] = []
        for place, value in enumerate(node.inputs):
            if value is None or value.type.dtype is not DType.F32:
                inputs.append(value)
            elif value.is_constant and (not isinstance(node.op, MIXING) or (isinstance(node.op, LAYERS) and place == 1)):
                inputs.append(self._constant(value))
            elif value.is_constant or (place == 0 and _is_image(node, value)):
                inputs.append(value)
            else:
                inputs.append(self._cast(value, DType.BF16, node))
        return inputs

    def _cast(self, value: Value, to: DType, node: Node) -> Value:
        if (value, to) not in self._casts:
            (self._casts[value, to],) = self.graph.add(Cast(to), [value], origin=node.origin, before=node)
        return self._casts[value, to]

    def _constant(self, value: Value) -> Value:
        assert value.data is not None
        if value not in self._weights:
            self._weights[value] = self.graph.constant(value.data.astype(DType.BF16.numpy), value.names)
        return self._weights[value]


class _Policy:
    """Which nodes stay float32, and why, decided on the graph as it was."""

    def __init__(self, graph: Graph, keep: Sequence[str]) -> None:
        self.outputs = [value.type.dtype for _, value in graph.outputs]
        self.asked = {node for node in graph.nodes if any(fnmatchcase(name, pattern) for pattern in keep for name in node.origin)}
        for pattern in keep:
            if not any(fnmatchcase(name, pattern) for node in graph.nodes for name in node.origin):
                raise UsageError(f"no node is called {printable(pattern)!r}; cnngraph explain lists the names")
        self.before_a_layer: set[Node] = set()
        for node in reversed(graph.nodes):
            readers = [user for value in node.outputs for user in value.users]
            if any(_is_layer(user) or user in self.before_a_layer for user in readers):
                self.before_a_layer.add(node)
        self.behind_a_layer: set[Node] = set()
        for node in graph.nodes:
            producers = [v.producer for v in node.inputs if v is not None and v.producer is not None]
            if any(_is_layer(p) or p in self.behind_a_layer for p in producers):
                self.behind_a_layer.add(node)

        self.positions = _positions(graph)

    def refusal(self, node: Node) -> str | None:
        """None if the results of ``node`` become bfloat16 (of a last layer, its operands), else why not."""
        if node in self.asked:
            return "asked for"
        if node in self.positions:
            return "positions of samples"
        if isinstance(node.op, LAYERS):
            return None if node.input(1).is_constant else "the weights are computed at run time"
        if node not in self.behind_a_layer:
            return "before the first layer"
        if node not in self.before_a_layer:
            return "after the last layer"
        if isinstance(node.op, Pool) and (node.op.indices or len(node.outputs) > 1):
            return "places of maxima are wanted"
        if isinstance(node.op, NARROW + MOVEMENT):
            return None
        return f"{node.op.name} computes in float32"


def _positions(graph: Graph) -> set[Node]:
    """The nodes that lead to where a GridSample or a DeformConv reads, from :data:`_LAYERS_OF_POSITIONS` layers before it on."""
    layers_left: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        left = layers_left.get(node, 0) - _is_layer(node)
        for place, value in enumerate(node.inputs):
            sampled = (isinstance(node.op, GridSample) and place == 1) or (isinstance(node.op, DeformConv) and place == 2)
            into = _LAYERS_OF_POSITIONS if sampled else left
            if into > 0 and value is not None and value.producer is not None:
                layers_left[value.producer] = max(into, layers_left.get(value.producer, 0))
    return set(layers_left)


def _is_layer(node: Node) -> bool:
    return isinstance(node.op, LAYERS)
