"""Layers of an ONNX model with output shapes, parameters and multiply-adds, and their totals.

Parameters are counted by one of three conventions:

* ``onnx``: elements of all initializers as stored, index tensors and scalars included;
* ``keras``: weights and biases of convolutions and dense layers, four numbers a channel for every batch normalisation
  (two of them, the moving statistics, not trainable); nothing else;
* ``folded``: what inference needs: a batch normalisation right behind a convolution or dense layer becomes its bias, any other
  keeps a scale and a shift a channel.

Multiply-adds are those of convolutions, transposed convolutions and matrix products for one image, without biases.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import networkx as nx
import onnx

from cnngraph.errors import UsageError, printable
from cnngraph.frontend.reader import read_model
from cnngraph.options import Limits

CONVENTIONS = ("onnx", "keras", "folded")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Row:
    """One layer: ONNX node name, operator, output shape (None: the batch or unknown), parameters, multiply-adds."""

    name: str
    type: str
    shape: Shape
    params: int
    macs: int


@dataclass(frozen=True)
class Summary:
    """All layers and the totals; ``depth`` counts the weighted layers on the longest path."""

    count: str
    rows: tuple[Row, ...]
    params: int
    trainable: int
    macs: int
    depth: int
    inputs: Mapping[str, Shape] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def summarize(source: str | os.PathLike[str] | bytes | onnx.ModelProto, count: str = "onnx") -> Summary:
    """Summarise a model.

    Raises:
        UsageError: an unknown convention.
        InvalidModelError: the file is no ONNX model.
    """
    if count not in CONVENTIONS:
        raise UsageError(f"count is {count!r}; choose one of {', '.join(CONVENTIONS)}")
    model, _ = read_model(source, Limits())
    graph = model.graph
    stored = {t.name: tuple(int(d) for d in t.dims) for t in graph.initializer}
    shapes = _shapes(model, stored)
    makers = {name: node for node in graph.node for name in node.output if name}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    rows, trainable, counted = [], 0, set[str]()
    for i, node in enumerate(graph.node):
        if node.op_type == "Constant":
            continue
        parameters, learned = _parameters(node, stored, makers, readers, count, counted)
        trainable += learned
        output = next((name for name in node.output if name), "")
        rows.append(Row(
            printable(node.name or f"{node.op_type}_{i}", 60), node.op_type, shapes.get(output, ()), parameters, _macs(node, shapes),
        ))  # fmt: skip
    inputs = {printable(v.name): shapes.get(v.name, ()) for v in graph.input if v.name not in stored}
    total = sum(row.params for row in rows)
    if count == "onnx":
        total = trainable = sum(math.prod(shape) for shape in stored.values())
    return Summary(count, tuple(rows), total, trainable, sum(row.macs for row in rows), _depth(graph, stored), inputs)


def format_text(summary: Summary) -> str:
    """A table like Keras' ``summary()``, totals below."""
    wide = max([len(r.name) for r in summary.rows] + [12])
    lines = [f"{'layer':{wide}}  {'type':20} {'output shape':24} {'params':>12} {'multiply-adds':>16}"]
    lines.append("-" * len(lines[0]))
    for row in summary.rows:
        lines.append(f"{row.name:{wide}}  {row.type:20} {_shown(row.shape):24} {row.params:12,} {row.macs:16,}")
    lines.append("-" * len(lines[0]))
    lines.append(f"total parameters ({summary.count} count): {summary.params:,}")
    if summary.count == "keras":
        lines.append(f"trainable: {summary.trainable:,}; not trainable: {summary.params - summary.trainable:,}")
    lines.append(f"multiply-adds for one image: {summary.macs:,}")
    lines.append(f"weighted layers on the longest path: {summary.depth}")
    return "\n".join(lines)


def _shown(shape: Shape) -> str:
    return "(" + ", ".join("None" if d is None else str(d) for d in shape) + ")"


def _shapes(model: onnx.ModelProto, stored: Mapping[str, tuple[int, ...]]) -> dict[str, Shape]:
    """Shapes of all tensors; a free leading dimension is None."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes: dict[str, Shape] = dict(stored)
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    return shapes


def _parameters(
    node: onnx.NodeProto,
    stored: Mapping[str, tuple[int, ...]],
    makers: Mapping[str, onnx.NodeProto],
    readers: Mapping[str, list[onnx.NodeProto]],
    count: str,
    counted: set[str],
) -> tuple[int, int]:
    """(parameters, trainable ones) of a node; a tensor that several nodes read counts once."""

    def take(names: list[str]) -> int:
        new = [n for n in dict.fromkeys(names) if n in stored and n not in counted]
        counted.update(new)
        return sum(math.prod(stored[n]) for n in new)

    if count == "onnx":
        number = take(list(node.input))
        return number, number
    if node.op_type in _WEIGHTED:
        number = take(list(node.input[1:3]))
        if count == "folded" and _folds_into(node, readers) and not (len(node.input) > 2 and node.input[2]):
            number += _outputs(node, stored)
        return number, number
    if node.op_type == "BatchNormalization":
        channels = take(list(node.input[1:3]))
        statistics = take(list(node.input[3:5]))
        if count == "keras":
            return channels + statistics, channels
        source = makers.get(node.input[0])
        if source is not None and source.op_type in ("Conv", "Gemm", "ConvTranspose") and _folds_into(source, readers):
            return 0, 0
        return channels, channels
    if node.op_type == "PRelu":
        number = take(list(node.input[1:2]))
        return number, number
    return 0, 0


def _folds_into(node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    following = readers.get(node.output[0], [])
    return node.op_type in ("Conv", "Gemm", "ConvTranspose") and [r.op_type for r in following] == ["BatchNormalization"]


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)


def _outputs(node: onnx.NodeProto, stored: Mapping[str, tuple[int, ...]]) -> int:
    shape = stored.get(node.input[1], (0, 0))
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * _attribute(node, "group", 1)
    return shape[0] if _attribute(node, "transB", 0) else shape[-1]


def _macs(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds for one image, 0 where a shape is unknown."""
    if node.op_type not in _WEIGHTED or len(node.input) < 2:
        return 0
    x, w, y = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if not w or not y or None in w:
        return 0
    weights = math.prod(d or 0 for d in w)
    if node.op_type == "Conv":
        return weights * math.prod(d or 0 for d in y[2:])
    if node.op_type == "ConvTranspose":
        return weights * math.prod(d or 0 for d in (x or ())[2:]) if x else 0
    rows = math.prod(d or 1 for d in y[1:-1]) if node.op_type == "MatMul" else 1
    return weights * rows if len(w) == 2 else 0


def _depth(graph: onnx.GraphProto, stored: Mapping[str, tuple[int, ...]]) -> int:
    """Convolutions and matrix products by constant weights on the path that has most of them."""
    dag = nx.DiGraph()
    for i, node in enumerate(graph.node):
        weight = int(node.op_type in _WEIGHTED and any(name in stored for name in node.input[1:2]))
        for name in node.output:
            dag.add_edge(i, f"out:{name}", weight=0)
        for name in node.input:
            if name and name not in stored:
                dag.add_edge(f"out:{name}", i, weight=weight)
    if dag.number_of_nodes() == 0 or not nx.is_directed_acyclic_graph(dag):
        return 0
    return int(nx.dag_longest_path_length(dag, weight="weight"))
