"""A table of a model's layers: output shapes, parameters and multiply-adds, by a stated counting convention.

Works on any ONNX model, supported by the compiler or not, and never reads a weight. Multiply-adds (MACs) are those of convolutions and
matrix products for one image; biases, normalisation, activations and pooling are not counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import onnx

from cnngraph.analysis.structure import MAX_ELEMENTS, Constant, Shape, Structure
from cnngraph.errors import UsageError, printable

Count = Literal["onnx", "keras", "folded"]

CONVENTIONS: dict[Count, str] = {
    "onnx": "every element of every initialiser and Constant node, as stored in the file",
    "keras": "weights and biases of layers as stored, four numbers a channel of each batch normalisation (mean and variance not trainable; "
    "a scale of ones that is not stored does not count), and stored numbers that nothing reads",
    "folded": "batch normalisations folded into the layer before them, which gains a bias; two numbers a channel where that is impossible",
}

# Positions of the inputs that hold parameters.
_LAYERS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "ConvInteger": (1,),
    "QLinearConv": (3, 8),
    "DeformConv": (1, 3),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "DeformConv": 1, "ConvTranspose": 1}
_PRODUCTS = {"Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
_FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ACTIVATIONS = frozenset((
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Gelu", "Tanh", "Softplus",
    "Softsign", "ThresholdedRelu", "Clip", "Softmax", "LogSoftmax",
))  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One input or node of the model.

    Attributes:
        name: the node's name, or the name of its first output, in printable form.
        type: ONNX operator, or "Input".
        output_shape: shape of the first output; the batch and every other extent that is not known is None. None: rank not known.
        elements: number of elements of the first output for one image, or None.
        params: parameters that this row owns; a tensor used by several nodes belongs to the first.
        trainable: those of ``params`` that training changes; the same as ``params`` unless the convention is "keras".
        macs: multiply-adds for one image; None if a shape is not known.
    """

    name: str
    type: str
    output_shape: Shape | None
    elements: int | None
    params: int
    trainable: int
    macs: int | None


@dataclass(frozen=True)
class Summary:
    """The rows of a model and their totals.

    Attributes:
        model: name of the graph, in printable form.
        count: the counting convention; :data:`CONVENTIONS` says it in words.
        rows: inputs, then nodes in the order of the file (Constant nodes left out).
        params: total parameters.
        trainable: total trainable parameters.
        macs: total multiply-adds of the rows where they are known, for one image.
        unknown_macs: number of rows whose multiply-adds are not known because a shape is not.
        weight_layers: number of convolutions and matrix products with stored weights.
        depth: the most weight layers on any path, which is the number in the name of VGG-16 or ResNet-50.
        layer_depth: the most layers on any path, the input counted and an activation counted with the weight layer it follows;
            the depth that Keras lists for sequential networks.
    """

    model: str
    count: Count
    rows: tuple[Row, ...]
    params: int
    trainable: int
    macs: int
    unknown_macs: int
    weight_layers: int
    depth: int
    layer_depth: int

    @property
    def non_trainable(self) -> int:
        """Total parameters that training does not change."""
        return self.params - self.trainable

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain lists, dicts, strings and numbers; the batch and unknown extents are None."""
        rows = [
            {
                "name": row.name,
                "type": row.type,
                "output_shape": None if row.output_shape is None else list(row.output_shape),
                "params": row.params,
                "trainable": row.trainable,
                "macs": row.macs,
            }
            for row in self.rows
        ]
        return {
            "model": self.model,
            "count": self.count,
            "convention": CONVENTIONS[self.count],
            "rows": rows,
            "params": self.params,
            "trainable": self.trainable,
            "non_trainable": self.non_trainable,
            "macs": self.macs,
            "unknown_macs": self.unknown_macs,
            "weight_layers": self.weight_layers,
            "depth": self.depth,
            "layer_depth": self.layer_depth,
        }


def summarize(model: onnx.ModelProto, count: Count = "onnx") -> Summary:
    """Summarise a model.

    Args:
        model: any ONNX model; the contents of its weights are not read, so external data need not be loaded.
        count: the counting convention, one of :data:`CONVENTIONS`.

    Raises:
        UsageError: for an unknown convention.
        InvalidModelError: if a stored tensor has an impossible shape.
    """
    if count not in get_args(Count):
        raise UsageError(f"count is one of {', '.join(get_args(Count))}, not {count!r}")
    structure = Structure(model)
    one = structure.single
    shown = _shown_shapes(structure.shapes(None), one, structure.shapes(2))
    params = _Parameters(structure, count)
    rows = [_row(value.name, "Input", value.name, shown, one, 0, 0, 0) for value in structure.inputs]
    for index, node in enumerate(structure.nodes):
        result = node.output[0] if node.output else ""
        macs = _macs(node, one)
        rows.append(_row(node.name or result, node.op_type, result, shown, one, params.total[index], params.trainable[index], macs))
    weighted = [_has_weights(structure, node) for node in structure.nodes]
    counted = [not (node.op_type in _ACTIVATIONS and _follows(structure, node, weighted)) for node in structure.nodes]
    return Summary(
        model=printable(structure.graph.name),
        count=count,
        rows=tuple(rows),
        params=sum(row.params for row in rows),
        trainable=sum(row.trainable for row in rows),
        macs=sum(row.macs or 0 for row in rows),
        unknown_macs=sum(row.macs is None for row in rows),
        weight_layers=sum(weighted),
        depth=_longest(structure, weighted),
        layer_depth=_longest(structure, counted) + 1,
    )


def format_text(summary: Summary, width: int = 100) -> str:
    """Return the summary as a table in the manner of Keras, ``width`` columns wide, with the totals and the convention below."""
    name_width = max(16, width - 72)
    lines = [
        f"Model: {summary.model}",
        f"{'Layer':<{name_width}} {'Type':<20} {'Output shape':<22} {'Params':>12} {'MACs':>14}",
        "=" * (name_width + 72),
    ]
    for row in summary.rows:
        macs = "?" if row.macs is None else f"{row.macs:,}"
        name, kind, shape = _cut(row.name, name_width), _cut(row.type, 20), _cut(format_shape(row.output_shape), 22)
        lines.append(f"{name:<{name_width}} {kind:<20} {shape:<22} {row.params:>12,} {macs:>14}")
    lines += ["=" * (name_width + 72), f"Total parameters: {summary.params:,}"]
    if summary.count == "keras":
        lines += [f"Trainable: {summary.trainable:,}", f"Non-trainable: {summary.non_trainable:,}"]
    unknown = f" (and {summary.unknown_macs} layers whose shapes are not known)" if summary.unknown_macs else ""
    lines += [
        f"Multiply-adds for one image: {summary.macs:,}{unknown}",
        f"Weight layers: {summary.weight_layers}; depth {summary.depth}; depth in layers {summary.layer_depth}",
        f"Counted as {summary.count}: {CONVENTIONS[summary.count]}",
    ]
    return "\n".join(lines)


def format_shape(shape: Shape | None) -> str:
    """Return a shape as text: ``(None, 64, 56, 56)``, or ``?`` if its rank is not known."""
    return "?" if shape is None else str(tuple(shape))


class _Parameters:
    """The parameters that each node owns under a convention; ``total`` and ``trainable`` go with ``Structure.nodes``."""

    def __init__(self, structure: Structure, count: Count) -> None:
        self.structure = structure
        self.total = [0] * len(structure.nodes)
        self.trainable = [0] * len(structure.nodes)
        self._seen: set[str] = set()
        if count == "onnx":
            self._as_stored()
            self.trainable = list(self.total)
        else:
            for index, node in enumerate(structure.nodes):
                self._layer(index, node, folded=count == "folded")
            if count == "keras":
                self._unread()

    def _as_stored(self) -> None:
        for name, constant in self.structure.constants.items():
            readers = self.structure.consumers.get(name)
            if readers:
                self.total[readers[0]] += constant.elements
            elif self.total:
                self.total[-1] += constant.elements
        for index, node in enumerate(self.structure.nodes):
            self.total[index] += self.structure.subgraph_elements(node)

    def _unread(self) -> None:
        """Numbers that a layer keeps for training alone, such as how many images a normalisation has seen, go to the last row."""
        for tensor in self.structure.graph.initializer:
            if self.total and tensor.name not in self.structure.consumers and tensor.name not in self.structure.outputs:
                self._own(len(self.total) - 1, self.structure.constants[tensor.name], trains=False)

    def _layer(self, index: int, node: onnx.NodeProto, folded: bool) -> None:
        if node.op_type == "BatchNormalization":
            self._batch_norm(index, node, folded)
            return
        positions = _LAYERS.get(node.op_type, ())
        if node.op_type == "Add" and self._adds_bias(node):
            positions = (0, 1)
        for position in positions:
            self._own(index, self.structure.operand(node, position))

    def _batch_norm(self, index: int, node: onnx.NodeProto, folded: bool) -> None:
        constants = [self.structure.operand(node, position) for position in (1, 2, 3, 4)]
        if not folded:
            for position, constant in enumerate(constants):
                if constant is not None and not self._is_filled(constant.name):
                    self._own(index, constant, trains=position < 2)
            return
        channels = max((constant.elements for constant in constants if constant is not None), default=0)
        source = self._folds_into(node) if all(constants) else None
        if source is None:
            self.total[index] += 2 * channels
            self.trainable[index] += 2 * channels
        elif self.structure.operand(self.structure.nodes[source], 2) is None:
            self.total[source] += channels
            self.trainable[source] += channels

    def _folds_into(self, node: onnx.NodeProto) -> int | None:
        """Index of the layer with stored weights whose only reader is ``node``, or None."""
        source = self.structure.producer.get(node.input[0]) if node.input else None
        if source is None or self.structure.sole_consumer(node.input[0]) is None or sum(map(bool, node.output)) != 1:
            return None
        before = self.structure.nodes[source]
        return source if before.op_type in _FOLDABLE and _has_weights(self.structure, before) else None

    def _adds_bias(self, node: onnx.NodeProto) -> bool:
        """Whether ``node`` adds a stored tensor straight to the result of a layer with stored weights."""
        computed = [name for position, name in enumerate(node.input) if self.structure.operand(node, position) is None]
        if len(computed) != 1 or len(node.input) != 2 or computed[0] not in self.structure.producer:
            return False
        before = self.structure.nodes[self.structure.producer[computed[0]]]
        return _has_weights(self.structure, before)

    def _own(self, index: int, constant: Constant | None, trains: bool = True) -> None:
        if constant is None or constant.name in self._seen:
            return
        self._seen.add(constant.name)
        self.total[index] += constant.elements
        self.trainable[index] += constant.elements if trains else 0

    def _is_filled(self, name: str) -> bool:
        """Whether the graph makes the tensor by repeating one number."""
        source = self.structure.producer.get(name)
        return source is not None and self.structure.nodes[source].op_type == "ConstantOfShape"


def _row(
    name: str, kind: str, result: str, shown: dict[str, Shape], one: dict[str, Shape], params: int, trainable: int, macs: int | None
) -> Row:
    elements = _known_product(one.get(result))
    return Row(printable(name), printable(kind), shown.get(result), elements, params, trainable, macs)


def _shown_shapes(free: dict[str, Shape], one: dict[str, Shape], two: dict[str, Shape]) -> dict[str, Shape]:
    """The shapes with a free batch, where extents that do not depend on the batch are filled in from the fixed ones."""
    shown = dict(free)
    for name, single in one.items():
        double = two.get(name, ())
        if len(double) != len(single) or len(free.get(name, single)) != len(single):
            continue
        fixed = tuple(a if a == b else None for a, b in zip(single, double, strict=True))
        given = free.get(name, fixed)
        shown[name] = tuple(extent if extent is not None else filled for extent, filled in zip(given, fixed, strict=True))
    return shown


def _has_weights(structure: Structure, node: onnx.NodeProto) -> bool:
    if node.op_type in _CONVOLUTIONS:
        return structure.operand(node, _CONVOLUTIONS[node.op_type]) is not None
    if node.op_type in _PRODUCTS:
        return any(structure.operand(node, position) is not None for position in (0, _PRODUCTS[node.op_type]))
    return False


def _follows(structure: Structure, node: onnx.NodeProto, weighted: list[bool]) -> bool:
    source = structure.producer.get(node.input[0]) if node.input else None
    return source is not None and weighted[source]


def _longest(structure: Structure, counted: list[bool]) -> int:
    """The most counted nodes on any path."""
    reach: dict[str, int] = {}
    best = 0
    for node, counts in zip(structure.nodes, counted, strict=True):
        depth = max((reach.get(name, 0) for name in node.input), default=0) + counts
        best = max(best, depth)
        reach.update(dict.fromkeys(node.output, depth))
    return best


def _macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int | None:
    """Multiply-adds of a node; 0 for what is neither a convolution nor a matrix product, None if a shape is not known."""
    if node.op_type not in _CONVOLUTIONS and node.op_type not in _PRODUCTS:
        return 0
    if not node.input or not node.output:
        return None
    if node.op_type in _CONVOLUTIONS:
        position = _CONVOLUTIONS[node.op_type]
        weight = shapes.get(node.input[position]) if position < len(node.input) else None
        spread = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        applied = _known_product(shapes.get(spread))
        each = _known_product(weight[1:]) if weight else None
        return None if applied is None or each is None else applied * each
    left = shapes.get(node.input[0])
    results = _known_product(shapes.get(node.output[0]))
    if not left or results is None:
        return None
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    inner = left[0] if transposed else left[-1]
    return None if inner is None else results * inner


def _known_product(shape: Shape | None) -> int | None:
    if shape is None or any(extent is None for extent in shape):
        return None
    product = math.prod(extent for extent in shape if extent is not None)
    return product if product < MAX_ELEMENTS else None


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
