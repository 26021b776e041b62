"""Transposes to channels last move behind what can as well be computed in front of them, until they meet their inverses.

Networks that TensorFlow exports have a pair of transposes around every convolution, so that normalisation, activation and
residual sum lie between transposes, and bounds and biases cannot become part of the layer before them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from cnngraph.quantize.network import Network, attribute

UNARY = frozenset(
    {
        "Abs", "Cast", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log",
        "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
"""Functions of every number of their first input, the others being parameters."""
POINTWISE = frozenset({"Add", "Div", "Max", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"})
ALONG = frozenset({"Concat", "Softmax", "Split"})
"""Operators with an attribute ``axis``."""
REDUCTIONS = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"})


def sink_transposes(network: Network) -> None:
    """op(to_channels_last(x)) => to_channels_last(op'(x)), and pairs of inverse transposes => nothing; in place.

    Left are transposes that others read than operators that they can move behind, and operators with an operand that would have to be
    transposed.
    """
    _Sinker(network).run()


class _Sinker:
    def __init__(self, network: Network) -> None:
        self.network, self.readers = network, network.readers()
        self.outputs = set(network.output_names)
        self.made: dict[str, onnx.NodeProto] = {}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self.network.nodes:
            perm = None if node.domain not in ("", "ai.onnx") else self.perm_in_front(node)
            if node.op_type == "Transpose":
                self.joined(node)
            elif perm is None or not self.moved(node, perm):
                self.append(node)
        used = self.outputs | {name for node in self.nodes for name in node.input}
        for node in reversed(self.nodes):
            if node.op_type == "Transpose" and node.output[0] not in used:
                self.nodes.remove(node)
                used = self.outputs | {name for other in self.nodes for name in other.input}
        self.network.nodes = self.nodes

    def append(self, node: onnx.NodeProto) -> None:
        self.nodes.append(node)
        self.made.update(dict.fromkeys(filter(None, node.output), node))

    def joined(self, node: onnx.NodeProto) -> None:
        """A transpose of a transpose is one, or none."""
        inner, perm = self.made.get(node.input[0]), permutation(node)
        if inner is not None and inner.op_type == "Transpose" and perm is not None and (first := permutation(inner)) is not None:
            both = tuple(first[axis] for axis in perm)
            node.input[0] = inner.input[0]
            kept = [entry for entry in node.attribute if entry.name != "perm"]
            del node.attribute[:]
            node.attribute.extend(kept)
            if both == tuple(range(len(both))):
                node.op_type = "Identity"
            else:
                node.attribute.append(helper.make_attribute("perm", both))
        if node.op_type == "Identity" and node.output[0] not in self.outputs:
            self.renamed(node.output[0], node.input[0])
        else:
            self.append(node)

    def renamed(self, old: str, new: str) -> None:
        for reader in self.readers.get(old, []):
            for index, name in enumerate(reader.input):
                if name == old:
                    reader.input[index] = new
            self.readers.setdefault(new, []).append(reader)
            for entry in reader.attribute:
                for body in (entry.g, *entry.graphs):
                    _rename_in(body, old, new)

    def perm_in_front(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        """The permutation of the transposes to channels last in front of ``node``, if all that read them may move in front of them."""
        for name in node.input:
            perm = self.last(name)
            if perm is not None:
                return perm
        return None

    def last(self, name: str) -> tuple[int, ...] | None:
        """The permutation to channels last by which ``name`` was made and behind which all its readers can move."""
        made = self.made.get(name)
        perm = permutation(made) if made is not None and made.op_type == "Transpose" else None
        if perm is None or len(perm) < 3 or perm != (0, *range(2, len(perm)), 1) or name in self.outputs:
            return None
        return perm if all(self.may_move(reader, len(perm)) for reader in self.readers.get(name, [])) else None

    def may_move(self, node: onnx.NodeProto, rank: int) -> bool:
        if node.op_type in ("Pad", "Slice"):
            return all(name in self.network.constants for name in node.input[1:] if name)
        if node.op_type in REDUCTIONS:
            return axes_of(self.network, node) is not None
        if node.op_type in POINTWISE:
            ranks = (self.network.constants[name].ndim for name in node.input if name in self.network.constants)
            return all(number <= rank for number in ranks)
        return node.op_type in UNARY or node.op_type in ALONG or node.op_type == "Transpose"

    def moved(self, node: onnx.NodeProto, perm: tuple[int, ...]) -> bool:
        """Put ``node`` in front of the transposes that it reads, if its other operands allow it."""
        data = list(node.input) if node.op_type in POINTWISE or node.op_type == "Concat" else [node.input[0]]
        computed = [name for name in data if name not in self.network.constants]
        if any(self.last(name) != perm for name in computed):
            return False
        rank, inverse = len(perm), tuple(int(axis) for axis in np.argsort(perm))
        ends = True
        if node.op_type in REDUCTIONS:
            axes = [axis % rank for axis in axes_of(self.network, node) or range(rank)]
            left = [perm[axis] for axis in range(rank) if axis not in axes]
            ends = bool(attribute(node, "keepdims", 1))
            if not ends and left != sorted(left):
                return False
            self.set_axes(node, sorted(perm[axis] for axis in axes))
        elif node.op_type in ALONG:
            default = 0 if node.op_type == "Split" else -1
            set_attribute(node, "axis", perm[int(attribute(node, "axis", default)) % rank])
        elif node.op_type == "Pad":
            self.move_pads(node, perm)
        elif node.op_type == "Slice":
            starts = self.network.constants[node.input[1]]
            given = self.network.array(node.input[3]) if len(node.input) > 3 else None
            axes = [int(axis) % rank for axis in (range(starts.size) if given is None else given.reshape(-1))]
            while len(node.input) < 4:
                node.input.append("")
            node.input[3] = self.constant(node, "axes", [perm[axis] for axis in axes])
        for index, name in enumerate(node.input):
            array = self.network.array(name)
            if name in computed:
                node.input[index] = self.made[name].input[0]
            elif node.op_type in (*POINTWISE, "Concat") and array is not None and array.size > 1:
                wide = array.reshape((1,) * (rank - array.ndim) + array.shape)
                node.input[index] = self.constant(node, f"operand{index}", np.ascontiguousarray(wide.transpose(inverse)))
        if not ends:
            self.append(node)
            return True
        results = list(node.output)
        for index, name in enumerate(results):
            node.output[index] = self.network.fresh(f"{name}/channels_first") if name else ""
        self.append(node)
        for name, inner in zip(results, node.output, strict=True):
            if name:
                self.append(helper.make_node("Transpose", [inner], [name], self.network.fresh(f"{name}/channels_last"), perm=perm))
        return True

    def constant(self, node: onnx.NodeProto, what: str, numbers: np.ndarray | list[int]) -> str:
        name = self.network.fresh(f"{node.name}.{what}")
        self.network.constants[name] = np.asarray(numbers)
        return name

    def set_axes(self, node: onnx.NodeProto, axes: list[int]) -> None:
        if len(node.input) > 1 and node.input[1]:
            node.input[1] = self.constant(node, "axes", axes)
        else:
            set_attribute(node, "axes", axes)

    def move_pads(self, node: onnx.NodeProto, perm: tuple[int, ...]) -> None:
        pads = self.network.constants[node.input[1]].reshape(-1)
        given = self.network.array(node.input[3]) if len(node.input) > 3 else None
        axes = [int(axis) % len(perm) for axis in (range(len(perm)) if given is None else given.reshape(-1))]
        both = np.zeros((2, len(perm)), np.int64)
        both[:, [perm[axis] for axis in axes]] = pads.reshape(2, -1)
        node.input[1] = self.constant(node, "pads", both.reshape(-1))
        del node.input[3:]


def permutation(node: onnx.NodeProto) -> tuple[int, ...] | None:
    """That of a Transpose, if it is given."""
    return next((tuple(int(axis) for axis in entry.ints) for entry in node.attribute if entry.name == "perm"), None)


def axes_of(network: Network, node: onnx.NodeProto) -> list[int] | None:
    """Axes of a reduction, given as an attribute or by a constant; None if they are not known or are all."""
    given = next((list(entry.ints) for entry in node.attribute if entry.name == "axes"), None)
    if given is None and len(node.input) > 1 and (array := network.array(node.input[1])) is not None:
        given = [int(axis) for axis in array.reshape(-1)]
    return given or None


def set_attribute(node: onnx.NodeProto, name: str, value: int | Iterable[int]) -> None:
    """Give ``node`` an attribute in the place of the one that it has."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _rename_in(body: onnx.GraphProto, old: str, new: str) -> None:
    for inner in body.node:
        for index, name in enumerate(inner.input):
            if name == old:
                inner.input[index] = new
        for entry in inner.attribute:
            for deeper in (entry.g, *entry.graphs):
                _rename_in(deeper, old, new)
    for value in body.output:
        value.name = new if value.name == old else value.name


__all__ = ["axes_of", "permutation", "set_attribute", "sink_transposes"]
