"""The tail of a program as data: nodes evaluated one by one at run time, after the compiled part."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from cnngraph.errors import ArtifactError


@dataclass(frozen=True)
class TailStep:
    """One node.

    Attributes:
        node: the ONNX node; references to attributes of functions are resolved.
        label: its name, for messages.
        opsets: version of each operator set, by domain.
        operands: for every tensor name that the node or its subgraphs read, the key of the value.
        results: keys of its outputs, "" where absent.
    """

    node: onnx.NodeProto
    label: str
    opsets: tuple[tuple[str, int], ...]
    operands: tuple[tuple[str, str], ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Tail:
    """What runs after the compiled part.

    Attributes:
        steps: nodes in order.
        feeds: key of every value that the compiled part computes for the tail -> name of that output of the compiled part.
        direct: key -> name of a graph input that only the tail reads (a sequence, an optional, strings).
        constants: key -> known value.
        outputs: name of every graph output that the tail computes -> key.
        order: names of all graph outputs in the model's order.
        types: graph output -> (dtype or "", dimensions) as the model declares them.
        functions: functions that the model defines.
        inputs: names of all graph inputs in the model's order.
    """

    steps: tuple[TailStep, ...]
    feeds: dict[str, str]
    direct: dict[str, str]
    constants: dict[str, np.ndarray]
    outputs: dict[str, str]
    order: tuple[str, ...]
    types: dict[str, tuple[str, tuple[int | str, ...]]]
    functions: tuple[onnx.FunctionProto, ...] = ()
    inputs: tuple[str, ...] = ()


def encode(tail: Tail) -> dict[str, Any]:
    """The tail as JSON-able data."""
    return {
        "steps": [
            [_out(s.node), s.label, [list(o) for o in s.opsets], [list(o) for o in s.operands], list(s.results)] for s in tail.steps
        ],
        "feeds": tail.feeds, "direct": tail.direct, "outputs": tail.outputs, "order": list(tail.order), "inputs": list(tail.inputs),
        "types": {name: [dtype, list(dims)] for name, (dtype, dims) in tail.types.items()},
        "constants": {key: _out(onnx.numpy_helper.from_array(array)) for key, array in tail.constants.items()},
        "functions": [_out(f) for f in tail.functions],
    }  # fmt: skip


def decode(data: dict[str, Any]) -> Tail:
    """The tail again; raises ArtifactError if the data describes none."""
    try:
        steps = tuple(
            TailStep(_in(onnx.NodeProto, node), str(label), tuple((str(d), int(v)) for d, v in opsets),
                     tuple((str(n), str(k)) for n, k in operands), tuple(map(str, results)))
            for node, label, opsets, operands, results in data["steps"]
        )  # fmt: skip
        return Tail(
            steps, dict(data["feeds"]), dict(data["direct"]),
            {key: onnx.numpy_helper.to_array(_in(onnx.TensorProto, text)) for key, text in data["constants"].items()},
            dict(data["outputs"]), tuple(data["order"]), {name: (t, tuple(dims)) for name, (t, dims) in data["types"].items()},
            tuple(_in(onnx.FunctionProto, f) for f in data["functions"]), tuple(map(str, data["inputs"])),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"the tail is inconsistent: {type(error).__name__} {error}") from None


def _out(proto: Any) -> str:
    return base64.b64encode(proto.SerializeToString()).decode("ascii")


def _in(kind: Any, text: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(base64.b64decode(text, validate=True))
    except DecodeError as error:
        raise ValueError(str(error)) from None
